"""Dark Zurich: Dark_Zurich_val_anon.zip (50 labelled images of night), Dark_Zurich_train_anon.zip (none labelled) and
Dark_Zurich_test_anon.zip, unpacked into one folder:

    rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png
    gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png      (beside it _gt_invIds.png: not used)

`time` takes day or twilight of train."""

from pathlib import Path
from typing import Any, ClassVar

from dgseg.data.dataset import DataError
from dgseg.data.files import FileDataset
from dgseg.data.ids import CITYSCAPES_LABEL_IDS, TRAIN_IDS
from dgseg.data.listing import Alternatives, Layout

_TRAIN = {"night": 2416, "twilight": 2920, "day": 3041}


class DarkZurich(FileDataset):
    name = "dark_zurich"
    splits: ClassVar = {"train": 2416, "val": 50, "test": 151}
    default_split = "val"
    unlabelled: ClassVar = frozenset({"train", "test"})

    def __init__(self, root: Path | str, split: str | None = None, *, time: str = "night", **options: Any) -> None:
        times = _TRAIN if split == "train" else ("night",)
        if time not in times:
            raise DataError(f"dark_zurich/{split or self.default_split} has no {time!r}, but {', '.join(times)}")
        self.time = time
        super().__init__(root, split, **options)

    def expected(self) -> int | None:
        return _TRAIN[self.time] if self.split == "train" else self.splits[self.split]

    def layouts(self) -> list[Alternatives]:
        place = f"{self.split}/{self.time}"
        return [
            [
                Layout(f"rgb_anon/{place}", "_rgb_anon.png", f"gt/{place}", suffix, ids)
                for suffix, ids in (("_gt_labelTrainIds.png", TRAIN_IDS), ("_gt_labelIds.png", CITYSCAPES_LABEL_IDS))
            ]
        ]
