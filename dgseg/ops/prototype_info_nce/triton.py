"""prototype_info_nce on GPUs.

One program takes BLOCK_P neighbouring pixels of an image against all prototypes: similarities [K, P] by tl.dot over
blocks of channels, read straight from the feature map's strides, softmax in registers; the backward multiplies the
slopes with the prototypes again. Pixels without a term are not loaded, and a block of none ends at once. Every program
writes its own partial sums, which torch.sum adds in a fixed order.

float32 features use three TF32 products (about float32 accuracy); float16 and bfloat16 ones, which TF32 holds exactly,
one; float64 has no tensor-core product here and takes one channel at a time.

Legend: N images, D channels, P pixels (of a block), K = C·G prototypes; entry = label · G + band - 1.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_PROTOTYPES = 512  # of them, the similarities and channels of 16 pixels still fit into one multiprocessor
SMALLEST_LENGTH = tl.constexpr(1e-12)  # as torch.nn.functional.normalize


@triton.jit
def _pixel_offsets(pixels_P, image, stride_image, stride_row, stride_column, width, DENSE: tl.constexpr):
    """Element offsets of pixels; DENSE: rows follow each other, so that the compiler sees contiguous addresses."""
    start = image.to(tl.int64) * stride_image
    if DENSE:
        return start + pixels_P.to(tl.int64) * stride_column
    return start + (pixels_P // width).to(tl.int64) * stride_row + (pixels_P % width).to(tl.int64) * stride_column


@triton.jit
def _terms(
    labels,
    bands,
    seen,
    map_offset,
    pixels_P,
    size,
    C,
    G,
    NESTED: tl.constexpr,
    SEEN: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Which prototypes are seen [K], and which of them each pixel has a term with [K, P]; bad labels have none."""
    inside_P = pixels_P < size
    band_P = tl.load(bands + map_offset + pixels_P, mask=inside_P, other=0).to(tl.int32)
    label_P = tl.load(labels + map_offset + pixels_P, mask=band_P > 0, other=-1).to(tl.int64)
    valid_P = (band_P > 0) & (band_P <= G) & (label_P >= 0) & (label_P < C)
    class_P = tl.where(valid_P, label_P, 0).to(tl.int32)
    entry_P = class_P * G + band_P - 1
    k = tl.arange(0, BLOCK_K)
    seen_K = k < C * G
    if SEEN:
        seen_K = seen_K & (tl.load(seen + k, mask=seen_K, other=0) != 0)
    if NESTED:
        own_KP = (k[:, None] >= entry_P[None, :]) & (k[:, None] < (class_P * G + G)[None, :])
    else:
        own_KP = k[:, None] == entry_P[None, :]
    return seen_K, own_KP & seen_K[:, None] & valid_P[None, :]


