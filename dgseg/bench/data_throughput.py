"""Samples per second from packed data, beside what one would use instead: Pillow decodes 1914×1052 PNGs, they are
resized to 1280×720, and torchvision or albumentations crops 512×512, flips and distorts colours."""

import colorsys
import dataclasses
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgseg.bench.data_source import Pngs, write
from dgseg.bench.part import Part, Row
from dgseg.bench.timing import interleave
from dgseg.data import Box, Draw, LazySample
from dgseg.data.augment import ORIGINAL, Crop, DAFormer, Flip, PhotometricDistortion, distort
from dgseg.data.pack import Packed, Settings, pack
from dgseg.data.sample import generator

SIZE, CROP, BATCH = (720, 1280), (512, 512), 4
OURS = "dgseg, packed"
TARGET_RATE, TARGET_RATIO = 100.0, 5.0

Pair = tuple[Tensor, Tensor]  # image uint8 [3, H, W], label uint8 [H, W]
Contender = Callable[[int], Pair]  # of a draw's number


def run(quick: bool) -> Part:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(rounds=3, images=6, reads=200) if quick else _run(rounds=30, images=24, reads=2000)
    finally:
        torch.set_num_threads(threads)


def _run(rounds: int, images: int, reads: int) -> Part:
    with tempfile.TemporaryDirectory(prefix="dgseg-bench-") as folder:
        pngs = write(_made(Path(folder) / "png"), images)
        pack(pngs, Path(folder) / "packed", Settings(size=SIZE))
        packed = Packed(Path(folder) / "packed")
        contenders, absent = _contenders(pngs, packed)
        title = _title(pngs, packed)
        refused = _objection(pngs, packed, contenders)
        if refused:
            return Part("throughput", title, refused=refused)
        device = torch.device("cpu")
        batches = {name: _batches(contender) for name, contender in contenders.items()}
        for batch in batches.values():
            batch()
        times = interleave(batches, device, rounds)
        rows = _rates({name: BATCH / found.median for name, found in times.items()})
        parts = interleave(_parts(packed), device, rounds)
        rows += [Row(f"  {name}", 1e3 * found.median, "ms") for name, found in parts.items()]
        rows.append(Row(f"memory that {reads:,} reads leave behind", _epoch(contenders[OURS], reads) / 1e6, "MB", 10))
        return Part("throughput", title, rows, notes=[f"{name} does not race: {why}" for name, why in absent.items()])


def _title(pngs: Pngs, packed: Packed) -> str:
    image, label = pngs.bytes()
    stored = sum(entry["bytes"] for entry in packed.manifest["files"].values()) / len(packed)
    return (
        f"1280×720, crop 512, flip, photometric distortion; one thread; {len(pngs)} sources of 1914×1052: PNGs of "
        f"{image / 1e6:.2f} MB and {label / 1e3:.0f} kB, {stored / 1e3:.0f} kB packed"
    )


def _rates(rates: dict[str, float]) -> list[Row]:
    rows = [Row(name, rate, "samples/s") for name, rate in rates.items()]
    rows[0] = dataclasses.replace(rows[0], target=TARGET_RATE, at_least=True)
    usual = max(rate for name, rate in rates.items() if not name.startswith("dgseg"))
    return [*rows, Row("packed over the faster usual pipeline", rates[OURS] / usual, "×", TARGET_RATIO, at_least=True)]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _contenders(pngs: Pngs, packed: Packed) -> tuple[dict[str, Contender], dict[str, str]]:
    pipeline = DAFormer(SIZE, CROP).build()

    def ours(dataset: Pngs | Packed) -> Contender:
        def sample(number: int) -> Pair:
            draw = Draw(number, 0, number % len(dataset))
            found = pipeline(dataset.lazy(draw.index), generator(0, number), draw)[ORIGINAL]
            assert found.label is not None
            return found.image, found.label

        return sample

    contenders = {OURS: ours(packed), "dgseg, PNG": ours(pngs), "torchvision": _torchvision(pngs)}
    try:
        return contenders | {"albumentations": _albumentations(pngs)}, {}
    except ImportError as error:
        return contenders, {"albumentations": str(error)}


def _torchvision(pngs: Pngs) -> Contender:
    from PIL import Image
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.Resize(SIZE, antialias=True),
            v2.RandomCrop(CROP),
            v2.RandomHorizontalFlip(),
            v2.RandomPhotometricDistort(hue=(-0.1, 0.1), brightness=(0.875, 1.125), p=0.5),
        ]
    )

    def sample(number: int) -> Pair:
        image, label = (Image.open(path) for path in pngs.paths(number % len(pngs)))
        image, mask = transform(tv_tensors.Image(image), tv_tensors.Mask(np.array(label)))
        return image, mask

    return sample


