"""Uncertainty heads: what they compute, what they begin as, and what becomes of them in weights files."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dgseg.models import build, load_weights, save_weights
from dgseg.models.export import export
from dgseg.models.folding import fold_batch_norms
from dgseg.models.uncertainty import EnergyHead, RegionHead
from dgseg.models.weights import WeightsError
from tests.models.harness import CLASSES, TINY, images, tiny

NAMES = ["deeplabv3plus_r50", "mask2former_r50"]
CLASSIFIER = {"deeplabv3plus_r50": "final2.0", "mask2former_r50": "network.class_predictor"}


def without_head(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(name, CLASSES, **{**TINY[name].options, "uncertainty": False}).eval()


def test_the_energy_is_the_formula() -> None:
    torch.manual_seed(0)
    head = EnergyHead(nn.Conv2d(6, 4, 1)).double().requires_grad_(False)
    features = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    found = head(features)
    for image in range(2):
        for y in range(3):
            for x in range(5):
                scores = [float(head.weight[c, :, 0, 0] @ features[image, :, y, x]) for c in range(4)]
                assert float(found[image, y, x]) == pytest.approx(-math.log(sum(map(math.exp, scores))), rel=1e-12)


def test_a_regions_score_is_the_formula() -> None:
    torch.manual_seed(0)
    head = RegionHead(nn.Linear(6, 4 + 1)).double().requires_grad_(False)
    queries, masks = torch.randn(2, 7, 6, dtype=torch.float64), torch.randn(2, 7, 3, 5, dtype=torch.float64)
    found = head(queries, masks)
    for image in range(2):
        for y in range(3):
            for x in range(5):
                scores = [0.0] * 4
                for query in range(7):
                    exps = [math.exp(float(head.weight[c] @ queries[image, query] + head.bias[c])) for c in range(5)]
                    claim = 1 / (1 + math.exp(-float(masks[image, query, y, x])))
                    scores = [s + e / sum(exps) * claim for s, e in zip(scores, exps[:4], strict=True)]
                assert float(found[image, y, x]) == pytest.approx(1 - max(scores), rel=1e-12)


def test_born_as_the_classifiers_own_scores() -> None:
    for name in NAMES:
        model = tiny(name).eval()
        with torch.no_grad():
            prediction = model(images(name))
        found = prediction.extra["uncertainty"]
        assert found.shape == prediction.logits[:, 0].shape
        if name == "mask2former_r50":
            expected = 1 - prediction.logits.exp().amax(1)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        else:
            bias = model.final2[0].bias
            torch.testing.assert_close(found, -(prediction.logits - bias[:, None, None]).logsumexp(1))


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_reaches_head_and_features_but_not_the_classifier(name: str) -> None:
    model = tiny(name).train()
    model(images(name)).extra["uncertainty"].square().mean().backward()
    assert model.uncertainty.weight.grad.abs().sum() > 0
    classifier = model.get_submodule(CLASSIFIER[name])
    assert classifier.weight.grad is None
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for k, p in model.named_parameters() if "final1" in k
               or "transformer_module" in k)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_scores_stay_in_full_precision_under_autocast(name: str) -> None:
    model = tiny(name).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(images(name, 1)).extra["uncertainty"]
    assert found.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_a_file_without_the_head_gives_it_the_files_classifier(name: str, tmp_path: Path) -> None:
    save_weights(without_head(name), tmp_path / "plain.safetensors")
    for model in (tiny(name, seed=5), on_meta(name)):
        report = load_weights(model, tmp_path / "plain.safetensors")
        assert report.missing == []
        assert [line.split(" from ")[0] for line in report.derived] == [
            key for key in model.state_dict() if key.startswith("uncertainty.")
        ]
        classifier = model.get_submodule(CLASSIFIER[name])
        for part, tensor in model.uncertainty.state_dict().items():
            of = classifier.get_parameter(part)
            assert torch.equal(tensor, of)
            assert tensor.data_ptr() != of.data_ptr()


def on_meta(name: str) -> Any:
    with torch.device("meta"):
        return build(name, CLASSES, **TINY[name].options)


@pytest.mark.parametrize("name", NAMES)
def test_a_learned_head_comes_back_and_is_not_lost_in_silence(name: str, tmp_path: Path) -> None:
    learned = tiny(name).eval()
    with torch.no_grad():
        learned.uncertainty.weight.add_(1.0)
    save_weights(learned, tmp_path / "learned.safetensors")
    model = tiny(name, seed=5).eval()
    assert load_weights(model, tmp_path / "learned.safetensors").derived == []
    assert torch.equal(model.uncertainty.weight, learned.uncertainty.weight)
    plain = without_head(name)
    with pytest.raises(WeightsError, match="build the model with uncertainty=True"):
        load_weights(plain, tmp_path / "learned.safetensors")


def test_a_classifier_of_other_classes_gives_no_head(tmp_path: Path) -> None:
    name = "deeplabv3plus_r50"
    torch.manual_seed(0)
    other = build(name, CLASSES + 1, **{**TINY[name].options, "uncertainty": False})
    save_weights(other, tmp_path / "other.safetensors")
    model = tiny(name)
    before = copy.deepcopy(model.uncertainty.weight)
    report = load_weights(model, tmp_path / "other.safetensors", strict=False)
    assert report.derived == []
    assert report.missing == ["uncertainty.weight"]
    assert torch.equal(model.uncertainty.weight, before)


def test_folding_and_export_work_beside_the_head(tmp_path: Path) -> None:
    name = "deeplabv3plus_r50"
    torch.manual_seed(0)
    model = build(name, CLASSES, layers=(1, 1, 1, 1), uncertainty=True).eval()
    folded, count = fold_batch_norms(model)
    assert count > 10
    with torch.no_grad():
        expected, found = (each(images(name, 1)).extra["uncertainty"] for each in (model, folded))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert export(folded, tmp_path / "m.pt2", "torch-export", height=64, width=96).ok
