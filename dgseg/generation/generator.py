"""Label map and prompt in, image out: the streets renderer, a command of one's own, or a Python function."""

import importlib
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from dgseg.data.dataset import DataError, Dataset
from dgseg.data.labels import coloured
from dgseg.data.streets import Streets, StreetsPairs

Map = npt.NDArray[np.uint8]  # [H, W]
Pixels = npt.NDArray[np.uint8]  # [H, W, 3]


@dataclass(frozen=True)
class Request:
    """An image that shows this label map, as the prompt says, and is a function of the seed."""

    label: Map  # train ids, 254 where an object of no class stands, 255 void
    objects: Map  # 0, or the number of the object
    prompt: str
    seed: int  # 0 to 2^31 - 1
    index: int  # of the sample that the label map comes from


class Generator(Protocol):
    def __call__(self, request: Request) -> Pixels: ...


class Function:
    """function(label, prompt, seed) -> uint8 [H, W, 3], at any size."""

    def __init__(self, function: Callable[[Map, str, int], Pixels]) -> None:
        self.function = function

    def __call__(self, request: Request) -> Pixels:
        return _fitted(self.function(request.label, request.prompt, request.seed), request.label.shape, "the function")


@dataclass(frozen=True)
class Command:
    """A program that is run once per image. In its words {label} stands for a PNG with the train ids, {colours} for one
    in Cityscapes' colours, {out} for the PNG to write, {prompt} and {seed} for themselves."""

    words: str
    timeout: float = field(default=600.0)

    def __post_init__(self) -> None:
        if "{out}" not in self.words or not ("{label}" in self.words or "{colours}" in self.words):
            raise ValueError(f"the command {self.words!r} must say {{out}}, and {{label}} or {{colours}}")

    def __call__(self, request: Request) -> Pixels:
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: str(Path(folder, f"{name}.png")) for name in ("label", "colours", "out")}
            Image.fromarray(request.label).save(paths["label"])
            Image.fromarray(coloured(request.label)).save(paths["colours"])
            known = {**paths, "prompt": request.prompt, "seed": str(request.seed)}
            # Word by word and without a shell: a prompt stays one word, whatever it holds.
            words = [_filled(word, known) for word in shlex.split(self.words)]
            try:
                done = subprocess.run(words, capture_output=True, text=True, timeout=self.timeout, check=False)
            except (OSError, subprocess.TimeoutExpired) as error:
                raise DataError(f"the generator {words[0]} did not run: {error}") from error
            if done.returncode or not Path(paths["out"]).is_file():
                last = (done.stderr or done.stdout).strip().splitlines()[-1:]
                raise DataError(
                    f"the generator {words[0]} ended with status {done.returncode} and "
                    f"{'an' if Path(paths['out']).is_file() else 'no'} image: {' '.join(last) or 'it said nothing'}"
                )
            with Image.open(paths["out"]) as image:
                return _fitted(np.asarray(image.convert("RGB")), request.label.shape, words[0])


class StreetsRenderer:
    """Draws the streets world's own scenes again; the look is a function of the seed, and prompts are not read."""

    def __init__(self, source: Dataset, shift: str = "coherent") -> None:
        if not isinstance(source, Streets):
            raise DataError(
                f"the streets renderer draws scenes of the streets world, not label maps of {source.name}: give "
                "another generator for those"
            )
        self.pairs = StreetsPairs(
            source.domain,
            source.split,
            shift=shift,
            size=source.size,
            seed=source.seed,
            misalignment=source.misalignment,
            length=len(source),
        )
        if shift in ("either", "covariate"):
            raise ValueError(
                f"shift={shift} leaves objects out, and here every image has one: semantic, both, coherent"
            )

    def __call__(self, request: Request) -> Pixels:
        label, image = self.pairs.redraw(request.index, request.seed, self.pairs.shift, request.objects)
        assert (label == request.label).all()
        return np.ascontiguousarray(image.transpose(1, 2, 0))


def function_named(name: str) -> Callable[..., object]:
    """module:function."""
    module, found, attribute = name.partition(":")
    if not found:
        raise ValueError(f"{name!r} names no Python function: write module:function")
    try:
        function: Callable[..., object] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be found: {error}") from error
    return function


def _filled(word: str, known: dict[str, str]) -> str:
    for name in ("label", "colours", "out", "seed"):
        word = word.replace(f"{{{name}}}", known[name])
    return word.replace("{prompt}", known["prompt"])


def _fitted(pixels: object, size: tuple[int, ...], who: str) -> Pixels:
    image = np.asarray(pixels)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(f"{who} gave {image.dtype} {list(image.shape)}; an image is uint8 [H, W, 3]")
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))
