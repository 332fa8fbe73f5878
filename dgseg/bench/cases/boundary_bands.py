"""Three-scale bands of a Cityscapes-sized label map, without and with ignored pixels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.bench import inputs
from dgseg.bench.case import OURS, Builder, Case, Contender, Floor, Size, Target
from dgseg.bench.cases import peers

RADII = (1, 2, 4)


def max_pool(labels: Tensor, ignored: bool) -> Tensor:
    """The widespread way: a maximum and a minimum filter per radius, in floating point."""
    values = labels[:, None].float()
    low = high = values
    if ignored:
        void = values == inputs.IGNORED
        high, low = values.masked_fill(void, -torch.inf), values.masked_fill(void, torch.inf)
    bands = torch.zeros_like(labels)
    for band in reversed(range(len(RADII))):
        r = RADII[band]
        largest = F.max_pool2d(high, 2 * r + 1, 1, r)
        smallest = -F.max_pool2d(-low, 2 * r + 1, 1, r)
        bands = torch.where((largest != smallest)[:, 0], band + 1, bands)
    return torch.where(labels == inputs.IGNORED, 0, bands) if ignored else bands


def opencv(cv2: Any, labels: Tensor, ignored: bool) -> Contender:
    """Six morphology calls and their comparisons; with ignored pixels, on two copies in which those lose against
    every class. Putting the three masks together is not timed."""
    maps = [image.numpy() for image in labels]
    kernels = [cv2.getStructuringElement(cv2.MORPH_RECT, (2 * r + 1, 2 * r + 1)) for r in RADII]

    def run() -> list[list[Any]]:
        found = []
        for image in maps:
            high = low = image
            if ignored:
                valid = cv2.compare(image, inputs.IGNORED, cv2.CMP_NE)
                high, low = cv2.bitwise_and(image, valid), cv2.bitwise_or(image, cv2.bitwise_not(valid))
            masks = [cv2.compare(cv2.dilate(high, k), cv2.erode(low, k), cv2.CMP_NE) for k in kernels]
            found.append([cv2.bitwise_and(mask, valid) for mask in masks] if ignored else masks)
        return found

    def outputs(found: list[list[Any]]) -> dict[str, Tensor]:
        bands = torch.zeros_like(labels)
        for image, masks in enumerate(found):
            for band in reversed(range(len(RADII))):
                bands[image][torch.from_numpy(masks[band]) != 0] = band + 1
        return {"bands": bands}

    return Contender("OpenCV", run, outputs)


def _case(device: torch.device, size: Size, ignored: bool) -> Case:
    images = 16 if device.type == "cuda" else 1  # more than a GPU's cache holds
    N, H, W = (images, 1024, 2048) if size == "table" else (2, 37, 70)
    labels = inputs.label_map(N, H, W, ignored=0.05 if ignored else 0.0).to(device)
    op = peers.operator("boundary_bands")

    def named(bands: Tensor) -> dict[str, Tensor]:
        return {"bands": bands}

    contenders = [Contender("max_pool2d", lambda: max_pool(labels, ignored), named)]
    notes = []
    if device.type == "cuda":
        compiled = peers.compiled(max_pool)
        contenders.append(Contender("torch.compile", lambda: compiled(labels, ignored), named))
        targets = [Target("speed", 2, "torch.compile"), Target("floor", 1 / 0.85)]
    else:
        if cv2 := peers.optional("cv2"):
            cv2.setNumThreads(torch.get_num_threads())
            contenders.insert(0, opencv(cv2, labels, ignored))
        else:
            notes.append("OpenCV is not installed and does not race")
        targets = [Target("speed", 3, "OpenCV")] if ignored else [Target("speed", 6, "OpenCV")]
        if not ignored:
            targets.append(Target("speed", 500, "max_pool2d"))
    return Case(
        op="boundary_bands",
        title=f"{N}x{H}x{W} uint8, radii {RADII}, {'5 % ignored in strips and blobs' if ignored else 'none ignored'}",
        ours=Contender(OURS, lambda: op(labels, RADII), named),
        peers=contenders,
        truth=lambda: named(op.reference(labels, RADII)),
        tolerances={"bands": 0.0},
        floor=Floor("labels read once, bands written once", bytes=2 * labels.numel()),
        targets=targets,
        notes=notes,
    )


CASES: list[Builder] = [
    lambda device, size: _case(device, size, ignored=False),
    lambda device, size: _case(device, size, ignored=True),
]
