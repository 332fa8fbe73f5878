"""The confusion counts of Cityscapes-shaped predictions at a quarter of the label's size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dgseg.bench import inputs
from dgseg.bench.case import OURS, Builder, Case, Contender, Floor, Size, Target
from dgseg.bench.cases import peers

C = inputs.CLASSES


def eager(logits: Tensor, labels: Tensor) -> Tensor:
    """Interpolate, argmax, bincount; labels int64."""
    prediction = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False).argmax(1)
    valid = labels != inputs.IGNORED
    return torch.bincount(labels[valid] * C + prediction[valid], minlength=C * C).view(C, C)


def without_selection(logits: Tensor, labels: Tensor) -> Tensor:
    """The same in shapes that torch.compile can follow: ignored pixels are counted in a last row, then dropped."""
    prediction = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False).argmax(1)
    row = torch.where(labels != inputs.IGNORED, labels, C)
    counts = torch.zeros((C + 1) * C, dtype=torch.int64, device=logits.device)
    index = (row * C + prediction).flatten()
    return counts.scatter_add(0, index, torch.ones_like(index)).view(C + 1, C)[:C]


def _case(device: torch.device, size: Size, smooth: bool) -> Case:
    images = 32 if device.type == "cuda" else 1  # more than a GPU's cache holds
    N, (h, w), (H, W) = (images, (128, 256), (512, 1024)) if size == "table" else (2, (5, 7), (18, 29))
    logits = inputs.logits(N, h, w, smooth=smooth).to(device)
    labels = inputs.label_map(N, H, W, ignored=0.05).to(device)
    wide_labels = labels.long()  # converted beforehand, in the peers' favour
    op = peers.operator("segmentation_counts")

    def square(counts: Tensor) -> dict[str, Tensor]:
        return {"counts": F.pad(counts, (0, 1)) if counts.shape[1] == C else counts}

    contenders = [Contender("eager", lambda: eager(logits, wide_labels), square)]
    notes = []
    if device.type == "cuda":
        compiled = peers.compiled(without_selection)
        contenders.append(Contender("torch.compile", lambda: compiled(logits, wide_labels), square))
        targets = [Target("speed", 2, "torch.compile"), Target("floor", 1 / 0.85)]
    else:
        targets = [Target("speed", 12, "eager"), Target("speed", 25, "torchmetrics")]
    if torchmetrics := peers.optional("torchmetrics.classification"):
        metric = torchmetrics.MulticlassConfusionMatrix(C, ignore_index=inputs.IGNORED, validate_args=False).to(device)

        def measure() -> Tensor:
            # Given the small logits it would compare them with large labels: it too starts by interpolating.
            metric.reset()
            up = F.interpolate(logits, size=(H, W), mode="bilinear", align_corners=False)
            metric.update(up, wide_labels)
            counts: Tensor = metric.compute()
            return counts

        contenders.append(Contender("torchmetrics", measure, square))
    else:
        notes.append("torchmetrics is not installed and does not race")
    return Case(
        op="segmentation_counts",
        title=f"{N}x{C}x{h}x{w} {'smooth' if smooth else 'random'} logits -> {N}x{H}x{W} labels",
        ours=Contender(OURS, lambda: op(logits, labels, num_classes=C), square),
        peers=contenders,
        truth=lambda: square(op.reference(logits.double(), labels, num_classes=C)),
        # A pixel between two classes may fall either way in another precision.
        tolerances={"counts": 2e-3},
        floor=Floor(
            "logits and labels read once; a lerp and a comparison per value",
            bytes=logits.nbytes + labels.numel(),
            flops=3 * C * labels.numel(),
        ),
        targets=targets,
        notes=notes,
    )


CASES: list[Builder] = [
    lambda device, size: _case(device, size, smooth=False),
    lambda device, size: _case(device, size, smooth=True),
]
