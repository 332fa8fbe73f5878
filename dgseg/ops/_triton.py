"""What the losses' Triton kernels share: tiles of logits, where bilinear upsampling reads, how programs are cut.

Legend: N images, C classes, h×w logits, H×W labels; a *tile* is [classes, pixels] in registers. C classes are held as
two tiles of HEAD and TAIL classes, powers of two (19 = 16 + 4 with one padded), because one power of two would waste
up to half of the arithmetic.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"

import torch
import triton
import triton.language as tl
from torch import Tensor

COMPUTE_TYPES = {torch.float32: tl.float32, torch.float64: tl.float64}
FILLING = 1024  # programs that keep every multiprocessor of a large GPU busy


def launch(kernel, programs: int, *args, warps: int = 4, **constants) -> None:
    if programs > 0:
        kernel[(programs,)](*args, num_warps=warps, **constants)


def split_classes(classes: int) -> dict[str, int]:
    """Four at least, so that few classes do not compile a kernel for each number of them."""
    head = max(triton.next_power_of_2(max(classes // 2, 1)), 4)
    if 2 * head < classes:
        head *= 2
    return {"HEAD": head, "TAIL": max(triton.next_power_of_2(max(classes - head, 1)), 4)}


def pixels_per_program(split: dict[str, int], elements: int, dtype: torch.dtype) -> int:
    """A power of two: as many pixels as keep a [classes, pixels] tile of `elements` floats in registers."""
    fitting = elements // (split["HEAD"] + split["TAIL"]) // (4 if dtype == torch.float64 else 1)
    return int(min(max(triton.next_power_of_2(fitting + 1) // 2, 16), 512))


def full_size_elements(logits: Tensor) -> int:
    # Where pixels are neighbours in memory a thread loads four at a time: 80 floats of its 255 registers. Where they
    # are not (channels_last), each element costs an address besides.
    return 10240 if logits.stride(3) == 1 else 2560


def rows_follow(*tensors: Tensor) -> bool:
    """Whether pixel y·W + x of an image lies at (y·W + x)·stride(3): contiguous and channels_last tensors."""
    return all(t.stride(2) == t.shape[3] * t.stride(3) for t in tensors)


LANES = 16  # cells of a strip: half a warp, so that a pixel's label, weights and statistics are read by two threads


def strips_of(height: int, width: int, programs: int) -> tuple[int, int, int]:
    """How the transposed upsampling is cut: (blocks of cells, strips, rows of a strip); `programs` run each of them.
    Every strip computes one row of cells more than it stores, every block one cell more: half as many programs as
    elsewhere fill a GPU, because their registers leave room for few at a time, and each of them runs long."""
    blocks = triton.cdiv(width, LANES - 1)
    rows = 8
    while rows > 1 and programs * blocks * triton.cdiv(height, rows) < FILLING // 2:
        rows //= 2
    return blocks, triton.cdiv(height, rows), rows


def warps_of_strip(split: dict[str, int], dtype: torch.dtype) -> int:
    """A thread keeps about sixteen numbers for each of its classes: ten classes of float32 fit its registers."""
    classes = (split["HEAD"] + split["TAIL"]) * (2 if dtype == torch.float64 else 1)
    return int(min(triton.next_power_of_2(triton.cdiv(classes, 20)), 8))


def planar(logits: Tensor) -> Tensor:
    """Low-resolution logits are small beside what is made of them, and are read once per corner: where pixels are not
    neighbours in memory (channels_last), a copy in which they are costs less than reading them as they lie."""
    return logits if logits.stride(3) == 1 or logits.numel() == 0 else logits.contiguous()


def index_type(small: int, large: int):
    return tl.int32 if 4 * (small + 1) * (large + 1) < 2**31 else tl.int64


@triton.jit
def read_label(labels, at, mask, C, ignore_index):
    """Labels as int32, -1 where they are ignored or no class: out-of-range values are harmless here."""
    label = tl.load(labels + at, mask=mask, other=0).to(tl.int64)
    valid = mask & (label != ignore_index) & (label >= 0) & (label < C)
    return tl.where(valid, label, -1).to(tl.int32), valid


@triton.jit
def read_tile(pointers, classes, C, mask, stride_c, OTHER: tl.constexpr, COMPUTE: tl.constexpr):
    """logits of `classes` at per-pixel pointers; OTHER where there is no such class or pixel."""
    inside = (classes < C)[:, None] & mask[None, :]
    offset = classes.to(tl.int64) * stride_c
    tile = tl.load(pointers[None, :] + offset[:, None], mask=inside, other=0).to(COMPUTE)
    return tl.where(inside, tile, OTHER)


@triton.jit
def source_of(position, small, large, INDEX: tl.constexpr, COMPUTE: tl.constexpr):
    """Where bilinear upsampling (align_corners=False) from `small` to `large` samples reads for `position`: the lower
    index and the weight of the upper one. Exact in integers; the last index has no upper neighbour."""
    doubled = tl.maximum((2 * tl.cast(position, INDEX) + 1) * small - large, 0)
    index = doubled // (2 * large)
    fraction = (doubled - index * (2 * large)).to(COMPUTE) / tl.cast(2 * large, COMPUTE)
    return index.to(tl.int32), tl.where(index < small - 1, fraction, 0.0)


@triton.jit
def weight_in(position, index, small, large, INDEX: tl.constexpr, COMPUTE: tl.constexpr):
    """The weight of the upper index for a `position` whose lower one is known: no division of integers."""
    doubled = tl.maximum((2 * tl.cast(position, INDEX) + 1) * small - large, 0)
    part = (doubled - tl.cast(index, INDEX) * (2 * large)).to(COMPUTE)
    return tl.where(index < small - 1, part * (1.0 / tl.cast(2 * large, COMPUTE)), 0.0)


@triton.jit
def first_of(index, small, large, INDEX: tl.constexpr):
    """The first of `large` positions whose lower source index is at least `index` (`large` where there is none)."""
    index = tl.cast(index, INDEX)
    position = ((2 * index + 1) * large + small - 1) // (2 * small)
    return tl.where(index <= 0, 0, tl.minimum(position, large)).to(tl.int32)


@triton.jit
def mix(lower, upper, weight):
    return lower + weight * (upper - lower)


@triton.jit
def mixed_columns(row, left, right, weight, classes, C, mask, stride_c, COMPUTE: tl.constexpr):
    """One row of low-resolution logits, interpolated to full-resolution columns; padded classes are very small."""
    lower = read_tile(row + left, classes, C, mask, stride_c, 0.0, COMPUTE)
    upper = read_tile(row + right, classes, C, mask, stride_c, 0.0, COMPUTE)
    # Not -inf: the difference of two rows of it would be NaN.
    return tl.where((classes < C)[:, None], mix(lower, upper, weight[None, :]), -1e30)


@triton.jit
def store_row(pointers, own, from_left, lane, mask, classes, last, stride_c):
    """Adds to each column what the cell at its left sends it, which the lane before has."""
    before = tl.maximum(lane - 1, 0)[None, :] + tl.zeros_like(classes)[:, None]
    g = own + tl.gather(from_left, before, 1)
    pointers = pointers[None, :] + (classes.to(tl.int64) * stride_c)[:, None]
    tl.store(pointers, g.to(pointers.dtype.element_ty), mask=(classes < last)[:, None] & mask[None, :])


def new_like(logits: Tensor, *shape: int) -> Tensor:
    compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return torch.empty(shape, dtype=compute, device=logits.device)
