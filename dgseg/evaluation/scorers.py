"""How unknown every pixel is, asked in the ways that papers compare: higher is more unknown, in every one.

    scores = anomaly_scores(model, images, scorer("energy"))       # [N, H, W], for OodScores

Scores of logits are taken at the image's size, as published: logits are upsampled first. Features and learned heads
score at their own resolution, and the scores are upsampled. `mahalanobis` has to see training data: MahalanobisFit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.data.dataset import DataError, Dataset
from dgseg.data.labels import OUT_OF_DISTRIBUTION
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import padded
from dgseg.models.prediction import Prediction

# (model, normalised images whose sides the model takes) -> [N, h, w] at any resolution
Scorer = Callable[[SegmentationModel, Tensor], Tensor]


def anomaly_scores(model: SegmentationModel, images: Tensor, scorer: Scorer) -> Tensor:
    """float32 [N, H, W] at the images' size. Sides that are too short, or no multiple of what the model needs, are
    padded with the mean colour, as predict_logits does, and the scores cropped back."""
    if model.training:
        raise ValueError("scores need the model in eval mode: call model.eval() first")
    model.check(images, minimum=1)
    if images.dtype == torch.uint8:
        images = model.normalise(images)
    height, width = images.shape[-2:]
    whole = padded(model, images)
    scores = scorer(model, whole).float()
    return _upsampled(model, scores[:, None], whole)[:, 0, :height, :width]


def _upsampled(model: SegmentationModel, maps: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=model.align_corners)


def max_softmax(logits: Tensor, log_p: Tensor) -> Tensor:
    return 1 - log_p.amax(0).exp()


def entropy(logits: Tensor, log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).nansum(0)  # 0 · log 0 is 0


def energy(logits: Tensor, log_p: Tensor) -> Tensor:
    return -logits.logsumexp(0)


def max_logit(logits: Tensor, log_p: Tensor) -> Tensor:
    return -logits.amax(0)


@dataclass(frozen=True)
class OfLogits:
    """One number per pixel from its logits [C, H, W] and their log-softmax."""

    function: Callable[[Tensor, Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, model: SegmentationModel, images: Tensor) -> Tensor:
        # An image at a time: all classes at full size are large.
        full = (_upsampled(model, each[None], images)[0] for each in model(images).logits.float())
        return torch.stack([self.function(each, each.log_softmax(0)) for each in full])


@dataclass(frozen=True)
class Odin:
    """Maximum softmax at a high temperature, of images that were moved a little towards it. The score is
    -T·log(C·max p), which orders as -max p does and keeps its digits: at T = 1000 all p are close to 1/C."""

    temperature: float = 1000.0
    step: float = 0.0014
    """how far every value of the normalised image moves"""

    def __call__(self, model: SegmentationModel, images: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = images.detach().clone().requires_grad_()
            confidence = (model(moved).logits.float() / self.temperature).log_softmax(1).amax(1)
            (towards,) = torch.autograd.grad(confidence.sum(), moved)
        moved = images + self.step * towards.sign()
        return OfLogits(self._score)(model, moved)

    def _score(self, logits: Tensor, log_p: Tensor) -> Tensor:
        classes = torch.tensor(float(len(logits)))
        return -self.temperature * ((logits / self.temperature).log_softmax(0).amax(0) + classes.log())


@dataclass(frozen=True)
class Learned:
    """The model's own uncertainty head."""

    @torch.no_grad()
    def __call__(self, model: SegmentationModel, images: Tensor) -> Tensor:
        found = model(images).extra.get("uncertainty")
        if not isinstance(found, Tensor):
            raise ValueError(f"this {type(model).__name__} has no uncertainty head: build it with uncertainty=True")
        return found


@dataclass(frozen=True)
class Mahalanobis:
    """The distance to the nearest class mean, in units of the shared covariance."""

    means: Tensor  # [C, D] of the classes that were seen, whitened
    whitening: Tensor  # [D, D]
    feature: str

    @torch.no_grad()
    def __call__(self, model: SegmentationModel, images: Tensor) -> Tensor:
        features = _feature(model(images), self.feature).float()
        # A 1x1 convolution carries every pixel into the space in which the covariance is 1.
        white = F.conv2d(features, self.whitening.to(features)[:, :, None, None])
        means = self.means.to(features)
        products = F.conv2d(white, means[:, :, None, None])
        squares = white.square().sum(1, keepdim=True) - 2 * products + means.square().sum(1)[:, None, None]
        return squares.amin(1).clamp(min=0).sqrt()


