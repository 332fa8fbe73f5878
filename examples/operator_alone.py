"""One operator by itself: boundary bands of a label map, beside OpenCV's way and the plain-torch reference."""

import time

import cv2
import numpy as np

from dgseg.data import from_spec
from dgseg.ops import backends, boundary_bands

sample = from_spec("streets=city@test,size=512x1024")[0]
labels = sample.label[None]  # uint8 [N, H, W]
radii = (1, 2, 4)


def with_opencv(label: np.ndarray) -> np.ndarray:
    bands = np.zeros_like(label)
    for band, radius in reversed(list(enumerate(radii, start=1))):  # thinner bands last: they win
        kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
        bands[cv2.dilate(label, kernel) != cv2.erode(label, kernel)] = band
    return bands


bands = boundary_bands(labels, radii)
assert bool((bands == boundary_bands.reference(labels, radii)).all())
if not bool((labels == 255).any()):  # OpenCV knows no ignored pixels
    assert bool((bands[0].numpy() == with_opencv(labels[0].numpy())).all())

for name, function in (
    ("dgseg", lambda: boundary_bands(labels, radii)),
    ("OpenCV", lambda: with_opencv(labels[0].numpy())),
):
    function()
    start = time.perf_counter()
    for _ in range(20):
        function()
    print(f"{name:8}{(time.perf_counter() - start) / 20 * 1e3:8.2f} ms")
share = (bands > 0).float().mean().item()
print(f"{share:.1%} of the pixels lie in a band; served by: {backends('cpu')['boundary_bands']}")
