"""Exponential moving averages of features per class and boundary granularity: the prototype bank of GAP."""

from typing import Any

import torch
from torch import Tensor

from dgseg.ops import _backends, _checks
from dgseg.ops.prototype_ema.closed_form import Functions, update_
from dgseg.ops.prototype_ema.reference import REFERENCE, check_values, prototype_ema_reference, ranks_reference

_backends.LIBRARY.define(
    "prototype_ema_ranks(Tensor labels, Tensor bands, Tensor sample_ids, SymInt seed, SymInt step, SymInt classes, "
    "SymInt granularities, bool nested, int limit) -> (Tensor counts, Tensor ranks)"
)
_backends.LIBRARY.define(
    "prototype_weighted_sums(Tensor features, Tensor labels, Tensor bands, Tensor ranks, Tensor scales, Tensor fades, "
    "Tensor powers, bool nested) -> Tensor"
)
_backends.LIBRARY.define(
    "prototype_ema_move(Tensor(a!) prototypes, Tensor(b!) updates, Tensor features, Tensor labels, Tensor bands, "
    "Tensor sample_ids, Tensor? step_at, SymInt seed, SymInt step, float momentum, bool by_pixel, bool nested) -> ()"
)
_backends.serve("prototype_ema_", "cpu", "native", _backends.native_library("cpu"))
_backends.serve("prototype_ema_", "cuda", "triton", None if _backends.has_triton() else "triton is not installed")


@torch.library.register_fake("dgseg::prototype_ema_ranks")
def _fake_ranks(
    labels: Tensor,
    bands: Tensor,
    sample_ids: Tensor,
    seed: int,
    step: int,
    classes: int,
    granularities: int,
    nested: bool,
    limit: int,
) -> tuple[Tensor, Tensor]:
    slots = 0 if limit == 0 else granularities if nested else 1
    counts = labels.new_empty((classes, granularities), dtype=torch.long)
    return counts, labels.new_empty((slots, *labels.shape), dtype=torch.int32)


@torch.library.register_fake("dgseg::prototype_weighted_sums")
def _fake_sums(
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    ranks: Tensor,
    scales: Tensor,
    fades: Tensor,
    powers: Tensor,
    nested: bool,
) -> Tensor:
    return features.new_empty((*scales.shape, features.shape[1]), dtype=torch.float64)


@torch.library.register_fake("dgseg::prototype_ema_move")
def _fake_move(prototypes: Tensor, updates: Tensor, features: Tensor, *_: Any) -> None:
    return


if _backends.has_triton():
    # Two sorts of a few bytes a pixel: torch's are what a kernel would call.
    torch.library.impl(_backends.LIBRARY, "prototype_ema_ranks", "CUDA")(ranks_reference)

    @torch.library.impl(_backends.LIBRARY, "prototype_weighted_sums", "CUDA")
    def _sums_cuda(
        features: Tensor,
        labels: Tensor,
        bands: Tensor,
        ranks: Tensor,
        scales: Tensor,
        fades: Tensor,
        powers: Tensor,
        nested: bool,
    ) -> Tensor:
        from dgseg.ops.prototype_ema.triton import weighted_sums  # triton is imported by the first call on a GPU

        with torch.cuda.device_of(features):
            return weighted_sums(features, labels, bands, ranks, scales, fades, powers, nested)

    @torch.library.impl(_backends.LIBRARY, "prototype_ema_move", "CUDA")
    def _move_cuda(prototypes: Tensor, updates: Tensor, features: Tensor, *arguments: Any) -> None:
        from dgseg.ops.prototype_ema.fused import move

        with torch.cuda.device_of(features):
            move(prototypes, updates, features, *arguments)


_KERNELS = Functions(torch.ops.dgseg.prototype_ema_ranks, torch.ops.dgseg.prototype_weighted_sums)


