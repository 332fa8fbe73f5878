"""BlindNet's semantic consistency contrast in the decoder: a pixel of the augmented view is drawn to the same pixel of
the original, and pushed from pixels of other classes (CWCL, Eq. 7) and from those of the class that it was mistaken for
(SDCL, Eq. 8).

N images, D dimensions of the embedding, S class samples, A anchors, B negatives of an image (see pixel_samples.py).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dgseg.data.augment.pipeline import AUGMENTED
from dgseg.data.sample import Batch
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction
from dgseg.objectives.base import ORIGINAL, Objective, ParameterGroup, StepContext, objective, trainable, weighted
from dgseg.objectives.covariance import term_weights
from dgseg.objectives.pixel_samples import ClassSamples, Confusions, class_samples, confusions
from dgseg.objectives.pixels import feature_channels, feature_map, nearest
from dgseg.ops import across_ranks
from dgseg.ops.prototype_ema.order import pixel_keys


class Picks(NamedTuple):
    cwcl: ClassSamples
    sdcl: Confusions


@objective("semantic_contrast", "contrast")
class SemanticContrast(Objective):
    @dataclass(frozen=True, kw_only=True)
    class Config(Objective.Config):
        cwcl: float | None = 0.3
        """weight of class-wise contrast, ω3; None: without it"""
        sdcl: float | None = 0.3
        """weight of semantic disentanglement, ω4; None: without it"""
        features: tuple[str, ...] = ("stage4", "concat", "decoder")
        dim: int = 256
        """of the embedding"""
        temperature: float = 0.07
        classes: int = 15
        """cwcl: at most this many classes of an image"""
        samples: int = 50
        """cwcl: pixels of each class, half of them wrongly predicted; classes with no more pixels are left out"""
        anchors: int = 1000
        """sdcl: at most this many wrongly predicted pixels of an image"""
        negatives: int = 20
        """sdcl: at most this many pixels of the class that the anchor was mistaken for"""
        head: Literal["shared", "stop_gradient", "individual"] = "shared"
        """sdcl takes cwcl's projection heads and trains them too, takes them as they are, or has its own"""
        anchors_require_right: bool = False
        """sdcl: only where the original view is predicted rightly, as the released code has it"""
        released_negatives: bool = False
        """cwcl: all samples are negatives, those of the own class and the positive too, as in the released code"""
        lr_multiple: float = 1.0
        """of the projection heads"""
        view: str = AUGMENTED
        """what learns; the original view is what it learns from"""
        name: str = "contrast"

        def __post_init__(self) -> None:
            super().__post_init__()
            terms = self.terms()
            if self.head == "stop_gradient" and "cwcl" not in terms:
                raise ValueError('head="stop_gradient" takes the heads that cwcl trains, and there is no cwcl')
            if self.temperature <= 0 or min(self.classes, self.samples, self.anchors, self.negatives) < 1:
                raise ValueError("temperature must be positive; classes, samples, anchors and negatives at least 1")

        def terms(self) -> dict[str, float]:
            return term_weights(self, cwcl=self.cwcl, sdcl=self.sdcl)

    config: Config

    def __init__(self, config: Config, model: SegmentationModel) -> None:
        super().__init__(config, model)
        self.num_classes = model.num_classes
        self.weights = config.terms()
        channels = {feature: feature_channels(model, feature) for feature in config.features}
        owners = list(self.weights) if config.head == "individual" else [next(iter(self.weights))]
        self.heads = nn.ModuleDict(
            {
                owner: nn.ModuleDict({feature: projection(width, config.dim) for feature, width in channels.items()})
                for owner in owners
            }
        )

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(f"{self.name}.heads", list(self.heads.parameters()), self.config.lr_multiple)]

    def forward(self, outputs: Mapping[str, Prediction], batch: Batch, context: StepContext) -> dict[str, Tensor]:
        learning, fixed = self.prediction(outputs), outputs[ORIGINAL]
        labels = trainable(self.labels(batch))
        picks: dict[tuple[int, ...], Picks] = {}
        sums: dict[str, list[Tensor]] = {term: [] for term in self.weights}
        counts: dict[str, list[Tensor]] = {term: [] for term in self.weights}
        for feature in self.config.features:
            map_q, map_k = (feature_map(self.name, prediction, feature) for prediction in (learning, fixed))
            if map_q.shape != map_k.shape:
                raise ValueError(
                    f"objective {self.name!r} compares views of one geometry; {feature!r} is {list(map_q.shape)} in "
                    f"{self.config.view!r} and {list(map_k.shape)} in {ORIGINAL!r}"
                )
            size = tuple(map_q.shape[-2:])
            if size not in picks:
                picks[size] = self.pick(size, labels, learning.logits, fixed.logits, batch.draws, context)
            for term, (loss, count) in self.losses(feature, map_q, map_k, picks[size]).items():
                sums[term].append(loss)
                counts[term].append(count)
        terms = list(self.weights)
        # Each map's mean over its anchors in the global batch; then the mean over the maps.
        total = torch.stack([torch.stack(sums[term]) for term in terms])
        count = torch.stack([torch.stack(counts[term]) for term in terms])
        losses = across_ranks.mean(total, count, context.group).mean(1).unbind()
        self._metrics = {f"{term}_unweighted": loss.detach() for term, loss in zip(terms, losses, strict=True)}
        self._metrics |= {
            f"{term}_anchors": anchors for term, anchors in zip(terms, count.sum(1).unbind(), strict=True)
        }
        return {
            f"{self.name}/{term}": weighted(loss, self.weights[term]) for term, loss in zip(terms, losses, strict=True)
        }

    @torch.no_grad()
    def pick(
        self,
        size: tuple[int, ...],
        labels: Tensor,
        logits_q: Tensor,
        logits_k: Tensor,
        draws: Tensor,
        context: StepContext,
    ) -> Picks:
        """For maps of this size. Hard samples are those that the original view gets wrong."""
        config = self.config
        labels_NP = nearest(labels, size).flatten(1).long()
        predicted_q, predicted_k = (nearest(x.argmax(1), size).flatten(1) for x in (logits_q, logits_k))
        keys_NP = pixel_keys(draws, context.seed, context.step, *size)
        class_keys_NC = pixel_keys(draws, context.seed, context.step, 1, self.num_classes)
        right_k = predicted_k == labels_NP
        allowed = right_k if config.anchors_require_right else torch.ones_like(right_k)
        return Picks(
            class_samples(keys_NP, class_keys_NC, labels_NP, ~right_k, config.classes, config.samples),
            confusions(keys_NP, labels_NP, predicted_q, allowed, self.num_classes, config.anchors, config.negatives),
        )

    def losses(self, feature: str, map_q: Tensor, map_k: Tensor, picks: Picks) -> dict[str, tuple[Tensor, Tensor]]:
        """Of every term: sum over the anchors, and how many they are."""
        config, (cwcl, sdcl) = self.config, picks
        pixels_q = {"cwcl": cwcl.pixels, "sdcl": torch.cat([sdcl.anchors, sdcl.negatives], 1)}
        pixels_k = {"cwcl": cwcl.pixels, "sdcl": sdcl.anchors}
        embedded_q = self.embedded(feature, map_q, {term: pixels_q[term] for term in self.weights})
        with torch.no_grad():
            embedded_k = self.embedded(feature, map_k, {term: pixels_k[term] for term in self.weights})
        losses = {}
        with torch.autocast(map_q.device.type, enabled=False):
            if "cwcl" in self.weights:
                losses["cwcl"] = class_wise(
                    embedded_q["cwcl"], embedded_k["cwcl"], cwcl, config.temperature, config.released_negatives
                )
            if "sdcl" in self.weights:
                A = sdcl.anchors.shape[1]
                anchors, negatives = embedded_q["sdcl"][:, :A], embedded_q["sdcl"][:, A:]
                losses["sdcl"] = disentangling(anchors, embedded_k["sdcl"], negatives, sdcl, config.temperature)
        return losses

    def embedded(self, feature: str, map_NCHW: Tensor, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """term -> [N, S, D], at each term's pixels."""
        if self.config.head != "shared":
            return {term: embeddings(self._head(term, feature), map_NCHW, wanted) for term, wanted in pixels.items()}
        together = embeddings(self._head(next(iter(pixels)), feature), map_NCHW, torch.cat(list(pixels.values()), 1))
        parts = together.split([wanted.shape[1] for wanted in pixels.values()], 1)
        return dict(zip(pixels, parts, strict=True))

    def _head(self, term: str, feature: str) -> Callable[[Tensor], Tensor]:
        if term in self.heads:
            own: nn.Module = self.heads[term].get_submodule(feature)
            return own
        head = self.heads["cwcl"].get_submodule(feature)
        fixed = {name: parameter.detach() for name, parameter in head.named_parameters()}
        return lambda rows: functional_call(head, fixed, rows)


def projection(channels: int, dim: int) -> nn.Sequential:
    """Two 1x1 convolutions, as linear layers on the pixels that are picked."""
    first, last = nn.Linear(channels, channels), nn.Linear(channels, dim)
    for layer in (first, last):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(inplace=True), last)


