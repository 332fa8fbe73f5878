"""GTA5 (Playing for Data): 01_images.zip … 10_images.zip and 01_labels.zip … 10_labels.zip, unpacked into one folder,
so that it holds images/00001.png … and labels/00001.png …: palette PNGs whose indices are Cityscapes' ids.

The split is split.mat of the provider's read_mapping.zip, in that folder or in its read_mapping/. Lists in text, one
file name a line, serve as well: gtav_split_train.txt, gtav_split_val.txt, gtav_split_test.txt."""

from typing import ClassVar

from dgseg.data.datasets.split_files import matlab_split, text_split
from dgseg.data.files import FileDataset
from dgseg.data.ids import CITYSCAPES_LABEL_IDS
from dgseg.data.listing import Alternatives, Layout, MissingSplit


class GTA5(FileDataset):
    name = "gta5"
    splits: ClassVar = {"train": 12403, "val": 6382, "test": 6181, "all": 24966}

    def layouts(self) -> list[Alternatives]:
        member = None if self.split == "all" else self._split().__contains__
        return [[Layout("images", ".png", "labels", ".png", CITYSCAPES_LABEL_IDS, member=member)]]

    def _split(self) -> frozenset[str]:
        lists = [self.root / f"gtav_split_{self.split}.txt", self.root / f"{self.split}.txt"]
        for path in lists:
            if path.is_file():
                return text_split(path)
        for path in (self.root / "split.mat", self.root / "read_mapping" / "split.mat"):
            if path.is_file():
                numbers = matlab_split(path, f"{self.split}Ids")
                return frozenset(f"{number:05d}" for number in numbers)
        raise MissingSplit(
            f"gta5: {self.root} holds neither split.mat (in the provider's read_mapping.zip) nor {lists[0].name}; put "
            "one there, or take split all"
        )