@_backends.with_reference(prototype_ema_reference)
def prototype_ema_(
    prototypes: Tensor,
    updates: Tensor,
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    *,
    momentum: float = 0.99,
    mode: str = "batch_mean",
    nested: bool = False,
    seed: int = 0,
    step: int | Tensor = 0,
    sample_ids: Tensor | None = None,
    group: torch.distributed.ProcessGroup | None = None,
) -> None:
    """Moves every prototype (class c, granularity g) towards the L2-normalised features of its pixels, in place.

    A pixel in band b > 0 of class c belongs to (c, b-1). A cell without pixels stays as it is; one that was never
    updated takes the mean of its pixels. Nothing here is recorded by autograd.

    Args:
        prototypes: [C, G, D], float32 or float64; changed.
        updates: int64 [C, G], how often each was updated; changed.
        features: [N, D, h, w], any floating type and memory format.
        labels: [N, h, w], uint8, int32 or int64; read only inside bands.
        bands: [N, h, w], 0 (in none) to G, as boundary_bands returns them.
        momentum: m in p ← m·p + (1-m)·f. With 1 only unseen prototypes change.
        mode: "batch_mean": one step with the mean feature, updates + 1. "pixel": a step for each of the n pixels,
            updates + n, in an order that is a pseudo-random function of (seed, step, sample id, pixel index) alone.
        nested: a pixel also belongs to every thicker granularity of its class.
        seed, step: for the order of "pixel"; any 64-bit integers. In a graph that is captured once and replayed
            `step` is a 0-d int64 tensor on the device: a number would stay what it was.
        sample_ids: int64 [N], for the order of "pixel"; default: positions in the batch (with a group: in the ranks'
            batches one after the other).
        group: the batch is that of all ranks together; every rank's prototypes end up the same.
    """
    _checks.check_tensor("prototypes", prototypes, "C G D", (torch.float32, torch.float64))
    _checks.check_tensor("updates", updates, "C G", (torch.int64,))
    _checks.check_tensor("features", features, "N D h w", _checks.FLOAT_DTYPES)
    _checks.check_tensor("labels", labels, "N h w", _checks.LABEL_DTYPES)
    _checks.check_tensor("bands", bands, "N h w", _checks.LABEL_DTYPES)
    if sample_ids is not None:
        _checks.check_tensor("sample_ids", sample_ids, "N", (torch.int64,))
    _checks.check_same_device(
        prototypes=prototypes, updates=updates, features=features, labels=labels, bands=bands, sample_ids=sample_ids
    )
    C, G, D = prototypes.shape
    N, depth, h, w = features.shape
    if min(C, G, D) == 0:
        raise ValueError(f"prototypes of shape {[C, G, D]} hold nothing: give at least one class, granularity, channel")
    if depth != D:
        raise ValueError(f"features have {depth} channels, prototypes {D}: project the features to {D} channels first")
    _checks.check_shape("updates", updates, (C, G), "prototypes [C, G, D]")
    _checks.check_shape("labels", labels, (N, h, w), "features [N, D, h, w]: sample them to the features' size")
    _checks.check_shape("bands", bands, (N, h, w), "features [N, D, h, w]: see boundary_bands(..., size=...)")
    if sample_ids is not None:
        _checks.check_shape("sample_ids", sample_ids, (N,), "features [N, D, h, w]")
    if N * h * w >= 2**31:
        raise ValueError(f"features hold {N * h * w} pixels; at most 2^31 - 1 fit: split the batch")
    if not 0.0 <= momentum <= 1.0:
        raise ValueError(f"momentum must lie in [0, 1], such as 0.99; got {momentum}")
    if mode not in ("batch_mean", "pixel"):
        raise ValueError(f'mode must be "batch_mean" or "pixel"; got {mode!r}')
    for name, number in (("seed", seed), ("step", 0 if isinstance(step, Tensor) else step)):
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"{name} must be a 64-bit integer; got {number}")
    fused = _backends.compiled("prototype_ema_", features.device)
    if (not fused or _backends.debug()) and not torch.compiler.is_compiling():
        check_values(labels, bands, C, G)
    if fused and features.is_cuda and group is None:
        step_at, number = (step, 0) if isinstance(step, Tensor) else (None, step)
        ids = torch.arange(N, device=features.device) if sample_ids is None else sample_ids
        torch.ops.dgseg.prototype_ema_move(
            prototypes, updates, features.detach(), labels, bands, ids, step_at, seed, number, momentum,
            mode == "pixel", nested,
        )  # fmt: skip
        return
    if isinstance(step, Tensor):
        step = int(step)
    functions = _KERNELS if fused else REFERENCE
    update_(
        functions, prototypes, updates, features, labels, bands,
        momentum=momentum, mode=mode, nested=nested, seed=seed, step=step, sample_ids=sample_ids, group=group,
    )  # fmt: skip
