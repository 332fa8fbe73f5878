"""MUAD: train/, val/ and test_sets/test_OOD/, each with leftImg8bit/ and leftLabel/. Labels are train ids already; 19
(bears, deer, cows) and 20 (rubbish bags and bins, food stands) are out of distribution, 21 and 255 void."""

from typing import ClassVar

from dgseg.data.files import FileDataset
from dgseg.data.ids import Ids
from dgseg.data.labels import NUM_CLASSES, OUT_OF_DISTRIBUTION, VOID
from dgseg.data.listing import Alternatives, Layout

_IDS = Ids.of(
    {**{i: i for i in range(NUM_CLASSES)}, **dict.fromkeys((19, 20), OUT_OF_DISTRIBUTION), 21: VOID, 255: VOID},
    out={19: 1, 20: 1, 21: VOID, 255: VOID},
    remedy="unpack the provider's leftLabel again: these are another set's",
)
_FOLDERS = {"train": ("train",), "val": ("val",), "test": ("test_sets/test_OOD", "test_OOD", "ood")}


class MUAD(FileDataset):
    name = "muad"
    unknown = True
    splits: ClassVar = {"train": 3420, "val": 492, "test": None}

    def layouts(self) -> list[Alternatives]:
        return [
            [
                Layout(f"{folder}/leftImg8bit", image, f"{folder}/leftLabel", label, _IDS, prefix=f"{self.split}/")
                for folder in _FOLDERS[self.split]
                for image, label in (("_leftImg8bit.png", "_leftLabel.png"), (".png", ".png"))
            ]
        ]
