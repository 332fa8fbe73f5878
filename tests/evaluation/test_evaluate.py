"""evaluate against the official arithmetic written here in whole numbers, over ranks, sizes, and damaged files."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn

from dgseg.data import Dataset, Sample
from dgseg.data.dataset import CorruptFile
from dgseg.evaluation import PROTOCOLS, Evaluation, evaluate
from dgseg.evaluation.evaluate import EXTRAS
from dgseg.models import build
from dgseg.models.base import SegmentationModel
from dgseg.models.prediction import Prediction

NATIVE = PROTOCOLS["native"]


class Colours(SegmentationModel):
    """A model that is right where colours say so: logits at a quarter of the size, by the image's own pixels."""

    multiple, minimum = 4, 4

    def __init__(self, num_classes: int = 19, own: bool = False) -> None:
        super().__init__(num_classes)
        self.head = nn.Conv2d(3, num_classes, 1)
        self.own = own
        nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(3))

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        logits = self.head(F.avg_pool2d(images, 4))
        return Prediction(logits, {}, [], {"uncertainty": logits.amax(1) - logits[:, 0]} if self.own else {})


class Pixels(Dataset):
    """Random images and labels of the sizes given; an index in `broken` cannot be read."""

    name = domain = "pixels"

    def __init__(self, sizes: Sequence[tuple[int, int]], broken: Sequence[int] = (), domain: str = "pixels") -> None:
        self.sizes, self.broken, self.domain = list(sizes), frozenset(broken), domain

    def __len__(self) -> int:
        return len(self.sizes)

    def id(self, index: int) -> str:
        return f"{self.domain}/{index}"

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise CorruptFile(f"/data/{index}.png", "is no picture")
        g = torch.Generator().manual_seed(index)
        height, width = self.sizes[index]
        label = torch.randint(0, 19, (height, width), generator=g, dtype=torch.uint8)
        label[torch.rand(label.shape, generator=g) < 0.1] = 255
        label[torch.rand(label.shape, generator=g) < 0.1] = 254
        return Sample(torch.randint(0, 256, (3, height, width), generator=g, dtype=torch.uint8), label, self.id(index))

    def class_pixels(self) -> Any:
        raise NotImplementedError


def _rank(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world_size}", rank=rank, world_size=world_size)
    torch.save(found_by(dist.group.WORLD).as_dict(), f"{folder}/{world_size}-{rank}.pt")
    dist.destroy_process_group()


def found_by(group: Any) -> Evaluation:
    sizes = [(32, 48)] * 5 + [(40, 64)] * 2 + [(32, 48)]
    data = [Pixels(sizes, broken=[1, 6]), Pixels(sizes[3:6], domain="more")]
    model = build("bisenet_mini").eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return evaluate(model, data, NATIVE, batch_size=2, group=group, extras=EXTRAS)


def without_speed(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "images_per_second"}


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_ranks_finds_the_same(tmp_path, world_size):
    """Batch norms, convolutions, sizes that differ, damaged files: to the last digit."""
    torch.multiprocessing.start_processes(_rank, (world_size, str(tmp_path)), nprocs=world_size, start_method="fork")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = without_speed(found_by(None).as_dict())
    torch.set_num_threads(threads)
    assert alone["images"] == 9
    assert len(alone["corrupt"]) == 2
    for rank in range(world_size):
        assert without_speed(torch.load(tmp_path / f"{world_size}-{rank}.pt", weights_only=True)) == alone
