"""The loop: steps, not epochs. train.py puts its parts together; everything that a step needs stands here."""

import math
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dgseg.data import Batch, Loader
from dgseg.data.sample import generator
from dgseg.objectives.base import ImageLosses, StepContext
from dgseg.training import exchange
from dgseg.training.assemble import FrozenNorms
from dgseg.training.interrupt import Interrupt
from dgseg.training.listener import Listener, StepReport
from dgseg.training.recipe import Recipe
from dgseg.training.strategies import Strategy
from dgseg.training.world import World

DROPOUT = 900  # purpose of the random numbers that torch's generator is seeded with; the data's have others


class NonFiniteLoss(RuntimeError):
    """The loss is no number any more: nothing after it is worth saving."""


class Loop:
    """Trains from `step` on. What happens between steps (scores, checkpoints) is the caller's."""

    def __init__(
        self,
        recipe: Recipe,
        world: World,
        strategy: Strategy,
        loader: Loader,
        listeners: Sequence[Listener],
        interrupt: Interrupt,
        *,
        log_every: int,
    ) -> None:
        self.recipe, self.world, self.strategy, self.loader = recipe, world, strategy, loader
        self.listeners, self.interrupt, self.log_every = listeners, interrupt, log_every
        self.step = 0
        self.stopping = False  # agreed by all ranks
        self._frozen = FrozenNorms(strategy.learner.model)
        self._posted: exchange.Posted | None = None
        self._sums: dict[str, float] = {}
        self._summed = 0
        self._began = time.perf_counter()
        self._clock = Stopwatch()

    def run(self, until: Callable[[int], bool]) -> None:
        """Steps until `until` says of their number that it is time for something else, or the run is to stop."""
        self._clock.start()
        if getattr(self, "_batches", None) is None:
            self._batches = iter(self.loader)
        self.strategy.learner.train()
        self._frozen.eval()
        while True:
            self._step(next(self._batches))
            if self.stopping or until(self.step):
                break
        self._clock.stop()

    def settle(self) -> None:
        """What is still on its way between the ranks has arrived: before a checkpoint, and at the end."""
        if self._posted is not None:
            posted, self._posted = self._posted, None
            self._heed(posted)

    def _step(self, batch: Batch) -> None:
        recipe, parts = self.recipe, self.recipe.train.accumulate
        batch = batch.to(self.world.device)
        due = (self.step + 1) % self.log_every == 0 or self.step + 1 == recipe.schedule.steps
        context = StepContext(self.step, recipe.schedule.steps, self.world.group, recipe.seed)
        sums: dict[str, Tensor] = {}
        images: list[ImageLosses] = []
        pieces = batch.split(parts)
        for number, piece in enumerate(pieces):
            last = number == parts - 1
            torch.manual_seed(self._dropout_seed(number))
            terms = self.strategy.terms(piece, context, last)
            loss = torch.stack([_at_least_float32(term) for term in terms.values()]).sum()
            self.strategy.backward(loss if parts == 1 else loss / parts, last)
            for name, term in terms.items():
                part = term.detach() / parts
                sums[name] = sums[name] + part if name in sums else part
            found = self.strategy.learner.objectives.image_losses()
            if found is not None:
                images.append(found)
        scored = ImageLosses(*(torch.cat(each) for each in zip(*images, strict=True))) if images else None
        if scored is None and recipe.sampler.hardness is not None:
            raise ValueError(
                "sampler.hardness draws by the images' cross-entropy, and no objective of this recipe tells it: add "
                "objective.ce or objective.ube, or do without sampler.hardness"
            )
        # Only ranks that listen can be asked to stop; the exchange tells the others.
        stop = self.interrupt.requested is not None or any(each.should_stop() for each in self.listeners)
        posted = exchange.post(self.world, self.step, sums, stop, batch.indices, scored)
        posted.ids = batch.ids
        if self.world.device.type == "cpu":
            self._heed(posted)
            rate, norm = self.strategy.step(self.step, due)
        else:
            # The host looks at a step while the device is in the next one.
            rate, norm = self.strategy.step(self.step, due)
            self.settle()
            self._posted = posted
        self.step += 1
        if due:
            self.settle()
            self._report(rate, norm)

    def _heed(self, posted: exchange.Posted) -> None:
        seen = posted.wait()
        if not seen.finite:
            raise NonFiniteLoss(self._complaint(seen, posted.ids))
        self.loader.sampler.observe(seen.step, seen.indices, seen.losses, seen.valid)
        self.stopping = self.stopping or seen.stop
        for name, value in seen.terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._summed += 1

    def _complaint(self, seen: exchange.Seen, ids: list[str]) -> str:
        everybody: list[list[str]] = [ids]
        if self.world.group is not None:
            everybody = [[] for _ in range(self.world.size)]
            dist.all_gather_object(everybody, ids, group=self.world.group)
        bad = {name: value for name, value in seen.terms.items() if not math.isfinite(value)}
        terms = ", ".join(f"{name} = {value}" for name, value in seen.terms.items())
        samples = ", ".join(each for rank in everybody for each in rank)
        return (
            f"step {seen.step}: the loss is not finite ({', '.join(bad)}). Terms: {terms}. Samples: {samples}. Nothing "
            "was saved after it. A lower learning rate, a longer warm-up, train.clip or train.precision float32 "
            "are what usually helps"
        )

    def _report(self, rate: float, norm: Tensor | None) -> None:
        seconds, self._clock = self._clock.restarted()
        if not self.world.first:
            self._sums, self._summed = {}, 0
            return
        losses = {name: value / self._summed for name, value in self._sums.items()}
        metrics = {name: float(value) for name, value in self.strategy.learner.objectives.metrics().items()}
        metrics |= self.loader.metrics() | {"lr": rate}
        if norm is not None:
            metrics["gradient_norm"] = float(norm)
        report = StepReport(
            step=self.step,
            max_steps=self.recipe.schedule.steps,
            losses={"loss": sum(losses.values()), **losses},
            metrics=metrics,
            images_per_second=self._summed * self.recipe.data.batch_size / seconds,
            seconds=time.perf_counter() - self._began,
        )
        self._sums, self._summed = {}, 0
        for listener in self.listeners:
            listener.on_step(report)

    def _dropout_seed(self, part: int) -> int:
        number = (self.step * self.recipe.train.accumulate + part) * self.world.size + self.world.rank
        return int(generator(self.recipe.seed, number, DROPOUT).integers(1 << 62))


def _at_least_float32(term: Tensor) -> Tensor:
    return term.to(torch.promote_types(term.dtype, torch.float32))


class Stopwatch:
    """Seconds of training alone: stopped while scores and checkpoints are made."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        assert self._since is not None
        self._spent += time.perf_counter() - self._since
        self._since = None

    def restarted(self) -> tuple[float, "Stopwatch"]:
        self.stop()
        fresh = Stopwatch()
        fresh.start()
        return self._spent, fresh
