"""The run: verify, warm up, time in turns, measure memory, judge."""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from dgseg import ops
from dgseg.bench import floors, memory
from dgseg.bench.case import OURS, Case, Contender, Size, Target, difference
from dgseg.bench.cases import CASES
from dgseg.bench.cases.peers import built
from dgseg.bench.timing import Times, interleave

WARM_UPS = 3
MEMORY_SAMPLES = 3
FLOOR = "floor"


@dataclass(frozen=True)
class Settings:
    device: torch.device
    rounds: int
    size: Size
    verify_only: bool
    alone: bool


@dataclass(frozen=True)
class Verdict:
    target: str
    reached: float | None  # None: what it is measured against did not run
    ok: bool | None


@dataclass(frozen=True)
class Result:
    op: str
    title: str
    backend: str
    refused: str | None = None  # why no speed is reported
    times: dict[str, Times] = dataclasses.field(default_factory=dict)
    peak_extra: dict[str, int] = dataclasses.field(default_factory=dict)
    floor: float | None = None
    floor_words: str = ""
    verdicts: list[Verdict] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def _objection(contender: Contender, truth: Any, case: Case) -> str | None:
    """Why this contender may not race: it fails, or computes something else."""
    try:
        found = contender.run()
        wrong = difference(contender.outputs(found), truth, case.tolerances) if contender.outputs else None
    except Exception as error:  # of any library, compilers included: it is reported, and the others still race
        first_line = (str(error).strip() or "no message").splitlines()[0]
        return f"fails with {type(error).__name__}: {first_line}"
    return f"is not correct here: {wrong}" if wrong else None


def _judge(target: Target, times: dict[str, Times], peaks: dict[str, int], floor: float) -> Verdict:
    reached = None
    if target.kind == "speed" and target.against in times:
        reached = times[target.against].median / times[OURS].median
    elif target.kind == "floor" and floor > 0:
        reached = times[OURS].median / floor
    elif target.kind == "memory" and OURS in peaks and (target.bytes or target.against in peaks):
        reached = peaks[OURS] / max(target.bytes or peaks[target.against], 1)
    if reached is None:
        return Verdict(target.text, None, None)
    return Verdict(
        target.text, reached, reached >= target.factor if target.kind == "speed" else reached <= target.factor
    )


def run_case(case: Case, settings: Settings) -> Result:
    device = settings.device
    result = Result(case.op, case.title, ops.backends(device).get(case.op, "reference"), notes=list(case.notes))
    truth = case.truth()
    if objection := _objection(case.ours, truth, case):
        return dataclasses.replace(result, refused=f"{case.op} {objection}")
    contenders = [case.ours]
    for peer in () if settings.alone else case.peers:
        if objection := _objection(peer, truth, case):
            result.notes.append(f"{peer.name} does not race: it {objection}")
        else:
            contenders.append(peer)
    if settings.verify_only:
        return result
    runs = {contender.name: contender.run for contender in contenders}
    if case.floor.run is not None:
        runs[FLOOR] = case.floor.run
    for run in runs.values():
        for _ in range(WARM_UPS):
            run()
    times = interleave(runs, device, settings.rounds)
    floor = times.pop(FLOOR).median if FLOOR in times else floors.seconds(case.floor, device)
    peaks = {}
    if reason := memory.why_not(device):
        result.notes.append(reason)
    else:
        for name, run in runs.items():
            if name != FLOOR:
                peaks[name] = sorted(memory.peak_extra(run, device) for _ in range(MEMORY_SAMPLES))[1]
    # Targets are stated for the table's sizes.
    targets = case.targets if settings.size == "table" else []
    return dataclasses.replace(
        result,
        times=times,
        peak_extra=peaks,
        floor=floor,
        floor_words=floors.words(case.floor, device),
        verdicts=[_judge(target, times, peaks, floor) for target in targets],
    )


def run(names: Iterable[str], settings: Settings, show: Callable[[Result], None]) -> list[Result]:
    """Every case of the named operators; `show` is called as each is done."""
    results = []
    for name in names:
        if not built(name):
            found = [Result(name, "", "none", refused=f"{name} is not built")]
            results += found
            show(found[0])
            continue
        for build in CASES[name]:
            torch.compiler.reset()  # a peer compiled for an earlier case must not count against this one's limits
            result = run_case(build(settings.device, settings.size), settings)
            results.append(result)
            show(result)
    return results
