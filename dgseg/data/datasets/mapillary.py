"""Mapillary Vistas v1.2: training/, validation/ and testing/ with images/*.jpg and labels/*.png, palette PNGs whose
indices are the 66 classes. The archive of v2.0 holds the same label maps in v1.2/labels/."""

from typing import ClassVar

from dgseg.data.files import FileDataset
from dgseg.data.ids import Ids
from dgseg.data.labels import VOID
from dgseg.data.listing import Alternatives, Layout

_RAW = {
    0: (13, 24, 41), 1: (2, 15), 2: (17,), 3: (6,), 4: (3,), 5: (45, 47), 6: (48,), 7: (50,), 8: (30,), 9: (29,),
    10: (27,), 11: (19,), 12: (20, 21, 22), 13: (55,), 14: (61,), 15: (54,), 16: (58,), 17: (57,), 18: (52,),
}  # fmt: skip
IDS = Ids.of(
    {**dict.fromkeys(range(66), VOID), **{raw: train_id for train_id, raws in _RAW.items() for raw in raws}},
    remedy="these are Mapillary's ids of version 1.2: of version 2.0 take its v1.2/labels",
)
_FOLDERS = {"train": "training", "val": "validation", "test": "testing"}


class Mapillary(FileDataset):
    name = "mapillary"
    splits: ClassVar = {"train": 18000, "val": 2000, "test": 5000}
    unlabelled: ClassVar = frozenset({"test"})

    def layouts(self) -> list[Alternatives]:
        folder = _FOLDERS[self.split]
        labels = (f"{folder}/v1.2/labels", f"{folder}/labels")
        return [[Layout(f"{folder}/images", ".jpg", place, ".png", IDS) for place in labels]]
