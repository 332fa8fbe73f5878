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
