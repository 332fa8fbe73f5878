"""Label maps at the size of feature maps, and which of their pixels take part."""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.func import functional_call

from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import StepContext
from dgseg.ops.prototype_ema.exchange import global_ranks
from dgseg.ops.prototype_ema.reference import ranks_reference


def nearest(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Row i is row ⌊i·H/h⌋: every stride-th one where the sizes divide, as boundary_bands(size=...) takes them."""
    H, W = labels.shape[-2:]
    h, w = size
    if H % h == 0 and W % w == 0:
        return labels[:, :: H // h, :: W // w]
    rows, columns = (torch.arange(cells, device=labels.device) * side // cells for cells, side in ((h, H), (w, W)))
    return labels.index_select(1, rows).index_select(2, columns)


def capped(bands: Tensor, labels: Tensor, cap: int, bank: Sequence[int], draws: Tensor, context: StepContext) -> Tensor:
    """The bands without the pixels that are too many of their (class, thinnest band). Who stays is a pseudo-random
    function of (seed, step, draw, pixel) over the batches of all ranks: the number of ranks changes nothing."""
    classes, granularities = bank[:2]
    where = (labels, bands, draws, context.seed, context.step)
    counts, ranks = ranks_reference(*where, classes, granularities, False, cap)
    if context.group is not None:
        everywhere = torch.ones_like(counts, dtype=torch.bool)
        ranks = global_ranks(ranks, counts, everywhere, *where, False, cap, context.group)
    return torch.where(ranks[0] >= 0, bands, 0)


def feature_map(objective: str, prediction: Prediction, feature: str) -> Tensor:
    if feature not in prediction.features:
        raise ValueError(
            f"objective {objective!r} takes the feature map {feature!r}; the model has: "
            f"{', '.join(prediction.features)}"
        )
    return prediction.features[feature]


def feature_channels(model: SegmentationModel, feature: str) -> int:
    """Width of one of the model's feature maps: from a run on meta tensors, which computes nothing."""
    on_meta = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in chain(model.named_parameters(), model.named_buffers())
    }
    with torch.no_grad():
        prediction: Prediction = functional_call(model, on_meta, torch.zeros(2, 3, 128, 128, device="meta"))
    if feature not in prediction.features:
        raise ValueError(
            f"{type(model).__name__} has no feature map {feature!r}; it has: {', '.join(prediction.features)}"
        )
    return prediction.features[feature].shape[1]