def embeddings(head: Callable[[Tensor], Tensor], map_NCHW: Tensor, pixels_NS: Tensor) -> Tensor:
    """[N, S, D] of length 1, not narrower than float32. A head sees one pixel at a time, so that it can come before or
    after the picking: whichever is less work."""
    rows_NPC = map_NCHW.flatten(2).mT
    image = torch.arange(len(pixels_NS), device=pixels_NS.device)[:, None]
    picked = rows_NPC[image, pixels_NS] if pixels_NS.shape[1] < rows_NPC.shape[1] else head(rows_NPC)[image, pixels_NS]
    if pixels_NS.shape[1] < rows_NPC.shape[1]:
        picked = head(picked)
    return F.normalize(picked.to(torch.float64 if picked.dtype == torch.float64 else torch.float32), dim=2)


def class_wise(
    anchors_NSD: Tensor, keys_NSD: Tensor, samples: ClassSamples, temperature: float, released: bool
) -> tuple[Tensor, Tensor]:
    """Eq. 7: positives are the diagonal of one product, negatives its places of two classes. An anchor without a
    negative says nothing and is not counted."""
    similarity_NSS = anchors_NSD @ keys_NSD.mT / temperature
    own = torch.eye(similarity_NSS.shape[1], dtype=torch.bool, device=similarity_NSS.device)
    negative = samples.valid[:, None, :]
    if not released:
        negative = negative & (samples.classes[:, :, None] != samples.classes[:, None, :])
    counted = samples.valid & negative.any(2)
    contrasted = similarity_NSS.masked_fill(~(negative | own), -math.inf)
    if released:  # the positive is there a second time, among the negatives
        contrasted = contrasted + own.to(contrasted.dtype) * math.log(2)
    loss = contrasted.logsumexp(2) - similarity_NSS.diagonal(dim1=1, dim2=2)
    return torch.where(counted, loss, 0.0).sum(), counted.sum()


def disentangling(
    anchors_NAD: Tensor, keys_NAD: Tensor, negatives_NBD: Tensor, confused: Confusions, temperature: float
) -> tuple[Tensor, Tensor]:
    """Eq. 8: an anchor's negatives are the samples of the class that it was mistaken for."""
    positive_NA1 = (anchors_NAD * keys_NAD).sum(2, keepdim=True) / temperature
    similarity_NAB = anchors_NAD @ negatives_NBD.mT / temperature
    negative = confused.negatives_valid[:, None, :] & (
        confused.mistaken_for[:, :, None] == confused.negative_classes[None, None, :]
    )
    contrasted = torch.cat([positive_NA1, similarity_NAB.masked_fill(~negative, -math.inf)], 2)
    loss = contrasted.logsumexp(2) - positive_NA1.squeeze(2)
    return torch.where(confused.valid, loss, 0.0).sum(), confused.valid.sum()
