"""The weighted sums on GPUs: tiles of pixels times a (cells x pixels) matrix of weights, on the tensor cores.

Reads the features once where D <= 256 (else once more per 256 channels for the norms), coalesced along
whatever dimension is dense. A program owns a fixed run of tiles and writes one partial sum, added up by torch: no
atomics, equal bits every time.

Legend: P = pixels of a tile, K = cells of a block, D = channels of a block; cell = class * granularities + granularity.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgseg.ops.prototype_ema.order import cell_indices
from dgseg.ops.prototype_ema.reference import pixel_weights

MOST_PROGRAMS = 256
BLOCK_K = 64


def blocks(depth: int, double: bool) -> tuple[int, int]:
    """(BLOCK_P, BLOCK_D): the largest whose registers suffice on sm_80, sm_90 and sm_100 (the tests compile them)."""
    if double:
        return 32, min(max(triton.next_power_of_2(depth), 16), 64)
    block_d = min(max(triton.next_power_of_2(depth), 16), 256)
    return (16 if block_d == 256 else 32), block_d


@triton.jit
def weighted_sums_kernel(
    features,
    thinnest,  # int32 [images * per_image]: the thinnest cell that a pixel feeds, or -1
    weights,  # [slots, images * per_image], COMPUTE
    partial,  # [programs, cells, depth], COMPUTE
    pixels,  # images * per_image
    per_image,
    width,
    depth,
    cells,
    granularities,
    tiles_per_image,
    tiles,
    tiles_per_program,
    stride_image,
    stride_channel,
    stride_row,
    stride_column,
    NESTED: tl.constexpr,
    ONE_RUN: tl.constexpr,
    ONE_READ: tl.constexpr,  # depth <= BLOCK_D
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr,
    OFFSET: tl.constexpr,  # int32 where every offset inside an image fits: half the registers of int64
):
    program = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    sums = tl.zeros((BLOCK_K, BLOCK_D), dtype=COMPUTE)
    first = program * tiles_per_program
    last = tl.minimum(first + tiles_per_program, tiles)
    for tile in range(first, last):
        image = tile // tiles_per_image
        pixel = (tile % tiles_per_image).to(tl.int32) * BLOCK_P + tl.arange(0, BLOCK_P)
        inside = pixel < per_image
        at = image * per_image + pixel
        cell = tl.load(thinnest + at, mask=inside, other=-1)
        if NESTED:
            feeds = (k[:, None] // granularities == cell[None, :] // granularities) & (k[:, None] >= cell[None, :])
            feeds = feeds & (cell[None, :] >= 0) & (k[:, None] < cells)
            slot = (k % granularities).to(tl.int64)
            weight = tl.load(weights + slot[:, None] * pixels + at[None, :], mask=feeds, other=0.0)
        else:
            feeds = (k[:, None] == cell[None, :]) & (k[:, None] < cells)
            alone = tl.load(weights + at, mask=inside & (cell >= 0), other=0.0)
            weight = tl.where(feeds, alone[None, :], 0.0)
        # Pixels that weigh nothing are not read, whatever they hold; tiles of them are skipped.
        used = tl.max((weight != 0.0).to(tl.int32), axis=0)
        if tl.max(used, axis=0) > 0:
            # One run: rows follow each other at the column stride, and no division hides that from the coalescer.
            if ONE_RUN:
                offset = pixel.to(OFFSET) * stride_column
            else:
                offset = (pixel // width).to(OFFSET) * stride_row + (pixel % width).to(OFFSET) * stride_column
            source = features + image * stride_image
            wanted = used[:, None] > 0
            row = tl.load(
                source + (offset[:, None] + d.to(OFFSET)[None, :] * stride_channel),
                mask=wanted & (d[None, :] < depth),
                other=0.0,
            ).to(COMPUTE)
            if ONE_READ:
                squares = tl.sum(row * row, axis=1)
            else:
                squares = tl.zeros((BLOCK_P,), dtype=COMPUTE)
                for start in range(0, depth, BLOCK_D):
                    e = start + tl.arange(0, BLOCK_D)
                    other = tl.load(
                        source + (offset[:, None] + e.to(OFFSET)[None, :] * stride_channel),
                        mask=wanted & (e[None, :] < depth),
                        other=0.0,
                    ).to(COMPUTE)
                    squares += tl.sum(other * other, axis=1)
            norm = tl.sqrt(squares)
            row = row * (1.0 / tl.where(norm < 1e-12, 1e-12, norm))[:, None]
            # In the product a NaN would reach cells that its pixel does not feed: those it does feed get it here,
            # and the product sees 0.
            broken = row != row
            if tl.max(tl.max(broken.to(tl.int32), axis=1), axis=0) > 0:
                feeding = (weight != 0.0).to(tl.float32)
                hits = tl.dot(feeding, broken.to(tl.float32), input_precision="tf32")  # 0 and 1: exact
                sums = tl.where(hits > 0.0, float("nan"), sums)
            row = tl.where(row != row, 0.0, row)
            sums += tl.dot(weight, row, input_precision=PRECISION, out_dtype=COMPUTE)
    to = partial + (program * cells + k[:, None]) * depth + d[None, :]
    tl.store(to, sums, mask=(k[:, None] < cells) & (d[None, :] < depth))


def weighted_sums(
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    ranks: Tensor,
    scales: Tensor,
    fades: Tensor,
    powers: Tensor,
    nested: bool,
) -> Tensor:
    """reference.weighted_sums_reference, for CUDA tensors (and any other under TRITON_INTERPRET=1)."""
    classes, granularities = scales.shape
    cells, D = scales.numel(), features.shape[1]
    if features.numel() == 0:
        return torch.zeros((classes, granularities, D), dtype=torch.float64, device=features.device)
    compute = torch.float64 if features.dtype == torch.float64 else torch.float32
    slots = cell_indices(labels, bands, classes, granularities, nested)
    weights = pixel_weights(slots, ranks, scales, fades, powers).to(compute).contiguous()
    thinnest = cell_indices(labels, bands, classes, granularities, False)[0]
    thinnest = torch.where(thinnest < cells, thinnest, -1).int()
    partial = partial_sums(features, thinnest, weights, cells, granularities, nested)
    return partial.sum(0, dtype=torch.float64).view(classes, granularities, D)


def partial_sums(
    features: Tensor, thinnest: Tensor, weights: Tensor, cells: int, granularities: int, nested: bool
) -> Tensor:
    """[programs, cells, D] of features that hold something: each program's sums of weight · normalised feature."""
    N, D, h, w = features.shape
    double = features.dtype == torch.float64
    compute = torch.float64 if double else torch.float32
    block_p, block_d = blocks(D, double)
    tiles_per_image = triton.cdiv(h * w, block_p)
    tiles = N * tiles_per_image
    tiles_per_program = triton.cdiv(tiles, MOST_PROGRAMS)
    programs = triton.cdiv(tiles, tiles_per_program)
    partial = torch.empty((programs, cells, D), dtype=compute, device=features.device)
    stride_image, stride_channel, stride_row, stride_column = features.stride()
    span = D * abs(stride_channel) + h * abs(stride_row) + w * abs(stride_column)
    weighted_sums_kernel[(programs, triton.cdiv(cells, BLOCK_K), triton.cdiv(D, block_d))](
        features,
        thinnest,
        weights,
        partial,
        N * h * w,
        h * w,
        w,
        D,
        cells,
        granularities,
        tiles_per_image,
        tiles,
        tiles_per_program,
        stride_image,
        stride_channel,
        stride_row,
        stride_column,
        NESTED=nested,
        ONE_RUN=h == 1 or stride_row == w * stride_column,
        ONE_READ=block_d >= D,
        BLOCK_P=block_p,
        BLOCK_K=BLOCK_K,
        BLOCK_D=block_d,
        COMPUTE=tl.float64 if double else tl.float32,
        PRECISION="ieee" if double else "tf32x3",
        OFFSET=tl.int32 if span < 2**31 else tl.int64,
        num_warps=8,
    )
    return partial
