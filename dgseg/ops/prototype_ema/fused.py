"""prototype_ema_ on one GPU in a handful of launches; with a process group, closed_form.py does it.

    cells     every pixel's cell, the number of pixels of each, and in mode "pixel" its key
    sort      of the keys, whose upper bits are the cell: torch's, a radix sort
    weights   each pixel's weight in the cells that it feeds (closed_form.py has the formulas)
    sums      triton.py
    move      partial sums added in a fixed order, prototypes moved

A key gives up as many of its 63 random bits as the cell takes: two pixels of a cell follow each other in another order
than on the CPU where their keys agree in all the others, once in 2^57 pairs for 57 cells.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgseg.ops.prototype_ema.closed_form import rank_limit
from dgseg.ops.prototype_ema.order import GOLDEN, MIX_1, MIX_2
from dgseg.ops.prototype_ema.triton import partial_sums

BLOCK = 512
_GOLDEN, _MIX_1, _MIX_2 = tl.constexpr(GOLDEN), tl.constexpr(MIX_1), tl.constexpr(MIX_2)


@triton.jit
def _shifted(z, places: tl.constexpr):
    return (z >> places) & ((1 << (64 - places)) - 1)


@triton.jit
def _absorb(state, number):
    """order.py's."""
    z = state + (number + 1) * _GOLDEN
    z = (z ^ _shifted(z, 30)) * _MIX_1
    z = (z ^ _shifted(z, 27)) * _MIX_2
    return z ^ _shifted(z, 31)


