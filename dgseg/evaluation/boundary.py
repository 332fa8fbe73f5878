"""Where errors lie: by distance to the nearest class boundary, and how well boundaries are met.

Distances are chessboard distances to a pixel of another class, in bands of dgseg.ops.boundary_bands; void makes no
boundary there. `BoundaryErrors` counts a confusion table per band, which gives error rates per band and class, and
trimap curves: the mIoU of all pixels within a distance. `BoundaryIou` follows Cheng et al., Boundary IoU (CVPR 2021).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.data.labels import NUM_CLASSES, OUT_OF_DISTRIBUTION, VOID
from dgseg.evaluation.confusion import Scores, class_iou, grouped_label_counts, mean_iou, refuse_strangers, scores
from dgseg.evaluation.maps import as_bytes, check_pair, void_unlabelled
from dgseg.evaluation.tally import Tally
from dgseg.ops import boundary_bands

Floats = npt.NDArray[np.float64]

RADII = (1, 2, 4, 8, 16)
DILATION_RATIO = 0.02
_OUTSIDE = 253  # a label that no map holds
_NOWHERE = -1  # an ignored label that no map holds: nothing is ignored


class BoundaryErrors(Tally):
    """counts["pixels"] is int64 [bands + 1, C, C+1]: a confusion table per band, thinnest first, the interior last."""

    def __init__(
        self,
        num_classes: int = NUM_CLASSES,
        radii: Sequence[int] = RADII,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            {"pixels": (len(radii) + 1, num_classes, num_classes + 1)},
            {"num_classes": num_classes, "radii": list(radii)},
            device,
        )
        self.num_classes, self.radii = num_classes, tuple(radii)

    @property
    def names(self) -> tuple[str, ...]:
        """What each row of the scores is, in words: "1 px", "2 px", "3–4 px", …, "interior"."""
        starts = [1] + [radius + 1 for radius in self.radii[:-1]]
        spans = [f"{a} px" if a == b else f"{a}–{b} px" for a, b in zip(starts, self.radii, strict=True)]
        return (*spans, "interior")

    def update_labels(self, predicted: Tensor, labels: Tensor) -> None:
        labels = void_unlabelled(labels)
        rows = len(self.radii) + 1
        # Bytes wrap: 0, which is the interior, becomes 255.
        bands = (boundary_bands(labels, self.radii) - 1).clamp_(max=rows - 1)
        found = grouped_label_counts(predicted, labels, bands, rows, self.num_classes)
        self.counts["pixels"] += found.to(self.device)

    def error(self) -> Floats:
        """[bands + 1]: the share of a band's pixels that are wrong; NaN for an empty band."""
        return np.array([1 - band.pixel_accuracy for band in self._per_band()])

    def class_error(self) -> Floats:
        """[bands + 1, C]."""
        return np.stack([1 - band.accuracy for band in self._per_band()])

    def pixels(self) -> npt.NDArray[np.int64]:
        """[bands + 1]."""
        return np.array([band.pixels for band in self._per_band()])

    def trimap(self, classes: Sequence[int] | None = None) -> list[Scores]:
        """Per radius, the scores of all pixels within it; then those of every pixel. classes: of these alone."""
        return [scores(table, classes) for table in self.counts["pixels"].cumsum(0)]

    def _per_band(self) -> list[Scores]:
        return [scores(table) for table in self.counts["pixels"]]


class BoundaryIou(Tally):
    """IoU of boundary regions: of a class's pixels only those within d of its mask's edge, where d is `ratio` of the
    image's diagonal. As in the published evaluator a mask ends at the image's border and at void; pixels whose truth is
    void count for neither side. One count for the whole data set, as for mIoU. counts["parts"] is [3, C]: shared, true
    and predicted boundary pixels."""

    def __init__(
        self,
        num_classes: int = NUM_CLASSES,
        ratio: float = DILATION_RATIO,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio must be a share of the image's diagonal, such as {DILATION_RATIO}; got {ratio}")
        super().__init__({"parts": (3, num_classes)}, {"num_classes": num_classes, "ratio": ratio}, device)
        self.num_classes, self.ratio = num_classes, ratio

    def update_labels(self, predicted: Tensor, labels: Tensor) -> None:
        check_pair(predicted, labels)
        predicted, labels = as_bytes(predicted, "predictions"), as_bytes(labels, "labels")
        edge_true, edge_predicted = (_near_edge(maps, self._distance(labels)) for maps in (labels, predicted))
        outside = labels >= OUT_OF_DISTRIBUTION
        true = labels.masked_fill(~edge_true, VOID)
        found = predicted.masked_fill(outside | ~edge_predicted, VOID)
        shared = true.masked_fill(true != found, VOID)
        pixels = torch.stack([torch.bincount(maps.flatten(), minlength=256) for maps in (shared, true, found)])
        refuse_strangers(pixels[1], self.num_classes, "labels")
        refuse_strangers(pixels[2], self.num_classes, "predictions")
        self.counts["parts"] += pixels[:, : self.num_classes].to(self.device)

    def _distance(self, labels: Tensor) -> int:
        height, width = labels.shape[1:]
        return max(1, round(self.ratio * math.hypot(height, width)))

    def class_iou(self, classes: Sequence[int] | None = None) -> Floats:
        return class_iou(self._parts(classes))

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        return float(mean_iou(self._parts(classes)))

    def _parts(self, classes: Sequence[int] | None) -> npt.NDArray[np.int64]:
        parts: npt.NDArray[np.int64] = self.counts["parts"].cpu().numpy()
        return parts if classes is None else parts[:, list(classes)]


def _near_edge(maps: Tensor, distance: int) -> Tensor:
    """Pixels within `distance` of a pixel of another label or of the outside: for every class's mask at once, what
    is left of it when it is eroded by as much."""
    framed = F.pad(maps, (1, 1, 1, 1), value=_OUTSIDE)
    return boundary_bands(framed, (distance,), ignore_index=_NOWHERE)[:, 1:-1, 1:-1] > 0
