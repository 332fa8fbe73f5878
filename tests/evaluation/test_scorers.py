"""Anomaly scorers beside their formulas, and the table that they make."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from dgseg.data.streets import Streets
from dgseg.evaluation.components import ComponentScores
from dgseg.evaluation.counting import component_sizes
from dgseg.evaluation.detection import detect, means, table
from dgseg.evaluation.scorers import SCORERS, MahalanobisFit, Odin, anomaly_scores, scorer, scorers_of
from dgseg.models import Prediction, build
from dgseg.models.base import SegmentationModel
from dgseg.models.inference import predict_logits

CLASSES, CHANNELS = 5, 6


class Tiny(SegmentationModel):
    """Four pixels a side become one; the logits are linear in the features."""

    multiple, minimum = 4, 4

    def __init__(self, head: bool = True) -> None:
        super().__init__(CLASSES)
        self.features = torch.nn.Conv2d(3, CHANNELS, 4, stride=4)
        self.classes = torch.nn.Conv2d(CHANNELS, CLASSES, 1)
        self.head = head

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        features = self.features(images)
        extra = {"uncertainty": features[:, 0]} if self.head else {}
        return Prediction(2 * self.classes(features), {"pre_classifier": features}, [], extra)


def tiny(head: bool = True) -> Tiny:
    torch.manual_seed(0)
    return Tiny(head).double().eval()


def images(height: int = 22, width: int = 31, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=g)


def full_logits(model: Tiny, x: Tensor) -> Tensor:
    normal = model.normalise(x)
    padded = F.pad(normal, (0, -x.shape[-1] % 4, 0, -x.shape[-2] % 4))
    logits = F.interpolate(model(padded).logits, padded.shape[-2:], mode="bilinear", align_corners=False)
    return logits[..., : x.shape[-2], : x.shape[-1]].detach()


def by_hand(name: str, scores: list[float]) -> float:
    exps = [math.exp(each) for each in scores]
    p = [each / sum(exps) for each in exps]
    return {
        "max_softmax": 1 - max(p),
        "entropy": -sum(each * math.log(each) for each in p),
        "energy": -math.log(sum(exps)),
        "max_logit": -max(scores),
    }[name]


@pytest.mark.parametrize("name", ["max_softmax", "entropy", "energy", "max_logit"])
def test_scores_of_logits_are_the_formulas(name: str) -> None:
    model, x = tiny(), images()
    found = anomaly_scores(model, x, scorer(name))
    assert (found.shape, found.dtype) == ((2, 22, 31), torch.float32)
    logits = full_logits(model, x)
    for n, row, column in ((0, 0, 0), (0, 13, 9), (1, 21, 30), (1, 2, 17)):
        expected = by_hand(name, logits[n, :, row, column].tolist())
        assert float(found[n, row, column]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_odin_without_a_step_at_temperature_one_orders_as_max_softmax() -> None:
    model, x = tiny(), images()
    plain = anomaly_scores(model, x, scorer("max_softmax"))
    odin = anomaly_scores(model, x, Odin(temperature=1.0, step=0.0))
    # -log(C·max p): decreasing in max p.
    torch.testing.assert_close(odin, -(CLASSES * (1 - plain)).log(), rtol=1e-4, atol=1e-5)


def test_odins_step_makes_images_more_certain_and_keeps_the_model() -> None:
    model, x = tiny(), images(24, 32)
    means = [float(anomaly_scores(model, x, Odin(100.0, step)).mean()) for step in (0.0, 0.01, 0.1)]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[2]
    assert all(p.grad is None for p in model.parameters())
    high = anomaly_scores(model, x, Odin())
    assert len(high.half().unique()) > 100, "still told apart where every probability is nearly 1 / C"


def test_learned_scores_are_the_heads_upsampled() -> None:
    model, x = tiny(), images(24, 32)
    expected = F.interpolate(model(x).features["pre_classifier"][:, :1], (24, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(anomaly_scores(model, x, scorer("learned")), expected.float())
    with pytest.raises(ValueError, match="uncertainty=True"):
        anomaly_scores(tiny(head=False), x, scorer("learned"))


def labels(seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    found = torch.randint(0, CLASSES - 1, (2, 6, 8), dtype=torch.uint8, generator=g)  # the last class never occurs
    found[0, 0, :3], found[1, 2, 2] = 255, 254
    return found.repeat_interleave(4, 1).repeat_interleave(4, 2)


def test_mahalanobis_is_numpys() -> None:
    model = tiny()
    fit, features, classes = MahalanobisFit(model), [], []
    for seed in range(3):
        fit.update(images(24, 32, seed), labels(seed))
        maps = model(images(24, 32, seed)).features["pre_classifier"].detach().movedim(1, -1).reshape(-1, CHANNELS)
        truth = labels(seed)[:, ::4, ::4].reshape(-1)
        features.append(maps[truth < 254].numpy())
        classes.append(truth[truth < 254].numpy())
    pixels, truth = np.concatenate(features), np.concatenate(classes)
    means = np.stack([pixels[truth == c].mean(0) for c in range(CLASSES - 1)])
    inverse = np.linalg.inv((pixels - means[truth]).T @ (pixels - means[truth]) / len(pixels))
    test = images(24, 32, 9)
    found = fit.result()(model, model.normalise(test))
    maps = model(test).features["pre_classifier"].detach().movedim(1, -1).numpy()
    away = maps[..., None, :] - means
    expected = np.sqrt(np.einsum("nhwcd,de,nhwce->nhwc", away, inverse, away).min(-1))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3)


def test_mahalanobis_needs_pixels_and_survives_dead_channels() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="nothing was fitted"):
        MahalanobisFit(model).result()
    with pytest.raises(ValueError, match="MahalanobisFit"):
        scorer("mahalanobis")
    with torch.no_grad():
        model.features.weight[2] = 0
    fit = MahalanobisFit(model)
    fit.update(images(24, 32), labels(0))
    assert anomaly_scores(model, images(), fit.result()).isfinite().all()


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ValueError, match="there is no scorer 'enrgy'"):
        scorer("enrgy")
    with pytest.raises(ValueError, match="eval mode"):
        anomaly_scores(tiny().train(), images(), scorer("energy"))
    with pytest.raises(ValueError, match="no feature map 'fused'"):
        MahalanobisFit(tiny(), "fused").update(images(24, 32), labels(0))


class Nineteen(SegmentationModel):
    """Says road everywhere, and finds strange what is bright."""

    minimum = 4

    def __init__(self) -> None:
        super().__init__(19)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        logits = torch.zeros(len(images), 19, *images.shape[-2:])
        logits[:, 0] = 1.0
        return Prediction(logits, {}, [], {"uncertainty": self.scale * images.mean(1)})


def test_the_table_holds_what_the_metrics_say() -> None:
    dataset = Streets("fog", "test", size=(64, 128), length=6, unknown=True)
    model = Nineteen().eval()
    (row,), _ = detect(model, [dataset], {"learned": scorer("learned")})
    scores = torch.cat([model(dataset[i].image[None]).extra["uncertainty"].detach() for i in range(6)])
    out = torch.stack([dataset[i].label for i in range(6)]) == 254
    assert int(out.sum()) > 0
    assert row.auroc == pytest.approx(roc_auc_score(out.flatten(), scores.flatten()), abs=2e-3)
    road = torch.stack([dataset[i].label for i in range(6)])
    share = float((road == 0).sum() / (road < 254).sum())
    present = len(set(road.unique().tolist()) - {254})
    assert row.miou == pytest.approx(share / present)
    assert row.macc == pytest.approx(1 / present)
    from dgseg.evaluation.ood import above, ood_metrics

    components = ComponentScores(component_sizes(dataset))
    components.update(above(scores, ood_metrics(scores, out.byte()).best_threshold), out.byte())
    assert row.f1 == components.result().f1
    shown = table({"mine": [row]})
    assert shown.head[1:] == ("data set", "AUROC", "AP", "FPR95", "sIoU", "PPV", "F1", "mIoU", "mAcc")
    assert [line[:3] for line in shown.rows] == [("mine: learned", "fog", f"{100 * row.auroc:.2f}")]
    twice = table({"mine": [row, dataclasses.replace(row, dataset="rain", auroc=0.0)]})
    assert twice.rows[-1][:3] == ("mine: learned", "mean", f"{50 * row.auroc:.2f}")
    assert twice.rules == {2}


def test_images_smaller_than_the_model_takes_are_padded() -> None:
    model, x = build("bisenet_mini").eval(), images(20, 37)
    logits = predict_logits(model, x)
    found = anomaly_scores(model, x, scorer("energy"))
    assert torch.allclose(found, -logits.logsumexp(1), atol=1e-4)


def test_a_set_without_unknown_objects_is_in_no_mean() -> None:
    size = (64, 128)
    some = [Streets(name, "test", size=size, length=2, unknown=name == "fog") for name in ("fog", "rain")]
    rows, _ = detect(Nineteen().eval(), some, {"learned": scorer("learned")})
    assert math.isnan(rows[1].fpr95)
    assert means(rows)["fpr95"] == rows[0].fpr95 < 1


def test_a_set_that_is_void_throughout_has_no_scores() -> None:
    class Void(Streets):
        def __getitem__(self, index: int) -> Any:
            sample = super().__getitem__(index)
            sample.label.fill_(255)
            return sample

    (row,), _ = detect(
        Nineteen().eval(), [Void("city", "test", size=(64, 128), length=2)], {"energy": scorer("energy")}
    )
    assert all(math.isnan(value) for value in dataclasses.astuple(row)[2:])


def test_mahalanobis_is_fitted_to_as_many_images_as_asked_for() -> None:
    class Counted(Streets):
        def __getitem__(self, index: int) -> Any:
            seen.append(index)
            return super().__getitem__(index)

    seen: list[int] = []
    training = Counted("game", "train", size=(64, 128), length=19)
    scorers_of(build("bisenet_mini").eval(), ["mahalanobis"], training, 10)
    assert len(seen) == len(set(seen)) == 10
    assert seen[-1] >= 17  # evenly spread
    seen.clear()
    scorers_of(build("bisenet_mini").eval(), ["mahalanobis"], training, 100)
    assert seen == [*range(19)]


def test_a_set_without_classes_has_no_miou() -> None:
    class Unnamed(Streets):
        def __getitem__(self, index: int) -> Any:
            sample = super().__getitem__(index)
            outside = (sample.label == 254).byte()
            sample.extra["out_of_distribution"] = outside
            sample.label[outside == 0] = 255
            return sample

    rows, _ = detect(
        Nineteen().eval(),
        [Unnamed("city", "test", size=(64, 128), length=3, unknown=True)],
        {name: SCORERS[name] for name in ("learned", "energy")},
    )
    assert [row.scorer for row in rows] == ["learned", "energy"]
    assert all(math.isnan(row.miou) and 0 <= row.ap <= 1 for row in rows)
    assert table({"mine": rows}).rows[0][-2:] == ("–", "–")
