"""The benchmark tells the truth: it refuses what is wrong, names what did not race, and judges by its targets."""

import json

import pytest
import torch

from dgseg.bench.case import Case, Contender, Floor, Target, difference
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
