"""PrototypeContrast against FLEX-Seg's equations in float64 torch, pixel by pixel."""

import logging

import pytest
import torch
from torch import Tensor

from dgseg.objectives import PrototypeContrast
from dgseg.objectives.pixels import nearest
from dgseg.objectives.prototypes import prototype_weights
from dgseg.ops.prototype_ema.order import pixel_keys
from tests.objectives.harness import CLASSES, batch, context, degenerate, labels, prediction, stub
from tests.objectives.test_cross_entropy import in_band

D, RADII = 16, (1, 2, 4)


def objective(**options):
    model = stub(decoder=options.pop("channels", D))
    return PrototypeContrast.Config(dim=D, radii=RADII, **options).build(model).double()


class Oracle:
    """The bank, the loss and the update, from the equations and METHODS' readings of them."""

    def __init__(self, nested: bool, update: str) -> None:
        self.nested, self.update = nested, update
        self.bank = torch.zeros(CLASSES, len(RADII), D, dtype=torch.float64)
        self.u = torch.zeros(CLASSES, len(RADII), dtype=torch.int64)

    def terms(self, truth: Tensor) -> list[tuple[int, int, int, int, int]]:
        """(class, granularity, n, y, x) of every pixel and band."""
        bands = [in_band(truth, radius) for radius in RADII]
        found = []
        for n, y, x in bands[-1].nonzero().tolist():
            holding = [g for g in range(len(RADII)) if bands[g][n, y, x]]
            found += [(int(truth[n, y, x]), g, n, y, x) for g in (holding if self.nested else holding[:1])]
        return found

    def loss(self, features: Tensor, truth: Tensor) -> Tensor:
        seen = self.u > 0
        if not seen.any():
            return (features * 0).sum()
        weights = (self.u.max() + 1) / (self.u.double() + 1)
        weights = weights / weights[seen].max()
        p = torch.nn.functional.normalize(self.bank[seen], dim=1)
        losses = []
        for c, g, n, y, x in self.terms(truth):
            if seen[c, g]:
                f = features[n, :, y, x] / features[n, :, y, x].norm()
                own = self.bank[c, g] / self.bank[c, g].norm()
                losses.append(weights[c, g] * ((p @ f / 0.07).logsumexp(0) - own @ f / 0.07))
        return torch.stack(losses).mean() if losses else (features * 0).sum()

    def step(self, features: Tensor, truth: Tensor, draws: Tensor, step: int, seed: int) -> None:
        keys = pixel_keys(draws, seed, step, *truth.shape[1:]).view(truth.shape)
        f = torch.nn.functional.normalize(features.detach(), dim=1)
        cells: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
        for c, g, n, y, x in self.terms(truth):
            cells.setdefault((c, g), []).append((int(keys[n, y, x]), f[n, :, y, x]))
        for cell, pixels in cells.items():
            pixels.sort(key=lambda pixel: pixel[0])
            mean = torch.stack([pixel for _, pixel in pixels]).mean(0)
            if self.u[cell] == 0:
                self.bank[cell] = mean
            elif self.update == "batch_mean":
                self.bank[cell] = 0.99 * self.bank[cell] + 0.01 * mean
            else:
                for _, pixel in pixels:
                    self.bank[cell] = 0.99 * self.bank[cell] + 0.01 * pixel
            self.u[cell] += 1 if self.update == "batch_mean" else len(pixels)


