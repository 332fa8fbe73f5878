"""SYNTHIA-RAND-CITYSCAPES: RAND_CITYSCAPES/ with RGB/0000000.png … and GT/LABELS/0000000.png …: 16-bit PNGs in colour,
the class in the first channel, the instance in the second.

Papers count 16 or 19 classes: with 16, terrain, truck and train are void. Neither has a class for lane markings: 22 is
void, as it is in those papers. The provider ships no split; train and val come from lists in the folder, one file name
a line: those of RobustNet, 6,580 and 2,820 images, are synthia_split_train.txt and synthia_split_val.txt."""

from pathlib import Path
from typing import Any, ClassVar

from dgseg.data.datasets.split_files import text_split
from dgseg.data.files import FileDataset
from dgseg.data.ids import Ids
from dgseg.data.labels import VOID
from dgseg.data.listing import Alternatives, Layout, MissingSplit

_TRAIN_IDS = {
    3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13, 18: 14, 19: 15, 20: 16,
    12: 17, 11: 18,
}  # fmt: skip
_NOT_OF_16 = (9, 14, 16)  # terrain, truck, train


class Synthia(FileDataset):
    name = "synthia"
    splits: ClassVar = {"train": 6580, "val": 2820, "all": 9400}
    default_split = "all"

    def __init__(self, root: Path | str, split: str | None = None, *, classes: int = 19, **options: Any) -> None:
        if classes not in (16, 19):
            raise ValueError(f"synthia has 16 or 19 classes, not {classes}")
        self.classes = classes
        super().__init__(root, split, **options)

    def layouts(self) -> list[Alternatives]:
        dropped = _NOT_OF_16 if self.classes == 16 else ()
        kept = {raw: VOID if train_id in dropped else train_id for raw, train_id in _TRAIN_IDS.items()}
        ids = Ids.of({**dict.fromkeys(range(23), VOID), **kept})
        member = None if self.split == "all" else self._split().__contains__
        return [[Layout("RGB", ".png", "GT/LABELS", ".png", ids, member=member)]]

    def _split(self) -> frozenset[str]:
        path = self.root / f"synthia_split_{self.split}.txt"
        if not path.is_file():
            raise MissingSplit(f"synthia: there is no list {path}; put RobustNet's there, or take split all")
        return text_split(path)
