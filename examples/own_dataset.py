"""A dataset of your own, whatever its files look like: batches by the loader, scores by the evaluation."""

import numpy as np
import torch

from dgseg.data import Dataset, Loader, Sample
from dgseg.data.augment import Streets
from dgseg.data.samplers import Uniform
from dgseg.evaluation import evaluate, protocol_named
from dgseg.models import build


class Squares(Dataset):
    """Grey images with a bright square: class 1 on class 0."""

    name = domain = "squares"
    num_classes = 2

    def __len__(self) -> int:
        return 20

    def id(self, index: int) -> str:
        return f"square_{index:03}"

    def __getitem__(self, index: int) -> Sample:
        label = torch.zeros(96, 128, dtype=torch.uint8)
        label[20 + index : 60 + index, 40:90] = 1
        image = (60 + 120 * label)[None].expand(3, -1, -1).contiguous()
        return Sample(image, label, self.id(index))

    def class_pixels(self) -> np.ndarray:
        return np.stack([np.bincount(self[i].label.flatten(), minlength=2) for i in range(len(self))])


sampler = Uniform(len(Squares()), batch_size=4, seed=0)
batch = next(iter(Loader([Squares()], sampler, Streets(crop=(64, 96)).build(), batch_size=4, stop_step=1)))
print("a batch:", tuple(batch.images.shape), "of", ", ".join(batch.ids))
result = evaluate(build("bisenet_mini", num_classes=2).eval(), [Squares()], protocol_named("native"))
print(f"random weights: {result.domains['squares'].scores.miou:.1%} mIoU")
