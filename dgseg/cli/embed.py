"""dgseg embed: what a model's features look like, by class and by domain."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dgseg.cli import model_arguments
from dgseg.cli.arguments import File, OmitArgPrefixes, ProtocolName, Specs, TwoWeights, arg
from dgseg.cli.data.progress import progress_bar
from dgseg.data.labels import CLASSES
from dgseg.evaluation.embedding import Cloud, choose, clouds, features_of
from dgseg.evaluation.loading import scored_dataset
from dgseg.evaluation.protocols import protocol_named
from dgseg.evaluation.report.table import Table, finite

DESCRIPTION = (
    "Draws by t-SNE where pixels of every class and domain lie in a model's features, and how the channels' "
    "covariances, which carry style, differ between images of different domains: those of the instance norms' maps "
    "where a model has them, of the decoder's otherwise. A model that generalises keeps classes apart and mixes "
    "domains. Two models are shown on the same pixels. t-SNE arranges; what it arranges is measured by silhouettes of "
    "the features themselves: 1 is apart, 0 mixed; that of domains is the mean over classes of how far domains are "
    "apart within each."
)


EXAMPLES = """\
  dgseg embed runs/erm/weights.safetensors runs/flexseg/weights.safetensors --data streets=game streets=fog
  dgseg embed w.safetensors --data cityscapes=/data/cityscapes acdc=/data/acdc --classes road,sidewalk"""


@dataclass(frozen=True)
class Arguments:
    models: OmitArgPrefixes[TwoWeights]
    data: Specs
    """Domains: name=path[@split][,option=value], as streets=game streets=fog."""
    out: Annotated[Path, arg(metavar="FILE", aliases=["-o"])] = Path("embedding.png")
    """The picture."""
    json: File = None
    """Also the points and their silhouettes."""
    feature: Annotated[str, arg(metavar="NAME")] = "decoder"
    """Whose pixels are taken: decoder, stage1, …"""
    classes: Annotated[str | None, arg(metavar="NAMES", help_behavior_hint="")] = None
    """These alone, with commas between: road,sidewalk,building."""
    images: Annotated[int, arg(metavar="N")] = 50
    """Of every domain."""
    pixels: Annotated[int, arg(metavar="N")] = 25
    """Of every class in every domain."""
    protocol: ProtocolName = "native"
    seed: int = 0
    """Of t-SNE."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda")] = "auto"
    """auto: a GPU if there is one."""


def main(arguments: Arguments) -> int:
    if min(arguments.images, arguments.pixels) < 1:
        raise ValueError("--images and --pixels must be at least 1")
    classes = _classes(arguments.classes)
    model_arguments.check_outputs(arguments.out, arguments.json)
    datasets = [scored_dataset(spec) for spec in arguments.data]
    device = model_arguments.torch_device(arguments.device)
    models = arguments.models.load(device)
    runs = arguments.models.runs()
    chosen = choose(datasets, images=arguments.images, pixels=arguments.pixels, classes=classes)
    found: dict[str, list[Cloud]] = {}
    with progress_bar("images", len(chosen.spots) * len(models)) as progress:
        for name, model in models.items():
            protocol = protocol_named(arguments.protocol, model.architecture)
            features = features_of(model, chosen, protocol, feature=arguments.feature, device=device, progress=progress)
            found[runs[name]] = clouds(features, chosen, arguments.feature, arguments.seed)
    from dgseg.evaluation import charts

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    charts.embedding(found).savefig(arguments.out, dpi=150)
    names = arguments.models.describe(models)
    if arguments.json:
        content = {"models": {runs[name]: what for name, what in names.items()}, "clouds": _as_json(found)}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(content) + "\n", encoding="utf-8")
    for name, what in names.items():
        print(f"{name}: {what}")
    print(
        f"{len(chosen.classes)} pixels and {len(chosen.spots)} images of {', '.join(chosen.domains)}; the same for "
        "every model\n"
    )
    _table(found).show()
    print(f"\nwrote {arguments.out}")
    return 0


def _classes(text: str | None) -> list[int] | None:
    if text is None:
        return None
    names = text.split(",")
    if unknown := [name for name in names if name not in CLASSES]:
        raise ValueError(f"there is no class {unknown[0]!r}; there are {', '.join(CLASSES)}")
    return sorted({CLASSES.index(name) for name in names})


def _table(found: dict[str, list[Cloud]]) -> Table:
    rows = {
        cloud.title: tuple(
            next((_number(each.silhouette) for each in of_model if each.title == cloud.title), "–")
            for of_model in found.values()
        )
        for of_model in found.values()
        for cloud in of_model
    }
    return Table("Silhouettes", ("", *found), tuple((title, *values) for title, values in rows.items()))


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _as_json(found: dict[str, list[Cloud]]) -> dict[str, list[dict[str, object]]]:
    return {
        name: [
            {
                "title": cloud.title,
                "silhouette": finite(cloud.silhouette),
                "points": cloud.points.round(3).tolist(),
                "groups": [cloud.names[group] for group in cloud.groups.tolist()],
            }
            for cloud in of_model
        ]
        for name, of_model in found.items()
    }
