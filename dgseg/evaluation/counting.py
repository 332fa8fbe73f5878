"""What one image adds to an evaluation: from the image as it is shown, through the model, to every count."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.data.dataset import Dataset
from dgseg.data.datasets.acdc import CONDITIONS
from dgseg.evaluation.boundary import BoundaryErrors, BoundaryIou
from dgseg.evaluation.calibration import Calibration
from dgseg.evaluation.components import ANOMALY_TRACK, OBSTACLE_TRACK, ComponentScores, Sizes
from dgseg.evaluation.confusion import Confusion, iou_parts
from dgseg.evaluation.loading import Loaded, Shown
from dgseg.evaluation.maps import predicted_labels, strips
from dgseg.evaluation.ood import OodScores, above
from dgseg.evaluation.protocols import Protocol
from dgseg.evaluation.result import DomainResult, ImageCounts, Seen
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import predict_logits
from dgseg.models.prediction import Prediction

OOD_KINDS = ("max_softmax", "entropy", "energy", "uncertainty")
# What the anomaly track's sizes are stated for.
_TRACK_PIXELS = 1280 * 720


@dataclass(frozen=True)
class Seeing:
    """One image as it is scored, for `on_image`; the tensors are the evaluation's own: copy what you keep."""

    domain: str
    dataset: Dataset
    index: int  # in the data set
    image: Tensor  # uint8 [3, h, w], as the model saw it
    label: Tensor  # uint8 [H, W]
    logits: Tensor  # [C, h', w'] at the label's size or below: evaluation.predicted_labels upsamples


def domain_of(dataset: Dataset, index: int) -> str:
    """What an image's scores are grouped by: ACDC without a condition has four of them."""
    if dataset.name in _BY_CONDITION and dataset.domain == dataset.name:
        condition = dataset.id(index).split("/")[1]
        if condition in CONDITIONS:
            return f"{dataset.domain}/{condition}"
    return dataset.domain


_BY_CONDITION = ("acdc", "acdc_poc")


