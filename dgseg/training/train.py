"""A run, from start or resumption to its end: `train` is its table of contents.

<storage>/<name>/recipe.yaml        what is trained; the same name never means another recipe
                 checkpoints/       see checkpoint.py
                 metrics.jsonl      every report, one JSON object a line
                 weights.safetensors, result.json, panel.png      when finished
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dgseg.data.names import without_secrets
from dgseg.machine import machine
from dgseg.models import save_weights
from dgseg.ops import across_ranks
from dgseg.training import assemble, strategies
from dgseg.training.checkpoint import CheckpointError
from dgseg.training.clock import Clock
from dgseg.training.identity import identities
from dgseg.training.interrupt import Interrupt
from dgseg.training.listener import Listener, Listeners, RunEnd, RunStart, ScoreReport
from dgseg.training.loop import Loop
from dgseg.training.memory import keep_freed_memory
from dgseg.training.profile import Profile
from dgseg.training.recipe import Recipe
from dgseg.training.run import RunConfig
from dgseg.training.saver import WEIGHTS, Saver
from dgseg.training.scoring import Scoring
from dgseg.training.storage import Lock, Storage, open_storage
from dgseg.training.strategies import Strategy
from dgseg.training.world import World, join


@dataclass(frozen=True)
class RunResult:
    status: str  # "finished", or "stopped": the same name resumes it
    step: int
    folder: str  # of the run in the storage
    weights: str | None  # the final weights, when finished
    scores: ScoreReport | None  # on data.test, when finished


def train(
    recipe: Recipe, run: RunConfig, *, listeners: Sequence[Listener] = (), world: World | None = None
) -> RunResult:
    """In this process, as one rank of `world`; None: whatever torchrun's variables or an existing process group say."""
    world = world or join(run.device, run.timeout)
    clock = Clock(world.device)
    name = run.name or recipe.name
    folder = open_storage(run.storage).folder(name)
    listener = Listeners(each for each in listeners if world.first or each.every_rank)
    saver: Saver | None = None
    loop: Loop | None = None
    with exclusive(world, folder) as lock, Interrupt().listening() as interrupt:
        try:
            # Open
            assemble.check(recipe, world.size)
            saver = Saver(recipe, run, folder, world, lock, listener)
            saver.claim(name)
            prepare_process(recipe, run, world)
            sources = assemble.datasets(recipe)
            loader = assemble.loader(recipe, sources, assemble.sampler(recipe, sources), world)
            learner = assemble.learner(recipe, sources, world)
            strategy = strategies.build(learner, recipe, run, world)
            if recipe.train.compile:
                learner.model.compile()
            saver.reserve(strategy)
            profile = Profile(run.profile, folder, world, listener) if run.profile is not None else None
            loop = Loop(
                recipe, world, strategy, loader, listener, interrupt, clock, log_every=run.log_every, profile=profile
            )
            scoring = Scoring(recipe, world, listener)
            datasets = world.from_rank0(lambda: identities(recipe.data, sources, loader.target, scoring.datasets))

            # Resume
            saver.resume(loop)
            device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
            start = RunStart(recipe, run, name, folder.url, loop.step, world.size, device, datasets)
            listener.on_start(start)
            clock.lap("start")

            # Train, score, save
            end = min(recipe.schedule.steps, run.stop_after or recipe.schedule.steps)
            while loop.step < end and not loop.stopping:
                loop.run(until=min(end, recipe.train.next_pause(loop.step)))
                score = scoring.validate(strategy, loop.step)
                clock.lap("scoring")
                saver.save(loop, score)
                clock.lap("saving")
            saver.wait()
            if profile is not None:
                profile.finish()
            clock.lap("saving")

            # Finish
            with tempfile.TemporaryDirectory() as scratch:
                if loop.step < recipe.schedule.steps:
                    reason = interrupt.requested or "asked to"
                    result = RunResult("stopped", loop.step, folder.url, None, None)
                    listener.on_end(RunEnd("stopped", loop.step, reason=reason, timings=clock.totals()))
                else:
                    result = finish(start, strategy, scoring, folder, world, Path(scratch))
                    clock.lap("scoring")
                    weights = Path(scratch) / WEIGHTS
                    listener.on_end(RunEnd("finished", loop.step, weights, timings=clock.totals()))
            world.barrier()
            return result
        except BaseException as error:
            if saver is not None:
                saver.give_up()
            step = loop.step if loop is not None else 0
            listener.on_end(RunEnd("failed", step, reason=f"{type(error).__name__}: {error}"))
            raise


def finish(
    start: RunStart, strategy: Strategy, scoring: Scoring, folder: Storage, world: World, scratch: Path
) -> RunResult:
    """The trained model's weights, its scores on data.test, pictures, and result.json."""
    recipe, step = start.recipe, start.recipe.schedule.steps
    with strategy.scored_model() as model:
        if world.first:
            with explain_disk_full(step, folder):
                save_weights(model, scratch / WEIGHTS)
                folder.upload(scratch / WEIGHTS, WEIGHTS)
        report = scoring.test(model, step, scratch)
    if world.first:
        summary = {"name": start.name, "recipe": recipe.name, "steps": step, "seed": recipe.seed}
        if report is not None:
            summary["scores"] = report.named
        summary |= {
            "run": asdict(start.run) | {"storage": without_secrets(start.run.storage)},
            "world_size": world.size,
            "datasets": start.datasets,
            **machine(world.device),
        }
        with explain_disk_full(step, folder):
            for name, picture in (report.pictures if report else {}).items():
                folder.upload(picture, f"{name}.png")
            folder.write("result.json", json.dumps(summary, indent=1).encode())
    return RunResult("finished", step, folder.url, folder.where(WEIGHTS), report)


def prepare_process(recipe: Recipe, run: RunConfig, world: World) -> None:
    """What holds for the whole process: its memory, how its ranks exchange tensors, torch's determinism."""
    if world.device.type == "cpu":
        keep_freed_memory()
        # What a compiler cuts into graphs may differ between the ranks; all must take the same way.
        if world.group is not None and recipe.train.compile:
            across_ranks.share_no_memory(world.group)
        elif world.group is not None:
            across_ranks.share_memory(world.group, run.timeout)
    if recipe.train.deterministic:
        torch.use_deterministic_algorithms(True)


@contextmanager
def exclusive(world: World, folder: Storage) -> Iterator[Lock | None]:
    """One run of a name at a time. If rank 0 cannot get the lock, which it holds for all, every rank fails."""
    error: Exception | None = None
    holding: AbstractContextManager[Lock | None] = nullcontext()
    if world.first:
        try:
            folder.check_writable()
            holding = folder.lock(wait=5)  # a worker that is being replaced may still be dying
        except ValueError as failure:
            error = failure
    world.agree(error)
    with holding as lock:
        yield lock


@contextmanager
def explain_disk_full(step: int, folder: Storage) -> Iterator[None]:
    """The last step is in a checkpoint by then, so a full disk loses none."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"all {step} steps are trained and saved, but what belongs beside them could not be written to "
            f"{folder.url} ({error.strerror or error}); make room, and the same command resumes from there"
        ) from error
