"""Three workers, one of them without an image, against torch's batch norm over all images in one process."""

import copy
import pickle
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from dgseg.models.checkpointing import checkpointed
from dgseg.ops import across_ranks
from dgseg.training.batch_norm import SharedBatchNorm2d, share_batch_norms
from tests.ops.harness import run_ranks

SPLITS = (0, 0, 2, 5)  # the first worker's batch is empty
STEPS = 2


@dataclass(frozen=True)
class Case:
    norm: type[nn.Module] = nn.BatchNorm2d
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (5, 3, 4, 6)
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-12
    offset: float = 1.0
    layout: torch.memory_format = torch.contiguous_format
    around: str = "nothing"

    def module(self) -> nn.Module:
        torch.manual_seed(1)
        norm = self.norm(self.shape[1], **self.options)
        for parameter in norm.parameters():
            nn.init.uniform_(parameter, 0.5, 2.0)
        # Autocast leaves a norm's own tensors in float32.
        return norm.double() if self.dtype == torch.float64 else norm

    def data(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step)
        images, gradient = torch.randn(2, *self.shape, generator=generator, dtype=torch.float64)
        images = 3 * images + self.offset
        return images.to(self.dtype).contiguous(memory_format=self.layout), gradient.to(self.dtype)


CASES = {
    "plain": Case(),
    "cumulative": Case(options={"momentum": None}),
    "no weights": Case(options={"affine": False}),
    "no bias": Case(options={"bias": False}),
    "no running statistics": Case(options={"track_running_stats": False}),
    "vectors": Case(nn.BatchNorm1d, shape=(5, 3)),
    "sequences": Case(nn.BatchNorm1d, shape=(5, 3, 7)),
    "volumes": Case(nn.BatchNorm3d, shape=(5, 2, 2, 3, 2)),
    "one pixel per image": Case(shape=(5, 3, 1, 1)),
    "channels last": Case(layout=torch.channels_last),
    "float32": Case(dtype=torch.float32, tolerance=2e-6),
    # E[x²] - E[x]² would leave nothing of a variance of 9 beside a mean of 10,000.
    "float32 far from zero": Case(dtype=torch.float32, tolerance=2e-3, offset=1e4),
    "bf16": Case(dtype=torch.bfloat16, tolerance=0.04),
    "fp16 channels last": Case(dtype=torch.float16, tolerance=0.005, layout=torch.channels_last),
    "stages recomputed": Case(around="checkpointed"),
    "recomputed by torch": Case(around="checkpoint"),
}


def apply(case: Case, norm: nn.Module, images: Tensor) -> Any:
    if case.around == "checkpointed":
        return checkpointed(norm, images)
    if case.around == "checkpoint":
        return checkpoint(norm, images, use_reentrant=False)
    return norm(images)


def run(case: Case, norm: nn.Module, rows: slice) -> dict[str, Tensor]:
    """Steps, then the same norm in eval mode."""
    found = {}
    for step in range(STEPS):
        images, gradient = case.data(step)
        images = images[rows].requires_grad_()
        output = apply(case, norm, images)
        assert output.dtype == case.dtype
        output.backward(gradient[rows])
        assert images.grad is not None
        found |= {f"output{step}": output.detach(), f"gradient{step}": images.grad}
    found |= {f"{name}'": parameter.grad for name, parameter in norm.named_parameters() if parameter.grad is not None}
    found |= {name: value.clone() for name, value in norm.state_dict().items()}
    norm.eval()
    found["evaluated"] = norm(case.data(7)[0][rows]).detach() if rows.start < rows.stop else case.data(7)[0][rows]
    return found


def worker(rank: int, group: dist.ProcessGroup) -> dict[str, Any]:
    rows = slice(SPLITS[rank], SPLITS[rank + 1])
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        norm = case.module()
        assert share_batch_norms(norm, group) == 1
        found[name] = run(case, norm, rows)
    found["exchanges"] = count_exchanges(rows, group)
    found["network"] = train_network(group, rows)
    found["compiled"] = train_network(group, rows, compiled=True)
    return found


def count_exchanges(rows: slice, group: dist.ProcessGroup) -> list[int]:
    """Collectives of a forward and of a backward pass."""
    counts = []
    norm = CASES["plain"].module()
    share_batch_norms(norm, group)
    calls = 0

    def counting(original: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return original(*args, **kwargs)

        return counted

    with (
        patch.object(dist, "all_reduce", counting(dist.all_reduce)),
        patch.object(across_ranks, "_all_gather", counting(across_ranks._all_gather)),
    ):
        images, gradient = CASES["plain"].data(0)
        output = norm(images[rows].requires_grad_())
        counts.append(calls)
        output.backward(gradient[rows])
        counts.append(calls - counts[0])
    return counts


def network() -> nn.Sequential:
    torch.manual_seed(2)
    frozen = nn.BatchNorm2d(4).eval()
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), frozen, nn.Conv2d(4, 2, 1)).double()


