"""The benchmark tells the truth: it refuses what is wrong, names what did not race, and judges by its targets."""

import json
from dataclasses import replace

import pytest
import torch

from dgseg.bench import floors
from dgseg.bench.case import Case, Contender, Floor, Target, difference
from dgseg.bench.cases import CASES
from dgseg.bench.inputs import IGNORED, label_map
from dgseg.bench.ops import Settings, run_case
from dgseg.bench.timing import interleave
from dgseg.cli import main

CPU = torch.device("cpu")
SETTINGS = Settings(device=CPU, rounds=2, size="table", verify_only=False, alone=False)
ONES = torch.ones(1 << 20)


def case(ours, *peers, targets=()):
    return Case(
        op="double",
        title="twice ones",
        ours=Contender("dgseg", ours, lambda found: {"out": found}),
        peers=[Contender(name, run, lambda found: {"out": found}) for name, run in peers],
        truth=lambda: {"out": ONES.double() * 2},
        tolerances={"out": 1e-6},
        floor=Floor("read and written once", bytes=2 * ONES.nbytes, flops=ONES.numel()),
        targets=targets,
    )


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda: ONES * 3, "off by"),
        (lambda: ONES * torch.nan, "off by"),
        (lambda: ONES[1:] * 2, "shape"),
        (lambda: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_operator_gets_no_time(wrong, why):
    result = run_case(case(wrong), SETTINGS)
    assert why in result.refused
    assert not result.times


def test_a_wrong_peer_does_not_race_and_its_target_is_not_reached():
    peers = ("right", lambda: ONES + ONES), ("wrong", lambda: ONES), ("broken", lambda: ONES.no_such_thing)
    targets = [Target("speed", 0.0, "right"), Target("speed", 1e9, "right"), Target("speed", 1, "wrong")]
    result = run_case(case(lambda: ONES * 2, *peers, targets=targets), SETTINGS)
    assert result.refused is None
    assert set(result.times) == {"dgseg", "right"}
    assert [verdict.ok for verdict in result.verdicts] == [True, False, None]
    assert any("wrong does not race" in note for note in result.notes)
    assert any("AttributeError" in note for note in result.notes)


def test_peak_memory_counts_what_a_call_holds_at_once():
    def wasteful():
        return ONES * 2 + (ONES.repeat(16) * 0)[: ONES.numel()]

    result = run_case(case(lambda: ONES * 2, ("wasteful", wasteful)), SETTINGS)
    if not result.peak_extra:
        pytest.skip("; ".join(result.notes))
    assert 0.8 * ONES.nbytes < result.peak_extra["dgseg"] < 3 * ONES.nbytes
    assert result.peak_extra["wasteful"] > 16 * ONES.nbytes


def test_contenders_take_turns():
    calls = []
    interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, CPU, rounds=3)
    visits = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert visits == ["a", "b"] * 3


def test_a_tolerance_is_relative_to_the_largest_magnitude():
    truth = {"out": torch.tensor([1e-9, 100.0])}
    assert difference({"out": torch.tensor([0.0, 100.0])}, truth, {"out": 1e-6}) is None
    assert difference({"out": torch.tensor([1.0, 100.0])}, truth, {"out": 1e-3}) is not None


def test_label_maps_look_like_label_maps():
    labels = label_map(1, 256, 512, ignored=0.05)
    assert abs(float((labels == IGNORED).float().mean()) - 0.05) < 0.005
    same = float((labels[:, :, 1:] == labels[:, :, :-1]).float().mean())
    assert 0.8 < same < 0.999  # blobs, not noise, not one colour


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    written = tmp_path / "folder" / "bench.json"
    threads = torch.get_num_threads()
    try:
        flags = ["--op", "boundary_bands", "--size", "tiny", "--quick", "--alone", "--json", str(written)]
        assert main(["bench", "ops", *flags]) == 0
    finally:
        torch.set_num_threads(threads)
    found = json.loads(written.read_text())
    assert {"hardware", "versions", "commit", "settings", "results"} <= found.keys()
    assert [result["op"] for result in found["results"]] == ["boundary_bands"] * 2
    printed = capsys.readouterr().out
    assert "median ms" in printed
    assert max(map(len, printed.splitlines()[3:])) <= 120


def test_a_floor_is_a_copy_of_the_same_bytes_and_a_launch(monkeypatch):
    """On a clock that knows what each call costs: 2 us for a launch, 1 TB/s for what is copied."""

    class Known:
        def settle(self, run):
            run()

        def sample(self, run):
            return 2e-6 + 2 * getattr(run(), "nbytes", 0) / 1e12

    for cached in (floors.copy_rate, floors.matmul_rate, floors.launch_seconds):
        cached.cache_clear()
    monkeypatch.setattr(floors, "clock", lambda device: Known())
    monkeypatch.setattr(floors, "matmul_rate", lambda device: 1e12)
    try:
        small, large = (floors.seconds(Floor("", bytes=size), CPU) for size in (1 << 20, 1 << 26))
        assert small == pytest.approx(2e-6 + 1.048576e-6)
        assert large == pytest.approx(2e-6 + 67.108864e-6)
        assert floors.seconds(Floor("", flops=10**6), CPU) == pytest.approx(1e-6)  # a call on a CPU is no launch
        monkeypatch.setattr(floors, "launch_seconds", lambda device: 2e-6)
        assert floors.seconds(Floor("", flops=10**6), CPU) == pytest.approx(3e-6)
    finally:
        floors.copy_rate.cache_clear()


@pytest.mark.parametrize("op", ["entropy_weighted_cross_entropy", "focal_dice", "prototype_info_nce"])
def test_what_training_gives_the_losses_is_raced_too(op):
    titles = [build(CPU, "tiny").title for build in CASES[op]]
    assert any("bf16 channels_last" in title for title in titles)
    assert (
        run_case(CASES[op][-1](CPU, "tiny"), replace(SETTINGS, verify_only=True, alone=True, size="tiny")).refused
        is None
    )
