"""From disk to batches: label spaces, datasets, the streets world, augmentation, samplers, packing.

dataset  index -> Sample        files of a provider's layout, the streets world, packed shards; open_dataset, from_spec
sampler  step  -> [Draw]        which samples the next global batch holds
pipeline Sample, Generator, Draw -> {view: Sample}
Loader   all three -> Batch
"""

from dgseg.data.dataset import Dataset
from dgseg.data.datasets import from_spec, open_dataset
from dgseg.data.loader import Loader, Target
from dgseg.data.sample import Batch, Box, Draw, LazySample, Sample

__all__ = [
    "Batch",
    "Box",
    "Dataset",
    "Draw",
    "LazySample",
    "Loader",
    "Sample",
    "Target",
    "from_spec",
    "open_dataset",
]
