"""What a checkpoint keeps, which ones are kept, and what it says about those that it skips."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg.training.checkpoint import CheckpointError, Checkpoints
from dgseg.training.manifest import FORMAT, Manifest
from dgseg.training.snapshot import Snapshot
from dgseg.training.storage import LocalStorage, Storage
from tests.training import processes
from tests.training.test_storage import arrow_in_memory, arrow_over

STEP = "checkpoints/step-{:08d}"


@pytest.fixture(params=["local", "pyarrow on a disk", "pyarrow in memory"])
def run(request: Any, tmp_path: Path) -> Storage:
    match request.param:
        case "local":
            return LocalStorage(tmp_path / "run")
        case "pyarrow on a disk":
            return arrow_over(tmp_path)
        case _:
            return arrow_in_memory()


def state_of(step: int, size: int = 1000) -> dict[str, Any]:
    """Every part says which step it is of."""
    return {
        "model": {"w": torch.full((size,), float(step)), "steps": torch.tensor(step), "none": torch.empty(0, 3)},
        "ema": {"w": torch.full((size,), step + 0.5, dtype=torch.bfloat16)},
        "optimizer": {"state": {0: {"exp_avg": torch.full((size,), -float(step))}}, "param_groups": [{"lr": 0.1}]},
        "step": step,
        "listeners": {"Tracker": {"run_id": f"run-{step}", "seen": (1, None, True, b"\0", 2**70, 0.1)}},
    }


def check_equal(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            check_equal(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check_equal(one, other)
    else:
        assert found == expected


def names(run: Storage) -> list[str]:
    return run.folder("checkpoints").names()


def test_what_is_saved_comes_back(run: Storage) -> None:
    checkpoints = Checkpoints(run)
    assert checkpoints.load() is None
    assert checkpoints.latest() is None
    assert checkpoints.best() is None
    for step in (5, 10):
        assert checkpoints.save(step, state_of(step), score=1 / step) >= 0
    checkpoints.wait()
    loaded = Checkpoints(run).load()
    assert loaded is not None
    check_equal(loaded.state, state_of(10))
    assert (loaded.step, loaded.score, loaded.skipped) == (10, 0.1, [])
    assert loaded.path == run.where(STEP.format(10))
    latest, best = checkpoints.latest(), checkpoints.best()
    assert latest is not None
    assert best is not None
    assert (latest.step, best.step, best.score) == (10, 5, 0.2)
    check_equal(checkpoints.load_step(5).state, state_of(5))
    with pytest.raises(ValueError, match="no checkpoint of step 7; steps there: 5, 10"):
        checkpoints.load_step(7)


def test_files(tmp_path: Path) -> None:
    """Weights that everyone reads, and a rest that runs no code."""
    from safetensors.torch import load_file

    checkpoints = Checkpoints(LocalStorage(tmp_path))
    checkpoints.save(5, state_of(5))
    checkpoints.wait()
    folder = tmp_path / STEP.format(5)
    assert sorted(os.listdir(folder)) == ["ema.safetensors", "manifest.json", "model.safetensors", "state.pt"]
    check_equal(load_file(folder / "model.safetensors"), state_of(5)["model"])
    rest = torch.load(folder / "state.pt", weights_only=True)
    assert rest.keys() == {"optimizer", "step", "listeners"}
    manifest = Manifest.read(LocalStorage(folder))
    assert manifest.files.keys() == {"ema.safetensors", "model.safetensors", "state.pt"}
    assert (manifest.format, manifest.step, manifest.score) == (FORMAT, 5, None)


def test_training_goes_on_while_it_is_written(tmp_path: Path) -> None:
    checkpoints = Checkpoints(LocalStorage(tmp_path), keep=3)
    state = state_of(1, size=100_000)
    for step in (1, 2, 3):
        for part in (state["model"], state["ema"], state["optimizer"]["state"][0]):
            for tensor in part.values():
                tensor.fill_(step)
        state["step"] = step
        checkpoints.save(step, state)
        state["model"]["w"].fill_(float("nan"))  # as the next optimiser step would
    checkpoints.wait()
    for step in (1, 2, 3):
        loaded = checkpoints.load_step(step).state
        assert loaded["step"] == step
        assert loaded["model"]["w"].eq(step).all()
        assert loaded["optimizer"]["state"][0]["exp_avg"].eq(step).all()


def test_buffers_are_used_again() -> None:
    """And follow a state that changes its shapes, drops parts, or orders its elements anew."""
    snapshot = Snapshot()
    images = torch.rand(2, 3, 4, 5)
    state: dict[str, Any] = {"model": {"w": images}, "rest": [images.contiguous(memory_format=torch.channels_last)]}
    first = snapshot.copy(state)
    second = snapshot.copy(state)
    assert first["model"]["w"].data_ptr() == second["model"]["w"].data_ptr() != images.data_ptr()
    assert first["rest"][0].data_ptr() == second["rest"][0].data_ptr()
    assert second["rest"][0].stride() == state["rest"][0].stride()
    for changed in (
        {"model": {"w": images[:1]}, "rest": [images.double()]},
        {"model": {"w": images.transpose(1, 2)}, "rest": [images.transpose(1, 2)]},
        {"model": {"w": images.expand(3, 2, 3, 4, 5)}, "rest": [images[..., ::2]]},
        {"model": {}},
    ):
        check_equal(snapshot.copy(changed), changed)
    assert not snapshot._buffers


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        ({"sampler": {"rng": np.zeros(3)}}, "sampler.rng is a numpy.ndarray.*torch.from_numpy"),
        ({"optimizer": [torch.optim.SGD([torch.zeros(1)])]}, r"optimizer.0 is a torch.optim.sgd.SGD.*state_dict\(\)"),
        ({"seen": {1, 2}}, "seen is a builtins.set"),
        ({"by": {0.5: 1}}, "by has the key 0.5"),
        ({"model": {"w": torch.zeros(1), "note": "x"}}, "model.note is 'x': among weights"),
        ({"sparse": torch.eye(2).to_sparse()}, "sparse is a torch.sparse_coo tensor"),
    ],
)
def test_states_that_are_refused(tmp_path: Path, part: dict[str, Any], complaint: str) -> None:
    checkpoints = Checkpoints(LocalStorage(tmp_path))
    with pytest.raises(ValueError, match=complaint):
        checkpoints.save(1, {"step": 1, **part})
    assert names(LocalStorage(tmp_path)) == []
    checkpoints.save(1, {"step": np.float64(1.5)})  # and the next save is none the worse
    checkpoints.wait()
    loaded = checkpoints.load()
    assert loaded is not None
    check_equal(loaded.state, {"step": 1.5})


def expected_steps(saved: list[tuple[int, float | None]], keep: int, keep_best: int, higher: bool) -> set[int]:
    """Obvious, and slow: what each save leaves decides what the next finds."""
    there: dict[int, float | None] = {}
    for step, score in saved:
        there[step] = score
        newest = sorted(there, reverse=True)[:keep]
        scored = [(value if higher else -value, step) for step, value in there.items() if value is not None]
        best = [step for _, step in sorted(scored, reverse=True)[:keep_best]]
        there = {step: there[step] for step in {*newest, *best}}
    return set(there)


@settings(max_examples=25, deadline=None)
@given(
    scores=st.lists(st.none() | st.sampled_from([0.1, 0.2, 0.3, float("nan")]), min_size=1, max_size=7),
    keep=st.integers(1, 3),
    keep_best=st.integers(0, 2),
    higher=st.booleans(),
)
def test_the_newest_and_the_best_are_kept(
    tmp_path_factory: pytest.TempPathFactory, scores: list[float | None], keep: int, keep_best: int, higher: bool
) -> None:
    run = LocalStorage(tmp_path_factory.mktemp("run"))
    checkpoints = Checkpoints(run, keep=keep, keep_best=keep_best)
    for step, score in enumerate(scores):
        checkpoints.save(step, {"step": step}, score=score, higher_is_better=higher)
    checkpoints.wait()
    known = [(step, None if score != score else score) for step, score in enumerate(scores)]
    assert names(run) == [f"step-{step:08d}" for step in sorted(expected_steps(known, keep, keep_best, higher))]


def test_a_step_saved_again(run: Storage) -> None:
    """The older one goes when the newer one is there, never before."""
    checkpoints = Checkpoints(run, keep=1)
    for attempt in range(3):
        checkpoints.save(5, {"attempt": attempt})
    checkpoints.wait()
    assert names(run) == ["step-00000005-3"]
    assert checkpoints.load_step(5).state == {"attempt": 2}


def test_all_damaged(run: Storage) -> None:
    """To begin anew without being told so would be the worst."""
    checkpoints = Checkpoints(run)
    checkpoints.save(5, state_of(5))
    checkpoints.wait()
    run.write(f"{STEP.format(5)}/state.pt", b"")
    with pytest.raises(CheckpointError, match=r"step-00000005: state.pt has 0 bytes instead of \d+.*--name"):
        checkpoints.load()


def test_damage_that_sizes_do_not_show(run: Storage, caplog: pytest.LogCaptureFixture) -> None:
    """Skipped, named, and replaced by a save of the same step. It does not count as one of those to keep."""
    checkpoints = Checkpoints(run, keep=2)
    for step in (5, 10):
        checkpoints.save(step, state_of(step))
    checkpoints.wait()
    weights = f"{STEP.format(10)}/model.safetensors"
    run.write(weights, run.read(weights)[:-1] + b"\xff")
    again = Checkpoints(run, keep=2)
    loaded = again.load()
    assert loaded is not None
    assert loaded.step == 5
    assert loaded.skipped == [("step-00000010", "model.safetensors does not match its checksum")]
    assert f"{run.where(STEP.format(10))} is skipped: model.safetensors does not match its checksum" in caplog.text
    again.save(10, state_of(10))
    again.wait()
    assert names(run) == ["step-00000005", "step-00000010-2"]
    check_equal(again.load_step(10).state, state_of(10))


def test_a_newer_format_is_skipped_and_kept(run: Storage) -> None:
    checkpoints = Checkpoints(run, keep=1)
    for step in (5, 10):
        checkpoints.save(step, state_of(step))
        checkpoints.wait()
    manifest = Manifest.read(run.folder(STEP.format(10)))
    object.__setattr__(manifest, "format", FORMAT + 1)
    run.write(f"{STEP.format(99)}/manifest.json", manifest.encode())
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded.step == 10
    (name, reason), *_ = loaded.skipped
    assert name == "step-00000099"
    assert f"in format {FORMAT + 1}, this dgseg reads up to {FORMAT}: update it" in reason
    checkpoints.save(15, state_of(15))
    checkpoints.wait()
    assert names(run) == ["step-00000015", "step-00000099"]


def write_part(folder: Path, rank: int) -> None:
    (folder / "deepspeed" / f"rank{rank}.bin").write_bytes(bytes([rank]) * 1000)


def test_every_rank_writes(tmp_path: Path) -> None:
    """As DeepSpeed does: begun by one, filled by all, committed by one."""
    checkpoints = Checkpoints(LocalStorage(tmp_path))
    folder = checkpoints.begin(5)
    for process in [processes.start(write_part, folder, rank) for rank in range(3)]:
        processes.finish(process)
    checkpoints.commit({"step": 5})
    checkpoints.wait()
    path = tmp_path / STEP.format(5)
    assert (path / "deepspeed" / "rank2.bin").read_bytes() == b"\2" * 1000
    assert checkpoints.load_step(5).path == str(path)
    (path / "deepspeed" / "rank1.bin").write_bytes(b"\3" * 1000)
    with pytest.raises(CheckpointError, match=r"deepspeed/rank1.bin does not match its checksum"):
        checkpoints.load()


def test_extra_files(tmp_path: Path) -> None:
    checkpoints = Checkpoints(LocalStorage(tmp_path))
    checkpoints.save(5, {"step": 5}, extra=lambda folder: write_part(folder.parent, 0))
    checkpoints.wait()
    assert (tmp_path / STEP.format(5) / "deepspeed" / "rank0.bin").stat().st_size == 1000

    def fail(folder: Path) -> None:
        raise RuntimeError("a rank died")

    with pytest.raises(RuntimeError, match="a rank died"):
        checkpoints.save(10, {"step": 10}, extra=fail)
    assert names(LocalStorage(tmp_path)) == ["step-00000005"]
    checkpoints.begin(10)
    checkpoints.abandon()
    checkpoints.save(10, {"step": 10})
    checkpoints.wait()
    assert names(LocalStorage(tmp_path)) == ["step-00000005", "step-00000010"]


def test_extra_files_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"test://bucket/runs/checkpoints is no folder.*--storage a path"):
        Checkpoints(arrow_over(tmp_path)).save(5, {}, extra=lambda folder: None)


def test_nothing_is_kept() -> None:
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(LocalStorage(Path("x")), keep=0)


@pytest.mark.parametrize("reserved", [1, 100_000, 10_000_000])
def test_what_was_reserved_holds_the_copy(reserved: int) -> None:
    """Less than is needed, and more; the touching of fresh pages never writes over what was copied."""
    snapshot = Snapshot()
    snapshot.reserve(reserved)
    state = {"model": {str(n): torch.full((n * 1000 + 1,), float(n)) for n in range(40)}}
    copied = snapshot.copy(state)
    assert all(torch.equal(copied["model"][name], value) for name, value in state["model"].items())
    storages = {each.untyped_storage().data_ptr() for each in copied["model"].values()}
    assert len(storages) == 40, "what is saved is a tensor, not the memory around it"
    assert all(pointer % 64 == 0 for pointer in storages)
    again = snapshot.copy(state)
    assert {each.data_ptr() for each in again["model"].values()} == {
        each.data_ptr() for each in copied["model"].values()
    }
