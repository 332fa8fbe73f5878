"""The loop: steps, not epochs. train.py puts its parts together; everything that a step needs stands here."""

import math
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from dgseg.data import Batch, Loader
from dgseg.data.sample import generator
from dgseg.objectives.base import ImageLosses, StepContext
from dgseg.training import exchange
from dgseg.training.assemble import FrozenNorms
from dgseg.training.clock import Clock
from dgseg.training.interrupt import Interrupt
from dgseg.training.listener import Listener, StepReport
from dgseg.training.memory import peak_memory
from dgseg.training.profile import Profile
from dgseg.training.recipe import Recipe
from dgseg.training.strategies import Strategy
from dgseg.training.world import World

DROPOUT = 900  # purpose of the random numbers that torch's generator is seeded with; the data's have others


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite: nothing after it is worth saving."""


class Loop:
    """Trains from `step` on. What happens between steps (scores, checkpoints) is the caller's."""

    def __init__(
        self,
        recipe: Recipe,
        world: World,
        strategy: Strategy,
        loader: Loader,
        listener: Listener,
        interrupt: Interrupt,
        clock: Clock,
        *,
        log_every: int,
        profile: Profile | None = None,
    ) -> None:
        self.recipe, self.world, self.strategy, self.loader = recipe, world, strategy, loader
        self.listener, self.interrupt, self.clock, self.profile = listener, interrupt, clock, profile
        self.log_every = log_every
        self.step = 0
        self.stopping = False  # agreed by all ranks
        self._frozen = FrozenNorms(strategy.learner.model)
        self._batches: Iterator[Batch] | None = None
        self._pending: exchange.PendingExchange | None = None
        self._sums: dict[str, float] = {}
        self._summed = 0
        self._began = time.perf_counter()

    def run(self, until: int) -> None:
        """Steps up to this one, or until the run is to stop."""
        if self._batches is None:
            self._batches = iter(self.loader)
        self.strategy.learner.train()
        self._frozen.eval()
        while self.step < until and not self.stopping:
            if self.profile is not None:
                self.profile.next_step(self.step)
            self._step(next(self._batches).to(self.world.device))
        self.flush()

    def flush(self) -> None:
        """Waits for what is still on its way between the ranks: before a report, a score or a checkpoint."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._apply(pending)

    def _step(self, batch: Batch) -> None:
        self.clock.lap("data")
        recipe, parts = self.recipe, self.recipe.train.accumulate
        report_due = (self.step + 1) % self.log_every == 0 or self.step + 1 == recipe.schedule.steps
        context = StepContext(self.step, recipe.schedule.steps, self.world.group, recipe.seed)
        sums: dict[str, Tensor] = {}
        images: list[ImageLosses] = []
        for number, piece in enumerate(batch.split(parts)):
            last = number == parts - 1
            torch.manual_seed(self._dropout_seed(number))
            terms = self.strategy.terms(piece, context, last)
            loss = torch.stack([_at_least_float32(term) for term in terms.values()]).sum()
            self.clock.lap("forward")
            self.strategy.backward(loss if parts == 1 else loss / parts, last)
            for name, term in terms.items():
                part = term.detach() / parts
                sums[name] = sums[name] + part if name in sums else part
            losses = self.strategy.learner.objectives.image_losses()
            if losses is not None:
                images.append(losses)
            self.clock.lap("backward")
        # Only ranks with listeners can be asked to stop; the exchange tells the others.
        stop = self.interrupt.requested is not None or self.listener.should_stop()
        pending = exchange.start(self.world, self.step, sums, stop, batch.ids, batch.indices, self._scored(images))
        if self.world.device.type == "cpu":
            self._apply(pending)
            self.clock.lap("exchange")
            rate, norm = self.strategy.step(self.step, report_due)
        else:
            self.clock.lap("exchange")
            rate, norm = self.strategy.step(self.step, report_due)
            # The host looks at a step while the device is in the next one.
            self.flush()
            self._pending = pending
        self.clock.lap("optimizer")
        self.step += 1
        if report_due:
            self.flush()
            self._report(rate, norm)
            self.clock.lap("reports")

    def _scored(self, images: list[ImageLosses]) -> ImageLosses | None:
        if images:
            return ImageLosses(*(torch.cat(each) for each in zip(*images, strict=True)))
        assert self.recipe.sampler.hardness is None, "assemble.check demands an objective that scores images"
        return None

    def _apply(self, pending: exchange.PendingExchange) -> None:
        totals = pending.wait()
        if not totals.finite:
            raise NonFiniteLoss(self._complaint(totals, pending.ids))
        self.loader.sampler.observe(totals.step, totals.indices, totals.losses, totals.valid)
        self.stopping = self.stopping or totals.stop
        for name, value in totals.terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._summed += 1

    def _complaint(self, totals: exchange.StepTotals, ids: list[str]) -> str:
        bad = [name for name, value in totals.terms.items() if not math.isfinite(value)]
        terms = ", ".join(f"{name} = {value}" for name, value in totals.terms.items())
        samples = ", ".join(sample for rank in self.world.gather(ids) for sample in rank)
        return (
            f"step {totals.step}: the loss is NaN or infinite ({', '.join(bad)}). Terms: {terms}. Samples: {samples}. "
            "Nothing was saved after it. A lower --optimizer.lr, a longer --schedule.warmup, --train.clip or "
            "--train.precision float32 usually helps"
        )

    def _report(self, rate: float, norm: Tensor | None) -> None:
        timings = self.clock.report()
        if self.world.first:
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
                images_per_second=self._summed * self.recipe.data.batch_size / sum(timings.values()),
                seconds=time.perf_counter() - self._began,
                timings=timings,
                memory=peak_memory(self.world.device),
            )
            self.listener.on_step(report)
        self._sums, self._summed = {}, 0

    def _dropout_seed(self, part: int) -> int:
        number = (self.step * self.recipe.train.accumulate + part) * self.world.size + self.world.rank
        return int(generator(self.recipe.seed, number, DROPOUT).integers(1 << 62))


def _at_least_float32(term: Tensor) -> Tensor:
    return term.to(torch.promote_types(term.dtype, torch.float32))
