"""What it costs workers of one machine to tell each other small rows: through sockets (gloo), and through memory.

Both ways lie side by side in the same processes, a process group each. First a row of a batch norm's size by itself,
then whole training steps of the streets recipe, whose 20 batch norms exchange rows forward and backward.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from dgseg.bench.part import Part, Row
from dgseg.bench.timing import Times
from dgseg.data.sample import Batch
from dgseg.objectives.base import StepContext
from dgseg.ops import across_ranks
from dgseg.recipes import named
from dgseg.training import RunConfig, assemble, strategies
from dgseg.training.memory import keep_freed_memory
from dgseg.training.ranks import run_ranks
from dgseg.training.recipe import SamplerConfig
from dgseg.training.strategies import Strategy
from dgseg.training.world import World

NUMBERS = 257  # float64: mean, deviations of 128 channels and a count
SOCKETS, MEMORY, ALONE = "through sockets", "through memory", "batch norms of each worker alone"


def run(workers: int, quick: bool) -> Part:
    name = "ranks"
    title = f"{workers} workers of one thread each: {NUMBERS} numbers to everybody, and a step of flexseg-streets"
    rounds, steps = (50, 2) if quick else (2000, 20)
    found = run_ranks(_measure, rounds, steps, ranks=workers, threads=1, device="cpu")
    if found["refused"]:
        return Part(name, title, refused=found["refused"])
    rows = []
    for what in ("row", "row between work"):
        rows += [
            Row(f"{what}, {way}: {label}", value, "us")
            for way in (SOCKETS, MEMORY)
            for label, value in zip(("median", "90 %"), found[f"{what}, {way}"], strict=True)
        ]
    rows += [Row(f"step, {way}", found[f"step, {way}"], "images/s") for way in (ALONE, SOCKETS, MEMORY)]
    gain = found[f"step, {MEMORY}"] / found[f"step, {SOCKETS}"]
    rows.append(Row("step, memory over sockets", gain, "x", 1.0, at_least=True))
    notes = ["verified first: both ways give the same rows, and weights after a step that differ by rounding alone"]
    return Part(name, title, rows, notes=notes)


def _measure(rounds: int, steps: int) -> dict[str, Any]:
    keep_freed_memory()
    rank, workers = dist.get_rank(), dist.get_world_size()
    groups: dict[str, Any] = {way: dist.new_group() for way in (SOCKETS, MEMORY)}
    if not across_ranks.share_memory(groups[MEMORY]):
        return {"refused": "these processes cannot share memory: no pidfd_open, or no native module"}
    row = torch.rand(NUMBERS, dtype=torch.float64, generator=torch.Generator().manual_seed(rank))
    seen = [across_ranks.gather(row, group) for group in groups.values()]
    if not torch.equal(*seen):
        return {"refused": "the two ways do not give the same rows"}
    found: dict[str, Any] = {"refused": ""}
    work = torch.rand(200, 200)
    for what, between in (("row", lambda: None), ("row between work", lambda: work @ work @ work @ work)):
        samples: dict[str, list[float]] = {way: [] for way in groups}
        for _ in range(rounds // 50):
            for way, group in groups.items():
                samples[way] += [_seconds(partial(across_ranks.gather, row, group), between) for _ in range(50)]
        for way, each in samples.items():
            times = Times.of(each)
            found[f"{what}, {way}"] = [times.median * 1e6, times.p90 * 1e6]
    return found | _steps(rank, workers, groups, steps)


def _seconds(exchange: Callable[[], Any], between: Callable[[], Any]) -> float:
    between()
    start = time.perf_counter()
    exchange()
    return time.perf_counter() - start


def _steps(rank: int, workers: int, groups: dict[str, Any], steps: int) -> dict[str, Any]:
    recipe = named("flexseg-streets")
    data = replace(recipe.data, batch_size=4 * workers, loaders=0)
    recipe = replace(recipe, data=data, sampler=SamplerConfig())  # no hardness: it waits for losses
    sources = assemble.datasets(recipe)
    worlds = {way: World(rank, workers, rank, torch.device("cpu"), group) for way, group in groups.items()}
    loader = iter(assemble.loader(recipe, sources, assemble.sampler(recipe, sources), worlds[MEMORY]))
    batches = [next(loader) for _ in range(3)]
    runs: dict[str, Callable[[int], float]] = {}
    weights = {}
    for way in (ALONE, SOCKETS, MEMORY):
        own = replace(recipe, train=replace(recipe.train, sync_batch_norm=way != ALONE))
        world = worlds[SOCKETS if way == ALONE else way]
        learner = assemble.learner(own, sources, world)
        learner.train()
        runs[way] = partial(_step, strategies.build(learner, own, RunConfig(), world), batches)
        runs[way](0)
        weights[way] = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
    error = float((weights[MEMORY] - weights[SOCKETS]).norm() / weights[SOCKETS].norm())
    if not error < 1e-3:
        return {"refused": f"weights after a step differ by {error:.1e} of their size"}
    samples: dict[str, list[float]] = {way: [] for way in runs}
    for turn in range(steps):
        for way, step in runs.items():
            step(2 * turn + 1)  # settles: what follows another way's step meets that one's caches
            samples[way].append(step(2 * turn + 2))
    return {f"step, {way}": data.batch_size / statistics.median(each) for way, each in samples.items()}


def _step(strategy: Strategy, batches: Sequence[Batch], number: int) -> float:
    start = time.perf_counter()
    context = StepContext(number, strategy.recipe.schedule.steps, strategy.world.group, strategy.recipe.seed)
    terms = strategy.terms(batches[number % len(batches)], context, True)
    strategy.backward(torch.stack(list(terms.values())).sum(), True)
    strategy.step(number, False)
    return time.perf_counter() - start
