"""What happens to a sample between disk and batch.

transform    what an augmentation is: a frozen dataclass, called with a generator of its draw
geometry     flip and resize; crop: on the label first, then only those pixels of the image
photometric  colours; foreign: any torchvision v2 transform
pipeline     geometry once, then the colours of every view
presets      the published systems' pipelines
"""

from dgseg.data.augment.crop import Crop, Pad
from dgseg.data.augment.foreign import Torchvision
from dgseg.data.augment.geometry import Flip, Resize
from dgseg.data.augment.photometric import Colour, ColourJitter, GaussianBlur, PhotometricDistortion, distort
from dgseg.data.augment.pipeline import AUGMENTED, ORIGINAL, Pipeline
from dgseg.data.augment.presets import HRDA, BlindNet, DAFormer, Evaluation, RealTime, Streets
from dgseg.data.augment.transform import AnySample, Transform

__all__ = [
    "AUGMENTED",
    "HRDA",
    "ORIGINAL",
    "AnySample",
    "BlindNet",
    "Colour",
    "ColourJitter",
    "Crop",
    "DAFormer",
    "Evaluation",
    "Flip",
    "GaussianBlur",
    "Pad",
    "PhotometricDistortion",
    "Pipeline",
    "RealTime",
    "Resize",
    "Streets",
    "Torchvision",
    "Transform",
    "distort",
]
