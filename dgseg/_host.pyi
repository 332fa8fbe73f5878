"""The native module: csrc/host.cpp and csrc/*/host.cpp."""

import numpy as np
import numpy.typing as npt

def distort(
    image: npt.NDArray[np.uint8],
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    contrast_first: bool,
) -> npt.NDArray[np.uint8]: ...

class HardnessTable:
    def __init__(self, size: int, *, beta: float = 0.9, temperature: float = 1.0) -> None: ...
    def update(self, indices: npt.ArrayLike, losses: npt.ArrayLike) -> None: ...
    def draw(self, u: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]: ...
    def probabilities(self, indices: npt.ArrayLike) -> npt.NDArray[np.float64]: ...
    def standardise(self) -> None: ...
    def scores(self) -> npt.NDArray[np.float64]: ...
    def restore(self, scores: npt.NDArray[np.float64], scale: float, offset: float) -> None: ...
    def __len__(self) -> int: ...
    @property
    def seen(self) -> int: ...
    @property
    def mean(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def offset(self) -> float: ...
    @property
    def bytes(self) -> int: ...

def render_street(
    domain: int,
    seed: int,
    index: int,
    height: int,
    width: int,
    *,
    misalignment: float = 0.0,
    unknown: bool = False,
    image: bool = True,
    depth: bool = False,
    shift: int = 0,
    look: bool = False,
    paints: bool = False,
    pasted: npt.NDArray[np.uint8] | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None, npt.NDArray[np.float32] | None]: ...
