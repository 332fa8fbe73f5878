"""focal_dice on GPUs.

Bytes that must move for logits at label size, per pixel of C float32 classes: 4C read forward; 4C read and 4C written
backward. Beside that: log-sum-exp, one value a pixel, written once and read once, labels, 4C partial sums a program.

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


@triton.jit
def _power(rest, gamma):
    """rest ** gamma for rest in [0, 1]; 0 ** 0 = 1, and a NaN stays one."""
    raised = tl.exp(gamma * tl.log(tl.where(rest > 0, rest, 1.0)))
    return tl.where(rest > 0, raised, tl.where(gamma == 0, 1.0 + rest - rest, rest))


@triton.jit
def _statistics(head, tail, head_classes, tail_classes, label, valid, gamma):
    """Log-sum-exp and focal loss of pixels whose padded classes hold a very small number, and their probabilities:
    0 where the pixel does not count."""
    largest = tl.maximum(tl.max(head, 0), tl.max(tail, 0))
    e_head = tl.exp(head - largest[None, :])
    e_tail = tl.exp(tail - largest[None, :])
    total = tl.sum(e_head, 0) + tl.sum(e_tail, 0)
    own = tl.sum(tl.where(head_classes[:, None] == label[None, :], head, 0.0), 0)
    own += tl.sum(tl.where(tail_classes[:, None] == label[None, :], tail, 0.0), 0)
    log_total = tl.log(total)
    cross_entropy = (largest - own) + log_total
    focal = _power(1.0 - tl.exp(-cross_entropy), gamma) * cross_entropy
    p_head = tl.where(valid[None, :], e_head / total[None, :], 0.0)
    p_tail = tl.where(valid[None, :], e_tail / total[None, :], 0.0)
    return largest + log_total, focal, p_head, p_tail


@triton.jit
def _add(focal_sum, overlap_sum, probability_sum, pixel_sum, p, focal, classes, label):
    own = classes[:, None] == label[None, :]
    focal_sum += tl.where(own, focal[None, :], 0.0)
    overlap_sum += tl.where(own, p, 0.0)
    pixel_sum += own.to(p.dtype)
    return focal_sum, overlap_sum, probability_sum + p, pixel_sum


@triton.jit
def _store_sums(partials, classes, C, focal_sum, overlap_sum, probability_sum, pixel_sum):
    row = partials + classes
    mask = classes < C
    tl.store(row, tl.sum(focal_sum, 1), mask=mask)
    tl.store(row + C, tl.sum(overlap_sum, 1), mask=mask)
    tl.store(row + 2 * C, tl.sum(probability_sum, 1), mask=mask)
    tl.store(row + 3 * C, tl.sum(pixel_sum, 1), mask=mask)


@triton.jit(do_not_specialize=["C", "W", "blocks", "stride_h"])
def _sums_kernel(
    logits, labels, log_sum_exp, partials, C, W, plane, blocks, gamma: tl.float64, ignore_index: tl.int64,
    stride_n, stride_c, stride_h, stride_w,
    ROWS_FOLLOW: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr, COMPUTE: tl.constexpr,
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
    power = tl.full([], gamma, tl.float64).to(COMPUTE)
    lse, focal, p_head, p_tail = _statistics(head, tail, head_classes, tail_classes, label, valid, power)
    tl.store(log_sum_exp + at, tl.where(valid, lse, 0.0), mask=mask)
    row = partials + program.to(tl.int64) * 4 * C
    zero_head = tl.zeros([HEAD, BLOCK], COMPUTE)
    zero_tail = tl.zeros([TAIL, BLOCK], COMPUTE)
    a, b, c, d = _add(zero_head, zero_head, zero_head, zero_head, p_head, focal, head_classes, label)
    _store_sums(row, head_classes, C, a, b, c, d)
    a, b, c, d = _add(zero_tail, zero_tail, zero_tail, zero_tail, p_tail, focal, tail_classes, label)
    _store_sums(row, tail_classes, C, a, b, c, d)


@triton.jit(do_not_specialize=["C", "h", "w", "H", "blocks", "stride_h"])
def _sums_upsampled_kernel(
    logits, labels, log_sum_exp, partials, C, h, w, H, W, blocks, gamma: tl.float64, ignore_index: tl.int64,
    stride_n, stride_c, stride_h, stride_w,
    HEAD: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr, INDEX: tl.constexpr, COMPUTE: tl.constexpr,
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
    power = tl.full([], gamma, tl.float64).to(COMPUTE)
    a_head = tl.zeros([HEAD, BLOCK], COMPUTE)
    b_head = tl.zeros([HEAD, BLOCK], COMPUTE)
    c_head = tl.zeros([HEAD, BLOCK], COMPUTE)
    d_head = tl.zeros([HEAD, BLOCK], COMPUTE)
    a_tail = tl.zeros([TAIL, BLOCK], COMPUTE)
    b_tail = tl.zeros([TAIL, BLOCK], COMPUTE)
    c_tail = tl.zeros([TAIL, BLOCK], COMPUTE)
    d_tail = tl.zeros([TAIL, BLOCK], COMPUTE)
    for y in range(first_of(i, h, H, INDEX), first_of(i + 1, h, H, INDEX)):
        weight_y = weight_in(y, i, h, H, INDEX, COMPUTE)
        at = (n * H + y) * W + x
        label, valid = read_label(labels, at, mask, C, ignore_index)
        lse, focal, p_head, p_tail = _statistics(
            mix(upper_head, lower_head, weight_y), mix(upper_tail, lower_tail, weight_y),
            head_classes, tail_classes, label, valid, power,
        )  # fmt: skip
        tl.store(log_sum_exp + at, tl.where(valid, lse, 0.0), mask=mask)
        a_head, b_head, c_head, d_head = _add(a_head, b_head, c_head, d_head, p_head, focal, head_classes, label)
        a_tail, b_tail, c_tail, d_tail = _add(a_tail, b_tail, c_tail, d_tail, p_tail, focal, tail_classes, label)
    row = partials + program.to(tl.int64) * 4 * C
    _store_sums(row, head_classes, C, a_head, b_head, c_head, d_head)
    _store_sums(row, tail_classes, C, a_tail, b_tail, c_tail, d_tail)


def sums(logits: Tensor, labels: Tensor, gamma: float, ignore_index: int) -> tuple[Tensor, Tensor]:
    N, C, h, w = logits.shape
    _, H, W = labels.shape
    labels = labels.contiguous()
    log_sum_exp = new_like(logits, N, H, W)
    split = split_classes(C)
    compute = COMPUTE_TYPES[log_sum_exp.dtype]
    upsampled = (h, w) != (H, W)
    if upsampled:
        logits = planar(logits)
    # Upsampling keeps seven tiles: two rows of logits, the one between and the sums.
    elements = 1280 if upsampled else full_size_elements(logits) // 2
    block = pixels_per_program(split, elements, logits.dtype)
    blocks = triton.cdiv(W, block) if upsampled else triton.cdiv(H * W, block)
    programs = (N * h * blocks if upsampled else N * blocks) if labels.numel() else 0
    partials = new_like(logits, programs, 4, C)
    maps = (logits, labels, log_sum_exp, partials)
    if upsampled:
        launch(
            _sums_upsampled_kernel, programs, *maps, C, h, w, H, W, blocks, gamma, ignore_index, *logits.stride(),
            BLOCK=block, INDEX=index_type(max(h, w), max(H, W)), COMPUTE=compute, **split,
        )  # fmt: skip
    else:
        launch(
            _sums_kernel, programs, *maps, C, W, H * W, blocks, gamma, ignore_index, *logits.stride(),
            ROWS_FOLLOW=rows_follow(logits), BLOCK=block, COMPUTE=compute, **split,
        )  # fmt: skip
    return partials.sum(0, dtype=torch.float64), log_sum_exp


@triton.jit
def _through(grad_sums, classes, C, ROW: tl.constexpr, COMPUTE: tl.constexpr):
    """The gradient that comes in through one row of the sums, per class."""
    return tl.load(grad_sums + ROW * C + classes, mask=classes < C, other=0).to(COMPUTE)


@triton.jit
def _own(grad_sums, label, valid, p, C, gamma, COMPUTE: tl.constexpr):
    """What a pixel's own class adds to its gradient: p · d(focal loss and overlap)/dp."""
    through_focal = tl.load(grad_sums + label, mask=valid, other=0).to(COMPUTE)
    through_overlap = tl.load(grad_sums + C + label, mask=valid, other=0).to(COMPUTE)
    rest = 1.0 - p
    quotient = tl.where(p < 1, -tl.log(tl.where(p > 0, p, 1.0)) / tl.where(p < 1, rest, 1.0), 1.0)
    slope = -_power(rest, gamma) * (1.0 + gamma * p * quotient)
    return through_focal * slope + through_overlap * p


