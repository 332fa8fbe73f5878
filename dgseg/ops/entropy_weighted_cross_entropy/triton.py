"""entropy_weighted_cross_entropy on GPUs.

Bytes that must move for logits at label size, per pixel of C float32 classes: 4C read forward; 4C read and 4C written
backward. What these kernels move beside that are maps of one value a pixel: log-sum-exp, entropy, cross-entropy and
weight written once and read once, labels and bands read.

The legend is in dgseg/ops/_triton.py. Partial sums are written per program and added in a fixed order: no atomics.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

import torch
import triton
import triton.language as tl
from torch import Tensor

from dgseg.ops._triton import (
    COMPUTE_TYPES,
    LANES,
    first_of,
    full_size_elements,
    index_type,
    launch,
    mix,
    mixed_columns,
    new_like,
    pixels_per_program,
    planar,
    read_label,
    read_tile,
    rows_follow,
    source_of,
    split_classes,
    store_row,
    strips_of,
    warps_of_strip,
    weight_in,
)


def _class_chunks(classes: int, most: int) -> tuple[int, int]:
    """No sum over classes in the backward: it takes at most `most` at a time. (number of chunks, classes in each)."""
    chunks = triton.cdiv(classes, most)
    return chunks, triton.cdiv(classes, chunks)


@triton.jit
def _softmax_statistics(head, tail, head_classes, tail_classes, label):
    """log-sum-exp, entropy and cross-entropy of pixels whose padded classes hold a very small number."""
    largest = tl.maximum(tl.max(head, 0), tl.max(tail, 0))
    head -= largest[None, :]
    tail -= largest[None, :]
    e_head = tl.exp(head)
    e_tail = tl.exp(tail)
    total = tl.sum(e_head, 0) + tl.sum(e_tail, 0)
    # exp(-1000) is 0 in every precision: the bound turns the 0 · -inf of a masked class into 0.
    moment = tl.sum(e_head * tl.maximum(head, -1000.0), 0) + tl.sum(e_tail * tl.maximum(tail, -1000.0), 0)
    own = tl.sum(tl.where(head_classes[:, None] == label[None, :], head, 0.0), 0)
    own += tl.sum(tl.where(tail_classes[:, None] == label[None, :], tail, 0.0), 0)
    log_total = tl.log(total)
    return largest + log_total, log_total - moment / total, log_total - own


@triton.jit
def _store_partial(partials, valid, count, mean, deviation):
    """Merges the lanes' (count, mean, sum of squared deviations) into one row of 4."""
    band = tl.sum(count)
    centre = tl.sum(count * mean) / tl.maximum(band, 1.0)
    distance = mean - centre
    deviation = tl.sum(deviation + count * distance * distance)
    tl.store(partials, tl.sum(valid))
    tl.store(partials + 1, band)
    tl.store(partials + 2, centre)
    tl.store(partials + 3, deviation)


