"""Image files to files of what a model sees in them. Files are read and written by threads while the model works.

OUT/labels/a/b.png            class ids
OUT/overlays/a/b.png          the image tinted in the classes' colours
OUT/confidence/a/b.png        255 times the probability of the predicted class
OUT/entropy/a/b.png           255 times the entropy of the prediction over its largest value: black is certain
OUT/probabilities/a/b.npz     "probabilities", uint8 [C, H, W], 255 times the probability of every class. Most are 0
                              then and compress: 5 bytes per pixel of an uncertain model, instead of float16's 38.
"""

import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from dgseg.data.dataset import CorruptFile
from dgseg.data.decoding import read_image
from dgseg.data.labels import NUM_CLASSES, TRAIN_TO_CITYSCAPES
from dgseg.evaluation.pictures import overlay
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import predict_strips

Kind = Literal["labels", "overlays", "confidence", "entropy", "probabilities"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Existing = Literal["refuse", "skip", "replace"]

# What counts as an image in a folder; a file that is named itself may be anything that Pillow reads.
SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"))

_VALUES_AT_ONCE = 1 << 22  # probabilities in float32 that are in memory at a time


@dataclass(frozen=True)
class Job:
    image: Path
    outputs: dict[Kind, Path]


@dataclass(frozen=True)
class Plan:
    jobs: list[Job]
    skipped: int  # images whose outputs are all there


@dataclass(frozen=True)
class Settings:
    kinds: tuple[Kind, ...] = ("labels", "overlays")
    ids: Literal["train", "cityscapes"] = "train"
    window: int | None = 2048
    stride: int | None = None  # None: half a window
    windows_per_batch: int = 1
    autocast: torch.dtype | None = None


@dataclass(frozen=True)
class Outcome:
    done: int
    broken: list[CorruptFile]
    seconds: float


def plan(inputs: Sequence[Path], out: Path, kinds: Sequence[Kind], existing: Existing = "refuse") -> Plan:
    """Folders keep their structure below what all inputs have in common; of two images that differ in their suffix
    alone, a.jpg and a.png, both keep it: a.jpg.png and a.png.png."""
    images = list(dict.fromkeys(image for path in inputs for image in _images(path, out)))
    parents = [path if path.is_dir() else path.parent for path in inputs]
    root = Path(os.path.commonpath([os.path.abspath(parent) for parent in parents]))
    names = [image.relative_to(root) for image in images]
    stems = Counter(name.with_suffix("") for name in names)
    jobs = []
    for image, name in zip(images, names, strict=True):
        stem = name.with_suffix("") if stems[name.with_suffix("")] == 1 else name
        jobs.append(
            Job(image, {k: out / k / f"{stem}{'.npz' if k == 'probabilities' else '.png'}" for k in kinds}),
        )
    _refuse_clashes(jobs)
    there = [job for job in jobs if any(os.path.lexists(path) for path in job.outputs.values())]
    if existing == "refuse" and there:
        path = next(path for path in there[0].outputs.values() if os.path.lexists(path))
        raise ValueError(
            f"{path} is there already, as are outputs of {len(there) - 1} more of {len(jobs)} images; choose another "
            "folder, or say --existing replace, or --existing skip to go on where a run was stopped"
        )
    if existing == "replace":
        return Plan(jobs, 0)
    left = [job for job in jobs if not all(path.exists() for path in job.outputs.values())]
    return Plan(left, len(jobs) - len(left))


def predict_files(
    model: SegmentationModel,
    jobs: Sequence[Job],
    out: Path,
    settings: Settings,
    *,
    threads: int,
    complain: Callable[[CorruptFile], None],
    progress: Callable[[int], None],
) -> Outcome:
    """The model is where it should work, and in eval mode. A file that cannot be read is handed to `complain`, skipped
    and counted; whatever else goes wrong, a full disk or memory, ends the run."""
    device = next(model.parameters()).device
    broken: list[CorruptFile] = []
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        writing: deque[Future[None]] = deque()
        try:
            for place, (job, image) in enumerate(_loaded(pool, jobs, threads + 1)):
                if isinstance(image, CorruptFile):
                    broken.append(image)
                    complain(image)
                else:
                    with torch.autocast(device.type, settings.autocast, enabled=settings.autocast is not None):
                        maps = predict_maps(model, image, settings)
                    aside = out / f".writing-{os.getpid()}-{place}"
                    writing.append(pool.submit(_write, job, image, maps, settings.ids, aside))
                while len(writing) > threads:
                    writing.popleft().result()
                progress(1)
            for future in writing:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return Outcome(len(jobs) - len(broken), broken, time.perf_counter() - began)


def predict_maps(
    model: SegmentationModel, image: npt.NDArray[np.uint8], settings: Settings
) -> dict[Kind, npt.NDArray[np.uint8]]:
    """image [H, W, 3] -> what was asked for, at its size: train ids, or 255 times what the kind says."""
    device = next(model.parameters()).device
    height, width = image.shape[:2]
    # An overlay is made of labels.
    wanted: set[Kind] = {"labels" if kind == "overlays" else kind for kind in settings.kinds}
    maps: dict[Kind, npt.NDArray[np.uint8]] = {}
    for kind in wanted:
        planes = (model.num_classes,) if kind == "probabilities" else ()
        maps[kind] = np.empty((*planes, height, width), np.uint8)
    strips = predict_strips(
        model,
        torch.from_numpy(image).to(device).permute(2, 0, 1)[None],
        window=settings.window,
        stride=None if settings.window is None else settings.stride,
        windows_per_batch=settings.windows_per_batch,
    )
    for rows, logits in strips:
        top = rows.start
        for part in logits.split(max(1, _VALUES_AT_ONCE // (len(logits) * width)), 1):
            for kind, found in _reduced(part, wanted).items():
                maps[kind][..., top : top + part.shape[1], :] = found.cpu().numpy()
            top += part.shape[1]
    return maps


def _reduced(logits: Tensor, wanted: Collection[Kind]) -> dict[Kind, Tensor]:
    """logits [C, H, W]"""
    best, labels = logits.max(0)
    if bool(best.isnan().any()):
        raise ValueError("the model computes NaN; are its weights whole, and does it bear fp16?")
    found: dict[Kind, Tensor] = {"labels": labels.to(torch.uint8)}
    if any(kind != "labels" for kind in wanted):
        log_p = logits.log_softmax(0)
        p = log_p.exp()
        found["confidence"] = _byte(p.amax(0))
        found["entropy"] = _byte(-(p * log_p).nansum(0) / max(np.log(len(logits)), 1e-9))  # 0 · log 0 is 0
        found["probabilities"] = _byte(p)
    return {kind: found[kind] for kind in wanted}


def _byte(share: Tensor) -> Tensor:
    return (share * 255).round_().clamp_(0, 255).to(torch.uint8)


def _loaded(
    pool: ThreadPoolExecutor, jobs: Sequence[Job], ahead: int
) -> Iterator[tuple[Job, npt.NDArray[np.uint8] | CorruptFile]]:
    """In order; at most `ahead` images wait in memory."""
    loading: deque[tuple[Job, Future[npt.NDArray[np.uint8] | CorruptFile]]] = deque()
    waiting = iter(jobs)
    while True:
        while len(loading) < ahead and (job := next(waiting, None)) is not None:
            loading.append((job, pool.submit(_load, job.image)))
        if not loading:
            return
        job, future = loading.popleft()
        yield job, future.result()


def _load(path: Path) -> npt.NDArray[np.uint8] | CorruptFile:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            return CorruptFile(path, "is no file")
        image = read_image(path, oriented=True)
    except CorruptFile as error:
        return error
    except Exception as error:  # decoders meet damage in many ways
        return CorruptFile(path, f"cannot be read: {type(error).__name__}: {error}")
    return image if image.size else CorruptFile(path, "holds no pixel")


def _write(
    job: Job,
    image: npt.NDArray[np.uint8],
    maps: dict[Kind, npt.NDArray[np.uint8]],
    ids: Literal["train", "cityscapes"],
    aside: Path,
) -> None:
    """Written aside and renamed into place: a run that is stopped leaves no half a file, and a link to somewhere else
    is replaced, not followed."""
    try:
        for kind, path in job.outputs.items():
            with aside.open("wb") as file:
                if kind == "probabilities":
                    np.savez_compressed(file, probabilities=maps[kind])
                else:
                    Image.fromarray(_picture(kind, image, maps, ids)).save(file, "PNG", compress_level=1)
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise


def _picture(
    kind: Kind,
    image: npt.NDArray[np.uint8],
    maps: dict[Kind, npt.NDArray[np.uint8]],
    ids: Literal["train", "cityscapes"],
) -> npt.NDArray[np.uint8]:
    if kind == "overlays":
        return overlay(image, maps["labels"])
    if kind == "labels" and ids == "cityscapes":
        return TRAIN_TO_CITYSCAPES[maps["labels"]]
    return maps[kind]


def check(settings: Settings, num_classes: int) -> None:
    if unknown := sorted(set(settings.kinds) - set(KINDS)):
        raise ValueError(f"there is nothing called {', '.join(unknown)} to write; there are {', '.join(KINDS)}")
    if not settings.kinds:
        raise ValueError(f"name something to write: {', '.join(KINDS)}")
    if num_classes != NUM_CLASSES and settings.ids == "cityscapes":
        raise ValueError(f"Cityscapes' ids are those of its {NUM_CLASSES} classes; this model has {num_classes}")
    if num_classes > NUM_CLASSES and "overlays" in settings.kinds:
        raise ValueError(f"only {NUM_CLASSES} classes have colours, this model has {num_classes}: leave overlays out")


def _images(path: Path, out: Path) -> list[Path]:
    """Absolute, not resolved: links keep the names that they go by here."""
    path = Path(os.path.abspath(path.expanduser()))
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"there is no image and no folder at {path}")
    own = {os.path.realpath(out / kind) for kind in KINDS}
    found, seen = [], set()
    for place, folders, files in os.walk(path, onerror=_raise, followlinks=True):
        here = os.path.realpath(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        if here in own or here in seen:  # an earlier run's outputs; a link that leads back
            folders.clear()
            continue
        seen.add(here)
        found += [
            Path(place, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        ]
    if not found:
        raise ValueError(
            f"{path} holds no image; looked for {' '.join(sorted(SUFFIXES))} at any depth, hidden files and what "
            f"earlier runs wrote into {out} apart"
        )
    return sorted(found, key=_in_order)


def _in_order(path: Path) -> list[Any]:
    """frame2 before frame10."""
    pieces = re.split(r"([0-9]+)", str(path))
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)]


def _raise(error: OSError) -> None:
    raise error


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    inputs = {os.path.realpath(job.image) for job in jobs}
    written: dict[Path, Path] = {}
    for job in jobs:
        for path in job.outputs.values():
            if os.path.join(os.path.realpath(path.parent), path.name) in inputs:
                raise ValueError(f"{path} would be written over an image that is to be read; choose another folder")
            if path in written:
                raise ValueError(f"{written[path]} and {job.image} would both become {path}; predict them separately")
            written[path] = job.image