class Counts:
    """This rank's counts while they grow."""

    def __init__(
        self,
        model: SegmentationModel,
        datasets: Sequence[Dataset],
        protocol: Protocol,
        batch_size: int,
        device: torch.device,
        extras: frozenset[str],
        classes: Sequence[int] | None,
        autocast: torch.dtype | None,
        on_image: Callable[[Seeing], None] | None,
    ) -> None:
        self.datasets, self.protocol, self.batch_size, self.device = list(datasets), protocol, batch_size, device
        self.model, self.classes, self.autocast, self.on_image = model, model.num_classes, autocast, on_image
        self.with_uncertainty = _WithUncertainty(model) if "ood" in extras else None
        self.corrupt: dict[str, str] = {}
        # domain -> kind of score -> what is called unknown, in a pass that counts components.
        self.thresholds: Mapping[str, Mapping[str, float]] = {}
        self.results: dict[str, DomainResult] = {}
        # (data set, index) -> row of its domain's ImageCounts, where they are not all of a data set's images.
        self.rows: dict[tuple[int, int], int] = {}
        for place, dataset in enumerate(datasets):
            for domain, indices in domains(dataset).items():
                self.rows |= {(place, index): row for row, index in enumerate(indices)} if "images" in extras else {}
                self.results[domain] = DomainResult(
                    dataset=dataset.name,
                    confusion=Confusion(self.classes, device=device),
                    seen=Seen(),
                    classes=None if classes is None else tuple(classes),
                    boundary=BoundaryErrors(self.classes, device=device) if "boundary" in extras else None,
                    boundary_iou=BoundaryIou(self.classes, device=device) if "boundary" in extras else None,
                    calibration=Calibration(device=device) if "calibration" in extras else None,
                    ood={kind: OodScores(device=device) for kind in OOD_KINDS} if "ood" in extras else {},
                    per_image=ImageCounts([dataset.id(index) for index in indices], self.classes)
                    if "images" in extras
                    else None,
                )

    @property
    def compiled(self) -> bool:
        return any(module._compiled_call_impl is not None for module in self.model.modules())

    def tensors(self) -> list[Tensor]:
        return [
            count for result in self.results.values() for tally in result.tallies() for count in tally.counts.values()
        ]

    def empty(self) -> "Counts":
        """Another of the same kind, in which nothing is counted yet."""
        other = copy(self)
        other.results = deepcopy(self.results)
        other.with_uncertainty = self.with_uncertainty and _WithUncertainty(self.model)
        for count in other.tensors():
            count.zero_()
        return other

    def for_components(self, rows: Mapping[str, DomainResult]) -> "Counts":
        """For a second pass over the data sets in which something is out of distribution: components need a threshold,
        which is the whole data set's best for pixels. rows: what the first pass found, sums included."""
        other = copy(self)
        other.thresholds, other.results = {}, {}
        for domain, result in self.results.items():
            whole = rows.get(domain.partition("/")[0], rows[domain])
            bests = {kind: tally.result().best_threshold for kind, tally in whole.ood.items() if tally.positives}
            if bests:
                other.thresholds = {**other.thresholds, domain: bests}
                sizes = component_sizes(next(each for each in self.datasets if domain in domains(each)))
                other.results[domain] = DomainResult(
                    result.dataset,
                    Confusion(self.classes),
                    Seen(),
                    components={k: ComponentScores(sizes) for k in bests},
                )
        other.datasets = [each for each in self.datasets if not other.thresholds.keys().isdisjoint(domains(each))]
        return other

    def skip(self, dataset: int, index: int, reason: str) -> None:
        source = self.datasets[dataset]
        domain, sample = domain_of(source, index), source.id(index)
        # Several folders, or packs of them, have images of the same id.
        if [each.name for each in self.datasets].count(source.name) > 1:
            sample = f"{domain}: {sample}"
        self.corrupt[sample] = reason
        self.results[domain].seen.counts["images"][1] += 1

    def count(self, loaded: Loaded) -> None:
        with torch.inference_mode(), torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            for shown in loaded.shown:
                self._count(shown)

    def _count(self, shown: Shown) -> None:
        images, labels = (each.to(self.device, non_blocking=True) for each in (shown.images, shown.labels))
        outside = None if shown.outside is None else shown.outside.to(self.device, non_blocking=True)
        size = (labels.shape[1], labels.shape[2])
        # With windows an image's logits are large: one image at a time, its windows together.
        at_once = 1 if self.protocol.window else len(images)
        for first in range(0, len(images), at_once):
            some = images[first : first + at_once]
            found = scored_logits(
                self.with_uncertainty or self.model, some, self.protocol, size, batch_size=self.batch_size
            )
            for n, index in enumerate(shown.indices[first : first + at_once], first):
                each = found[n - first, None]
                self._count_image(shown.dataset, index, images[n], labels[n, None], outside, n, each)

    def _count_image(
        self, place: int, index: int, image: Tensor, label: Tensor, outside: Tensor | None, n: int, found: Tensor
    ) -> None:
        dataset = self.datasets[place]
        domain = domain_of(dataset, index)
        result, size = self.results[domain], (label.shape[1], label.shape[2])
        logits = found[:, : self.classes]
        own = found[:, self.classes :] if self.with_uncertainty and self.with_uncertainty.found else None
        if self.thresholds:
            assert outside is not None, "components are of out-of-distribution maps"
            unknown = ood_scores(logits, size, own)
            for kind, threshold in self.thresholds[domain].items():
                result.components[kind].update(above(unknown[kind], threshold), outside[n, None])
            return
        counts = result.confusion.update(logits, label)
        result.seen.counts["images"][0] += 1
        if result.boundary is not None and result.boundary_iou is not None:
            predicted = predicted_labels(logits, size)
            result.boundary.update_labels(predicted, label)
            result.boundary_iou.update_labels(predicted, label)
        if result.calibration is not None:
            result.calibration.update(logits, label)
        if outside is not None:
            for kind, scores in ood_scores(logits, size, own).items():
                result.ood[kind].update(scores, outside[n, None])
        if result.per_image is not None:
            row = self.rows[place, index]
            result.per_image.counts["parts"][row] = torch.from_numpy(iou_parts(counts))
            result.per_image.counts["scored"][row] = 1
        if self.on_image is not None:
            self.on_image(Seeing(domain, dataset, index, image, label[0], logits[0]))


