"""Adversarial against its formulas, and against the usual two phases with requires_grad switched on and off."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dgseg.data import Batch
from dgseg.models import Prediction
from dgseg.models.base import SegmentationModel
from dgseg.objectives import Adversarial, CrossEntropy, FocalDice, Objectives, StepContext
from dgseg.training.learner import Learner
from tests.models.harness import CLASSES as TINY_CLASSES
from tests.models.harness import TINY, tiny
from tests.objectives.harness import CLASSES, batch, context, degenerate, stub
from tests.objectives.test_focal_dice import step as focal_dice_step
from tests.ops.harness import compiled, label_map, run_ranks

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, TARGET_SIZE = (64, 96), (40, 64)  # source and target need not share a resolution


class Tiny(SegmentationModel):
    def __init__(self) -> None:
        super().__init__(CLASSES)
        self.first, self.second = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, CLASSES, 1)

    def normalise(self, images: Tensor) -> Tensor:
        return super().normalise(images).double()

    def predict(self, images: Tensor, *, seed: int, step: int) -> Prediction:
        decoder = self.first(images).relu()
        return Prediction(self.second(decoder), {"decoder": decoder}, [], {})


def images(N: int, size: tuple[int, int], seed: int) -> Tensor:
    return torch.randint(0, 256, (N, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def both_domains(part: slice = slice(0, 3), target_labels: Tensor | None = None) -> Batch:
    truth = label_map(3, *SIZE, seed=1).cpu()
    target = batch(target_labels, images=images(3, TARGET_SIZE, seed=2)[part])
    return replace(batch(truth[part], images=images(3, SIZE, seed=1)[part]), target=target)


def learner(weight: float = 0.1) -> Learner:
    torch.manual_seed(0)
    adversarial = Adversarial.Config(width=2, weight=weight).build(stub())
    return Learner(Tiny(), Objectives({"ce": CrossEntropy.Config().build(stub()), "adversarial": adversarial})).double()


def gradients_of(module: Learner, found: Batch, group=None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(terms, gradients of every parameter): one forward, one backward, as the training loop does it."""
    terms = module(found, context(group=group))
    names, parameters = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(torch.stack(list(terms.values())).sum(), parameters)
    return {name: term.detach() for name, term in terms.items()}, dict(zip(names, gradients, strict=True))


def softmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).softmax(1)


def test_terms_are_the_formulas():
    module, found = learner(), both_domains()
    terms, _ = gradients_of(module, found)
    discriminator = module.objectives["adversarial"].discriminator
    assert found.target is not None
    says_source = {
        name: torch.sigmoid(discriminator(softmax(module.model(shown.images).logits, shown.images.shape[-2:])))
        for name, shown in (("source", found), ("target", found.target))
    }
    # The model is rewarded where the target is taken for the source; the discriminator where it is not deceived.
    expected = {
        "adversarial": 0.1 * -says_source["target"].log().mean(),
        "adversarial/discriminator": -says_source["source"].log().mean() / 2
        - (1 - says_source["target"]).log().mean() / 2,
    }
    torch.testing.assert_close({name: terms[name] for name in expected}, expected, rtol=1e-9, atol=0)
    metrics = module.objectives.metrics()
    torch.testing.assert_close(metrics["adversarial/unweighted"], expected["adversarial"].detach() / 0.1)
    torch.testing.assert_close(metrics["adversarial/source_verdict"].double(), says_source["source"].mean().detach())
    torch.testing.assert_close(metrics["adversarial/target_verdict"].double(), says_source["target"].mean().detach())


def test_one_backward_gives_the_gradients_of_the_usual_two_phases():
    module, found = learner(), both_domains()
    _, ours = gradients_of(module, found)

    model, discriminator = (
        copy.deepcopy(module.model),
        copy.deepcopy(module.objectives["adversarial"].discriminator),
    )
    assert found.target is not None
    assert found.labels is not None
    # Phase one: the discriminator is held still, the model learns.
    for parameter in discriminator.parameters():
        parameter.requires_grad = False
    source, target = model(found.images).logits, model(found.target.images).logits
    full = F.interpolate(source, size=SIZE, mode="bilinear", align_corners=False)
    F.cross_entropy(full, found.labels.long(), ignore_index=255).backward()
    verdict = discriminator(softmax(target, TARGET_SIZE))
    (0.1 * F.binary_cross_entropy_with_logits(verdict, torch.ones_like(verdict))).backward()
    # Phase two: the discriminator learns from what the model gave, detached.
    for parameter in discriminator.parameters():
        parameter.requires_grad = True
    for logits, size, truth in ((source, SIZE, 1.0), (target, TARGET_SIZE, 0.0)):
        verdict = discriminator(softmax(logits.detach(), size))
        (F.binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, truth)) / 2).backward()

    expected = {f"model.{name}": p.grad for name, p in model.named_parameters()}
    prefix = "objectives.adversarial.discriminator."
    expected |= {prefix + name: p.grad for name, p in discriminator.named_parameters()}
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-14, msg=name)