@triton.jit
def _gradient(p, through, shift, own, classes, label, valid):
    """0 at pixels that do not count, whatever their logits hold."""
    g = p * (through[:, None] - shift[None, :])
    g += tl.where(classes[:, None] == label[None, :], own[None, :], 0.0)
    return tl.where(valid[None, :], g, 0.0)


@triton.jit
def _pixel_gradients(
    grad_sums, head, tail, lse, label, valid, through_head, through_tail, head_classes, tail_classes, C, gamma,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """Logits of padded classes must be finite: their `through` is 0, and nobody stores their gradient."""
    p_head = tl.where((head_classes < C)[:, None], tl.exp(head - lse[None, :]), 0.0)
    p_tail = tl.where((tail_classes < C)[:, None], tl.exp(tail - lse[None, :]), 0.0)
    p = tl.sum(tl.where(head_classes[:, None] == label[None, :], p_head, 0.0), 0)
    p += tl.sum(tl.where(tail_classes[:, None] == label[None, :], p_tail, 0.0), 0)
    own = _own(grad_sums, label, valid, p, C, gamma, COMPUTE)
    shift = own + tl.sum(through_head[:, None] * p_head, 0) + tl.sum(through_tail[:, None] * p_tail, 0)
    g_head = _gradient(p_head, through_head, shift, own, head_classes, label, valid)
    g_tail = _gradient(p_tail, through_tail, shift, own, tail_classes, label, valid)
    return g_head, g_tail


@triton.jit
def _store_gradient(pointers, g, classes, C, mask, stride_c):
    pointers = pointers[None, :] + (classes.to(tl.int64) * stride_c)[:, None]
    tl.store(pointers, g.to(pointers.dtype.element_ty), mask=(classes < C)[:, None] & mask[None, :])


@triton.jit(do_not_specialize=["C", "W", "blocks", "stride_h", "out_h"])
def _backward_kernel(
    grad_sums, logits, labels, log_sum_exp, gradient, C, W, plane, blocks, gamma: tl.float64, ignore_index: tl.int64,
    stride_n, stride_c, stride_h, stride_w, out_n, out_c, out_h, out_w,
    ROWS_FOLLOW: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """logits at label size: a program owns BLOCK pixels."""
    program = tl.program_id(0)
    n = (program // blocks).to(tl.int64)
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
    head_classes = tl.arange(0, HEAD)
    tail_classes = HEAD + tl.arange(0, TAIL)
    head = read_tile(source, head_classes, C, mask, stride_c, 0.0, COMPUTE)
    tail = read_tile(source, tail_classes, C, mask, stride_c, 0.0, COMPUTE)
    at = n * plane + pixel
    label, valid = read_label(labels, at, mask, C, ignore_index)
    lse = tl.load(log_sum_exp + at, mask=mask, other=0)
    through_head = _through(grad_sums, head_classes, C, 2, COMPUTE)
    through_tail = _through(grad_sums, tail_classes, C, 2, COMPUTE)
    g_head, g_tail = _pixel_gradients(
        grad_sums, head, tail, lse, label, valid, through_head, through_tail, head_classes, tail_classes, C,
        tl.full([], gamma, tl.float64).to(COMPUTE), COMPUTE,
    )  # fmt: skip
    _store_gradient(target, g_head, head_classes, C, mask, out_c)
    _store_gradient(target, g_tail, tail_classes, C, mask, out_c)


@triton.jit(do_not_specialize=["C", "h", "w", "H", "blocks", "strips", "rows", "stride_h", "out_h"])
def _backward_upsampled_kernel(
    grad_sums, logits, labels, log_sum_exp, gradient, C, h, w, H, W, blocks, strips, rows, gamma: tl.float64,
    ignore_index: tl.int64, stride_n, stride_c, stride_h, stride_w, out_n, out_c, out_h, out_w,
    HEAD: tl.constexpr, TAIL: tl.constexpr, LANES: tl.constexpr, INDEX: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Upsampling transposed: a lane owns the cell between logit columns j and j + 1, a program a strip of cells, as in
    entropy_weighted_cross_entropy/triton.py."""
    program = tl.program_id(0)
    lane = tl.arange(0, LANES)
    j = (program % blocks) * (LANES - 1) - 1 + lane
    i_first = (program // blocks % strips) * rows
    n = (program // blocks // strips).to(tl.int64)
    x_first = first_of(j, w, W, INDEX)
    x_last = tl.where(j < 0, 0, first_of(j + 1, w, W, INDEX))
    widest = tl.max(x_last - x_first)
    power = tl.full([], gamma, tl.float64).to(COMPUTE)
    in_image = (j >= 0) & (j < w)
    stored = in_image & (lane > 0)
    image = logits + n * stride_n
    left = tl.minimum(tl.maximum(j, 0), w - 1).to(tl.int64) * stride_w
    right = tl.minimum(tl.maximum(j + 1, 0), w - 1).to(tl.int64) * stride_w
    target = gradient + n * out_n + j.to(tl.int64) * out_w
    head_classes = tl.arange(0, HEAD)
    tail_classes = HEAD + tl.arange(0, TAIL)
    through_head = _through(grad_sums, head_classes, C, 2, COMPUTE)
    through_tail = _through(grad_sums, tail_classes, C, 2, COMPUTE)
    # Gradients of the four corners, summed over the cell: upper/lower row, own column or the next lane's.
    upper_head = tl.zeros([HEAD, LANES], COMPUTE)
    upper_tail = tl.zeros([TAIL, LANES], COMPUTE)
    upper_head_next = tl.zeros([HEAD, LANES], COMPUTE)
    upper_tail_next = tl.zeros([TAIL, LANES], COMPUTE)
    for i in range(tl.maximum(i_first - 1, 0), tl.minimum(i_first + rows, h)):
        this = image + tl.cast(i, tl.int64) * stride_h
        below = image + tl.cast(tl.minimum(i + 1, h - 1), tl.int64) * stride_h
        a_head = read_tile(this + left, head_classes, C, in_image, stride_c, 0.0, COMPUTE)
        b_head = read_tile(this + right, head_classes, C, in_image, stride_c, 0.0, COMPUTE)
        c_head = read_tile(below + left, head_classes, C, in_image, stride_c, 0.0, COMPUTE)
        d_head = read_tile(below + right, head_classes, C, in_image, stride_c, 0.0, COMPUTE)
        a_tail = read_tile(this + left, tail_classes, C, in_image, stride_c, 0.0, COMPUTE)
        b_tail = read_tile(this + right, tail_classes, C, in_image, stride_c, 0.0, COMPUTE)
        c_tail = read_tile(below + left, tail_classes, C, in_image, stride_c, 0.0, COMPUTE)
        d_tail = read_tile(below + right, tail_classes, C, in_image, stride_c, 0.0, COMPUTE)
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
                label, valid = read_label(labels, at, mask, C, ignore_index)
                lse = tl.load(log_sum_exp + at, mask=mask, other=0)
                g_head, g_tail = _pixel_gradients(
                    grad_sums, mix(left_head, right_head, weight_x[None, :]),
                    mix(left_tail, right_tail, weight_x[None, :]), lse, label, valid, through_head, through_tail,
                    head_classes, tail_classes, C, power, COMPUTE,
                )  # fmt: skip
                next_weight = weight_x[None, :]
                own_weight = (1.0 - weight_x)[None, :]
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
        store_row(row, upper_head, upper_head_next, lane, store, head_classes, C, out_c)
        store_row(row, upper_tail, upper_tail_next, lane, store, tail_classes, C, out_c)
        upper_head = lower_head
        upper_tail = lower_tail
        upper_head_next = lower_head_next
        upper_tail_next = lower_tail_next


def backward(
    grad_sums: Tensor, logits: Tensor, labels: Tensor, log_sum_exp: Tensor, gamma: float, ignore_index: int
) -> Tensor:
    N, C, h, w = logits.shape
    _, H, W = labels.shape
    split = split_classes(C)
    compute = COMPUTE_TYPES[log_sum_exp.dtype]
    if (h, w) == (H, W):
        gradient = torch.empty_like(logits)
        tensors = (grad_sums.contiguous(), logits, labels.contiguous(), log_sum_exp, gradient)
        strides = (*logits.stride(), *gradient.stride())
        block = pixels_per_program(split, full_size_elements(logits) // 2, logits.dtype)
        blocks = triton.cdiv(H * W, block)
        launch(
            _backward_kernel, N * blocks, *tensors, C, W, H * W, blocks, gamma, ignore_index, *strides,
            ROWS_FOLLOW=rows_follow(logits, gradient), BLOCK=block, COMPUTE=compute, **split,
        )  # fmt: skip
        return gradient
    source = planar(logits)
    gradient = torch.empty_like(source)
    blocks, strips, rows = strips_of(h, w, N)
    launch(
        _backward_upsampled_kernel, N * strips * blocks, grad_sums.contiguous(), source, labels.contiguous(),
        log_sum_exp, gradient, C, h, w, H, W, blocks, strips, rows, gamma, ignore_index,
        *source.stride(), *gradient.stride(), warps=warps_of_strip(split, logits.dtype),
        LANES=LANES, INDEX=index_type(max(h, w), max(H, W)), COMPUTE=compute, **split,
    )  # fmt: skip
    return gradient if source is logits else torch.empty_like(logits).copy_(gradient)


@triton.jit(do_not_specialize=["ranks", "C", "dice_row"])
def _losses_kernel(
    sums, gathered, class_weight, focal, dice, slopes, ranks, C, dice_row, smooth: tl.float64,
    HAS_CLASS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """reference.losses_of, and its slopes: of the focal loss for the first row of the sums, of Dice for the others."""
    smooth = tl.full([], smooth, tl.float64)
    c = tl.arange(0, BLOCK)
    inside = c < C
    overlap = tl.zeros([BLOCK], tl.float64)
    probability = tl.zeros([BLOCK], tl.float64)
    pixels = tl.zeros([BLOCK], tl.float64)
    for rank in range(ranks):
        row = gathered + rank * 4 * C + c
        overlap += tl.load(row + C, mask=inside, other=0)
        probability += tl.load(row + 2 * C, mask=inside, other=0)
        pixels += tl.load(row + 3 * C, mask=inside, other=0)
    of_focal = inside.to(tl.float64)
    of_dice = of_focal
    if HAS_CLASS_WEIGHT:
        of_focal = tl.load(class_weight + c, mask=inside, other=0).to(tl.float64)
        of_dice = tl.load(class_weight + dice_row + c, mask=inside, other=0).to(tl.float64)
    scale = ranks / tl.maximum(tl.sum(pixels), 1.0)
    present = pixels > 0
    extent = tl.where(present, probability + pixels + smooth, 1.0)
    share = tl.where(present, of_dice, 0.0)
    total = tl.sum(share)
    share = share / tl.where(total > 0, total, 1.0)
    twice = 2.0 * overlap + smooth
    own = tl.load(sums + c, mask=inside, other=0)
    tl.store(focal, (scale * tl.sum(of_focal * own)).to(focal.dtype.element_ty))
    loss = tl.sum(tl.where(present, share * (1.0 - twice / extent), 0.0))
    tl.store(dice, loss.to(dice.dtype.element_ty))
    row = slopes + c
    tl.store(row, scale * of_focal, mask=inside)
    tl.store(row + C, -2.0 * ranks * share / extent, mask=inside)
    tl.store(row + 2 * C, ranks * share * twice / (extent * extent), mask=inside)
    tl.store(row + 3 * C, tl.zeros([BLOCK], tl.float64), mask=inside)


@triton.jit(do_not_specialize=["C"])
def _slopes_kernel(grad_focal, grad_dice, slopes, gradient, C, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    inside = at < 4 * C
    through = tl.where(at < C, tl.load(grad_focal).to(tl.float64), tl.load(grad_dice).to(tl.float64))
    tl.store(gradient + at, through * tl.load(slopes + at, mask=inside, other=0), mask=inside)


def losses(
    sums: Tensor, gathered: Tensor, class_weight: Tensor | None, smooth: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """(focal, Dice, their slopes by the sums) of this rank's sums [4, C] and all ranks' [ranks, 4 · C]."""
    C = sums.shape[1]
    focal, dice = (torch.empty((), dtype=dtype, device=sums.device) for _ in range(2))
    slopes = torch.empty_like(sums, memory_format=torch.contiguous_format)
    weight = sums if class_weight is None else class_weight.contiguous()
    launch(
        _losses_kernel, 1, sums.contiguous(), gathered.contiguous(), weight, focal, dice, slopes, len(gathered), C,
        C if weight.dim() == 2 else 0, smooth,
        HAS_CLASS_WEIGHT=class_weight is not None, BLOCK=max(triton.next_power_of_2(C), 64),
    )  # fmt: skip
    return focal, dice, slopes


def through_losses(grad_focal: Tensor, grad_dice: Tensor, slopes: Tensor) -> Tensor:
    gradient = torch.empty_like(slopes)
    C = slopes.shape[1]
    launch(_slopes_kernel, 1, grad_focal, grad_dice, slopes, gradient, C, BLOCK=max(triton.next_power_of_2(4 * C), 256))
    return gradient
