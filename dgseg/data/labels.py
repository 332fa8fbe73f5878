"""The 19 Cityscapes train ids that everything here maps to, and how raw ids become them."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

VOID = 255
OUT_OF_DISTRIBUTION = 254

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
NUM_CLASSES = len(CLASSES)

# The colours in which Cityscapes label maps are shown everywhere.
COLOURS = np.array(
    [
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
        (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
        (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ],
    np.uint8,
)  # fmt: skip

# Cityscapes' own 34 ids: those that count, in the order of their train ids.
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


def lookup(mapping: Mapping[int, int], size: int = 256) -> npt.NDArray[np.uint8]:
    """A table raw id -> train id; what the mapping does not name becomes void."""
    table = np.full(size, VOID, np.uint8)
    for raw, train_id in mapping.items():
        table[raw] = train_id
    return table


CITYSCAPES_TO_TRAIN = lookup({raw: train_id for train_id, raw in enumerate(CITYSCAPES_IDS)})
TRAIN_TO_CITYSCAPES = lookup(dict(enumerate(CITYSCAPES_IDS)))
TRAIN_TO_CITYSCAPES[VOID] = 0


def coloured(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[..., H, W] train ids -> [..., H, W, 3] in Cityscapes colours; void is black, out-of-distribution orange."""
    table = np.zeros((256, 3), np.uint8)
    table[:NUM_CLASSES] = COLOURS
    table[OUT_OF_DISTRIBUTION] = (255, 128, 0)
    return table[label]