@pytest.mark.parametrize("nested", [False, True], ids=["disjoint", "nested"])
@pytest.mark.parametrize("update", ["batch_mean", "pixel"])
def test_loss_and_bank_are_the_equations_over_several_steps(nested, update):
    gap, oracle = objective(nested=nested, update=update), Oracle(nested, update)
    for step in range(4):
        # Each step has other classes, so that some are unseen, rare, absent.
        full = labels(2, 32, 48, seed=step)
        full[(full < 200) & (full > 6 + 3 * step)] = 255
        out = prediction(2, seed=10 * step, D=D)
        found = batch(full, first_draw=2 * step)
        term = gap({"original": out}, found, context(step))["gap"]
        small = full[:, ::4, ::4]
        expected = 0.5 * oracle.loss(out.features["decoder"], small)
        torch.testing.assert_close(term, expected, rtol=1e-9, atol=1e-12)
        (actual,) = torch.autograd.grad(term, out.features["decoder"])
        (wanted,) = torch.autograd.grad(expected, out.features["decoder"])
        torch.testing.assert_close(actual, wanted, rtol=1e-7, atol=1e-12)
        oracle.step(out.features["decoder"], small, found.draws, step, 7)
        assert torch.equal(gap.updates, oracle.u)
        torch.testing.assert_close(gap.prototypes, oracle.bank, rtol=1e-9, atol=1e-10)
    assert term > 0


def test_the_first_step_sees_nothing_and_costs_nothing_but_fills_the_bank():
    gap, out = objective(), prediction(D=D)
    term = gap({"original": out}, batch(labels()), context())["gap"]
    assert term == 0
    assert term.requires_grad
    assert (gap.updates > 0).any()
    term.backward()
    assert (out.features["decoder"].grad == 0).all()