def test_the_model_learns_to_make_the_target_look_like_the_source():
    """The discriminator held still, steps on the adversarial term alone raise its belief that the target is source."""
    module, found = learner(weight=1.0), both_domains()
    optimizer = torch.optim.SGD(module.model.parameters(), lr=2.0)
    beliefs = []
    for _ in range(5):
        optimizer.zero_grad()
        module(found, context())["adversarial"].backward()
        optimizer.step()
        beliefs.append(float(module.objectives.metrics()["adversarial/target_verdict"]))
    assert beliefs == sorted(beliefs)
    assert beliefs[-1] > beliefs[0]


def test_labels_of_the_target_never_matter():
    module = learner()
    terms, gradients = gradients_of(module, both_domains())
    for target_labels in (label_map(3, *TARGET_SIZE, seed=7).cpu(), torch.full((3, *TARGET_SIZE), 255)):
        again, gradients_again = gradients_of(module, both_domains(target_labels=target_labels))
        assert again == terms
        assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)


@pytest.mark.parametrize("name", ["bisenet_r18", "deeplabv2_r101"])
def test_the_studys_models_learn_all_of_their_parameters(name):
    model, shown = tiny(name), TINY[name].size
    truth = label_map(2, *shown, classes=TINY_CLASSES, block=16).cpu()
    found = batch(truth, images=images(2, shown, seed=1))
    found = replace(found, target=batch(None, images=images(2, shown, seed=2)))
    objectives = {
        "focal_dice": FocalDice.Config.combined(0.7, (1.0,) * TINY_CLASSES).build(model),
        "adversarial": Adversarial.Config(width=2).build(model),
    }
    module = Learner(model, Objectives(objectives))
    terms = module(found, context())
    names = {"focal_dice", *(f"focal_dice/aux{i + 1}" for i in range(TINY[name].aux))}
    assert set(terms) == names | {"adversarial", "adversarial/discriminator"}
    torch.stack(list(terms.values())).sum().backward()
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("case", degenerate())
def test_degenerate_batches_have_finite_losses_and_gradients(case):
    module, found = learner(), both_domains(slice(0, 2))
    truth = degenerate()[case].repeat_interleave(4, 1).repeat_interleave(6, 2)
    terms, gradients = gradients_of(module, replace(found, labels=truth))
    assert all(term.isfinite() for term in terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_discriminator_that_is_sure_leaves_finite_gradients():
    module, found = learner(), both_domains()
    with torch.no_grad():
        for parameter in module.objectives["adversarial"].parameters():
            parameter *= 100
    terms, gradients = gradients_of(module, found)
    assert all(t.isfinite().all() for t in (*terms.values(), *gradients.values()))


def on_rank(rank, group):
    mine = slice(0, 1) if rank == 0 else slice(1, 3)
    return [gradients_of(learner(), both_domains(mine), group), focal_dice_step(mine, group)]


def test_two_ranks_are_one_process():
    """Focal and Dice loss too: starting processes costs seconds."""
    first, second = run_ranks(on_rank)
    alone = gradients_of(learner(), both_domains())
    for mine, other, expected in zip(first[0], second[0], alone, strict=True):
        together = {name: (mine[name] + other[name]) / 2 for name in expected}
        torch.testing.assert_close(together, expected, rtol=1e-9, atol=1e-13)
    terms, gradient = focal_dice_step(slice(0, 3))
    together = [(a + b) / 2 for a, b in zip(first[1][0], second[1][0], strict=True)]
    torch.testing.assert_close(together, terms, rtol=1e-9, atol=0)
    torch.testing.assert_close(torch.cat([first[1][1], second[1][1]]) / 2, gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_step_is_the_eager_one(backend):
    module = learner()
    expected = gradients_of(module, both_domains())
    objectives, module.objectives = module.objectives, compiled(module.objectives, backend)
    terms, gradients = gradients_of(module, both_domains())
    torch.testing.assert_close(terms, expected[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(list(gradients.values()), list(expected[1].values()), rtol=1e-8, atol=1e-12)
    assert objectives.metrics().keys() > {"adversarial/discriminator"}


def test_autocast_changes_the_terms_by_rounding_alone():
    module, found = learner().float(), both_domains()
    outputs = {
        "original": Prediction(torch.randn(3, CLASSES, 16, 24), {}, [], {}),
        "target": Prediction(torch.randn(3, CLASSES, 10, 16), {}, [], {}),
    }
    plain = module.objectives(outputs, found, context())
    with torch.autocast("cpu", torch.bfloat16):
        half = module.objectives(outputs, found, context())
    assert {term.dtype for term in half.values()} == {torch.float32}
    torch.testing.assert_close(half, plain, rtol=2e-2, atol=0)


def test_the_discriminator_has_the_papers_optimiser():
    objective = Adversarial.Config().build(stub())
    assert objective.config.weight == 1e-3
    (group,) = objective.parameter_groups()
    assert group.own == (1e-4, (0.9, 0.99), 0.0, 0.9)
    assert group.parameters == list(objective.parameters())
    assert sum(p.numel() for p in group.parameters) == 2_781_121


def test_without_a_target_there_is_a_clear_error():
    module, found = learner(), both_domains()
    with pytest.raises(ValueError, match=r"data\.target"):
        module(replace(found, target=None), StepContext(0, 1))
