"""What one image adds to an evaluation: from the image as it is shown, through the model, to every count."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.data.dataset import Dataset
from dgseg.evaluation.boundary import BoundaryErrors, BoundaryIou
from dgseg.evaluation.calibration import Calibration
from dgseg.evaluation.components import ComponentScores, Sizes
from dgseg.evaluation.confusion import Confusion, iou_parts
from dgseg.evaluation.loading import Loaded, Shown
from dgseg.evaluation.maps import predicted_labels, strips
from dgseg.evaluation.ood import OodScores, above
from dgseg.evaluation.protocols import Protocol
from dgseg.evaluation.result import DomainResult, ImageCounts, Seen
from dgseg.evaluation.scorers import Learned, OfLogits, Scorer, anomaly_scores, needs_own_pass
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import predict_logits
from dgseg.models.prediction import Prediction


@dataclass(frozen=True)
class Seeing:
    """One image as it is scored, for `on_image`; the tensors are the evaluation's own: copy what you keep."""

    domain: str
    dataset: Dataset
    index: int  # in the data set
    image: Tensor  # uint8 [3, h, w], as the model saw it
    label: Tensor  # uint8 [H, W]
    logits: Tensor  # [C, h', w'] at the label's size or below: evaluation.predicted_labels upsamples


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
        scorers: Mapping[str, Scorer],
        limit: int | None,
    ) -> None:
        """scorers: of unknown pixels, by name; none without the extra "ood"."""
        self.datasets, self.protocol, self.batch_size, self.device = list(datasets), protocol, batch_size, device
        self.model, self.classes, self.autocast, self.on_image = model, model.num_classes, autocast, on_image
        self.scorers, self.limit = scorers, limit
        learned = any(isinstance(scorer, Learned) for scorer in scorers.values())
        self.with_uncertainty = _WithUncertainty(model) if learned else None
        self.corrupt: dict[str, str] = {}
        # domain -> scorer -> from which score on a pixel is called unknown, in a pass that counts components.
        self.thresholds: Mapping[str, Mapping[str, float]] = {}
        self.results: dict[str, DomainResult] = {}
        # (data set, index) -> row of its domain's ImageCounts, where they are not all of a data set's images.
        self.rows: dict[tuple[int, int], int] = {}
        for place, dataset in enumerate(datasets):
            for domain, indices in domains(dataset, limit).items():
                self.rows |= {(place, index): row for row, index in enumerate(indices)} if "images" in extras else {}
                self.results[domain] = DomainResult(
                    dataset=dataset.name,
                    confusion=Confusion(self.classes, device=device),
                    seen=Seen(),
                    classes=None if classes is None else tuple(classes),
                    boundary=BoundaryErrors(self.classes, device=device) if "boundary" in extras else None,
                    boundary_iou=BoundaryIou(self.classes, device=device) if "boundary" in extras else None,
                    calibration=Calibration(device=device) if "calibration" in extras else None,
                    ood={name: OodScores(device=device) for name in scorers},
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
        domain, sample = source.domain_of(index), source.id(index)
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
                marked = None if outside is None else outside[n, None]
                self._count_image(shown.dataset, index, images[n], labels[n, None], marked, found[n - first, None])

    def _count_image(
        self, place: int, index: int, image: Tensor, label: Tensor, outside: Tensor | None, found: Tensor
    ) -> None:
        """label, outside: [1, H, W]. found [1, C, h, w]: logits, and behind them the model's own uncertainty."""
        dataset = self.datasets[place]
        domain = dataset.domain_of(index)
        result, size = self.results[domain], (label.shape[1], label.shape[2])
        logits = found[:, : self.classes]
        if self.thresholds:
            assert outside is not None, "components are of out-of-distribution maps"
            unknown = self._unknown(image, found, size)
            for name, threshold in self.thresholds[domain].items():
                result.components[name].update(above(unknown[name], threshold), outside)
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
            for name, scores in self._unknown(image, found, size).items():
                result.ood[name].update(scores, outside)
        if result.per_image is not None:
            row = self.rows[place, index]
            result.per_image.counts["parts"][row] = torch.from_numpy(iou_parts(counts))
            result.per_image.counts["scored"][row] = 1
        if self.on_image is not None:
            self.on_image(Seeing(domain, dataset, index, image, label[0], logits[0]))

    def _unknown(self, image: Tensor, found: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
        """scorer -> [1, H, W], higher = more unknown; without those that this model cannot answer."""
        learned = self.with_uncertainty is not None and self.with_uncertainty.found
        names = [name for name, scorer in self.scorers.items() if learned or not isinstance(scorer, Learned)]
        scores = {name: torch.empty((1, *size), device=found.device) for name in names}
        for _, rows, channels in strips(found, size):
            logits = channels[: self.classes]
            log_p = logits.log_softmax(0)
            for name in names:
                scorer = self.scorers[name]
                if isinstance(scorer, OfLogits):
                    scores[name][0, rows] = scorer.function(logits, log_p)
                elif isinstance(scorer, Learned):
                    scores[name][0, rows] = channels[-1]
        for name, scorer in self.scorers.items():
            if needs_own_pass(scorer):
                with torch.inference_mode(False):  # a scorer may need gradients
                    whole = anomaly_scores(self.model, image[None].clone(), scorer)[:, None]
                scores[name] = F.interpolate(whole, size, mode="bilinear", align_corners=False)[:, 0]
        return scores


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
    """Of the components that count."""
    share = 1.0
    if dataset.component_pixels is not None:
        height, width = dataset[0].size
        share = height * width / dataset.component_pixels
    predicted, true = (max(1, round(pixels * share)) for pixels in dataset.component_sizes)
    return Sizes(predicted, true)


def domains(dataset: Dataset, limit: int | None = None) -> dict[str, Sequence[int]]:
    """domain -> the images of it, in order. limit: of the first images alone."""
    indices = range(len(dataset))[:limit]
    if dataset.domain_of(0) == dataset.domain:
        return {dataset.domain: indices}
    found: dict[str, list[int]] = {}
    for index in indices:
        found.setdefault(dataset.domain_of(index), []).append(index)
    return dict(sorted(found.items()))
