"""Sets that mark what is out of distribution and name no classes: RoadAnomaly, SegmentMeIfYouCan's RoadAnomaly21 and
RoadObstacle21.

Their labels hold 254 (out of distribution) and 255: a pixel inside the distribution has some class, but nobody says
which, and in the label that is the same as void. `Sample.extra["out_of_distribution"]` tells them apart: 0 inside, 1
outside, 255 void. The sets that name classes too (MUAD, ACDC-POC) carry it as well, so that metrics read one map
everywhere."""

from typing import ClassVar

from dgseg.data.files import FileDataset
from dgseg.data.ids import Ids
from dgseg.data.labels import OUT_OF_DISTRIBUTION, VOID
from dgseg.data.listing import Alternatives, Layout

_REMEDY = "unpack the provider's labels again: these are another set's"
# LabelGrab's numbering: background, road, anomaly.
_ROAD_ANOMALY = Ids.of({0: VOID, 1: VOID, 2: OUT_OF_DISTRIBUTION, 255: VOID}, out={2: 1, 255: VOID}, remedy=_REMEDY)
_SMIYC = Ids.of({0: VOID, 1: OUT_OF_DISTRIBUTION, 255: VOID}, out={1: 1, 255: VOID}, remedy=_REMEDY)


class RoadAnomaly(FileDataset):
    """frames/animals01_Guiguinto_railway.jpg with frames/animals01_Guiguinto_railway.labels/labels_semantic.png."""

    name = "road_anomaly"
    unknown = True
    splits: ClassVar = {"test": 60}
    default_split = "test"

    def layouts(self) -> list[Alternatives]:
        folder, labels = "frames", ".labels/labels_semantic.png"
        return [[Layout(folder, suffix, folder, labels, _ROAD_ANOMALY) for suffix in (".jpg", ".webp")]]


class _SegmentMe(FileDataset):
    """images/validation*.* are labelled: labels_masks/validation*_labels_semantic.png; the others are the test set."""

    unknown = True
    default_split = "val"
    unlabelled: ClassVar = frozenset({"test"})
    image_suffix: ClassVar[str]

    def layouts(self) -> list[Alternatives]:
        validation = self.split == "val"

        def member(key: str) -> bool:
            return key.startswith("validation") == validation

        return [[Layout("images", self.image_suffix, "labels_masks", "_labels_semantic.png", _SMIYC, member=member)]]


class RoadAnomaly21(_SegmentMe):
    """dataset_AnomalyTrack/"""

    name = "smiyc_ra21"
    splits: ClassVar = {"val": 10, "test": 100}
    image_suffix = ".jpg"


class RoadObstacle21(_SegmentMe):
    """dataset_ObstacleTrack/"""

    name = "smiyc_ro21"
    component_sizes = (50, 10)  # small obstacles
    splits: ClassVar = {"val": 30, "test": 327}
    image_suffix = ".webp"
