"""A model scored on data sets in one pass, in memory that does not grow with them.

Everything that is found is an integer count: several ranks take turns at the batches, add up their counts at the end,
and every rank then holds the same Evaluation."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dgseg.data.dataset import DataError, Dataset
from dgseg.data.datasets.acdc import CONDITIONS
from dgseg.evaluation.boundary import BoundaryErrors, BoundaryIou
from dgseg.evaluation.calibration import Calibration
from dgseg.evaluation.confusion import Confusion, iou_parts
from dgseg.evaluation.loading import Batches, Shown, load
from dgseg.evaluation.maps import predicted_labels, strips
from dgseg.evaluation.ood import OodScores
from dgseg.evaluation.protocols import Protocol, by_dataset
from dgseg.evaluation.result import DomainResult, Evaluation, ImageCounts, Seen
from dgseg.evaluation.tally import Tally
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import predict_logits
from dgseg.models.prediction import Prediction

EXTRAS = ("boundary", "calibration", "ood", "images")
OOD_KINDS = ("max_softmax", "entropy", "energy", "uncertainty")


@dataclass(frozen=True)
class Seeing:
    """One image as it is scored, for `on_image`; the tensors are the evaluation's own: copy what you keep."""

    domain: str
    dataset: Dataset
    index: int  # in the data set
    image: Tensor  # uint8 [3, h, w], as the model saw it
    label: Tensor  # uint8 [H, W]
    logits: Tensor  # [C, h', w'] at the label's size or below: evaluation.predicted_labels upsamples


