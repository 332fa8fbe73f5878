"""The published systems' augmentations: each a configuration whose `build` makes the pipeline. Sizes are (height,
width). `size` is the resolution to train at: images that have it already, as packed ones do, are not resized."""

from dataclasses import dataclass

from dgseg.data.augment.crop import Crop
from dgseg.data.augment.geometry import Flip, Resize
from dgseg.data.augment.photometric import ColourJitter, GaussianBlur, PhotometricDistortion
from dgseg.data.augment.pipeline import AUGMENTED, ORIGINAL, Pipeline
from dgseg.data.augment.transform import Transform

Size = tuple[int, int]


@dataclass(frozen=True)
class DAFormer:
    """DAFormer and FLEX-Seg: crops in which no class takes more than three quarters and the wanted one shows."""

    size: Size | None = (720, 1280)  # None: as they come
    crop: Size = (512, 512)
    max_class_share: float = 0.75
    wanted_pixels: int = 1500  # 3000 · 0.5
    tries: int = 10
    flip: float = 0.5
    distortion: float = 1.0

    def build(self) -> Pipeline:
        crop = Crop(self.crop, max_class_share=self.max_class_share, wanted_pixels=self.wanted_pixels, tries=self.tries)
        return Pipeline(
            (*((Resize(self.size),) if self.size else ()), crop, Flip(self.flip)),
            {ORIGINAL: (PhotometricDistortion(p=self.distortion),)},
        )


@dataclass(frozen=True)
class HRDA(DAFormer):
    """The same at twice the side; an object then has four times the pixels."""

    size: Size | None = (1440, 2560)
    crop: Size = (1024, 1024)
    wanted_pixels: int = 6000


@dataclass(frozen=True)
class Streets(DAFormer):
    """The default job on the streets world, whose scenes are 256×512 unless asked otherwise."""

    size: Size | None = None
    crop: Size = (192, 384)
    wanted_pixels: int = 100


@dataclass(frozen=True)
class BlindNet:
    """Two views over one geometry: scaled by half to two, and cropped around the wanted class. Without the pair there
    is the original view alone, which the baselines (plain, IBN-Net, IW and IRW) train on."""

    crop: Size = (768, 768)
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    blur: tuple[float, float] = (0.15, 1.3)
    original: float = 0.5  # how often the original view is jittered, mildly
    pair: bool = True

    def build(self) -> Pipeline:
        crop = Crop(self.crop, self.scale, max_class_share=1.0, around_wanted=True)
        blur = GaussianBlur(self.blur)
        views: dict[str, tuple[Transform, ...]] = {ORIGINAL: (ColourJitter(0.4, 0.4, 0.4, 0.1, p=self.original), blur)}
        if self.pair:
            views[AUGMENTED] = (ColourJitter(0.8, 0.8, 0.8, 0.3, p=1.0), blur)
        return Pipeline((crop, Flip(self.flip)), views)


@dataclass(frozen=True)
class RealTime:
    """Flip, jitter and crop, each with a probability of its own. A crop is resized back to the frame, so that a batch
    holds cropped and uncropped images."""

    size: Size = (720, 1280)
    flip: float = 0.5
    jitter: float = 0.5
    crop: float = 0.5
    largest_scale: float = 2.0
    strength: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue

    def build(self) -> Pipeline:
        crop = Crop(self.size, (1.0, self.largest_scale), max_class_share=1.0, p=self.crop)
        return Pipeline(
            (Resize(self.size), crop, Flip(self.flip)), {ORIGINAL: (ColourJitter(*self.strength, p=self.jitter),)}
        )


@dataclass(frozen=True)
class Evaluation:
    """Nothing random. The image fits into `size`; the label keeps the resolution at which scores are taken."""

    size: Size | None = (512, 1024)  # None: as they come
    keep_ratio: bool = True

    def build(self) -> Pipeline:
        return Pipeline((Resize(self.size, keep_ratio=self.keep_ratio, image_only=True),) if self.size else ())