def train_network(group: dist.ProcessGroup | None, rows: slice, compiled: bool = False) -> dict[str, Tensor]:
    model: nn.Module = network()
    inner = model
    if group is not None:
        assert share_batch_norms(model, group) == 2
        model = copy.deepcopy(model)  # as averaged weights are made
        inner = model
        model = DistributedDataParallel(model, process_group=group, forward_sync_buffers=False)
    if compiled:
        model = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        images = CASES["plain"].data(step)[0]
        optimizer.zero_grad()
        # What DDP averages over workers is then the gradient of the global mean.
        size = 1 if group is None else group.size()
        (model(images[rows]).square().sum() * size / len(images)).backward()
        optimizer.step()
    return {name: value.clone() for name, value in inner.state_dict().items()}


@pytest.fixture(scope="module")
def workers() -> list[dict[str, Any]]:
    return run_ranks(worker, world=3)


@pytest.mark.parametrize("name", CASES)
def test_as_one_process(name: str, workers: list[dict[str, Any]]) -> None:
    case = CASES[name]
    expected = run(case, case.module(), slice(0, 5))
    found = [one[name] for one in workers]
    # Outside of training workers see unequal numbers of batches: nothing is exchanged, and running statistics serve.
    own = {"evaluated"} if name == "no running statistics" else set()
    # torch's checkpoint counts a batch once more in the recomputation, if it does not stop before.
    own |= {"running_mean", "running_var", "num_batches_tracked", "evaluated"} if case.around == "checkpoint" else set()
    assert all(one.keys() == expected.keys() for one in found)
    for key, value in expected.items():
        if key in own:
            continue
        if key.endswith("'"):  # gradients of weights are each worker's own
            whole = sum(one[key] for one in found)
        elif key.startswith(("output", "gradient", "evaluated")):
            whole = torch.cat([one[key] for one in found])
        else:
            whole = found[0][key]
            assert all(torch.equal(one[key], whole) for one in found)
        assert isinstance(whole, Tensor)
        assert whole.dtype == value.dtype
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(whole, value, rtol=0, atol=case.tolerance * scale, msg=lambda m, k=key: f"{k}: {m}")


def test_recomputation_counts_a_batch_once(workers: list[dict[str, Any]]) -> None:
    """Where dgseg's models recompute."""
    for one in workers:
        assert torch.equal(one["stages recomputed"]["running_mean"], one["plain"]["running_mean"])
        assert int(one["stages recomputed"]["num_batches_tracked"]) == STEPS


def test_one_exchange_per_pass(workers: list[dict[str, Any]]) -> None:
    assert [one["exchanges"] for one in workers] == [[1, 1]] * 3


@pytest.mark.parametrize("how", ["network", "compiled"])
def test_ddp(how: str, workers: list[dict[str, Any]]) -> None:
    """With a frozen norm inside, and a copy of the whole."""
    expected = train_network(None, slice(0, 5))
    for one in workers:
        assert one[how].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(one[how][name], value, rtol=1e-10, atol=1e-12)
        assert int(one[how]["3.num_batches_tracked"]) == 0


def test_alone() -> None:
    """A group of nobody else is torch's norm, bit for bit, and stays a BatchNorm2d to whoever asks."""
    case = CASES["float32"]
    norm = case.module()
    model = nn.Sequential(norm)
    assert share_batch_norms(model, None) == 1
    assert model[0] is norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert type(norm) is SharedBatchNorm2d
    expected = run(case, case.module(), slice(0, 5))
    for name, value in run(case, norm, slice(0, 5)).items():
        assert torch.equal(value, expected[name])
    assert share_batch_norms(model, None) == 1  # again: another group, no other norm
    assert share_batch_norms(nn.Conv2d(1, 1, 1), None) == 0


def test_pickled() -> None:
    norm = CASES["plain"].module()
    share_batch_norms(norm, None)
    again = pickle.loads(pickle.dumps(norm))
    assert type(again) is SharedBatchNorm2d
    images = CASES["plain"].data(0)[0]
    assert torch.equal(again(images), norm(images))


def test_other_norms_are_refused() -> None:
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match="1 is a Other, whose statistics would stay each worker's own: use BatchNorm"):
        share_batch_norms(nn.Sequential(nn.ReLU(), Other(3)), None)
