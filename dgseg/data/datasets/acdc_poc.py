"""ACDC-POC: ACDC's validation images with objects painted in. Folders as ACDC's, but image and label share their name:

    rgb_anon_trainvaltest/rgb_anon/fog/val/GOPR0476/<name>.png      gt_trainval/gt/fog/val/GOPR0476/<name>.png

Labels hold Cityscapes' ids, and from 100 on (stroller … monkey) what no class of it is."""

from typing import ClassVar

from dgseg.data.datasets.acdc import ACDC
from dgseg.data.ids import Ids
from dgseg.data.labels import CITYSCAPES_IDS, OUT_OF_DISTRIBUTION, VOID
from dgseg.data.listing import Alternatives, Layout

_OBJECTS = range(100, 125)
# What evaluates these sets leaves id 0 out and counts the other ids without a train id as inside.
_IDS = Ids.of(
    {
        **dict.fromkeys((*range(34), 255), VOID),
        **{raw: train_id for train_id, raw in enumerate(CITYSCAPES_IDS)},
        **dict.fromkeys(_OBJECTS, OUT_OF_DISTRIBUTION),
    },
    out={0: VOID, 255: VOID, **dict.fromkeys(_OBJECTS, 1)},
    remedy="unpack the provider's labels again: these are another set's",
)


class ACDCPOC(ACDC):
    name = "acdc_poc"
    unknown = True
    splits: ClassVar = {"val": None}
    default_split = "val"
    unlabelled: ClassVar = frozenset()

    def expected(self) -> int | None:
        return None

    def layouts(self) -> list[Alternatives]:
        places = (("rgb_anon_trainvaltest/rgb_anon", "gt_trainval/gt"), ("rgb_anon", "gt"))
        return [
            [
                Layout(
                    f"{images}/{condition}/val",
                    ".png",
                    f"{labels}/{condition}/val",
                    ".png",
                    _IDS,
                    prefix=f"{condition}/",
                )
                for images, labels in places
            ]
            for condition in self.conditions
        ]
