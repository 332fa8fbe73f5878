"""A dataset of PNG files, small enough for tests: what packing starts from."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dgseg.data import Dataset, Sample


class Folder(Dataset):
    name = "folder"
    domain = "folder"

    def __init__(self, root: Path, count: int) -> None:
        self.root, self.count = root, count

    def __len__(self) -> int:
        return self.count

    def id(self, index: int) -> str:
        return f"folder/{index:05d}"

    def __getitem__(self, index: int) -> Sample:
        image = np.array(Image.open(self.root / f"image_{index:05d}.png"))
        label = torch.from_numpy(np.array(Image.open(self.root / f"label_{index:05d}.png")))
        depth = label.float() / 7 + torch.arange(label.shape[1])
        return Sample(torch.from_numpy(image).permute(2, 0, 1), label, self.id(index), {"depth": depth})

    def class_pixels(self) -> npt.NDArray[np.int64]:
        return np.stack([np.bincount(self[i].label.flatten(), minlength=256)[:19] for i in range(len(self))])


def write_folder(root: Path, count: int, size: tuple[int, int]) -> Folder:
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(3)
    for index in range(count):
        blocks = rng.integers(0, 6, (size[0] // 10 + 1, size[1] // 10 + 1), np.uint8)
        label = blocks.repeat(10, 0).repeat(10, 1)[: size[0], : size[1]]
        noise = rng.normal(0, 6, (*size, 3))
        image = np.clip(label[..., None] * np.array([40, 20, 30]) + 30 + noise, 0, 255).astype(np.uint8)
        label[blocks.repeat(10, 0).repeat(10, 1)[: size[0], : size[1]] == 5] = 255
        Image.fromarray(image).save(root / f"image_{index:05d}.png")
        Image.fromarray(label).save(root / f"label_{index:05d}.png")
    return Folder(root, count)
