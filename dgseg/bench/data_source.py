"""Stand-ins for GTA5's files: 1914×1052 PNGs that compress about as badly as its frames (2.3 MB on average), with
label maps of a few hundred regions."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dgseg.data import Dataset, Sample

SIZE = (1052, 1914)
_CELLS = ((60, 26.0), (15, 10.0), (4, 5.0), (1, 0.9))  # pixels per cell of noise, its amplitude


class Pngs(Dataset):
    """Images and labels as providers ship them, decoded by Pillow."""

    name = "textures"
    domain = "textures"

    def __init__(self, root: Path, count: int) -> None:
        self.root, self.count = root, count

    def __len__(self) -> int:
        return self.count

    def id(self, index: int) -> str:
        return f"textures/{index:04d}"

    def paths(self, index: int) -> tuple[Path, Path]:
        return self.root / f"{index:04d}_image.png", self.root / f"{index:04d}_label.png"

    def __getitem__(self, index: int) -> Sample:
        from PIL import Image

        image, label = (np.array(Image.open(path)) for path in self.paths(index))
        return Sample(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label), self.id(index))

    def class_pixels(self) -> npt.NDArray[np.int64]:
        labels = (self[index].label for index in range(len(self)))
        return np.stack(
            [torch.bincount(each.flatten(), minlength=256)[:19].numpy() for each in labels if each is not None]
        )

    def bytes(self) -> tuple[float, float]:
        """Mean size of an image's and of a label's file."""
        pairs = [self.paths(index) for index in range(len(self))]
        images, labels = (sum(path.stat().st_size for path in each) / len(pairs) for each in zip(*pairs, strict=True))
        return images, labels


def write(root: Path, count: int) -> Pngs:
    from PIL import Image

    dataset = Pngs(root, count)
    for index in range(count):
        random = torch.Generator().manual_seed(index)
        image, label = scene(random)
        image_path, label_path = dataset.paths(index)
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(image_path)
        Image.fromarray(label.numpy()).save(label_path)
    return dataset


def _noise(random: torch.Generator, channels: int, cell: int) -> Tensor:
    small = torch.randn(1, channels, SIZE[0] // cell + 2, SIZE[1] // cell + 2, generator=random)
    return (
        interpolate(small, scale_factor=cell, mode="bilinear")[0, :, : SIZE[0], : SIZE[1]]
        if cell > 1
        else small[0, :, : SIZE[0], : SIZE[1]]
    )


def scene(random: torch.Generator) -> tuple[Tensor, Tensor]:
    likely = torch.linspace(1.0, -0.4, 19)[:, None, None]  # some classes are rare
    label = (_noise(random, 19, 120) + 0.3 * _noise(random, 19, 24) + 0.02 * _noise(random, 19, 6) + likely).argmax(0)
    # Greys with a tint, as most of a street is.
    colours = torch.randint(50, 206, (19, 1), generator=random) + 25.0 * torch.randn(19, 3, generator=random)
    image = colours[label].permute(2, 0, 1)
    for cell, amplitude in _CELLS:
        image = image + amplitude * (_noise(random, 1, cell) + 0.3 * _noise(random, 3, cell))
    return image.clamp(0, 255).to(torch.uint8), label.to(torch.uint8)