def _albumentations(pngs: Pngs) -> Contender:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks a server for its newest version when it is imported
    import albumentations
    import cv2
    from PIL import Image

    cv2.setNumThreads(1)
    transform = albumentations.Compose(
        [
            albumentations.Resize(*SIZE),
            albumentations.RandomCrop(*CROP),
            albumentations.HorizontalFlip(p=0.5),
            albumentations.RandomBrightnessContrast(0.125, 0.5, p=0.5),
            albumentations.HueSaturationValue(18, 64, 0, p=0.5),
        ]
    )

    def sample(number: int) -> Pair:
        image, label = (np.array(Image.open(path)) for path in pngs.paths(number % len(pngs)))
        found = transform(image=image, mask=label)
        return torch.from_numpy(found["image"]).permute(2, 0, 1), torch.from_numpy(found["mask"])

    return sample


def _batches(contender: Contender) -> Callable[[], Pair]:
    numbers = itertools.count()

    def batch() -> Pair:
        pairs = [contender(next(numbers)) for _ in range(BATCH)]
        return torch.stack([image for image, _ in pairs]), torch.stack([label for _, label in pairs])

    return batch


def _parts(packed: Packed) -> dict[str, Callable[[], Any]]:
    """The steps of one sample, each on its own."""
    crop, draw = Crop(CROP), Draw(0, 0, 0)
    lazy = [packed.lazy(index) for index in range(len(packed))]
    numbers = itertools.count()
    boxes = [_chosen(crop, each, index) for index, each in enumerate(lazy)]
    samples = [each.crop(box) for each, box in zip(lazy, boxes, strict=True)]
    distortion = PhotometricDistortion()

    def turn() -> int:
        return next(numbers) % len(packed)

    return {
        "label: read and decode": lambda: packed.lazy(turn()),
        "choose a crop": lambda: _chosen(crop, lazy[n := turn()], n),
        "image: read and decode the crop": lambda: lazy[n := turn()].crop(boxes[n]),
        "flip": lambda: Flip(p=1.0)(samples[n := turn()], generator(0, n), draw),
        "photometric distortion": lambda: distortion(samples[n := turn()], generator(0, n), draw),
        f"collate {BATCH}": lambda: torch.stack([samples[turn()].image for _ in range(BATCH)]),
    }


def _chosen(crop: Crop, sample: LazySample, number: int) -> Box:
    """The box that a crop asks to be decoded."""
    asked: list[Box] = []

    def decode(box: Box) -> tuple[Tensor, dict[str, Tensor]]:
        asked.append(box)
        return torch.empty(3, 1, 1, dtype=torch.uint8).expand(3, box.height, box.width), {}

    crop(dataclasses.replace(sample, decode=decode), generator(0, number), Draw(number, 0, number))
    return asked[0]


def _objection(pngs: Pngs, packed: Packed, contenders: dict[str, Contender]) -> str | None:
    """Why no speed is reported: something computes something else."""
    for name, contender in contenders.items():
        image, label = contender(3)
        if image.shape != (3, *CROP) or label.shape != CROP or {image.dtype, label.dtype} != {torch.uint8}:
            return f"{name} gives {tuple(image.shape)} {image.dtype} and {tuple(label.shape)} {label.dtype}"
    whole = DAFormer(SIZE, SIZE, max_class_share=1.0, flip=0.0, distortion=0.0).build()
    for index in range(min(3, len(pngs))):
        source = whole(pngs[index], generator(0, 0), Draw(0, 0, index))[ORIGINAL]
        sample = packed[index]
        box = Box(101, 333, *CROP)
        if not torch.equal(packed.crop(index, box).image, sample.crop(box).image):
            return f"the crop of {sample.id} differs from its whole"
        if source.label is None or sample.label is None or not torch.equal(source.label, sample.label):
            return f"the packed label of {sample.id} differs"
        noise = (source.image.double() - sample.image.double()).square().mean().item()
        if noise > 255**2 / 10**3.5:
            return f"the packed image of {sample.id} is less than 35 dB from its source"
        if not all(torch.equal(a, b) for a, b in zip(contenders[OURS](index), contenders[OURS](index), strict=True)):
            return f"draw {index} gives other pixels the second time"
    return _distortion_objection(packed[0].image[:, ::37, ::41])


def _distortion_objection(image: Tensor) -> str | None:
    out = distort(image, brightness=20, contrast=1.3, saturation=0.7, hue=25, contrast_first=False)
    pixels = image.flatten(1).T.double().numpy()
    for before, after in zip(pixels, out.flatten(1).T.numpy(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*np.clip(before + 20, 0, 255) / 255)
        wanted = np.clip(1.3 * 255 * np.array(colorsys.hsv_to_rgb((h + 25 / 360) % 1, min(1, 0.7 * s), v)), 0, 255)
        if np.abs(wanted - after).max() > 1:
            return f"the photometric distortion makes {after} of {before}, not {wanted}"
    return None


def _epoch(contender: Contender, reads: int) -> int:
    """Bytes by which memory of the process's own grows; pages of files, which all processes share, are left out."""
    for number in range(reads // 10):
        contender(number)
    before = _anonymous()
    for number in range(reads):
        contender(number)
    return _anonymous() - before


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
