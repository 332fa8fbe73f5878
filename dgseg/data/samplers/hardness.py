"""Hardness-aware sampling: images that the model still gets wrong are drawn more often as training goes on.

Time is cut into windows of `window` steps. When the last loss of window w is in, the scores move, and at that moment
the loss-based draws of window w + 2 are made: those of w + 1 stand already. So draws lag the scores by one full window,
a loader may run ahead by a window without waiting, and how far it runs changes nothing. What follows a step is decided
by the observations before it alone, which is why the state can be saved at any step.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from dgseg.data.sample import Draw, check_seed
from dgseg.data.samplers.base import Purpose, Sampler, StatelessSampler, uniforms

if TYPE_CHECKING:
    from dgseg._host import HardnessTable

Decay = Literal["sigmoid", "linear", "none"]
STATED_UPDATES = 800  # the run for which the paper states its steepness: 40,000 steps, one update every 50


@dataclass(frozen=True)
class HardnessConfig:
    window: int = 50  # steps from one update of the scores to the next
    beta: float = 0.9
    temperature: float = 1.0
    standardise: bool = False  # scores count by their standard deviations, measured anew after every window
    # How the probability of a draw by the base sampler falls during the run. none: every draw is by loss.
    decay: Decay = "sigmoid"
    steepness: float = 0.05  # of the sigmoid, for 800 updates: a shorter run has the same shape
    midpoint: float | None = None  # of the sigmoid, in updates; None: half of the run
    per_draw: bool = False  # chance decides for every draw; else, as in the paper, once for the global batch

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"hardness: window is {self.window} steps; it must be at least 1")
        if self.decay not in get_args(Decay):
            raise ValueError(f"hardness: decay is {self.decay!r}; there are {', '.join(get_args(Decay))}")
        if not 0 < self.steepness < math.inf:
            raise ValueError(f"hardness: steepness is {self.steepness}; it must be above 0 and finite")
        if self.midpoint is not None and not math.isfinite(self.midpoint):
            raise ValueError(f"hardness: midpoint is {self.midpoint}; it is a number of updates, or None")


class Hardness(Sampler):
    """p_i ∝ exp(h_i / τ) over the images of all sources, or a draw by `base`. h is the moving average of the image's
    mean loss over its visits in a window; images not yet seen take the mean of the others."""

    def __init__(
        self, base: StatelessSampler, *, max_steps: int, seed: int, config: HardnessConfig | None = None
    ) -> None:
        from dgseg._host import HardnessTable  # the other samplers need no native code

        self.config = config or HardnessConfig()
        if max_steps < 1:
            raise ValueError(f"hardness: max_steps is {max_steps}; the schedule needs the length of the run")
        check_seed(seed)
        self.base = base
        self.seed = seed
        self.batch_size, self.sizes, self.shares = base.batch_size, base.sizes, base.shares
        self.lookahead = self.config.window
        self.updates = max(max_steps / self.config.window, 1.0)
        self.table: HardnessTable = HardnessTable(
            sum(self.sizes), beta=self.config.beta, temperature=self.config.temperature
        )
        self.step: int = 0
        self._starts = np.cumsum((0, *self.sizes))
        self._pending: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = []
        self._images = {window: self._draw_window(window) for window in (0, 1)}

    def random_share(self, step: int) -> float:
        """How probable a draw by the base sampler is at this step."""
        t = step // self.config.window
        if self.config.decay == "none":
            return 0.0
        if self.config.decay == "linear":
            return max(0.0, 1 - t / self.updates)
        midpoint = self.updates / 2 if self.config.midpoint is None else self.config.midpoint
        steepness = self.config.steepness * STATED_UPDATES / self.updates
        return 0.5 - 0.5 * math.tanh(steepness * (t - midpoint) / 2)  # = 1 / (1 + exp(steepness (t - midpoint)))

    def draws(self, step: int) -> list[Draw]:
        window, place = divmod(step, self.config.window)
        if window not in self._images:
            if window < min(self._images):
                raise ValueError(f"hardness: the draws of step {step} are gone; step {self.step} is the next to train")
            raise ValueError(
                f"hardness: the draws of step {step} need the losses of all steps before "
                f"{(window - 1) * self.config.window}, and step {self.step} has not been observed. Call "
                f"observe(step, indices, losses) after every step, and prefetch at most {self.lookahead} steps"
            )
        first = step * self.batch_size
        images = self._images[window][place * self.batch_size : (place + 1) * self.batch_size]
        by_base = self._by_base(step)
        return [
            self.base.draw(first + i) if by_base[i] else self._draw(first + i, int(image))
            for i, image in enumerate(images)
        ]

    def observe(
        self, step: int, indices: npt.ArrayLike, losses: npt.ArrayLike, valid: npt.ArrayLike | None = None
    ) -> None:
        """Every step once, in order. `valid` is false for images without valid pixels, whose loss says nothing: a loss
        of 0 from the op. In whatever order the images come, the scores get the same bits."""
        if step != self.step:
            raise ValueError(f"hardness: step {step} was observed, but step {self.step} is next; observe each one once")
        images = np.asarray(indices)
        values = np.asarray(losses, np.float64)
        counts = np.ones(images.shape, bool) if valid is None else np.asarray(valid)
        if not (images.ndim == 1 and images.shape == values.shape == counts.shape and counts.dtype == bool):
            raise ValueError(
                f"hardness: indices {images.shape}, losses {values.shape} and valid {counts.shape} ({counts.dtype}) "
                "must be vectors of one length, valid boolean"
            )
        if images.size and not (np.issubdtype(images.dtype, np.integer) and images.min() >= 0):
            raise ValueError(f"hardness: indices are numbers from 0; they hold {images.min()} ({images.dtype})")
        if images.size and images.max() >= len(self.table):
            raise ValueError(
                f"hardness: index {images.max()} at step {step}; the sources hold {len(self.table)} images"
            )
        bad = counts & ~np.isfinite(values)
        if bad.any():
            raise ValueError(f"hardness: loss {values[bad][0]} of image {images[bad][0]} at step {step} is not finite")
        self._pending.append((images[counts].astype(np.int64), values[counts]))
        self.step += 1
        if self.step % self.config.window == 0:
            self._close_window()

    def metrics(self) -> dict[str, float]:
        return {
            "hardness/random_share": self.random_share(self.step),
            "hardness/seen": self.table.seen / len(self.table),
            "hardness/mean": self.table.mean,
        }

    def state_dict(self) -> dict[str, Any]:
        indices, losses = self._gathered()
        return {
            "step": self.step,
            "scores": torch.from_numpy(self.table.scores()),
            "scale": self.table.scale,
            "offset": self.table.offset,
            "pending_indices": torch.from_numpy(indices),
            "pending_losses": torch.from_numpy(losses),
            "images": {window: torch.from_numpy(images.copy()) for window, images in self._images.items()},
            "made_with": self._made_with(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        here, there = self._made_with(), state["made_with"]
        for name in here:
            if there.get(name) != here[name]:
                raise ValueError(
                    f"hardness: the state was made with {name}={there.get(name)}, here it is {here[name]}; the same "
                    "draws need the same settings"
                )
        self.table.restore(state["scores"].numpy(), state["scale"], state["offset"])
        self.step = state["step"]
        self._pending = [(state["pending_indices"].numpy().copy(), state["pending_losses"].numpy().copy())]
        self._images = {window: images.numpy().copy() for window, images in state["images"].items()}

    def _made_with(self) -> dict[str, Any]:
        return {
            **asdict(self.config),
            "updates": self.updates,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "sizes": list(self.sizes),
        }

    def _by_base(self, step: int) -> npt.NDArray[np.bool_]:
        count, first = (self.batch_size, step * self.batch_size) if self.config.per_draw else (1, step)
        chance = 1 - uniforms(self.seed, Purpose.HARDNESS_BRANCH, first, count)  # in (0, 1]: a share of 0 is never met
        return np.broadcast_to(chance <= self.random_share(step), self.batch_size)

    def _draw(self, number: int, image: int) -> Draw:
        source = int(np.searchsorted(self._starts, image, side="right")) - 1
        return Draw(number, source, image - int(self._starts[source]))

    def _draw_window(self, window: int) -> npt.NDArray[np.int64]:
        count = self.config.window * self.batch_size
        return self.table.draw(uniforms(self.seed, Purpose.HARDNESS_IMAGE, window * count, count))

    def _gathered(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        indices = np.concatenate([np.empty(0, np.int64), *(indices for indices, _ in self._pending)])
        losses = np.concatenate([np.empty(0, np.float64), *(losses for _, losses in self._pending)])
        return indices, losses

    def _close_window(self) -> None:
        indices, losses = self._gathered()
        order = np.lexsort((losses, indices))
        images, first, visits = np.unique(indices[order], return_index=True, return_counts=True)
        if images.size:
            self.table.update(images, np.add.reduceat(losses[order], first) / visits)
        if self.config.standardise:
            self.table.standardise()
        self._pending = []
        # The window that begins now and the one after it: all that may be asked for.
        begun = self.step // self.config.window
        self._images = {begun: self._images[begun], begun + 1: self._draw_window(begun + 1)}
