"""ACDC: fog, night, rain and snow. rgb_anon_trainvaltest.zip and gt_trainval.zip, unpacked into one folder, with or
without a folder of each archive's name:

    rgb_anon/fog/val/GOPR0476/GOPR0476_frame_000854_rgb_anon.png
    gt/fog/val/GOPR0476/GOPR0476_frame_000854_gt_labelTrainIds.png

`condition` takes one of them; scores then go to the domain acdc/fog."""

from pathlib import Path
from typing import Any, ClassVar

from dgseg.data.dataset import DataError
from dgseg.data.files import FileDataset
from dgseg.data.ids import CITYSCAPES_LABEL_IDS, TRAIN_IDS
from dgseg.data.listing import Alternatives, Layout

CONDITIONS = ("fog", "night", "rain", "snow")


class ACDC(FileDataset):
    name = "acdc"
    conditions: tuple[str, ...] = CONDITIONS
    splits: ClassVar = {"train": 1600, "val": 406, "test": 2000}
    unlabelled: ClassVar = frozenset({"test"})

    def __init__(
        self, root: Path | str, split: str | None = None, *, condition: str | None = None, **options: Any
    ) -> None:
        if condition is not None and condition not in CONDITIONS:
            raise DataError(f"{self.name} has no condition {condition!r}, but {', '.join(CONDITIONS)}")
        if condition is not None:
            self.conditions = (condition,)
        self.domain = self.name if condition is None else f"{self.name}/{condition}"
        super().__init__(root, split, **options)

    def expected(self) -> int | None:
        each = {"train": 400, "test": 500}
        return sum(each.get(self.split, 106 if condition == "night" else 100) for condition in self.conditions)

    def layouts(self) -> list[Alternatives]:
        return [
            [
                Layout(
                    f"{images}/{condition}/{self.split}",
                    "_rgb_anon.png",
                    f"{labels}/{condition}/{self.split}",
                    suffix,
                    ids,
                    prefix=f"{condition}/",
                )
                for images, labels in (("rgb_anon", "gt"), ("rgb_anon_trainvaltest/rgb_anon", "gt_trainval/gt"))
                for suffix, ids in (("_gt_labelTrainIds.png", TRAIN_IDS), ("_gt_labelIds.png", CITYSCAPES_LABEL_IDS))
            ]
            for condition in self.conditions
        ]