class MahalanobisFit:
    """Class means and shared covariance of a feature map's pixels, over any number of batches:

    fit = MahalanobisFit(model)
    for batch in training: fit.update(batch.images, batch.labels)
    scorer = fit.result()
    """

    def __init__(self, model: SegmentationModel, feature: str = "pre_classifier") -> None:
        self.model, self.feature = model, feature
        self.counts: Tensor | None = None  # [C]
        self.sums = self.products = torch.empty(0)  # [C, D], [D, D]

    @torch.no_grad()
    def update(self, images: Tensor, labels: Tensor) -> None:
        """labels [N, H, W], at the pixels nearest to the feature map's; 254 and 255 take no part."""
        if self.model.training:
            raise ValueError("features are fitted with the model in eval mode: call model.eval() first")
        features = _feature(self.model(images), self.feature)
        C, D = self.model.num_classes, features.shape[1]
        if self.counts is None:
            zeros = partial(torch.zeros, dtype=torch.float64, device=features.device)
            self.counts, self.sums, self.products = zeros(C), zeros(C, D), zeros(D, D)
        nearest = F.interpolate(labels[:, None].float(), features.shape[-2:], mode="nearest")[:, 0].long()
        valid = nearest < min(C, OUT_OF_DISTRIBUTION)
        pixels, classes = features.movedim(1, -1)[valid].double(), nearest[valid]
        self.counts += torch.bincount(classes, minlength=C)
        self.sums.index_add_(0, classes, pixels)
        self.products += pixels.T @ pixels

    def result(self) -> Mahalanobis:
        if self.counts is None or not bool(self.counts.any()):
            raise ValueError("nothing was fitted: no labelled pixel came")
        seen = self.counts > 0
        means = self.sums[seen] / self.counts[seen, None]
        within = self.products - (means * self.counts[seen, None]).T @ means
        covariance = within / self.counts.sum()
        # Channels that never vary would have no length at all.
        covariance += torch.eye(len(covariance)).to(covariance) * (1e-6 * covariance.diagonal().mean() + 1e-12)
        inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
        return Mahalanobis((means @ inverse.T).float(), inverse.float(), self.feature)


def _feature(prediction: Prediction, name: str) -> Tensor:
    if name not in prediction.features:
        raise ValueError(f"the model has no feature map {name!r}; it has: {', '.join(prediction.features)}")
    return prediction.features[name]


SCORERS: dict[str, Scorer] = {
    "max_softmax": OfLogits(max_softmax),
    "entropy": OfLogits(entropy),
    "energy": OfLogits(energy),
    "max_logit": OfLogits(max_logit),
    "odin": Odin(),
    "learned": Learned(),
}
NAMES = (*SCORERS, "mahalanobis")
STANDARD = ("max_softmax", "entropy", "energy", "learned")  # what costs no more than the logits


def needs_own_pass(scorer: Scorer) -> bool:
    """Whether it runs the model itself, on whole images; the others read the logits that classes are scored by."""
    return not isinstance(scorer, (OfLogits, Learned))


def scorer(name: str) -> Scorer:
    if name == "mahalanobis":
        raise ValueError("mahalanobis is fitted to training data first: MahalanobisFit(model)")
    if name not in SCORERS:
        raise ValueError(f"there is no scorer {name!r}; there are {', '.join(SCORERS)}, and MahalanobisFit")
    return SCORERS[name]


def scorers_of(
    model: SegmentationModel, names: Sequence[str], training: Dataset | None = None, limit: int = 100
) -> dict[str, Scorer]:
    """By their names; refused where the model cannot be scored so. training: labelled images that mahalanobis is fitted
    to, `limit` of them, evenly spread."""
    if "learned" in names and getattr(model, "uncertainty", None) is None:
        raise ValueError(
            f"this {type(model).__name__} has no uncertainty head to ask: it was built without uncertainty=True"
        )
    return {
        name: _mahalanobis(model, training, limit) if name == "mahalanobis" else scorer(name)
        for name in dict.fromkeys(names)
    }


def _mahalanobis(model: SegmentationModel, training: Dataset | None, limit: int) -> Scorer:
    if training is None:
        raise ValueError("mahalanobis is fitted to labelled training images: name them with --fit")
    fit = MahalanobisFit(model)
    device = next(model.parameters()).device
    count = min(limit, len(training))
    for number in range(count):
        sample = training[number * len(training) // count]
        if sample.label is None:
            raise DataError(f"{training.name} is opened without its labels, and there is nothing to fit")
        images = model.normalise(sample.image[None].to(device))
        height, width = (side - side % model.multiple for side in images.shape[-2:])
        fit.update(images[..., :height, :width], sample.label[None, :height, :width].to(device))
    return fit.result()
