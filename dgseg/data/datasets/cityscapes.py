"""Cityscapes, fine annotations: leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unpacked into one folder.

Sample ids name city and image: cityscapes/frankfurt/frankfurt_000000_000294."""

from typing import ClassVar

from dgseg.data.files import FileDataset
from dgseg.data.ids import CITYSCAPES_LABEL_IDS
from dgseg.data.listing import Alternatives, Layout

# Images of the train split per city.
TRAIN_CITIES = {
    "aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85, "dusseldorf": 221, "erfurt": 109,
    "hamburg": 248, "hanover": 196, "jena": 119, "krefeld": 99, "monchengladbach": 94, "strasbourg": 365,
    "stuttgart": 196, "tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122,
}  # fmt: skip


class Cityscapes(FileDataset):
    name = "cityscapes"
    # The labels of test are dummies, void throughout; its scores come from the benchmark's server.
    splits: ClassVar = {"train": 2975, "val": 500, "test": 1525}
    unlabelled: ClassVar = frozenset({"test"})

    def layouts(self) -> list[Alternatives]:
        images, labels = f"leftImg8bit/{self.split}", f"gtFine/{self.split}"
        return [[Layout(images, "_leftImg8bit.png", labels, "_gtFine_labelIds.png", CITYSCAPES_LABEL_IDS)]]