@triton.jit(do_not_specialize=["C", "W", "blocks", "stride_h"])
def _pixels_kernel(
    logits, labels, bands, log_sum_exp, entropy, cross_entropy, partials, C, W, plane, blocks, ignore_index: tl.int64,
    stride_n, stride_c, stride_h, stride_w,
    ROWS_FOLLOW: tl.constexpr, HAS_BANDS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """logits at label size: a program owns BLOCK pixels of one image."""
    program = tl.program_id(0)
    n = (program // blocks).to(tl.int64)
    pixel = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < plane
    if ROWS_FOLLOW:
        pointers = logits + n * stride_n + pixel.to(tl.int64) * stride_w
    else:
        pointers = logits + n * stride_n + (pixel // W).to(tl.int64) * stride_h + (pixel % W).to(tl.int64) * stride_w
    head_classes = tl.arange(0, HEAD)
    tail_classes = HEAD + tl.arange(0, TAIL)
    head = read_tile(pointers, head_classes, C, mask, stride_c, float("-inf"), COMPUTE)
    tail = read_tile(pointers, tail_classes, C, mask, stride_c, float("-inf"), COMPUTE)
    at = n * plane + pixel
    label, valid = read_label(labels, at, mask, C, ignore_index)
    lse, H, ce = _softmax_statistics(head, tail, head_classes, tail_classes, label)
    tl.store(log_sum_exp + at, tl.where(valid, lse, 0.0), mask=mask)
    tl.store(cross_entropy + at, tl.where(valid, ce, 0.0), mask=mask)
    count = tl.zeros([BLOCK], COMPUTE)
    H = tl.where(valid, H, 0.0)
    if HAS_BANDS:
        in_band = valid & (tl.load(bands + at, mask=mask, other=0) != 0)
        H = tl.where(in_band, H, 0.0)
        tl.store(entropy + at, H, mask=mask)
        count = in_band.to(COMPUTE)
    _store_partial(partials + program.to(tl.int64) * 4, valid.to(COMPUTE), count, H, tl.zeros([BLOCK], COMPUTE))


@triton.jit(do_not_specialize=["C", "h", "w", "H", "blocks", "stride_h"])
def _pixels_upsampled_kernel(
    logits, labels, bands, log_sum_exp, entropy, cross_entropy, partials, C, h, w, H, W, blocks,
    ignore_index: tl.int64, stride_n, stride_c, stride_h, stride_w,
    HAS_BANDS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK columns of the label rows that lie between two rows of logits. It interpolates those two
    along the columns once, so that a label row costs one multiply-add per class."""
    program = tl.program_id(0)
    i = (program // blocks) % h
    n = (program // blocks // h).to(tl.int64)
    x = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = x < W
    left, weight_x = source_of(x, w, W, INDEX, COMPUTE)
    right = tl.minimum(left + 1, w - 1).to(tl.int64) * stride_w
    left = left.to(tl.int64) * stride_w
    upper = logits + n * stride_n + i.to(tl.int64) * stride_h
    lower = logits + n * stride_n + tl.minimum(i + 1, h - 1).to(tl.int64) * stride_h
    head_classes = tl.arange(0, HEAD)
    tail_classes = HEAD + tl.arange(0, TAIL)
    upper_head = mixed_columns(upper, left, right, weight_x, head_classes, C, mask, stride_c, COMPUTE)
    upper_tail = mixed_columns(upper, left, right, weight_x, tail_classes, C, mask, stride_c, COMPUTE)
    lower_head = mixed_columns(lower, left, right, weight_x, head_classes, C, mask, stride_c, COMPUTE)
    lower_tail = mixed_columns(lower, left, right, weight_x, tail_classes, C, mask, stride_c, COMPUTE)
    valid_count = tl.zeros([BLOCK], COMPUTE)
    count = tl.zeros([BLOCK], COMPUTE)
    mean = tl.zeros([BLOCK], COMPUTE)
    deviation = tl.zeros([BLOCK], COMPUTE)
    for y in range(first_of(i, h, H, INDEX), first_of(i + 1, h, H, INDEX)):
        weight_y = weight_in(y, i, h, H, INDEX, COMPUTE)
        at = (n * H + y) * W + x
        label, valid = read_label(labels, at, mask, C, ignore_index)
        lse, E, ce = _softmax_statistics(
            mix(upper_head, lower_head, weight_y), mix(upper_tail, lower_tail, weight_y),
            head_classes, tail_classes, label,
        )  # fmt: skip
        tl.store(log_sum_exp + at, tl.where(valid, lse, 0.0), mask=mask)
        tl.store(cross_entropy + at, tl.where(valid, ce, 0.0), mask=mask)
        valid_count += valid.to(COMPUTE)
        if HAS_BANDS:
            in_band = valid & (tl.load(bands + at, mask=mask, other=0) != 0)
            E = tl.where(in_band, E, 0.0)
            tl.store(entropy + at, E, mask=mask)
            # Welford's update, per column.
            count += in_band.to(COMPUTE)
            before = E - mean
            mean += tl.where(in_band, before / tl.maximum(count, 1.0), 0.0)
            deviation += tl.where(in_band, before * (E - mean), 0.0)
    _store_partial(partials + program.to(tl.int64) * 4, valid_count, count, mean, deviation)


@triton.jit(do_not_specialize=["rows", "pixels"])
def _moments_kernel(partials, moments, rows, pixels: tl.int64, BLOCK: tl.constexpr):
    """Merges the programs' rows in a fixed order: (pixels, valid, count, mean, deviation)."""
    lane = tl.arange(0, BLOCK)
    valid = tl.zeros([BLOCK], tl.float64)
    count = tl.zeros([BLOCK], tl.float64)
    total = tl.zeros([BLOCK], tl.float64)
    for first in range(0, rows, BLOCK):
        row = partials + (first + lane).to(tl.int64) * 4
        inside = first + lane < rows
        valid += tl.load(row, mask=inside, other=0).to(tl.float64)
        counted = tl.load(row + 1, mask=inside, other=0).to(tl.float64)
        count += counted
        total += counted * tl.load(row + 2, mask=inside, other=0).to(tl.float64)
    band = tl.sum(count)
    mean = tl.sum(total) / tl.maximum(band, 1.0)
    deviation = tl.zeros([BLOCK], tl.float64)
    for first in range(0, rows, BLOCK):
        row = partials + (first + lane).to(tl.int64) * 4
        inside = first + lane < rows
        counted = tl.load(row + 1, mask=inside, other=0).to(tl.float64)
        distance = tl.load(row + 2, mask=inside, other=0).to(tl.float64) - mean
        deviation += tl.load(row + 3, mask=inside, other=0).to(tl.float64) + counted * distance * distance
    tl.store(moments, tl.full([], pixels, tl.float64))
    tl.store(moments + 1, tl.sum(valid))
    tl.store(moments + 2, band)
    tl.store(moments + 3, mean)
    tl.store(moments + 4, tl.sum(deviation))


def pixels(
    logits: Tensor, labels: Tensor, bands: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    N, C, h, w = logits.shape
    _, H, W = labels.shape
    labels = labels.contiguous()
    log_sum_exp, cross_entropy = new_like(logits, N, H, W), new_like(logits, N, H, W)
    entropy = new_like(logits, N, H, W) if bands is not None else new_like(logits, 0)
    bands = bands.contiguous() if bands is not None else labels
    split = split_classes(C)
    has = {"HAS_BANDS": entropy.dim() == 3, "COMPUTE": COMPUTE_TYPES[log_sum_exp.dtype]}
    upsampled = (h, w) != (H, W)
    if upsampled:
        logits = planar(logits)
    # Upsampling keeps three tiles: two rows of logits and the one between.
    block = pixels_per_program(split, 2560 if upsampled else full_size_elements(logits), logits.dtype)
    blocks = triton.cdiv(W, block) if upsampled else triton.cdiv(H * W, block)
    programs = (N * h * blocks if upsampled else N * blocks) if labels.numel() else 0
    partials = new_like(logits, programs, 4)
    maps = (logits, labels, bands, log_sum_exp, entropy, cross_entropy, partials)
    if upsampled:
        launch(
            _pixels_upsampled_kernel, programs, *maps, C, h, w, H, W, blocks, ignore_index, *logits.stride(),
            BLOCK=block, INDEX=index_type(max(h, w), max(H, W)), **split, **has,
        )  # fmt: skip
    else:
        launch(
            _pixels_kernel, programs, *maps, C, W, H * W, blocks, ignore_index, *logits.stride(),
            ROWS_FOLLOW=rows_follow(logits), BLOCK=block, **split, **has,
        )  # fmt: skip
    moments = torch.empty(5, dtype=torch.float64, device=logits.device)
    launch(_moments_kernel, 1, partials, moments, programs, labels.numel(), BLOCK=1024)
    return log_sum_exp, entropy, cross_entropy, moments


@triton.jit(do_not_specialize=["ranks", "C", "blocks"])
def _loss_kernel(
    labels, bands, class_weight, entropy, cross_entropy, moments, weights, partials, band_entropy,
    ranks, C, plane, blocks, alpha: tl.float64, threshold: tl.float64, eps: tl.float64, ignore_index: tl.int64,
    WEIGHTING: tl.constexpr, DENOMINATOR: tl.constexpr, HAS_BANDS: tl.constexpr, HAS_CLASS_WEIGHT: tl.constexpr,
    RANKS: tl.constexpr, BLOCK: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    # Every program merges the ranks' few rows again: cheaper than one more launch.
    rank = tl.arange(0, RANKS)
    inside = rank < ranks
    count = tl.load(moments + rank * 5 + 2, mask=inside, other=0)
    mean = tl.load(moments + rank * 5 + 3, mask=inside, other=0)
    band = tl.maximum(tl.sum(count), 1.0)
    centre = tl.sum(count * mean) / band
    distance = mean - centre
    deviation = tl.load(moments + rank * 5 + 4, mask=inside, other=0) + count * distance * distance
    variance = tl.sum(deviation) / band
    denominator = tl.sum(tl.load(moments + rank * 5 + (1 - DENOMINATOR), mask=inside, other=0))
    scale = tl.where(denominator > 0, tl.full([], ranks, tl.float64) / tl.maximum(denominator, 1.0), 0.0).to(COMPUTE)

    program = tl.program_id(0)
    pixel = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < plane
    at = (program // blocks).to(tl.int64) * plane + pixel
    label, valid = read_label(labels, at, mask, C, ignore_index)
    ce = tl.load(cross_entropy + at, mask=mask, other=0)
    weight = tl.full([BLOCK], 1.0, COMPUTE)
    if HAS_BANDS:
        in_band = tl.load(bands + at, mask=mask, other=0) != 0
        strength = tl.full([], alpha, tl.float64).to(COMPUTE)
        if WEIGHTING == 0:
            spread = (tl.sqrt(variance) + tl.full([], eps, tl.float64)).to(COMPUTE)
            H = tl.load(entropy + at, mask=mask, other=0)
            in_band_weight = 1.0 + strength * tl.sigmoid((H - centre.to(COMPUTE)) / spread)
            weight = tl.where(in_band, in_band_weight, weight)
        elif WEIGHTING == 1:
            weight = tl.where(in_band, strength, weight)
        else:
            hard = ce > tl.full([], threshold, tl.float64).to(COMPUTE)
            weight = tl.where(in_band & hard, strength, weight)
    if HAS_CLASS_WEIGHT:
        weight *= tl.load(class_weight + label, mask=valid, other=0).to(COMPUTE)
    weight = tl.where(valid, weight * scale, 0.0)
    tl.store(weights + at, weight, mask=mask)
    row = partials + program.to(tl.int64) * 3
    tl.store(row, tl.sum(weight.to(tl.float64) * ce.to(tl.float64)))
    tl.store(row + 1, tl.sum(ce.to(tl.float64)))
    tl.store(row + 2, tl.sum(valid.to(tl.float64)))
    if program == 0:
        tl.store(band_entropy, centre.to(COMPUTE))


@triton.jit(do_not_specialize=["images", "blocks"])
def _totals_kernel(partials, loss, per_image, images, blocks, BLOCK: tl.constexpr, COMPUTE: tl.constexpr):
    """Program n adds up image n; the one after the last image adds up the loss."""
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    if program < images:
        total = tl.zeros([BLOCK], tl.float64)
        valid = tl.zeros([BLOCK], tl.float64)
        for first in range(0, blocks, BLOCK):
            row = partials + (program.to(tl.int64) * blocks + first + lane) * 3
            total += tl.load(row + 1, mask=first + lane < blocks, other=0)
            valid += tl.load(row + 2, mask=first + lane < blocks, other=0)
        tl.store(per_image + program, (tl.sum(total) / tl.maximum(tl.sum(valid), 1.0)).to(COMPUTE))
    else:
        total = tl.zeros([BLOCK], tl.float64)
        for first in range(0, images * blocks, BLOCK):
            row = (first + lane).to(tl.int64)
            total += tl.load(partials + row * 3, mask=row < images * blocks, other=0)
        tl.store(loss, tl.sum(total).to(COMPUTE))


def loss(
    logits: Tensor,
    labels: Tensor,
    bands: Tensor | None,
    class_weight: Tensor | None,
    log_sum_exp: Tensor,
    entropy: Tensor,
    cross_entropy: Tensor,
    moments: Tensor,
    alpha: float,
    weighting: int,
    threshold: float,
    eps: float,
    denominator: int,
    ignore_index: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    N, H, W = labels.shape
    labels = labels.contiguous()
    has_bands, has_class_weight = bands is not None, class_weight is not None
    bands = bands.contiguous() if bands is not None else labels
    class_weight = class_weight.contiguous() if class_weight is not None else cross_entropy
    weights, per_image = new_like(logits, N, H, W), new_like(logits, N)
    total, band_entropy = new_like(logits), new_like(logits)
    compute = COMPUTE_TYPES[weights.dtype]
    block = 1024
    blocks = triton.cdiv(H * W, block)
    partials = torch.empty((N * blocks, 3), dtype=torch.float64, device=logits.device)
    # An empty batch still has the other ranks' band entropy: one program, all of it masked.
    programs = max(N * blocks, 1)
    if N * blocks == 0:
        partials = partials.new_empty(1, 3)
    ranks = moments.shape[0]
    launch(
        _loss_kernel, programs, labels, bands, class_weight, entropy, cross_entropy, moments.contiguous(), weights,
        partials, band_entropy, ranks, logits.shape[1], H * W if N else 0, max(blocks, 1), alpha, threshold, eps,
        ignore_index, WEIGHTING=weighting, DENOMINATOR=denominator, HAS_BANDS=has_bands,
        HAS_CLASS_WEIGHT=has_class_weight, RANKS=triton.next_power_of_2(ranks), BLOCK=block, COMPUTE=compute,
    )  # fmt: skip
    launch(_totals_kernel, N + 1, partials, total, per_image, N, blocks, BLOCK=1024, COMPUTE=compute)
    return total, weights, per_image, band_entropy


@triton.jit
def _store_gradient(pointers, tile, lse, weight, label, used, classes, last, mask, stride_c):
    g = weight[None, :] * (tl.exp(tile - lse[None, :]) - (classes[:, None] == label[None, :]).to(weight.dtype))
    g = tl.where(used[None, :], g, 0.0)  # an ignored pixel's NaN stays its own
    pointers = pointers[None, :] + (classes.to(tl.int64) * stride_c)[:, None]
    tl.store(pointers, g.to(pointers.dtype.element_ty), mask=(classes < last)[:, None] & mask[None, :])


@triton.jit(do_not_specialize=["C", "W", "blocks", "chunks", "chunk", "stride_h", "out_h"])
def _backward_kernel(
    grad_loss, logits, labels, log_sum_exp, weights, gradient, C, W, plane, blocks, chunks, chunk,
    ignore_index: tl.int64, stride_n, stride_c, stride_h, stride_w, out_n, out_c, out_h, out_w,
    ROWS_FOLLOW: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """logits at label size: a program owns a chunk of the classes of BLOCK pixels."""
    program = tl.program_id(0)
    first = (program // blocks % chunks) * chunk
    last = tl.minimum(first + chunk, C)
    n = (program // blocks // chunks).to(tl.int64)
    pixel = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = pixel < plane
    source = logits + n * stride_n
    target = gradient + n * out_n
    if ROWS_FOLLOW:
        source += pixel.to(tl.int64) * stride_w
        target += pixel.to(tl.int64) * out_w
    else:
        y = (pixel // W).to(tl.int64)
        x = (pixel % W).to(tl.int64)
        source += y * stride_h + x * stride_w
        target += y * out_h + x * out_w
    head_classes = first + tl.arange(0, HEAD)
    tail_classes = first + HEAD + tl.arange(0, TAIL)
    head = read_tile(source, head_classes, last, mask, stride_c, 0.0, COMPUTE)
    tail = read_tile(source, tail_classes, last, mask, stride_c, 0.0, COMPUTE)
    at = n * plane + pixel
    label, _valid = read_label(labels, at, mask, C, ignore_index)
    lse = tl.load(log_sum_exp + at, mask=mask, other=0)
    weight = tl.load(weights + at, mask=mask, other=0)
    used = weight != 0
    weight *= tl.load(grad_loss)
    _store_gradient(target, head, lse, weight, label, used, head_classes, last, mask, out_c)
    _store_gradient(target, tail, lse, weight, label, used, tail_classes, last, mask, out_c)


@triton.jit
def _difference(left, right, weight_x, lse, label, used, classes):
    """softmax - onehot of pixels between two columns of logits; 0 at unused pixels, whatever their logits hold."""
    p = tl.exp(mix(left, right, weight_x[None, :]) - lse[None, :])
    return tl.where(used[None, :], p - (classes[:, None] == label[None, :]).to(lse.dtype), 0.0)


@triton.jit(do_not_specialize=["C", "h", "w", "H", "blocks", "strips", "rows", "chunks", "chunk", "stride_h", "out_h"])
def _backward_upsampled_kernel(
    grad_loss, logits, labels, log_sum_exp, weights, gradient, C, h, w, H, W, blocks, strips, rows, chunks, chunk,
    ignore_index: tl.int64, stride_n, stride_c, stride_h, stride_w, out_n, out_c, out_h, out_w,
    HEAD: tl.constexpr, TAIL: tl.constexpr, LANES: tl.constexpr, INDEX: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Upsampling transposed. A lane owns the *cell* between logit columns j and j + 1: every label pixel lies in one
    cell and sends its gradient to the cell's four corners. A program marches down a strip of cells; what a cell sends
    to its lower corners stays in registers for the next row, what it sends to its right corners goes to the next lane.
    So each softmax is computed once, except in the first row and first lane, whose cells only pass on."""
    program = tl.program_id(0)
    lane = tl.arange(0, LANES)
    j = (program % blocks) * (LANES - 1) - 1 + lane
    i_first = (program // blocks % strips) * rows
    first = (program // blocks // strips % chunks) * chunk
    last = tl.minimum(first + chunk, C)
    n = (program // blocks // strips // chunks).to(tl.int64)
    x_first = first_of(j, w, W, INDEX)
    x_last = tl.where(j < 0, 0, first_of(j + 1, w, W, INDEX))
    widest = tl.max(x_last - x_first)
    scale = tl.load(grad_loss)
    in_image = (j >= 0) & (j < w)
    stored = in_image & (lane > 0)
    image = logits + n * stride_n
    left = tl.minimum(tl.maximum(j, 0), w - 1).to(tl.int64) * stride_w
    right = tl.minimum(tl.maximum(j + 1, 0), w - 1).to(tl.int64) * stride_w
    target = gradient + n * out_n + j.to(tl.int64) * out_w
    head_classes = first + tl.arange(0, HEAD)
    tail_classes = first + HEAD + tl.arange(0, TAIL)
    # Gradients of the four corners, summed over the cell: upper/lower row, own column or the next lane's.
    upper_head = tl.zeros([HEAD, LANES], COMPUTE)
    upper_tail = tl.zeros([TAIL, LANES], COMPUTE)
    upper_head_next = tl.zeros([HEAD, LANES], COMPUTE)
    upper_tail_next = tl.zeros([TAIL, LANES], COMPUTE)
    for i in range(tl.maximum(i_first - 1, 0), tl.minimum(i_first + rows, h)):
        this = image + tl.cast(i, tl.int64) * stride_h
        below = image + tl.cast(tl.minimum(i + 1, h - 1), tl.int64) * stride_h
        a_head = read_tile(this + left, head_classes, last, in_image, stride_c, 0.0, COMPUTE)
        b_head = read_tile(this + right, head_classes, last, in_image, stride_c, 0.0, COMPUTE)
        c_head = read_tile(below + left, head_classes, last, in_image, stride_c, 0.0, COMPUTE)
        d_head = read_tile(below + right, head_classes, last, in_image, stride_c, 0.0, COMPUTE)
        a_tail = read_tile(this + left, tail_classes, last, in_image, stride_c, 0.0, COMPUTE)
        b_tail = read_tile(this + right, tail_classes, last, in_image, stride_c, 0.0, COMPUTE)
        c_tail = read_tile(below + left, tail_classes, last, in_image, stride_c, 0.0, COMPUTE)
        d_tail = read_tile(below + right, tail_classes, last, in_image, stride_c, 0.0, COMPUTE)
        lower_head = tl.zeros([HEAD, LANES], COMPUTE)
        lower_tail = tl.zeros([TAIL, LANES], COMPUTE)
        lower_head_next = tl.zeros([HEAD, LANES], COMPUTE)
        lower_tail_next = tl.zeros([TAIL, LANES], COMPUTE)
        for y in range(first_of(i, h, H, INDEX), first_of(i + 1, h, H, INDEX)):
            weight_y = weight_in(y, i, h, H, INDEX, COMPUTE)
            left_head = mix(a_head, c_head, weight_y)
            left_tail = mix(a_tail, c_tail, weight_y)
            right_head = mix(b_head, d_head, weight_y)
            right_tail = mix(b_tail, d_tail, weight_y)
            row_head = tl.zeros([HEAD, LANES], COMPUTE)
            row_tail = tl.zeros([TAIL, LANES], COMPUTE)
            row_head_next = tl.zeros([HEAD, LANES], COMPUTE)
            row_tail_next = tl.zeros([TAIL, LANES], COMPUTE)
            for k in range(0, widest):
                x = x_first + k
                mask = x < x_last
                at = (n * H + y) * W + x
                weight_x = weight_in(x, j, w, W, INDEX, COMPUTE)
                label, _valid = read_label(labels, at, mask, C, ignore_index)
                lse = tl.load(log_sum_exp + at, mask=mask, other=0)
                weight = tl.load(weights + at, mask=mask, other=0)
                used = weight != 0
                next_weight = (weight * weight_x)[None, :]
                own_weight = (weight * (1.0 - weight_x))[None, :]
                g_head = _difference(left_head, right_head, weight_x, lse, label, used, head_classes)
                g_tail = _difference(left_tail, right_tail, weight_x, lse, label, used, tail_classes)
                row_head += own_weight * g_head
                row_tail += own_weight * g_tail
                row_head_next += next_weight * g_head
                row_tail_next += next_weight * g_tail
            lower_head += weight_y * row_head
            lower_tail += weight_y * row_tail
            lower_head_next += weight_y * row_head_next
            lower_tail_next += weight_y * row_tail_next
            upper_head += (1.0 - weight_y) * row_head
            upper_tail += (1.0 - weight_y) * row_tail
            upper_head_next += (1.0 - weight_y) * row_head_next
            upper_tail_next += (1.0 - weight_y) * row_tail_next
        row = target + tl.cast(i, tl.int64) * out_h
        store = stored & (i >= i_first)
        store_row(row, scale * upper_head, scale * upper_head_next, lane, store, head_classes, last, out_c)
        store_row(row, scale * upper_tail, scale * upper_tail_next, lane, store, tail_classes, last, out_c)
        upper_head = lower_head
        upper_tail = lower_tail
        upper_head_next = lower_head_next
        upper_tail_next = lower_tail_next


def backward(
    grad_loss: Tensor, logits: Tensor, labels: Tensor, log_sum_exp: Tensor, weights: Tensor, ignore_index: int
) -> Tensor:
    N, C, h, w = logits.shape
    _, H, W = labels.shape
    compute = COMPUTE_TYPES[weights.dtype]
    if (h, w) == (H, W):
        gradient = torch.empty_like(logits)
        chunks, chunk = _class_chunks(C, 32)
        split = split_classes(chunk)
        tensors = (grad_loss, logits, labels.contiguous(), log_sum_exp, weights, gradient)
        strides = (*logits.stride(), *gradient.stride())
        block = pixels_per_program(split, full_size_elements(logits), logits.dtype)
        blocks = triton.cdiv(H * W, block)
        launch(
            _backward_kernel, N * chunks * blocks, *tensors, C, W, H * W, blocks, chunks, chunk, ignore_index, *strides,
            ROWS_FOLLOW=rows_follow(logits, gradient), BLOCK=block, COMPUTE=compute, **split,
        )  # fmt: skip
        return gradient
    source = planar(logits)
    gradient = torch.empty_like(source)
    chunks, chunk = _class_chunks(C, 20)
    split = split_classes(chunk)
    blocks, strips, rows = strips_of(h, w, N * chunks)
    launch(
        _backward_upsampled_kernel, N * chunks * strips * blocks, grad_loss, source, labels.contiguous(), log_sum_exp,
        weights, gradient, C, h, w, H, W, blocks, strips, rows, chunks, chunk, ignore_index,
        *source.stride(), *gradient.stride(), warps=warps_of_strip(split, logits.dtype),
        LANES=LANES, INDEX=index_type(max(h, w), max(H, W)), COMPUTE=compute, **split,
    )  # fmt: skip
    return gradient if source is logits else torch.empty_like(logits).copy_(gradient)