@triton.jit
def _cosines(
    features,
    prototypes,
    offset_P,
    active_P,
    stride_channel,
    D,
    K,
    BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """cosine [K, P], 1 / |f| [P] (and whether |f| is that), 1 / |p| [K]."""
    k = tl.arange(0, BLOCK_K)
    product_KP = tl.zeros((BLOCK_K, BLOCK_P), COMPUTE)
    square_P = tl.zeros((BLOCK_P,), COMPUTE)
    square_K = tl.zeros((BLOCK_K,), COMPUTE)
    if PRECISION == "one channel":
        f_at_P = features + offset_P
        for d in range(D):
            f_P = tl.load(f_at_P, mask=active_P, other=0).to(COMPUTE)
            p_K = tl.load(prototypes + k * D + d, mask=k < K, other=0).to(COMPUTE)
            product_KP += p_K[:, None] * f_P[None, :]
            square_P += f_P * f_P
            square_K += p_K * p_K
            f_at_P += stride_channel
    else:
        for start in range(0, D, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            f_DP = tl.load(
                features + d[:, None].to(tl.int64) * stride_channel + offset_P[None, :],
                mask=(d < D)[:, None] & active_P[None, :],
                other=0,
            ).to(COMPUTE)
            p_KD = tl.load(
                prototypes + k[:, None] * D + d[None, :], mask=(k < K)[:, None] & (d < D)[None, :], other=0
            ).to(COMPUTE)
            product_KP = tl.dot(p_KD, f_DP, product_KP, input_precision=PRECISION)
            square_P += tl.sum(f_DP * f_DP, 0)
            square_K += tl.sum(p_KD * p_KD, 1)
    length_P = tl.sqrt(square_P)
    length_K = tl.sqrt(square_K)
    turns_P = ~(length_P < SMALLEST_LENGTH)  # NaN turns, and stays NaN
    inverse_P = 1.0 / tl.where(turns_P, length_P, SMALLEST_LENGTH)
    inverse_K = 1.0 / tl.where(length_K < SMALLEST_LENGTH, SMALLEST_LENGTH, length_K)
    return product_KP * inverse_K[:, None] * inverse_P[None, :], inverse_P, turns_P, inverse_K


@triton.jit
def forward_kernel(
    features,
    labels,
    bands,
    prototypes,
    weights,
    seen,
    scale,
    losses,
    counts,
    log_sum_exp,
    stride_image,
    stride_channel,
    stride_row,
    stride_column,
    width,
    size,
    blocks,
    D,
    C,
    G,
    NESTED: tl.constexpr,
    SEEN: tl.constexpr,
    DENSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    program = tl.program_id(0)
    image = program // blocks
    pixels_P = program % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    COMPUTE: tl.constexpr = log_sum_exp.dtype.element_ty
    map_offset = image.to(tl.int64) * size
    seen_K, own_KP = _terms(labels, bands, seen, map_offset, pixels_P, size, C, G, NESTED, SEEN, BLOCK_K)
    count_P = tl.sum(own_KP.to(tl.int32), 0)
    count = tl.sum(count_P, 0)
    tl.store(counts + program, count)
    if count > 0:
        offset_P = _pixel_offsets(pixels_P, image, stride_image, stride_row, stride_column, width, DENSE)
        cosine_KP, _inverse_P, _turns_P, _inverse_K = _cosines(
            features,
            prototypes,
            offset_P,
            count_P > 0,
            stride_channel,
            D,
            C * G,
            BLOCK_K,
            BLOCK_P,
            BLOCK_D,
            PRECISION,
            COMPUTE,
        )
        similarity_KP = cosine_KP * tl.load(scale)
        seen_KP = tl.where(seen_K[:, None], similarity_KP, float("-inf"))
        biggest_P = tl.max(seen_KP, 0)
        log_sum_P = biggest_P + tl.log(tl.sum(tl.exp(seen_KP - biggest_P[None, :]), 0))
        weight_K = tl.load(weights + tl.arange(0, BLOCK_K), mask=seen_K, other=0).to(COMPUTE)
        loss_KP = tl.where(own_KP, weight_K[:, None] * (log_sum_P[None, :] - similarity_KP), 0.0)
        tl.store(losses + program, tl.sum(tl.sum(loss_KP, 0), 0))
        tl.store(log_sum_exp + map_offset + pixels_P, tl.where(count_P > 0, log_sum_P, 0.0), mask=pixels_P < size)
    else:
        tl.store(losses + program, 0.0)
        tl.store(log_sum_exp + map_offset + pixels_P, tl.zeros((BLOCK_P,), COMPUTE), mask=pixels_P < size)


@triton.jit
def backward_kernel(
    grad,
    features,
    labels,
    bands,
    prototypes,
    weights,
    seen,
    scale,
    log_sum_exp,
    gradient,
    stride_image,
    stride_channel,
    stride_row,
    stride_column,
    out_stride_image,
    out_stride_channel,
    out_stride_row,
    out_stride_column,
    width,
    size,
    blocks,
    D,
    C,
    G,
    NESTED: tl.constexpr,
    SEEN: tl.constexpr,
    DENSE: tl.constexpr,
    OUT_DENSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    program = tl.program_id(0)
    image = program // blocks
    pixels_P = program % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    inside_P = pixels_P < size
    COMPUTE: tl.constexpr = log_sum_exp.dtype.element_ty
    OUT: tl.constexpr = gradient.dtype.element_ty
    map_offset = image.to(tl.int64) * size
    seen_K, own_KP = _terms(labels, bands, seen, map_offset, pixels_P, size, C, G, NESTED, SEEN, BLOCK_K)
    active_P = tl.max(own_KP.to(tl.int32), 0) > 0
    out_offset_P = _pixel_offsets(
        pixels_P, image, out_stride_image, out_stride_row, out_stride_column, width, OUT_DENSE
    )
    if tl.max(active_P.to(tl.int32), 0) > 0:
        offset_P = _pixel_offsets(pixels_P, image, stride_image, stride_row, stride_column, width, DENSE)
        cosine_KP, inverse_P, turns_P, inverse_K = _cosines(
            features,
            prototypes,
            offset_P,
            active_P,
            stride_channel,
            D,
            C * G,
            BLOCK_K,
            BLOCK_P,
            BLOCK_D,
            PRECISION,
            COMPUTE,
        )
        k = tl.arange(0, BLOCK_K)
        factor = tl.load(scale)
        log_sum_P = tl.load(log_sum_exp + map_offset + pixels_P, mask=active_P, other=0)
        weight_K = tl.load(weights + k, mask=seen_K, other=0).to(COMPUTE)
        own_weight_KP = tl.where(own_KP, weight_K[:, None], 0.0)
        softmax_KP = tl.where(seen_K[:, None], tl.exp(cosine_KP * factor - log_sum_P[None, :]), 0.0)
        slope_KP = (tl.sum(own_weight_KP, 0)[None, :] * softmax_KP - own_weight_KP) * (tl.load(grad) * factor)
        # f / |f| turns; below the smallest length it only stretches, and the part along f stays.
        along_P = tl.where(turns_P, tl.sum(slope_KP * cosine_KP, 0) * inverse_P * inverse_P, 0.0)
        slope_KP = slope_KP * inverse_K[:, None]
        if PRECISION == "one channel":
            f_at_P = features + offset_P
            out_at_P = gradient + out_offset_P
            for d in range(D):
                f_P = tl.load(f_at_P, mask=active_P, other=0).to(COMPUTE)
                p_K = tl.load(prototypes + k * D + d, mask=k < C * G, other=0).to(COMPUTE)
                result_P = tl.sum(p_K[:, None] * slope_KP, 0) * inverse_P - f_P * along_P
                tl.store(out_at_P, tl.where(active_P, result_P, 0.0).to(OUT), mask=inside_P)
                f_at_P += stride_channel
                out_at_P += out_stride_channel
        else:
            for start in range(0, D, BLOCK_D):
                d = start + tl.arange(0, BLOCK_D)
                f_DP = tl.load(
                    features + d[:, None].to(tl.int64) * stride_channel + offset_P[None, :],
                    mask=(d < D)[:, None] & active_P[None, :],
                    other=0,
                ).to(COMPUTE)
                p_DK = tl.load(
                    prototypes + k[None, :] * D + d[:, None], mask=(k < C * G)[None, :] & (d < D)[:, None], other=0
                ).to(COMPUTE)
                result_DP = tl.dot(p_DK, slope_KP, input_precision=PRECISION) * inverse_P[None, :]
                result_DP = tl.where(active_P[None, :], result_DP - f_DP * along_P[None, :], 0.0)
                tl.store(
                    gradient + d[:, None].to(tl.int64) * out_stride_channel + out_offset_P[None, :],
                    result_DP.to(OUT),
                    mask=(d < D)[:, None] & inside_P[None, :],
                )
    else:
        for start in range(0, D, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            tl.store(
                gradient + d[:, None].to(tl.int64) * out_stride_channel + out_offset_P[None, :],
                tl.zeros((BLOCK_D, BLOCK_P), OUT),
                mask=(d < D)[:, None] & inside_P[None, :],
            )


def precision(dtype: torch.dtype) -> str:
    return {torch.float32: "tf32x3", torch.float64: "one channel"}.get(dtype, "tf32")


def blocks(prototypes: int, dtype: torch.dtype) -> dict[str, int]:
    """Block sizes and warps for this many prototypes: the [K, P] tile is what fills the registers."""
    if prototypes > MOST_PROTOTYPES:
        raise ValueError(
            f"prototypes hold {prototypes} vectors (classes x bands); the GPU kernel serves up to {MOST_PROTOTYPES}: "
            f"use fewer bands, or DGSEG_BACKEND=reference"
        )
    K = max(16, triton.next_power_of_2(prototypes))
    P = 32 if dtype == torch.float64 else 64
    three_products = dtype == torch.float32  # with 32 channels at a time they spill
    return {
        "BLOCK_K": K,
        "BLOCK_P": max(16, min(P, 8192 // K)),
        "BLOCK_D": 16 if three_products or K > 128 else 32,
        "num_warps": 4 if K <= 64 else 8,
        "num_stages": 2 if K > 128 else 4 if three_products else 3,
    }


def _dense(tensor: Tensor) -> bool:
    return tensor.stride(2) == tensor.shape[3] * tensor.stride(3) or tensor.shape[2] == 1


def _common(
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    prototypes: Tensor,
    weights: Tensor,
    seen: Tensor | None,
    temperature: float,
) -> tuple[tuple[Tensor, ...], torch.dtype]:
    """What both kernels read after the features, in contiguous form, and the dtype they compute in."""
    compute = torch.float64 if features.dtype == torch.float64 else torch.float32
    scale = torch.full((1,), 1 / temperature, dtype=compute, device=features.device)
    maps = labels.contiguous(), bands.contiguous()
    mask = bands if seen is None else seen.contiguous().view(torch.uint8)  # not read where seen is None
    return (*maps, prototypes.contiguous(), weights.contiguous(), mask, scale), compute


def forward(
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    prototypes: Tensor,
    weights: Tensor,
    seen: Tensor | None,
    temperature: float,
    nested: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    N, D, h, w = features.shape
    C, G, _ = prototypes.shape
    config: Any = blocks(C * G, features.dtype)
    common, compute = _common(features, labels, bands, prototypes, weights, seen, temperature)
    per_image = triton.cdiv(h * w, config["BLOCK_P"])
    losses = features.new_empty(N * per_image, dtype=compute)
    counts = features.new_empty(N * per_image, dtype=torch.int32)
    log_sum_exp = features.new_empty((N, h, w), dtype=compute)
    if losses.numel():
        forward_kernel[(N * per_image,)](
            features,
            *common,
            losses,
            counts,
            log_sum_exp,
            *features.stride(),
            w,
            h * w,
            per_image,
            D,
            C,
            G,
            NESTED=nested,
            SEEN=seen is not None,
            DENSE=_dense(features),
            PRECISION=precision(features.dtype),
            **config,
        )
    return losses.sum(dtype=torch.float64).to(compute), counts.sum(dtype=torch.int64), log_sum_exp


def backward(
    grad: Tensor,
    features: Tensor,
    labels: Tensor,
    bands: Tensor,
    prototypes: Tensor,
    weights: Tensor,
    seen: Tensor | None,
    log_sum_exp: Tensor,
    temperature: float,
    nested: bool,
) -> Tensor:
    N, D, h, w = features.shape
    C, G, _ = prototypes.shape
    config: Any = blocks(C * G, features.dtype)
    common, compute = _common(features, labels, bands, prototypes, weights, seen, temperature)
    per_image = triton.cdiv(h * w, config["BLOCK_P"])
    gradient = torch.empty_like(features)
    if gradient.numel():
        backward_kernel[(N * per_image,)](
            grad.to(compute),
            features,
            *common,
            log_sum_exp.contiguous(),
            gradient,
            *features.stride(),
            *gradient.stride(),
            w,
            h * w,
            per_image,
            D,
            C,
            G,
            NESTED=nested,
            SEEN=seen is not None,
            DENSE=_dense(features),
            OUT_DENSE=_dense(gradient),
            PRECISION=precision(features.dtype),
            **config,
        )
    return gradient
