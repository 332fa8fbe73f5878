"""dgseg data show: look at a dataset before training on it."""

import argparse
from pathlib import Path

import numpy as np
import torch

from dgseg.data.dataset import Dataset
from dgseg.data.labels import CLASSES, NUM_CLASSES, coloured
from dgseg.data.pictures import Panel, banded, bordered, contact_sheet, deep
from dgseg.data.sample import Sample
from dgseg.ops import boundary_bands

DESCRIPTION = (
    "Writes a contact sheet: each sample's image, labels, boundary bands, the labels' borders over the image (where "
    "they miss, image and label are misaligned), and depth where there is one. A dataset is named as everywhere, "
    "`dgseg data show gta5=/data/gta5@val` or `streets=fog@test,depth=true`, or in two words: `gta5 /data/gta5 --split "
    "val`. `streets --domain fog` takes the options below."
)
_RADII = (1, 2, 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="name=path[@split][,option=value], or the name: streets, gta5, cityscapes, ...")
    parser.add_argument(
        "root",
        nargs="?",
        help="a mere name's folder; options follow after commas: /data/mine,classes=classes.json; streets has none",
    )
    parser.add_argument("--domain", help="streets: game (default), generated, city, ..., fog, rain, snow, night, dusk")
    parser.add_argument("--split", help="train, val or test (default for streets: test)")
    parser.add_argument("--index", type=int, default=0, help="the first sample shown (default: 0)")
    parser.add_argument("--count", type=int, default=4, help="how many (default: 4)")
    parser.add_argument("--size", type=size, metavar="HxW", help="streets: in pixels (default: 256x512)")
    parser.add_argument("--seed", type=int, help="streets: another world of the same kind")
    parser.add_argument(
        "--misalignment", type=float, metavar="PX", help="streets: image against label (default: 3 for generated)"
    )
    parser.add_argument("--unknown", action="store_true", help="streets: with objects of no training class")
    parser.add_argument("--use", choices=["oracle", "adaptation"], help="streets: for a target's train range")
    parser.add_argument("-o", "--output", type=Path, metavar="PNG", help="default: <dataset>-<domain>.png")


def size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HxW, such as 256x512") from None


def main(arguments: argparse.Namespace) -> int:
    if arguments.index < 0 or arguments.count < 1:
        raise SystemExit("dgseg data show: --index must be at least 0 and --count at least 1")
    dataset = open_dataset(arguments)
    stop = arguments.index + arguments.count
    if stop > len(dataset):
        raise ValueError(f"{dataset.name} holds {len(dataset)} samples here; --index plus --count asks for {stop}")
    rows = [panels(dataset[index]) for index in range(arguments.index, stop)]
    output = arguments.output or Path(f"{dataset.name}-{dataset.domain.replace('/', '-')}.png")
    contact_sheet(rows, output, title=f"{dataset.name}: {dataset.domain}")
    print(f"{output}: {len(rows)} samples of {dataset.domain}")
    return 0


def open_dataset(arguments: argparse.Namespace) -> Dataset:
    """Every dataset by its specification, or by its name: streets then has options of its own instead of a folder."""
    if arguments.dataset != "streets":
        return _open_spec(arguments)
    from dgseg.data.streets import Streets
    from dgseg.data.streets.domains import ADAPTATION

    if arguments.root is not None:
        raise ValueError(f"streets has no folder; leave {arguments.root} out, and name a --domain")
    domain = arguments.domain or "game"
    misalignment = arguments.misalignment
    if misalignment is None:
        misalignment = 3.0 if domain == "generated" else 0.0
    return Streets(
        domain,
        arguments.split or "test",
        size=arguments.size or (256, 512),
        seed=arguments.seed or 0,
        misalignment=misalignment,
        use=arguments.use,
        length=arguments.index + arguments.count,
        unknown=arguments.unknown,
        depth=arguments.use != ADAPTATION,
    )


def _open_spec(arguments: argparse.Namespace) -> Dataset:
    name, whole, _ = arguments.dataset.partition("=")
    for option in ("domain", "size", "seed", "misalignment", "unknown", "use"):
        given = getattr(arguments, option)
        if given is None or given is False:
            continue
        if whole and name == "streets":
            raise ValueError(
                f"--{option} goes with the name streets alone; {arguments.dataset} says everything itself, as in "
                "streets=fog@train,use=oracle,size=256x512,seed=1"
            )
        raise ValueError(f"--{option} is for streets; {name} is read from its folder as it is")
    from dgseg.data.datasets import from_spec, parse_spec

    if whole and arguments.root is not None:
        raise ValueError(f"{arguments.dataset} says where {name} lies; leave {arguments.root} out")
    if not whole and arguments.root is None:
        raise ValueError(f"name the folder that {name}'s files lie in: {name}=FOLDER")
    text = arguments.dataset if whole else f"{name}={arguments.root}"
    spec = parse_spec(text)
    if spec.split and arguments.split:
        raise ValueError(f"@{spec.split} and --split {arguments.split} both name a split; leave one out")
    if arguments.split:
        where, comma, options = text.partition(",")
        text = f"{where}@{arguments.split}{comma}{options}"
    return from_spec(text)


def panels(sample: Sample) -> list[Panel]:
    image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
    if sample.label is None:
        return [Panel(f"{sample.id} (used without labels)", image)]
    label = sample.label.numpy()
    bands = boundary_bands(sample.label[None], _RADII)[0].numpy()
    shown = [
        Panel(sample.id, image),
        Panel(f"labels: {_classes(sample.label)}", coloured(label)),
        Panel(f"boundary bands of radius {', '.join(map(str, _RADII))}", banded(bands)),
        Panel("label borders over the image", bordered(image, label)),
    ]
    if "depth" in sample.extra:
        shown.append(Panel("depth, 3 m white to 150 m dark", deep(sample.extra["depth"].numpy())))
    for name, view in sample.views.items():
        shown.append(Panel(f"{name}: {view.id}", np.ascontiguousarray(view.image.permute(1, 2, 0).numpy())))
        if view.label is not None:
            shown.append(Panel(f"labels of {name}: {_classes(view.label)}", coloured(view.label.numpy())))
    return shown


def _classes(label: torch.Tensor) -> str:
    """The classes there, the largest first."""
    counts = torch.bincount(label.flatten().long(), minlength=256)[:NUM_CLASSES]
    order = counts.argsort(descending=True).tolist()
    return ", ".join(CLASSES[c] for c in order if counts[c] > 0)