@triton.jit(do_not_specialize=["pixels", "per_image", "classes", "granularities", "bits"])
def cells_kernel(
    labels, bands, sample_ids, step_at, thinnest, counts, keys, pixels, per_image, classes, granularities, bits,
    seed: tl.int64, step: tl.int64,
    SLOTS: tl.constexpr, KEYS: tl.constexpr, STEP_AT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """SLOTS: cells that a pixel may feed; with one of several granularities, its own alone."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < pixels
    band = tl.load(bands + at, mask=inside, other=0).to(tl.int64)
    label = tl.load(labels + at, mask=inside & (band > 0), other=-1).to(tl.int64)
    valid = (band > 0) & (band <= granularities) & (label >= 0) & (label < classes)
    own = tl.where(valid, label * granularities + band - 1, -1)
    tl.store(thinnest + at, own.to(tl.int32), mask=inside)
    none = classes * granularities
    key = at
    if KEYS:
        if STEP_AT:
            step = tl.load(step_at)
        state = _absorb(tl.full([BLOCK], 0, tl.int64), tl.full([BLOCK], seed, tl.int64))
        state = _absorb(state, tl.zeros([BLOCK], tl.int64) + step)
        state = _absorb(state, tl.load(sample_ids + at // per_image, mask=inside, other=0))
        key = _shifted(_absorb(state, at % per_image), 1) >> bits
    for slot in tl.static_range(SLOTS):
        cell = own
        if SLOTS > 1:
            cell = tl.where(valid & (slot >= band - 1), label * granularities + slot, -1)
        tl.atomic_add(counts + cell, tl.full([BLOCK], 1, tl.int64), mask=cell >= 0)
        if KEYS:
            packed = (tl.where(cell >= 0, cell, none) << (63 - bits)) | key
            tl.store(keys + slot * tl.cast(pixels, tl.int64) + at, packed, mask=inside)


@triton.jit(do_not_specialize=["pixels", "total", "granularities", "cells", "bits"])
def weights_kernel(
    thinnest, counts, ends, updates, keys, places, weights, pixels, total, granularities, cells, bits,
    momentum: tl.float64, log_momentum: tl.float64, limit: tl.int64,
    NESTED: tl.constexpr, BY_PIXEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """total: slots · pixels. By pixel, `at` is a place in the order of the keys, and `places` says whose it is."""
    momentum = tl.full([], momentum, tl.float64)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    if BY_PIXEL:
        cell = tl.load(keys + at, mask=inside, other=0) >> (63 - bits)
        to = tl.load(places + at, mask=inside, other=0)
        feeds = inside & (cell < cells)
        rank = tl.load(ends + cell, mask=feeds, other=0) - 1 - at
    else:
        own = tl.load(thinnest + at % pixels, mask=inside, other=-1).to(tl.int64)
        cell = own
        feeds = inside & (own >= 0)
        if NESTED:
            slot = at // pixels
            feeds = feeds & (slot >= own % granularities)
            cell = own // granularities * granularities + slot
        to = at
        rank = tl.zeros([BLOCK], tl.int64)
    count = tl.load(counts + cell, mask=feeds, other=1).to(tl.float64)
    first = tl.load(updates + cell, mask=feeds, other=0) == 0
    if BY_PIXEL:
        fade = tl.where(rank > 0, tl.exp(rank.to(tl.float64) * tl.full([], log_momentum, tl.float64)), 1.0)
        weight = tl.where(rank < limit, (1.0 - momentum) * fade, 0.0)
    else:
        weight = (1.0 - momentum) / count
    weight = tl.where(first, 1.0 / count, weight)
    tl.store(weights + to, tl.where(feeds, weight, 0.0).to(weights.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["programs", "cells"])
def move_kernel(
    prototypes, updates, counts, partial, programs, cells, depth, momentum: tl.float64, log_momentum: tl.float64,
    BY_PIXEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0)
    count = tl.load(counts + cell)
    if count > 0:
        d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = d < depth
        sums = tl.zeros([BLOCK], tl.float64)
        for program in range(programs):
            row = (tl.cast(program, tl.int64) * cells + cell) * depth
            sums += tl.load(partial + row + d, mask=inside, other=0).to(tl.float64)
        at = prototypes + tl.cast(cell, tl.int64) * depth + d
        decay = tl.full([], momentum, tl.float64)
        if BY_PIXEL:
            decay = tl.exp(count.to(tl.float64) * tl.full([], log_momentum, tl.float64))
        before = tl.load(at, mask=inside, other=0).to(tl.float64)
        # What an unseen prototype holds must not matter, not even NaN.
        moved = tl.where(tl.load(updates + cell) == 0, sums, decay * before + sums)
        tl.store(at, moved.to(prototypes.dtype.element_ty), mask=inside)


def move(
    prototypes: Tensor,
    updates: Tensor,
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    sample_ids: Tensor,
    step_at: Tensor | None,
    seed: int,
    step: int,
    momentum: float,
    by_pixel: bool,
    nested: bool,
) -> None:
    """step_at: a tensor on the device that holds the step, in place of `step`: what a captured graph reads anew."""
    C, G, D = prototypes.shape
    N, _, h, w = features.shape
    cells, pixels, slots = C * G, N * h * w, G if nested else 1
    if pixels == 0:
        return
    labels, bands, sample_ids = labels.contiguous(), bands.contiguous(), sample_ids.contiguous()
    own, seen = prototypes.contiguous(), updates.contiguous()
    double = features.dtype == torch.float64
    thinnest = torch.empty(pixels, dtype=torch.int32, device=features.device)
    counts = torch.zeros(cells, dtype=torch.int64, device=features.device)
    total, bits = slots * pixels, cells.bit_length()
    keys = torch.empty(total if by_pixel else 0, dtype=torch.int64, device=features.device)
    cells_kernel[(triton.cdiv(pixels, BLOCK),)](
        labels, bands, sample_ids, step_at if step_at is not None else counts, thinnest, counts, keys, pixels, h * w,
        C, G, bits, seed, step, SLOTS=slots, KEYS=by_pixel, STEP_AT=step_at is not None, BLOCK=BLOCK,
    )  # fmt: skip
    ends = places = counts
    if by_pixel:
        keys, places = keys.sort(stable=True)
        ends = counts.cumsum(0)
    log_momentum = math.log(momentum) if momentum > 0 else -math.inf
    weights = torch.empty((slots, pixels), dtype=torch.float64 if double else torch.float32, device=features.device)
    weights_kernel[(triton.cdiv(total, BLOCK),)](
        thinnest, counts, ends, seen, keys, places, weights, pixels, total, G, cells, bits, momentum, log_momentum,
        rank_limit(momentum), NESTED=nested, BY_PIXEL=by_pixel, BLOCK=BLOCK,
    )  # fmt: skip
    partial = partial_sums(features, thinnest, weights, cells, G, nested)
    block = min(triton.next_power_of_2(D), 64)
    move_kernel[(cells, triton.cdiv(D, block))](
        own, seen, counts, partial, len(partial), cells, D, momentum, log_momentum, BY_PIXEL=by_pixel, BLOCK=block,
    )  # fmt: skip
    if own is not prototypes:
        prototypes.copy_(own)
    updates += (counts if by_pixel else counts > 0).view(C, G)
