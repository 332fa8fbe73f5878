"""Heads that score how unknown every pixel is (higher: more unknown), born as a score of the classifier beside them and
then learned: by objectives/uncertainty.py. A model built with uncertainty=True has one, named `uncertainty`, and its
predictions carry extra["uncertainty"] [N, h, w]. Always in float32 at least: their differences are what is learned."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EnergyHead(nn.Module):
    """u = -logsumexp over the classes of W·f, W a copy of the 1x1 classifier without its bias."""

    def __init__(self, classifier: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(classifier.weight.detach().clone())

    def forward(self, features_NDhw: Tensor) -> Tensor:
        with _full_precision(features_NDhw):
            return -F.conv2d(_wide(features_NDhw), _wide(self.weight)).logsumexp(1)


class RegionHead(nn.Module):
    """u = 1 - max over the classes of Σ_q p_q(c)·sigmoid(mask_q), p_q the softmax of a copy of the class predictor:
    the score of the region that claims a pixel. Its softmax needs the bias, and "no object", which claims nothing."""

    def __init__(self, predictor: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(predictor.weight.detach().clone())
        self.bias = nn.Parameter(predictor.bias.detach().clone())

    def forward(self, queries_NQD: Tensor, mask_logits_NQhw: Tensor) -> Tensor:
        with _full_precision(queries_NQD):
            logits_NQK = F.linear(_wide(queries_NQD), _wide(self.weight), _wide(self.bias))
            classes_NQC = logits_NQK.softmax(-1)[..., :-1]
            scores = torch.einsum("nqc,nqhw->nchw", classes_NQC, _wide(mask_logits_NQhw).sigmoid())
            return 1 - scores.amax(1)


def _full_precision(tensor: Tensor) -> AbstractContextManager[Any]:
    kind = tensor.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
