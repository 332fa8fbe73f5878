"""The picture at the top of the README: a scene, its labels, and what plain cross-entropy and FLEX-Seg see in it.

    python scripts/readme_picture.py --steps 1000        trains both recipes, then draws docs/images/prediction.png

Both are trained alike, and finished runs are not trained again. It draws the first scene of the domain."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from dgseg.data import from_spec
from dgseg.data.labels import coloured
from dgseg.models import build, load_weights, predict_logits
from dgseg.recipes import named, override
from dgseg.training import Progress, RunConfig, train

PICTURE = Path(__file__).resolve().parents[1] / "docs/images/prediction.png"
SIZE = "size=192x384"
LINE = 26  # height of a title


def weights(recipe: str, steps: int, storage: str) -> str:
    changes = {"schedule.steps": steps, "data.validation": [], "data.test": [], "train.save_every": 100}
    run = RunConfig(name=f"{recipe}-{steps}", storage=storage)
    result = train(override(named(recipe), changes), run, listeners=[Progress()])
    if result.weights is None:
        raise SystemExit(f"{run.name} was stopped after step {result.step}; the same command resumes it")
    return result.weights


def prediction(file: str, image: torch.Tensor) -> np.ndarray:
    model = build("bisenet_mini").eval()
    load_weights(model, file)
    return predict_logits(model, image[None], size=image.shape[-2:]).argmax(1)[0].byte().numpy()


def draw(panels: dict[str, np.ndarray], path: Path) -> None:
    """Two by two, a title above each."""
    height, width = next(iter(panels.values())).shape[:2]
    canvas = Image.new("RGB", (2 * width + 8, 2 * (height + LINE)), "white")
    pen = ImageDraw.Draw(canvas)
    for index, (title, panel) in enumerate(panels.items()):
        left, top = (index % 2) * (width + 8), (index // 2) * (height + LINE)
        pen.text((left + 2, top + 4), title, "black", ImageFont.load_default(15))
        canvas.paste(Image.fromarray(panel), (left, top + LINE))
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.quantize(128).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--domain", default="rain")
    parser.add_argument("--storage", default="runs/picture")
    parser.add_argument("-o", "--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()

    sample = from_spec(f"streets={arguments.domain}@test,{SIZE}")[0]
    assert sample.label is not None
    panels = {
        f"a scene in {arguments.domain}": sample.image.permute(1, 2, 0).numpy(),
        "its labels": sample.label.numpy(),
    }
    for title, recipe in (("cross-entropy", "erm-streets"), ("FLEX-Seg", "flexseg-streets")):
        labels = prediction(weights(recipe, arguments.steps, arguments.storage), sample.image)
        truth = sample.label.numpy()
        right = (labels == truth)[truth < 254].mean()
        panels[f"{title}, {arguments.steps} steps: {right:.0%} of the pixels right"] = labels
    pictures = {title: panel if panel.ndim == 3 else coloured(panel) for title, panel in panels.items()}
    draw(pictures, arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
