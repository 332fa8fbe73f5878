"""dgseg embed: what a model's features look like, by class and by domain."""

import argparse
import json
import math
from pathlib import Path

from dgseg.cli import model_arguments, two_models
from dgseg.cli.data.progress import progress_bar
from dgseg.data.labels import CLASSES
from dgseg.evaluation.embedding import Cloud, choose, clouds, features_of
from dgseg.evaluation.loading import scored_dataset
from dgseg.evaluation.protocols import NAMES, protocol_named
from dgseg.evaluation.report.table import Table, finite

DESCRIPTION = (
    "Draws by t-SNE where pixels of every class and domain lie in a model's features, and how the channels' "
    "covariances, which carry style, differ between images of different domains: those of the instance norms' maps "
    "where a model has them, of the decoder's otherwise. A model that generalises keeps classes apart and mixes "
    "domains. Two models are shown on the same pixels. t-SNE arranges; what it arranges is measured by silhouettes of "
    "the features themselves: 1 is apart, 0 mixed; that of domains is the mean over classes of how far domains are "
    "apart within each."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    two_models.add_arguments(parser, b="optional")
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        required=True,
        metavar="SPEC",
        help="domains: name=path[@split][,option=value], as streets=game streets=fog",
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("embedding.png"), help="default: embedding.png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the points and their silhouettes there")
    parser.add_argument("--feature", default="decoder", help="whose pixels are taken: decoder (default), stage1, …")
    parser.add_argument("--classes", metavar="NAMES", help="these alone, with commas between: road,sidewalk,building")
    parser.add_argument("--images", type=int, default=50, help="of every domain (default: 50)")
    parser.add_argument("--pixels", type=int, default=25, help="of every class in every domain (default: 25)")
    parser.add_argument("--protocol", choices=NAMES, default="native", help="how images are shown (default: native)")
    parser.add_argument("--seed", type=int, default=0, help="of t-SNE (default: 0)")


def main(arguments: argparse.Namespace) -> int:
    if min(arguments.images, arguments.pixels) < 1:
        raise ValueError("--images and --pixels must be at least 1")
    classes = _classes(arguments.classes)
    model_arguments.check_outputs(arguments.out, arguments.json)
    datasets = [scored_dataset(spec) for spec in arguments.data]
    device = model_arguments.torch_device(arguments.device)
    models = two_models.loaded(arguments, device)
    chosen = choose(datasets, images=arguments.images, pixels=arguments.pixels, classes=classes)
    found: dict[str, list[Cloud]] = {}
    with progress_bar("images", len(chosen.spots) * len(models)) as progress:
        for name, model in models.items():
            protocol = protocol_named(arguments.protocol, model.architecture)
            features = features_of(model, chosen, protocol, feature=arguments.feature, device=device, progress=progress)
            found[name] = clouds(features, chosen, arguments.feature, arguments.seed)
    from dgseg.evaluation import charts

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    charts.embedding(found).savefig(arguments.out, dpi=150)
    names = two_models.described(arguments, models)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"models": names, "clouds": _as_json(found)}) + "\n", encoding="utf-8")
    for name, what in names.items():
        print(f"{name}: {what}")
    print(
        f"{len(chosen.classes)} pixels and {len(chosen.spots)} images of {', '.join(chosen.domains)}; the same for "
        f"every model\n\n{_table(found).text()}\n\nwrote {arguments.out}"
    )
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
