"""The native module: csrc/host.cpp and csrc/*/host.cpp."""

import numpy as np
import numpy.typing as npt

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
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None, npt.NDArray[np.float32] | None]: ...
