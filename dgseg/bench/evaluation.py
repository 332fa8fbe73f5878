"""What scoring costs beside a model that costs nothing: from precomputed logits to mIoU, and from files to tensors."""

import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from dgseg.bench import inputs
from dgseg.bench.case import OURS, Case, Contender, Floor, Target
from dgseg.bench.cases import peers
from dgseg.bench.ops import Result, Settings, run_case
from dgseg.data.labels import coloured
from dgseg.evaluation import Confusion

C = inputs.CLASSES
IMAGES, LOGITS, LABELS = 8, (128, 256), (512, 1024)
LOADING = "loading"
USUAL = "torchmetrics"


def run(settings: Settings) -> Result:
    images, (h, w), (H, W) = (IMAGES, LOGITS, LABELS) if settings.size == "table" else (2, (9, 17), (36, 68))
    logits = inputs.logits(images, h, w, smooth=True).to(settings.device).split(1)
    labels = inputs.label_map(images, H, W, ignored=0.05).to(settings.device).split(1)
    result = run_case(_case(settings.device, logits, labels), settings)
    notes = [f"{name}: {len(logits) / times.median:,.0f} images/s" for name, times in result.times.items()]
    return dataclasses.replace(result, op="evaluation", notes=[*notes, *result.notes])


def _case(device: torch.device, logits: tuple[Tensor, ...], labels: tuple[Tensor, ...]) -> Case:
    H, W = labels[0].shape[-2:]

    def ours() -> Tensor:
        confusion = Confusion(device=device)
        for low, label in zip(logits, labels, strict=True):
            confusion.update(low, label)
        confusion.scores()
        return confusion.matrix[:, :C]

    def truth() -> dict[str, Tensor]:
        counts = torch.zeros(C, C, dtype=torch.int64, device=device)
        for low, label in zip(logits, labels, strict=True):
            op = peers.operator("segmentation_counts")
            counts += op.reference(low.double(), label, num_classes=C)[:, :C]
        return {"counts": counts}

    contenders, notes = [], []
    if torchmetrics := peers.optional("torchmetrics.classification"):
        metric = torchmetrics.MulticlassJaccardIndex(
            C, ignore_index=inputs.IGNORED, validate_args=False, sync_on_compute=False
        ).to(device)
        wide = [label.long() for label in labels]  # converted beforehand, in the peer's favour

        def usual() -> Tensor:
            metric.reset()
            for low, label in zip(logits, wide, strict=True):
                up = F.interpolate(low, size=(H, W), mode="bilinear", align_corners=False)
                metric.update(up.argmax(1), label)
            metric.compute()
            counts: Tensor = metric.confmat
            return counts

        contenders.append(Contender(USUAL, usual, lambda counts: {"counts": counts}))
    else:
        notes.append("torchmetrics is not installed and does not race")
    contenders.append(Contender(LOADING, partial(_load, _files(labels)), None))
    notes.append(f"loading: JPEG images and PNG labels decoded from memory, threads: {torch.get_num_threads()}")
    pixels = len(labels) * H * W
    return Case(
        op="segmentation_counts",
        title=f"{len(logits)} images, {logits[0].shape[-2]}x{logits[0].shape[-1]} logits -> {H}x{W} labels -> mIoU",
        ours=Contender(OURS, ours, lambda counts: {"counts": counts}),
        peers=contenders,
        truth=truth,
        # A pixel between two classes may fall either way in another precision.
        tolerances={"counts": 2e-3},
        floor=Floor(
            "logits and labels read once; a lerp and a comparison per value",
            bytes=sum(low.nbytes for low in logits) + pixels,
            flops=3 * C * pixels,
        ),
        targets=[Target("speed", 8, USUAL), Target("speed", 1, LOADING)],
        notes=notes,
    )


def _files(labels: tuple[Tensor, ...]) -> list[tuple[bytes, bytes]]:
    """Pictures as cameras store them: flat areas, some noise."""
    rng = np.random.default_rng(0)
    files = []
    for label in labels:
        ids = label[0].cpu().numpy()
        image = (coloured(ids) * 0.7 + 40 + rng.normal(0, 6, (*ids.shape, 3))).clip(0, 255).astype(np.uint8)
        jpeg, png = io.BytesIO(), io.BytesIO()
        Image.fromarray(image).save(jpeg, "JPEG", quality=90)
        Image.fromarray(ids).save(png, "PNG")
        files.append((jpeg.getvalue(), png.getvalue()))
    return files


def _load(files: list[tuple[bytes, bytes]]) -> list[tuple[Tensor, Tensor]]:
    def decode(pair: tuple[bytes, bytes]) -> tuple[Tensor, Tensor]:
        image, label = (torch.from_numpy(np.array(Image.open(io.BytesIO(file)))) for file in pair)
        return image, label

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(decode, files))
