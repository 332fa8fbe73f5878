"""How many pixels of each class a dataset's labels hold: counted once by a pool of processes, then cached."""

import os
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from dgseg.data.dataset import CorruptFile, DataError, Dataset, DataWarning
from dgseg.data.labels import NUM_CLASSES
from dgseg.data.parallel import each

if TYPE_CHECKING:
    from dgseg.data.files import FileDataset

TOLERATED = 1e-3  # share of unreadable labels that are counted as empty


def cache_folder() -> Path:
    return Path(os.environ.get("DGSEG_CACHE") or "~/.cache/dgseg").expanduser()


def count(label: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """[256]: pixels of every value."""
    return np.bincount(label.reshape(-1), minlength=256)


def class_pixels(
    dataset: "FileDataset", *, workers: int | None = None, progress: Callable[[int], None] | None = None
) -> npt.NDArray[np.int64]:
    """[len(dataset), NUM_CLASSES], from the cache where the label files are those that were counted."""
    if not dataset.labels:
        raise DataError(f"{dataset.name}/{dataset.split} was opened with labels=False: there are no classes to count")
    cached = cached_class_pixels(dataset)
    if cached is not None:
        return cached
    rows = each(_Counter(dataset), len(dataset), workers=workers, progress=progress)
    bad = [str(row) for row in rows if isinstance(row, CorruptFile)]
    counts = np.stack([np.zeros(NUM_CLASSES, np.int64) if isinstance(row, CorruptFile) else row for row in rows])
    if bad:
        text = (
            f"{dataset.name}/{dataset.split}: {len(bad)} of {len(rows)} labels cannot be read: {'; '.join(bad[:3])}; "
            f"find them all with `dgseg data check {dataset.name} {dataset.root} --quarantine bad.txt`"
        )
        if len(bad) > TOLERATED * len(rows):
            raise DataError(text)
        warnings.warn(text, DataWarning, stacklevel=2)
    else:
        store_class_pixels(dataset, counts)
    return counts


def cached_class_pixels(dataset: "FileDataset") -> npt.NDArray[np.int64] | None:
    return read_cached(_cache_file(dataset), len(dataset))


def store_class_pixels(dataset: "FileDataset", counts: npt.NDArray[np.int64]) -> None:
    write_cached(_cache_file(dataset), counts)


def read_cached(path: Path, rows: int) -> npt.NDArray[np.int64] | None:
    try:
        with np.load(path) as stored:
            counts: npt.NDArray[np.int64] = stored["pixels"].astype(np.int64)
        if counts.shape != (rows, NUM_CLASSES):
            raise ValueError(f"{counts.shape} numbers instead of {(rows, NUM_CLASSES)}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        warnings.warn(f"{path} is damaged ({error}); counting again", DataWarning, stacklevel=2)
        return None
    return counts


def write_cached(path: Path, counts: npt.NDArray[np.int64]) -> None:
    """Hours of counting are not thrown away because they cannot be kept."""
    aside = path.with_suffix(f".{uuid4().hex}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(aside, pixels=counts.astype(np.uint32))
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        warnings.warn(
            f"{path.parent}: {error.strerror}: class frequencies cannot be kept there and will be counted again; let "
            "DGSEG_CACHE name a folder that you may write",
            DataWarning,
            stacklevel=2,
        )


def shares(dataset: Dataset) -> npt.NDArray[np.float64]:
    """The share of each class in all pixels that have one."""
    total = dataset.class_pixels().sum(0)
    if not total.any():
        raise DataError(f"{dataset.name}: its labels name no classes, only what is out of distribution")
    return np.asarray(total / total.sum())


def _cache_file(dataset: "FileDataset") -> Path:
    return cache_folder() / "class_pixels" / f"{dataset.name}-{dataset.split}-{dataset.labels_digest()}.npz"


class _Counter:
    def __init__(self, dataset: "FileDataset") -> None:
        self.dataset = dataset

    def __call__(self, index: int) -> npt.NDArray[np.int64] | CorruptFile:
        try:
            return count(self.dataset.read_label(index)[0])[:NUM_CLASSES]
        except CorruptFile as error:
            return error