def test_weights_are_over_seen_prototypes_and_the_rarest_has_one():
    updates = torch.tensor([[0, 9, 99], [4, 0, 9]])
    weights, seen = prototype_weights(updates)
    assert torch.equal(seen, updates > 0)
    expected = torch.tensor([[0, 0.5, 0.05], [1, 0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)
    assert (prototype_weights(torch.zeros_like(updates))[0] == 0).all()
    torch.library.opcheck(torch.ops.dgseg.prototype_weights.default, (updates,))


@pytest.mark.parametrize("nested", [False, True], ids=["disjoint", "nested"])
def test_a_feeble_mean_weight_is_said_once(nested, caplog):
    gap, truth = objective(nested=nested).eval(), labels()
    gap.prototypes.normal_()
    gap.updates += 999
    gap.updates[:3] = 0
    gap.updates[18, 2] = 0
    gap.updates[17, 2] = 99_999
    oracle = Oracle(nested, "pixel")
    for rare in (False, True):
        if rare:
            gap.updates[5] = 1
        weights, seen = prototype_weights(gap.updates)
        terms = [(c, g) for c, g, *_ in oracle.terms(truth[:, ::4, ::4]) if seen[c, g]]
        truth[truth == 5] = 6  # from now on only the bank knows class 5
        expected = torch.stack([weights[cell] for cell in terms]).mean()
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                gap({"original": prediction(D=D)}, batch(truth), context())
                found = gap.metrics()["gap/mean_weight"]
        if rare:
            torch.testing.assert_close(found, expected)
        assert len(caplog.records) == rare
    assert "hardly acts" in caplog.text


def test_evaluation_leaves_the_bank_alone():
    gap = objective().eval()
    gap({"original": prediction(D=D)}, batch(labels()), context())
    assert not gap.updates.any()


def test_a_decoder_of_another_width_is_projected():
    gap, out = objective(channels=24), prediction(D=24)
    (group,) = gap.parameter_groups()
    assert sum(parameter.numel() for parameter in group.parameters) == 24 * D + D
    for step in range(2):
        term = gap({"original": out}, batch(labels()), context(step))["gap"]
    projected = prediction(D=D)
    projected.features["decoder"] = gap.projection(out.features["decoder"])
    plain = objective().eval()
    plain.prototypes, plain.updates = gap.prototypes, gap.updates
    assert plain.parameter_groups() == []
    term.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in gap.parameters())
    # The same bank: cosine 1 with its own mean features' direction is what both have been moved to.
    repeated = plain({"original": projected}, batch(labels()), context(1))["gap"]
    torch.testing.assert_close(repeated, term, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("H", "W", "h", "w"), [(32, 48, 8, 12), (33, 50, 9, 13), (1, 1, 1, 1)])
def test_labels_are_sampled_as_boundary_bands_samples_them(H, W, h, w):
    truth = torch.arange(H * W).view(1, H, W)
    expected = [[truth[0, i * H // h, j * W // w].item() for j in range(w)] for i in range(h)]
    assert nearest(truth, (h, w))[0].tolist() == expected


@pytest.mark.parametrize("nested", [False, True])
def test_a_cap_keeps_so_many_pixels_of_each_class_and_band(nested):
    whole, few, ample = (objective(cap=cap, update="pixel", nested=nested) for cap in (None, 3, 10_000))
    for gap in (whole, few, ample):
        gap({"original": prediction(D=D)}, batch(labels()), context())
    assert torch.equal(whole.updates, ample.updates)
    if nested:
        assert (few.updates <= whole.updates).all()
        assert (few.updates[:, 0] == whole.updates[:, 0].clamp(max=3)).all()
    else:
        assert torch.equal(few.updates, whole.updates.clamp(max=3))


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("known", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize("update", ["batch_mean", "pixel"])
def test_degenerate_batches_have_finite_losses_and_gradients(case, known, update):
    gap, out = objective(update=update, cap=5), prediction(2, 4, 4, D=D)
    if known:
        gap.prototypes.normal_()
        gap.updates += 3
    out.features["decoder"].data[:, :, 0, 0] = 0  # a feature without direction
    for step in range(2):
        term = gap({"original": out}, batch(degenerate()[case]), context(step))["gap"]
        (gradient,) = torch.autograd.grad(term, out.features["decoder"])
        assert term.isfinite()
        assert gradient.isfinite().all()
        assert gap.prototypes.isfinite().all()


@pytest.mark.parametrize("update", ["batch_mean", "pixel"])
def test_a_restored_bank_goes_on_bit_for_bit(update):
    def steps(gap, numbers):
        found = []
        for step in numbers:
            out = prediction(seed=step, D=D)
            found.append(gap({"original": out}, batch(labels(seed=step), first_draw=3 * step), context(step))["gap"])
        return torch.stack(found)

    straight, before, after = (objective(update=update) for _ in range(3))
    expected = steps(straight, range(6))[3:]
    steps(before, range(3))
    after.load_state_dict(before.state_dict())
    assert torch.equal(steps(after, range(3, 6)), expected)
    assert torch.equal(after.prototypes, straight.prototypes)
    assert torch.equal(after.updates, straight.updates)


def test_the_bank_stays_float32_when_the_model_is_narrowed():
    gap = PrototypeContrast.Config(dim=D).build(stub(decoder=24))
    gap.prototypes.normal_()
    before = gap.prototypes.clone()
    gap.bfloat16()
    assert gap.projection is not None
    assert gap.projection.weight.dtype == torch.bfloat16
    assert torch.equal(gap.prototypes, before)
    assert gap.state_dict()["prototypes"].dtype == torch.float32


def test_autocast_changes_the_loss_by_rounding_alone():
    out = prediction(D=24)
    features = out.features["decoder"].detach().float().requires_grad_()
    terms = {}
    for enabled in (False, True):
        torch.manual_seed(0)
        gap = PrototypeContrast.Config(dim=D, radii=RADII).build(stub(decoder=24))
        for step in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                outputs = {"original": out._replace(features={"decoder": features})}
                terms[enabled] = gap(outputs, batch(labels()), context(step))["gap"]
        terms[enabled].backward()
        assert terms[enabled].dtype == torch.float32
        assert gap.prototypes.dtype == torch.float32
    torch.testing.assert_close(terms[True], terms[False], rtol=3e-2, atol=0)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="cap"):
        objective(cap=0)
    with pytest.raises(ValueError, match="update"):
        objective(update="mean")
    with pytest.raises(ValueError, match="no feature map 'fused'; it has: decoder"):
        objective(feature="fused")
