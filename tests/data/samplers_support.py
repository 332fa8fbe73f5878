"""Small data sets whose every pixel says where it came from."""

import numpy as np
import torch

from dgseg.data.dataset import CorruptFile, Dataset
from dgseg.data.sample import Sample


class Squares(Dataset):
    """Sample i is an image full of i, with class i % classes in all of its label."""

    def __init__(self, size, name="squares", *, classes=5, side=8, corrupt=()):
        self.size, self.name, self.domain, self.num_classes, self.side = size, name, name, classes, side
        self.corrupt = frozenset(corrupt)

    def __len__(self):
        return self.size

    def id(self, index):
        return f"{self.name}/{index}"

    def __getitem__(self, index):
        if index in self.corrupt:
            raise CorruptFile(f"{self.name}/{index}.png", "is cut off")
        image = torch.full((3, self.side, self.side), index % 251, dtype=torch.uint8)
        label = torch.full((self.side, self.side), index % self.num_classes, dtype=torch.uint8)
        return Sample(image, label, self.id(index))

    def class_pixels(self):
        counts = np.zeros((self.size, self.num_classes), np.int64)
        counts[np.arange(self.size), np.arange(self.size) % self.num_classes] = self.side**2
        return counts


def noisy(sample, rng, draw):
    """Two views of the sample, with noise of their own."""
    noise = [torch.from_numpy(rng.integers(0, 256, sample.image.shape).astype(np.uint8)) for _ in range(2)]
    return {
        "original": Sample(sample.image ^ noise[0], sample.label, sample.id),
        "augmented": Sample(sample.image ^ noise[1], sample.label, sample.id),
    }