def scored_logits(
    model: SegmentationModel, images: Tensor, protocol: Protocol, size: tuple[int, int], *, batch_size: int = 1
) -> Tensor:
    """Of images as the protocol shows them, float32 at the labels' size or below: what is left to do is to upsample
    (align_corners=False), which the counting does by itself. batch_size: of windows."""
    shown = tuple(images.shape[-2:])
    fits = min(shown) >= model.minimum and not any(side % model.multiple for side in shown)
    if protocol.window is None and shown == size and fits and not model.align_corners:
        prediction: Prediction = model(images)
        return prediction.logits.float()
    left = not model.align_corners and shown[0] <= size[0] and shown[1] <= size[1]
    return predict_logits(
        model,
        images,
        window=protocol.window,
        stride=protocol.stride,
        windows_per_batch=batch_size,
        size=None if left else size,
    )


def ood_scores(logits: Tensor, size: tuple[int, int], uncertainty: Tensor | None = None) -> dict[str, Tensor]:
    """kind -> [N, H, W], higher = more unknown, of upsampled logits [N, C, h, w]; uncertainty [N, 1, h, w] is the
    model's own."""
    kinds = OOD_KINDS if uncertainty is not None else OOD_KINDS[:-1]
    found = {kind: torch.empty((len(logits), *size), device=logits.device) for kind in kinds}
    for image, rows, upsampled in strips(logits, size):
        log_p = upsampled.log_softmax(0)
        found["max_softmax"][image, rows] = 1 - log_p.amax(0).exp()
        found["entropy"][image, rows] = -(log_p.exp() * log_p).nansum(0)  # 0 · log 0 is 0
        found["energy"][image, rows] = -upsampled.logsumexp(0)
    if uncertainty is not None:
        for image, rows, upsampled in strips(uncertainty, size):
            found["uncertainty"][image, rows] = upsampled[0]
    return found


class _WithUncertainty(SegmentationModel):
    """A model whose own uncertainty is one channel more behind its logits, so that windows average it as they do them.
    `found` says whether the model gives one; the channel is zero otherwise."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__(model.num_classes + 1)
        self.model, self.found, self.training = model, False, False
        self.multiple, self.minimum, self.align_corners = model.multiple, model.minimum, model.align_corners

    def normalise(self, images: Tensor) -> Tensor:
        return self.model.normalise(images)

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        prediction: Prediction = self.model(images, seed=seed, step=step)
        logits, uncertainty = prediction.logits, prediction.extra.get("uncertainty")
        self.found = uncertainty is not None
        if uncertainty is None:
            uncertainty = logits.new_zeros(len(logits), 1, *logits.shape[-2:])
        if uncertainty.dim() == 3:
            uncertainty = uncertainty[:, None]
        if uncertainty.shape[-2:] != logits.shape[-2:]:
            size = logits.shape[-2:]
            uncertainty = F.interpolate(uncertainty.float(), size, mode="bilinear", align_corners=self.align_corners)
        return prediction._replace(logits=torch.cat([logits.float(), uncertainty.float()], 1))


def component_sizes(dataset: Dataset) -> Sizes:
    """Of the components that count: the obstacle track's for smiyc_ro21, the anomaly track's for the others, scaled to
    the streets world's smaller images."""
    if dataset.name == "smiyc_ro21":
        return OBSTACLE_TRACK
    if not dataset.name.startswith("streets"):
        return ANOMALY_TRACK
    height, width = dataset[0].size
    share = height * width / _TRACK_PIXELS
    return Sizes(max(1, round(ANOMALY_TRACK.predicted * share)), max(1, round(ANOMALY_TRACK.true * share)))


def domains(dataset: Dataset) -> dict[str, Sequence[int]]:
    """domain -> the images of it, in order."""
    if domain_of(dataset, 0) == dataset.domain:
        return {dataset.domain: range(len(dataset))}
    found: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        found.setdefault(domain_of(dataset, index), []).append(index)
    return dict(sorted(found.items()))
