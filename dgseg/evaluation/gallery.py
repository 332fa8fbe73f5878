"""Which images to look at, and their panels: from the worst-scored to the best, so that nobody picks by hand."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dgseg.data.dataset import Dataset
from dgseg.evaluation.calibration import entropy_map
from dgseg.evaluation.confusion import mean_iou
from dgseg.evaluation.counting import scored_logits
from dgseg.evaluation.evaluate import scoring
from dgseg.evaluation.loading import resized
from dgseg.evaluation.maps import predicted_labels
from dgseg.evaluation.pictures import Example
from dgseg.evaluation.protocols import Protocol
from dgseg.evaluation.result import DomainResult
from dgseg.models.base import SegmentationModel


def spread(result: DomainResult, count: int) -> list[tuple[str, str]]:
    """(sample id, caption) of `count` images at equal steps of rank in mIoU: the worst first, the best last."""
    assert result.per_image is not None, "the evaluation counts images"
    parts = result.per_image.parts
    mious = mean_iou(parts if result.classes is None else parts[..., list(result.classes)])
    ids = result.per_image.scored_ids
    scored = [place for place in np.argsort(mious, kind="stable").tolist() if not np.isnan(mious[place])]
    if not scored:  # a set that names no classes
        places = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int)).tolist()
        return [(ids[place], "no class is labelled") for place in places]
    count = min(count, len(scored))
    ranks = np.linspace(0, len(scored) - 1, count).round().astype(int).tolist() if count > 1 else [0] * count
    return [(ids[scored[rank]], f"{_named(rank, len(scored))}, mIoU {100 * mious[scored[rank]]:.1f}") for rank in ranks]


def _named(rank: int, of: int) -> str:
    if rank == 0:
        return f"worst of {of}"
    return f"best of {of}" if rank == of - 1 else f"rank {rank + 1} of {of} from the worst"


def examples(
    model: SegmentationModel,
    dataset: Dataset,
    chosen: Sequence[tuple[str, str]],
    protocol: Protocol,
    *,
    device: torch.device | str = "cpu",
    name: str = "prediction",
) -> list[Example]:
    """chosen: sample ids of the data set, each with its caption."""
    places = {dataset.id(index): index for index in range(len(dataset))}
    found = []
    with scoring(model), torch.inference_mode():
        for sample_id, caption in chosen:
            sample = dataset[places[sample_id]]
            assert sample.label is not None, "it was scored"
            image = resized(sample.image, protocol.image_size(dataset.name, sample.size))
            logits = scored_logits(model, image[None].to(device), protocol, sample.size)
            found.append(
                Example(
                    image=sample.image.permute(1, 2, 0).contiguous().numpy(),
                    truth=sample.label.numpy(),
                    predictions={name: _map(predicted_labels(logits, sample.size))},
                    entropy=_map(entropy_map(logits, sample.size)),
                    caption=f"{sample_id}: {caption}",
                )
            )
    return found


def _map(maps: Tensor) -> np.ndarray:
    values: np.ndarray = maps[0].cpu().numpy()
    return values
