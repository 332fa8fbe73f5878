"""dgseg demo: the five operators in the loop that they are made for. A network of four convolutions learns random
label maps from noisy colours, with the entropy-weighted loss and the prototype contrast, and is scored on maps that
it has not seen."""

import argparse
import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dgseg.bench.inputs import CLASSES, IGNORED, label_map
from dgseg.ops import (
    backends,
    boundary_bands,
    entropy_weighted_cross_entropy,
    prototype_ema_,
    prototype_info_nce,
    segmentation_counts,
)

STRIDE = 4
RADII = (1, 2, 4)
CHANNELS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch", type=int, default=4, help="images per step (default: 4)")
    parser.add_argument("--side", type=int, default=192, help="height and width of the images (default: 192)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--seed", type=int, default=0)


class Network(nn.Module):
    """images [N, 3, H, W] -> logits and features at a quarter of the size."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, CHANNELS, CHANNELS, CHANNELS)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            layers += [
                nn.Conv2d(before, after, 3, stride=2 if i < 2 else 1, padding=1),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Conv2d(CHANNELS, CLASSES, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(images)
        return self.head(features), features


class Stopwatch:
    """Milliseconds in each operator; on a GPU it waits for the operator to finish."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.spent[name] += self._now() - start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() * 1e3


def scene(colours: Tensor, batch: int, side: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy images of random label maps, 2 % ignored."""
    labels = label_map(batch, side, side, ignored=0.02, seed=seed)
    noise = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))
    clean = colours[labels.long().clamp(max=CLASSES - 1)].movedim(-1, 1)
    return clean + 0.3 * noise, labels


def main(arguments: argparse.Namespace) -> int:
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("dgseg demo: this torch sees no GPU; drop --device cuda")
    if arguments.steps < 1:
        raise SystemExit("dgseg demo: --steps must be at least 1")
    torch.manual_seed(arguments.seed)
    print(f"torch {torch.__version__} on {device}: {backends(device)}", flush=True)
    network = Network().to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    colours = torch.randn(CLASSES, 3)
    bank = torch.zeros(CLASSES, len(RADII), CHANNELS, device=device)
    updates = torch.zeros(CLASSES, len(RADII), dtype=torch.int64, device=device)
    watch = Stopwatch(device)

    for step in range(arguments.steps):
        start = time.perf_counter()
        images, labels = (t.to(device) for t in scene(colours, arguments.batch, arguments.side, arguments.seed + step))
        logits, features = network(images)
        with watch("boundary_bands"):
            edge = boundary_bands(labels, (3,))
            bands = boundary_bands(labels, RADII, stride=STRIDE)
        small = labels[:, ::STRIDE, ::STRIDE]
        with watch("entropy_weighted_cross_entropy"):
            ube = entropy_weighted_cross_entropy(logits, labels, edge, alpha=3.0)
        seen = updates > 0
        with watch("prototype_info_nce"):
            # Rarely updated prototypes weigh more, the rarest seen one 1.
            rarity = torch.where(seen, 1 / (updates + 1), 0.0)
            weights = rarity / rarity.max().clamp(min=1e-12)
            contrast = prototype_info_nce(features, small, bands, bank, weights, seen=seen)
        optimizer.zero_grad()
        (ube.loss + 0.5 * contrast).backward()
        optimizer.step()
        with watch("prototype_ema_"):
            prototype_ema_(bank, updates, features.detach(), small, bands, seed=arguments.seed, step=step)
        if step % 10 == 0 or step == arguments.steps - 1:
            print(
                f"step {step:4}  cross-entropy {ube.loss.item():.4f}  contrast {contrast.item():.4f}  "
                f"band entropy {ube.band_entropy.item():.4f}  {(time.perf_counter() - start) * 1e3:.0f} ms",
                flush=True,
            )

    network.eval()
    counts = torch.zeros(CLASSES, CLASSES + 1, dtype=torch.int64, device=device)
    for held_out in range(4):
        images, labels = (t.to(device) for t in scene(colours, arguments.batch, arguments.side, -1 - held_out))
        with torch.no_grad(), watch("segmentation_counts"):
            counts += segmentation_counts(network(images)[0], labels, num_classes=CLASSES, ignore_index=IGNORED)
    hits = counts.diagonal()
    union = counts.sum(1) + counts[:, :CLASSES].sum(0) - hits
    iou = hits[union > 0] / union[union > 0]
    print(f"mIoU on unseen maps: {100 * float(iou.mean()):.1f} %")
    print("milliseconds in each operator's calls (forward):")
    for name, spent in watch.spent.items():
        print(f"  {name:32}{spent:10.1f}")
    return 0
