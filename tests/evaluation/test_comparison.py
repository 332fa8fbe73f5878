"""What is said of two models: no more than the images allow, and of the images on which they really differ."""

import csv
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from dgseg.data.streets import Streets
from dgseg.evaluation import PROTOCOLS, Evaluation, charts, evaluate
from dgseg.evaluation.boundary import BoundaryErrors
from dgseg.evaluation.comparison import (
    EXTRAS,
    Comparison,
    boundary_table,
    classes_table,
    compare,
    most_different,
    scores_table,
    side_by_side,
)
from dgseg.evaluation.comparison_page import comparison_page
from dgseg.evaluation.confusion import Confusion, iou_parts
from dgseg.evaluation.result import DomainResult, ImageCounts, Seen
from dgseg.models import Prediction
from dgseg.models.base import SegmentationModel

pytestmark = pytest.mark.usefixtures("one_thread")
NATIVE = PROTOCOLS["native"]
SIZE = (24, 48)


def domain(dataset: str, accuracy: float, images: int, seed: int) -> DomainResult:
    """Half the pixels are road; so many of the others, too, are what they should be. `seed` makes the errors."""
    truth = torch.zeros(images, 8, 16, dtype=torch.uint8)
    truth[:, :, 8:] = 13
    wrong = torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed)) > accuracy
    predicted = truth.masked_fill(wrong, 2)
    confusion, boundary = Confusion(), BoundaryErrors()
    counts = ImageCounts([f"{dataset}/{n}" for n in range(images)], 19)
    for n in range(images):
        found = confusion.update_labels(predicted[n, None], truth[n, None])
        counts.counts["parts"][n] = torch.from_numpy(iou_parts(found))
        counts.counts["scored"][n] = 1
    boundary.update_labels(predicted, truth)
    return DomainResult(dataset, confusion, Seen(), boundary=boundary, per_image=counts)


def evaluation(**domains: DomainResult) -> Evaluation:
    return Evaluation({name.replace("_", "/"): found for name, found in domains.items()}, NATIVE, {}, 1.0)


def test_better_or_not_beyond_noise():
    a = evaluation(fog=domain("fog", 0.6, 30, 1), night=domain("night", 0.6, 30, 2), rain=domain("rain", 0.9, 30, 3))
    b = evaluation(fog=domain("fog", 0.8, 30, 4), night=domain("night", 0.6, 30, 5), rain=domain("rain", 0.7, 30, 6))
    found = compare(a, b, resamples=500)
    assert list(found.differences) == ["fog", "night", "rain", "average"]
    assert found.better == {"fog": "B", "night": "neither", "rain": "A", "average": found.better["average"]}
    for name in ("fog", "night", "rain"):
        difference = found.differences[name]
        assert difference.difference == pytest.approx(b.domains[name].scores.miou - a.domains[name].scores.miou)
    assert "A and B do not differ beyond noise" in scores_table(found).text()
    itself = compare(a, a, resamples=100)
    assert set(itself.better.values()) == {"neither"}


def test_few_images_get_no_verdict_however_clear_they_look():
    a = evaluation(fog=domain("fog", 0.5, 1, 1), night=domain("night", 0.5, 20, 2))
    b = evaluation(fog=domain("fog", 0.9, 1, 3), night=domain("night", 0.9, 20, 4))
    found = compare(a, b, resamples=200)
    assert found.differences["fog"].beyond_noise  # one image, drawn again and again, has no spread
    assert found.better == {"fog": "unknown", "night": "B", "average": "unknown"}
    assert "no verdict: fewer than 10 images" in scores_table(found).text()
    assert charts.differences(found.differences, found.better).axes[0].get_lines()[1].get_color() == "grey"


def test_an_average_is_over_data_sets_not_over_their_conditions():
    parts = {"cityscapes": 12, "acdc": 24, "acdc_fog": 12, "acdc_night": 12}
    a = evaluation(**{name: domain(name, 0.6, n, seed) for seed, (name, n) in enumerate(parts.items())})
    b = evaluation(**{name: domain(name, 0.7, n, 9 + seed) for seed, (name, n) in enumerate(parts.items())})
    found = compare(a, b, resamples=200)
    assert list(found.differences) == ["cityscapes", "acdc", "acdc/fog", "acdc/night", "average"]
    assert found.differences["average"].images == 36
    whole = [found.differences[name].difference for name in ("cityscapes", "acdc")]
    assert found.differences["average"].difference == pytest.approx(np.mean(whole))


def test_one_condition_alone_is_a_domain_of_its_own():
    found = compare(
        evaluation(acdc_fog=domain("acdc", 0.5, 12, 1)), evaluation(acdc_fog=domain("acdc", 0.9, 12, 2)), resamples=100
    )
    assert found.better == {"acdc/fog": "B"}


