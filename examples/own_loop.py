"""FLEX-Seg's losses in a loop of your own: a torchvision model, a torch optimiser, dgseg's operators."""

import argparse

import torch
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from dgseg.data import Loader, from_spec
from dgseg.data.augment import Streets
from dgseg.data.samplers import Uniform
from dgseg.ops import boundary_bands, entropy_weighted_cross_entropy, prototype_ema_, prototype_info_nce

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=200)
steps = parser.parse_args().steps

source = from_spec("streets=game@train,size=192x384")
loader = Loader([source], Uniform(len(source), batch_size=4, seed=0), Streets().build(), batch_size=4, stop_step=steps)
model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=19)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
bank = torch.zeros(19, 3, 40)  # classes, bands, channels of the features
updates = torch.zeros(19, 3, dtype=torch.int64)

for step, batch in enumerate(loader):
    maps = model.backbone(batch.images.float() / 127.5 - 1)  # "low": 40 channels at an eighth of the size
    bands = boundary_bands(batch.labels, radii=(3,))
    ube = entropy_weighted_cross_entropy(model.classifier(maps), batch.labels, bands, alpha=3.0).loss

    labels = batch.labels[:, ::8, ::8].contiguous()  # at the features' size
    bands = boundary_bands(labels, radii=(1, 2, 4))
    seen = updates > 0
    weights = torch.where(seen, (torch.where(seen, updates, updates.max()).min() + 1) / (updates + 1), 0.0)
    gap = prototype_info_nce(maps["low"], labels, bands, bank, weights, seen=seen)

    optimizer.zero_grad()
    (ube + 0.5 * gap).backward()
    optimizer.step()
    prototype_ema_(bank, updates, maps["low"].detach(), labels, bands)
    print(f"step {step + 1}: ube {ube.item():.3f}, gap {gap.item():.3f}, {int(seen.sum())} prototypes seen")