def evaluate(
    model: SegmentationModel,
    datasets: Sequence[Dataset],
    protocol: Protocol,
    *,
    batch_size: int = 4,
    workers: int = 0,
    device: torch.device | str = "cpu",
    group: dist.ProcessGroup | None = None,
    extras: Collection[str] = (),
    classes: Sequence[int] | None = None,
    autocast: torch.dtype | None = None,
    on_image: Callable[[Seeing], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores per domain, and of ACDC per condition.

    model: on `device`, whole on every rank; its modes are put back afterwards. batch_size: images at once, or windows
    of one image where the protocol has windows. workers: processes that load. extras: what else to count, of
    "boundary" (error by distance, boundary IoU), "calibration", "ood" (from logits and, where the model gives one,
    from Prediction.extra["uncertainty"]) and "images" (each one's counts, for a paired bootstrap). classes: score
    these alone. on_image, progress (done, of how many): of this rank's images.

    An image that cannot be read is named in the result, skipped and counted. Any other error on any rank ends all.
    """
    device = torch.device(device)
    check(datasets, protocol, batch_size=batch_size, workers=workers, extras=extras)
    if next(model.parameters()).device.type != device.type:
        raise ValueError(f"the model is on {next(model.parameters()).device}, not on {device}: call model.to(device)")
    pass_ = _Pass(model, datasets, protocol, batch_size, device, frozenset(extras), classes, on_image)
    rank, world_size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    batches = Batches(datasets, protocol, batch_size, outside="ood" in extras)
    mine = range(rank, len(batches), world_size)
    total, done, error = batches.images(mine), 0, None
    began = time.perf_counter()
    try:
        with (
            scoring(pass_.model),
            torch.inference_mode(),
            torch.autocast(device.type, autocast, enabled=autocast is not None),
        ):
            for loaded in load(batches, mine, workers=workers, pin=device.type == "cuda"):
                for each in loaded.corrupt:
                    pass_.skip(each.dataset, each.index, each.reason)
                for shown in loaded.shown:
                    pass_.count(shown)
                done += len(loaded.corrupt) + sum(len(shown.indices) for shown in loaded.shown)
                if progress is not None:
                    progress(done, total)
    except Exception as found:
        if group is None:
            raise
        error = found
    # A rank that fails tells the others, which would wait for its counts otherwise.
    seconds, corrupt = _agreed(error, time.perf_counter() - began, pass_.corrupt, group)
    if group is not None:
        _add_up([tally for result in pass_.results.values() for tally in result.tallies()], group)
    results = {name: _without_void(result) for name, result in by_dataset(pass_.results).items()}
    return Evaluation(results, protocol, corrupt, seconds)


def check(
    datasets: Sequence[Dataset], protocol: Protocol, *, batch_size: int, workers: int, extras: Collection[str]
) -> None:
    """Everything that can be refused before an image is loaded."""
    if not datasets:
        raise ValueError("there is no data set to score on")
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size must be at least 1 and workers at least 0; got {batch_size} and {workers}")
    if strange := sorted(set(extras) - set(EXTRAS)):
        raise ValueError(f"extras may be {', '.join(EXTRAS)}; got {', '.join(strange)}")
    seen: dict[str, str] = {}
    for dataset in datasets:
        if len(dataset) == 0:
            raise DataError(f"{dataset.name} has no samples: mend its list of files")
        protocol.image_size(dataset.name, (1, 1))
        whole = dataset.domain.partition("/")[0]
        for domain in (dataset.domain, whole):
            if domain in seen and (domain == dataset.domain or seen[domain] == domain):
                raise DataError(
                    f"two data sets go by the name of {domain}: their scores would be one. Score them one after the "
                    "other, or give a folder a name of its own (domain=…)"
                )
        seen[dataset.domain] = dataset.domain


def domain_of(dataset: Dataset, index: int) -> str:
    """What an image's scores are grouped by: ACDC without a condition has four of them."""
    if dataset.name in _BY_CONDITION and dataset.domain == dataset.name:
        condition = dataset.id(index).split("/")[1]
        if condition in CONDITIONS:
            return f"{dataset.domain}/{condition}"
    return dataset.domain


_BY_CONDITION = ("acdc", "acdc_poc")


class _Pass:
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
        on_image: Callable[[Seeing], None] | None,
    ) -> None:
        self.datasets, self.protocol, self.batch_size, self.device = datasets, protocol, batch_size, device
        self.classes, self.on_image = model.num_classes, on_image
        self.with_uncertainty = _WithUncertainty(model) if "ood" in extras else None
        self.model = self.with_uncertainty or model
        self.corrupt: dict[str, str] = {}
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

    def skip(self, dataset: int, index: int, reason: str) -> None:
        self.corrupt[self.datasets[dataset].id(index)] = reason
        self.results[domain_of(self.datasets[dataset], index)].seen.counts["images"][1] += 1

    def count(self, shown: Shown) -> None:
        images, labels = (each.to(self.device, non_blocking=True) for each in (shown.images, shown.labels))
        outside = None if shown.outside is None else shown.outside.to(self.device, non_blocking=True)
        size = (labels.shape[1], labels.shape[2])
        # With windows an image's logits are large: one image at a time, its windows together.
        at_once = 1 if self.protocol.window else len(images)
        for first in range(0, len(images), at_once):
            some = images[first : first + at_once]
            found = scored_logits(self.model, some, self.protocol, size, batch_size=self.batch_size)
            for n, index in enumerate(shown.indices[first : first + at_once], first):
                each = found[n - first, None]
                self._count(shown.dataset, index, images[n], labels[n, None], outside, n, each)

    def _count(
        self, place: int, index: int, image: Tensor, label: Tensor, outside: Tensor | None, n: int, found: Tensor
    ) -> None:
        dataset = self.datasets[place]
        domain = domain_of(dataset, index)
        result, size = self.results[domain], (label.shape[1], label.shape[2])
        logits = found[:, : self.classes]
        counts = result.confusion.update(logits, label)
        result.seen.counts["images"][0] += 1
        if result.boundary is not None and result.boundary_iou is not None:
            predicted = predicted_labels(logits, size)
            result.boundary.update_labels(predicted, label)
            result.boundary_iou.update_labels(predicted, label)
        if result.calibration is not None:
            result.calibration.update(logits, label)
        if outside is not None:
            own = self.with_uncertainty is not None and self.with_uncertainty.found
            for kind, scores in ood_scores(logits, size, found[:, self.classes :] if own else None).items():
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
        self.model, self.found = model, False
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


def domains(dataset: Dataset) -> dict[str, Sequence[int]]:
    """domain -> the images of it, in order."""
    if domain_of(dataset, 0) == dataset.domain:
        return {dataset.domain: range(len(dataset))}
    found: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        found.setdefault(domain_of(dataset, index), []).append(index)
    return dict(sorted(found.items()))


def _without_void(result: DomainResult) -> DomainResult:
    """Of out-of-distribution scores keep those that were given, where there was something to find."""
    ood = {kind: tally for kind, tally in result.ood.items() if bool(tally.counts["scores"][1].any())}
    return replace(result, ood=ood)


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """In eval mode; afterwards every module is in the mode that it was in, frozen ones too."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _agreed(
    error: Exception | None, seconds: float, corrupt: dict[str, str], group: dist.ProcessGroup | None
) -> tuple[float, dict[str, str]]:
    """The slowest rank's time and all ranks' corrupt files; an error if any rank had one."""
    if group is None:
        return seconds, corrupt
    said: list[tuple[str, float, dict[str, str]]] = [("", 0.0, {})] * dist.get_world_size(group)
    words = "" if error is None else f"{type(error).__name__}: {error}"
    dist.all_gather_object(said, (words, seconds, corrupt), group=group)
    if error is not None:
        raise error
    for rank, (words, _, _) in enumerate(said):
        if words:
            raise ValueError(f"rank {rank} could not score its images: {words}")
    named = {sample: reason for _, _, found in said for sample, reason in found.items()}
    return max(seconds for _, seconds, _ in said), dict(sorted(named.items()))


def _add_up(tallies: Sequence[Tally], group: dist.ProcessGroup) -> None:
    """In one exchange; NCCL adds up on GPUs alone, gloo anywhere."""
    counts = [count for tally in tallies for count in tally.counts.values()]
    where = torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend(group) else "cpu"
    flat = torch.cat([count.flatten().to(where) for count in counts])
    dist.all_reduce(flat, group=group)
    for count, total in zip(counts, flat.split([count.numel() for count in counts]), strict=True):
        count.copy_(total.view(count.shape))
