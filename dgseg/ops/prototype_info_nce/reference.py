"""prototype_info_nce in plain torch, written from its definition."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dgseg.ops import across_ranks


def prototype_info_nce_reference(
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    prototypes: Tensor,
    weights: Tensor,
    *,
    temperature: float = 0.07,
    seen: Tensor | None = None,
    nested: bool = False,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    C, G, _ = prototypes.shape
    check_values(labels, bands, C, G)
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    if seen is None:
        seen = torch.ones_like(weights, dtype=torch.bool)

    # P band pixels, K = C·G prototypes; pixel i has term k where the prototype is of its class and band.
    at = bands > 0
    pixels_PD = features.permute(0, 2, 3, 1)[at].to(dtype)
    band_P = bands[at].long() - 1
    of_class_PC = labels[at].long()[:, None] == torch.arange(C, device=labels.device)
    granularity_G = torch.arange(G, device=labels.device)
    of_band_PG = granularity_G >= band_P[:, None] if nested else granularity_G == band_P[:, None]
    is_term_PK = (of_class_PC[:, :, None] & of_band_PG[:, None, :] & seen).flatten(1)
    kept = is_term_PK.any(dim=1)
    is_term_PK, pixels_PD = is_term_PK[kept], pixels_PD[kept]

    # Unseen prototypes may hold anything, NaN too: it must not reach the gradient.
    bank_KD = F.normalize(torch.where(seen[..., None], prototypes.detach().to(dtype), 0).flatten(0, 1), dim=1)
    similarity_PK = F.normalize(pixels_PD, dim=1) @ bank_KD.T / temperature
    log_sum_exp_P = similarity_PK.masked_fill(~seen.flatten(), -torch.inf).logsumexp(dim=1)
    loss_PK = weights.detach().to(dtype).flatten() * (log_sum_exp_P[:, None] - similarity_PK)
    return across_ranks.mean(torch.where(is_term_PK, loss_PK, 0).sum(), is_term_PK.sum(), group)


def check_values(labels: Tensor, bands: Tensor, classes: int, granularities: int) -> None:
    """Reads the values: for the reference and DGSEG_DEBUG=1; the CPU kernel checks as it goes, in the same words."""
    labels, bands = labels.long(), bands.long()  # a number above 255 wraps when compared with uint8
    wrong = (bands > 0) & ((labels < 0) | (labels >= classes))
    if bool(wrong.any()):
        at = [int(i) for i in wrong.nonzero()[0]]
        raise ValueError(
            f"labels hold {int(labels[tuple(at)])} at batch index {at[0]} where bands > 0; valid there: "
            f"0 to {classes - 1}: set bands to 0 where labels are ignored"
        )
    wrong = bands > granularities
    if bool(wrong.any()):
        at = [int(i) for i in wrong.nonzero()[0]]
        raise ValueError(
            f"bands hold {int(bands[tuple(at)])} at batch index {at[0]}; prototypes have {granularities} per class, "
            f"so bands must be 0 to {granularities}"
        )
