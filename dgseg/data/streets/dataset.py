"""Scenes of the streets world as a Dataset; the renderer is csrc/streets."""

import hashlib
import operator
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dgseg import _host
from dgseg.data.dataset import DataError, Dataset
from dgseg.data.labels import NUM_CLASSES
from dgseg.data.sample import Sample
from dgseg.data.statistics import cache_folder, read_cached, write_cached
from dgseg.data.streets.domains import ADAPTATION, DEFAULT_LENGTHS, DOMAINS, SOURCES, SPLITS, check_rules

MOST_MISALIGNMENT = 64.0


class Streets(Dataset):
    """`length` scenes of one domain's split; domains.py says which may be drawn from.

    Args:
        domain: game or generated to train on; city, country, suburb, fog, rain, snow, night to be scored on; dusk to
            select on.
        split: train, val or test.
        size: height and width in pixels. The view is made for 1:2; other shapes see a part of it, or more.
        seed: another world of the same kind.
        misalignment: pixels by which a source's images stray from their labels, which stay the plan.
        use: what a target's train range is wanted for: "oracle" (with labels) or "adaptation" (without).
        length: scenes; the default is 4000 to train, 100 to validate, 200 to test.
        unknown: put one to three objects of no training class on the road, labelled 254.
        depth: also give the depth map, in metres, as `extra["depth"]`; 0 is the sky.
    """

    name = "streets"
    component_pixels = 1280 * 720

    def __init__(
        self,
        domain: str,
        split: str = "test",
        *,
        size: tuple[int, int] = (256, 512),
        seed: int = 0,
        misalignment: float = 0.0,
        use: str | None = None,
        length: int | None = None,
        unknown: bool = False,
        depth: bool = False,
    ) -> None:
        check_rules(domain, split, use)
        if depth and use == ADAPTATION:
            raise DataError(f"{domain} is used without labels here, and depth is one: no camera gives it. Leave it out")
        if len(size) != 2 or not all(1 <= side <= 16384 for side in size):
            raise DataError(f"size must be (height, width), each 1 to 16384; it is {size!r}")
        if not 0 <= misalignment <= MOST_MISALIGNMENT:
            raise DataError(f"misalignment must be 0 to {MOST_MISALIGNMENT:g} pixels; it is {misalignment}")
        if misalignment and domain not in SOURCES:
            raise DataError(
                f"misalignment is for the sources ({', '.join(SOURCES)}); {domain} is what they are judged by"
            )
        if not 0 <= seed < 2**64:
            raise DataError(f"seed must be 0 to 2^64 - 1; it is {seed}")
        scenes = SPLITS[split]
        if length is None:
            length = DEFAULT_LENGTHS[split]
        if not 1 <= length <= len(scenes):
            raise DataError(f"length must be 1 to {len(scenes)}, the scenes that {split} has; it is {length}")
        self.domain = domain
        self.split = split
        self.size = (operator.index(size[0]), operator.index(size[1]))
        self.seed = seed
        self.misalignment = float(misalignment)
        self.labelled = use != ADAPTATION
        self.unknown = unknown
        self.depth = depth
        self.scenes = scenes[:length]

    def __len__(self) -> int:
        return len(self.scenes)

    def id(self, index: int) -> str:
        variant = f"@{self.misalignment:g}px" if self.misalignment else ""
        variant += "+unknown" if self.unknown else ""
        return f"streets/{self.domain}{variant}/{self.seed}/{self.scenes[index]}"

    def __getitem__(self, index: int) -> Sample:
        label, image, depth = self._render(index, image=True, depth=self.depth)
        assert image is not None
        return Sample(
            image=torch.from_numpy(image),
            label=torch.from_numpy(label) if self.labelled else None,
            id=self.id(index),
            extra={} if depth is None else {"depth": torch.from_numpy(depth)},
        )

    def class_pixels(self) -> npt.NDArray[np.int64]:
        if not self.labelled:
            raise DataError(f"{self.domain} is used without labels here: there are no classes to count")
        path = self._cache_file()
        cached = read_cached(path, len(self))
        if cached is not None:
            return cached
        # The renderer lets go of the interpreter, so threads do.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            counts = np.stack(list(pool.map(self._count, range(len(self)))))
        write_cached(path, counts)
        return counts

    def _render(
        self, index: int, *, image: bool, depth: bool = False
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None, npt.NDArray[np.float32] | None]:
        height, width = self.size
        rendered: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None, npt.NDArray[np.float32] | None]
        rendered = _host.render_street(
            DOMAINS.index(self.domain),
            self.seed,
            self.scenes[index],
            height,
            width,
            misalignment=self.misalignment,
            unknown=self.unknown,
            image=image,
            depth=depth,
        )
        return rendered

    def _count(self, index: int) -> npt.NDArray[np.int64]:
        label, _, _ = self._render(index, image=False)
        return np.bincount(label.ravel(), minlength=256)[:NUM_CLASSES]

    def _cache_file(self) -> Path:
        # The first and the last scene stand for the renderer: counts of another world are not taken for this one's.
        digest = hashlib.sha256()
        for index in (0, len(self) - 1):
            digest.update(self._render(index, image=False)[0].tobytes())
        height, width = self.size
        name = f"streets-{self.domain}-{self.split}-{self.seed}-{height}x{width}-{len(self)}"
        variant = "-unknown" if self.unknown else ""
        return cache_folder() / "class_pixels" / f"{name}{variant}-{digest.hexdigest()[:16]}.npz"
