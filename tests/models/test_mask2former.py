"""Mask2Former: what its logits are, and a matching loss that no target can break."""

import pytest
import torch

from dgseg.models.mask2former import Mask2Former, mask2former_r50, semantic_logits
from dgseg.models.mask_loss import mask_loss, targets
from dgseg.models.prediction import Prediction
from tests.models.harness import CLASSES, images, tiny

NAME = "mask2former_r50"


@pytest.fixture
def model() -> Mask2Former:
    found = tiny(NAME)
    assert isinstance(found, Mask2Former)
    return found.train()


def labels(*, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, CLASSES, (2, 64, 96), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_logits_are_the_logarithm_of_the_published_scores() -> None:
    torch.manual_seed(0)
    classes, masks = torch.randn(2, 7, CLASSES + 1), torch.randn(2, 7, 6, 8)
    scores = torch.zeros(2, CLASSES, 6, 8)
    for query in range(7):
        probability = classes[:, query].softmax(-1)[:, :-1]
        scores += probability[:, :, None, None] * masks[:, query].sigmoid()[:, None]
    logits = semantic_logits(classes, masks)
    assert torch.equal(logits.argmax(1), scores.argmax(1))
    torch.testing.assert_close(logits.softmax(1), scores / scores.sum(1, keepdim=True), rtol=1e-4, atol=1e-5)


def test_a_class_that_no_query_asks_for_keeps_finite_gradients() -> None:
    classes = torch.full((1, 3, CLASSES + 1), -200.0)
    classes[..., -1] = 200.0  # all "no object"
    classes.requires_grad_()
    logits = semantic_logits(classes, torch.zeros(1, 3, 4, 4))
    torch.nn.functional.cross_entropy(logits, torch.zeros(1, 4, 4, dtype=torch.long)).backward()
    assert logits.isfinite().all()
    assert classes.grad.isfinite().all()


def test_pre_classifier_is_linear_in_the_class_predictor(model: Mask2Former) -> None:
    """What an uncertainty head builds on: W·f equals the masks' sum of W·query."""
    prediction = model(images(NAME))
    weight = model.network.class_predictor.weight
    per_pixel = torch.einsum("cd,ndhw->nchw", weight, prediction.features["pre_classifier"])
    per_query = torch.einsum(
        "cd,nqd,nqhw->nchw", weight, prediction.extra["queries"], prediction.extra["mask_logits"].sigmoid()
    )
    torch.testing.assert_close(per_pixel, per_query, rtol=1e-4, atol=1e-4)


def test_targets_are_the_classes_that_occur() -> None:
    maps = torch.tensor([[[0, 0], [3, 255]], [[254, 255], [255, 255]]], dtype=torch.uint8)
    masks, classes = targets(maps, CLASSES)
    assert [c.tolist() for c in classes] == [[0, 3], []]
    assert masks[0].tolist() == [[[1, 1], [0, 0]], [[0, 0], [1, 0]]]
    assert masks[1].shape == (0, 2, 2)


def test_the_loss_agrees_with_transformers(model: Mask2Former) -> None:
    prediction, maps = model(images(NAME)), labels()
    found = mask_loss(model.network.config, prediction, maps, seed=3, step=4)
    masks, classes = targets(maps, CLASSES)
    *earlier, (class_logits, mask_logits) = prediction.extra["layers"]
    # Their own loop visits the last layer first, so that random points differ: many points make up for it.
    torch.manual_seed(0)
    expected = model.network.get_loss_dict(
        mask_logits,
        class_logits,
        masks,
        classes,
        [{"masks_queries_logits": m, "class_queries_logits": c} for c, m in earlier],
    )
    theirs = float(sum(expected.values()).detach())
    assert float(sum(found.values()).detach()) == pytest.approx(theirs, rel=0.05)


def test_the_points_are_a_function_of_seed_and_step(model: Mask2Former) -> None:
    prediction, maps = model(images(NAME)), labels()
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first, again, later = (mask_loss(model.network.config, prediction, maps, step=step)["mask"] for step in (0, 0, 1))
    assert first == again
    assert first != later
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("empty", [[0], [0, 1]], ids=["one void image", "all void"])
def test_void_images_give_a_finite_loss_with_a_graph(model: Mask2Former, empty: list[int]) -> None:
    maps = labels()
    maps[empty] = 255
    prediction = model(images(NAME))
    total = sum(mask_loss(model.network.config, prediction, maps).values())
    assert total.isfinite()
    total.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_one_pixel_masks_are_targets_too(model: Mask2Former) -> None:
    maps = torch.full((2, 64, 96), 255, dtype=torch.uint8)
    maps[0, 5, 7] = 2
    assert all(term.isfinite() for term in mask_loss(model.network.config, model(images(NAME)), maps).values())


def test_a_broken_query_is_matched_last(model: Mask2Former) -> None:
    """NaN costs do not reach scipy, which would raise; the broken query stays unmatched while others are free."""
    prediction = model(images(NAME))
    layers = []
    for class_logits, mask_logits in prediction.extra["layers"]:
        broken = mask_logits.clone()
        broken[:, 0] = torch.nan
        layers.append((class_logits, broken))
    extra = prediction.extra | {"layers": layers}
    found = mask_loss(model.network.config, prediction._replace(extra=extra), labels())
    assert all(term.isfinite() for term in found.values())


def test_autocast_predictions_are_matched_in_full_precision(model: Mask2Former) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(images(NAME))
        terms = mask_loss(model.network.config, prediction, labels())
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()


def test_the_loss_learns(model: Mask2Former) -> None:
    maps = labels()
    maps[:, :, :48], maps[:, :, 48:] = 1, 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    history = []
    for step in range(12):
        total = sum(mask_loss(model.network.config, model(images(NAME)), maps, step=step).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(float(total.detach()))
    assert history[-1] < 0.8 * history[0]


def test_a_prediction_of_eval_mode_is_refused(model: Mask2Former) -> None:
    prediction: Prediction = model.eval()(images(NAME))
    with pytest.raises(ValueError, match="training mode"):
        mask_loss(model.network.config, prediction, labels())


def test_deep_supervision_can_be_left_to_the_mask_loss() -> None:
    model = tiny(NAME, deep_supervision=False).train()
    prediction = model(images(NAME))
    assert prediction.aux == []
    assert len(prediction.extra["layers"]) == 3


def test_the_backbone_takes_torchvision_weights(tmp_path) -> None:
    from torchvision.models import resnet50

    torch.manual_seed(3)
    trunk = resnet50().eval()
    torch.save(trunk.state_dict(), tmp_path / "resnet50.pth")
    small = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 2}
    model = mask2former_r50(CLASSES, str(tmp_path / "resnet50.pth"), num_attention_heads=4, **small).eval()
    x = images(NAME, 1)
    with torch.no_grad():
        expected = trunk.layer4(
            trunk.layer3(trunk.layer2(trunk.layer1(trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(x)))))))
        )
        torch.testing.assert_close(model(x).features["stage4"], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no weights file"):
        mask2former_r50(CLASSES, str(tmp_path / "absent.pth"))