def test_the_same_as_json_and_csv():
    a = evaluation(fog=domain("fog", 0.6, 12, 1), night=domain("night", 0.6, 12, 2))
    b = evaluation(fog=domain("fog", 0.8, 12, 3), night=domain("night", 0.6, 12, 4))
    found = compare(a, b, resamples=100)
    kept = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    rows = list(csv.DictReader(io.StringIO(found.as_csv())))
    assert [row["domain"] for row in rows] == list(kept) == ["fog", "night", "average"]
    for row in rows:
        each = found.differences[row["domain"]]
        assert float(row["difference"]) == kept[row["domain"]]["difference"] == each.difference
        assert row["verdict"] == kept[row["domain"]]["verdict"] == found.verdicts[row["domain"]]
    assert kept["fog"]["iou_b"]["car"] == b.domains["fog"].scores.iou[13]
    assert kept["fog"]["iou_a"]["sky"] is None
    np.testing.assert_allclose(kept["fog"]["boundary_error_a"][:3], a.domains["fog"].boundary.error()[:3])
    table = classes_table(found)
    car = next(row for row in table.rows if row[0] == "car")
    assert float(car[1]) == pytest.approx(100 * (kept["fog"]["iou_b"]["car"] - kept["fog"]["iou_a"]["car"]), abs=0.051)
    assert [row[0] for row in boundary_table(found).rows] == ["fog: A", "fog: B", "night: A", "night: B"]


def test_the_images_that_differ_most_are_those_of_the_rule():
    a, b = domain("fog", 0.6, 9, 1), domain("fog", 0.6, 9, 2)
    share = [found.per_image.parts[:, 0].sum(1) / found.per_image.parts[:, 1].sum(1) for found in (a, b)]
    gain = share[1] - share[0]
    chosen = [int(sample.split("/")[1]) for sample, _ in most_different(a, b, 2)]
    gains = [place for place in np.argsort(-gain, kind="stable")[:2].tolist() if gain[place] > 0]
    losses = [place for place in np.argsort(gain, kind="stable")[:2].tolist() if gain[place] < 0]
    assert chosen == gains + losses
    assert most_different(a, b, 2)[0][1] == f"B {100 * gain[chosen[0]]:+.1f} points of pixels right"
    assert most_different(a, a, 2) == []
    better = domain("fog", 1.0, 9, 1)
    assert len(most_different(a, better, 99)) == 9  # gains alone
    with pytest.raises(ValueError, match="different images"):
        most_different(a, domain("fog", 0.6, 8, 2), 2)


class Constant(SegmentationModel):
    """One class everywhere; a brighter image is a surer one."""

    def __init__(self, of: int) -> None:
        super().__init__(19)
        self.of, self.weight = of, torch.nn.Parameter(torch.zeros(1))

    def predict(self, images: torch.Tensor, *, seed: int, step: int) -> Prediction:
        logits = torch.zeros(len(images), 19, *images.shape[-2:])
        logits[:, self.of] = 1
        return Prediction(logits, {}, [], {})


@pytest.fixture(scope="module")
def streets() -> tuple[dict[str, SegmentationModel], list[Streets], Comparison]:
    models: dict[str, SegmentationModel] = {"A": Constant(0).eval(), "B": Constant(2).eval()}
    datasets = [Streets("fog", size=SIZE, length=12), Streets("night", size=SIZE, length=12)]
    a, b = (evaluate(model, datasets, NATIVE, extras=EXTRAS) for model in models.values())
    return models, datasets, compare(a, b, resamples=200)


def test_panels_show_both_models(streets):
    models, datasets, found = streets
    shown = side_by_side(models, datasets, found, 1)
    assert list(shown) == ["fog", "night"]
    for examples in shown.values():
        assert [list(example.predictions) for example in examples] == [["A", "B"]] * len(examples)
        for example in examples:
            gain = float(example.caption.split("B ")[1].split(" ")[0])
            labelled = example.truth < 19
            right = [(example.truth == of)[labelled].mean() for of in (0, 2)]
            assert gain == pytest.approx(100 * (right[1] - right[0]), abs=0.051)
            assert (example.predictions["B"] == 2).all()


def test_the_page_holds_everything_and_needs_nothing(streets):
    models, datasets, found = streets
    shown = side_by_side(models, datasets, found, 1)
    text = comparison_page(found, {"A": "<a>.safetensors", "B": "b.safetensors"}, "how\n  it was\ndone", shown)

    class Links(HTMLParser):
        sources: list[str] = []  # noqa: RUF012
        said: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

        def handle_data(self, data: str) -> None:
            self.said.append(data)

    links = Links()
    links.feed(text)
    assert all(source.startswith(("data:", "#")) for source in links.sources)
    assert sum(source.startswith("data:image") for source in links.sources) == 1 + 2 + 6 * sum(map(len, shown.values()))
    said = "\n".join(links.said)
    for words in ("<a>.safetensors", "how it was", *found.verdicts.values(), "9–16 px", "vegetation"):
        assert words in said
