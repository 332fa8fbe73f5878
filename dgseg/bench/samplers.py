"""The hardness table at ten million images, beside numpy's and torch's weighted draws from the same distribution."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from dgseg._host import HardnessTable
from dgseg.bench.part import Part, Row
from dgseg.bench.timing import interleave
from dgseg.data.samplers import Hardness, HardnessConfig, Uniform

IMAGES = 10_000_000
DRAWS = 800  # in one call: a window of 50 steps with a global batch of 16
UNSEEN = 0.05
TORCH_LIMIT = 1 << 24
CHECK_DRAWS = 2_000_000
GROUPS = 400
# Of a correct table's runs one in a million is refused.
LEAST_CHANCE = 1e-6


def filled(images: int, random: np.random.Generator) -> HardnessTable:
    """A few epochs into training: most images seen, some twice, scores spread as cross-entropies are."""
    table = HardnessTable(images)
    seen = random.permutation(images)[: int(images * (1 - UNSEEN))]
    table.update(seen, random.gamma(1.5, 0.6, len(seen)))
    again = seen[: images // 4]
    table.update(again, random.gamma(1.5, 0.6, len(again)))
    return table


def weights(table: HardnessTable) -> npt.NDArray[np.float64]:
    """p by its definition, in numpy."""
    scores = table.scores()
    unseen = np.isnan(scores)
    scores[unseen] = scores[~unseen].mean()
    found = np.exp((scores - scores.max()) / table.scale)
    return np.asarray(found / found.sum(), np.float64)


def objection(table: HardnessTable, p: npt.NDArray[np.float64], random: np.random.Generator) -> str | None:
    """Why this table must not be timed."""
    error = float(np.abs(table.probabilities(np.arange(len(p))) / p - 1).max())
    if not error < 1e-9:
        return f"probabilities are off by {error:.1e} of their size"
    # Groups of images of like probability, so that every group is drawn often enough to be judged.
    order = np.argsort(p)
    group = np.empty(len(p), np.int64)
    group[order] = np.arange(len(p)) * GROUPS // len(p)
    expected = np.bincount(group, weights=p, minlength=GROUPS) * CHECK_DRAWS
    drawn = np.bincount(group[table.draw(random.random(CHECK_DRAWS))], minlength=GROUPS)
    chi2 = float(((drawn - expected) ** 2 / expected).sum())
    chance = float(torch.special.gammaincc(torch.tensor((GROUPS - 1) / 2.0).double(), torch.tensor(chi2 / 2).double()))
    if not chance > LEAST_CHANCE:
        return f"draws do not follow the distribution: chi-square {chi2:.0f} over {GROUPS} groups"
    return None


def _seconds(run: Callable[[], object], repeats: int = 1) -> float:
    """The median."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _sampler_draw(images: int, repeats: int) -> float:
    """Halfway through a run, when half of the batches are by loss and half in the epoch's order."""
    batch, config = 16, HardnessConfig(midpoint=0.0, steepness=1e-9)
    sampler = Hardness(Uniform(images, batch_size=batch, seed=0), max_steps=1000, seed=0, config=config)
    steps = range(2 * config.window)
    return _seconds(lambda: [sampler.draws(step) for step in steps], repeats) / (len(steps) * batch)


def run(quick: bool) -> Part:
    images = IMAGES // 10 if quick else IMAGES
    repeats = 3 if quick else 9
    name, title = "samplers", f"{images:,} images, {DRAWS} draws and updates a call, {UNSEEN:.0%} not yet seen"
    random = np.random.default_rng(0)
    created = _seconds(lambda: HardnessTable(images), 3)
    table = filled(images, random)
    p = weights(table)
    if wrong := objection(table, p, random):
        return Part(name, title, refused=wrong)
    as_tensor = torch.from_numpy(p)
    uniform = itertools.cycle([random.random(DRAWS) for _ in range(64)])
    single = itertools.cycle(random.random((1024, 1)))
    runs = {
        "dgseg": lambda: table.draw(next(uniform)),
        "numpy": lambda: random.choice(images, DRAWS, p=p),
        "torch": lambda: torch.multinomial(as_tensor, DRAWS, replacement=True),
    }
    times = interleave(runs, torch.device("cpu"), repeats)
    updates = [(random.integers(0, images, DRAWS), random.gamma(1.5, 0.6, DRAWS)) for _ in range(64)]
    each_index, each_loss = itertools.cycle(updates[0][0][:, None]), itertools.cycle(updates[0][1][:, None])

    def update_all() -> None:
        for indices, losses in updates:
            table.update(indices, losses)

    update = _seconds(update_all, repeats) / (len(updates) * DRAWS)
    one_draw = _seconds(lambda: table.draw(next(single)), 500)
    one_update = _seconds(lambda: table.update(next(each_index), next(each_loss)), 500)
    standardise = _seconds(table.standardise, 3)
    if wrong := objection(table, weights(table), random):  # as it stands after updates and standardisation
        return Part(name, title, refused=f"after updates {wrong}")
    us = 1e6 / DRAWS
    rows = [
        Row("draw", times["dgseg"].median * us, "us", 3),
        Row("update of one image's score", update * 1e6, "us", 10),
        Row("draw, one a call", one_draw * 1e6, "us", 3),
        Row("update, one a call", one_update * 1e6, "us", 10),
        Row("memory per image, scores and sums", table.bytes / images, "bytes", 24),
        Row("creating the table", created * 1e3, "ms"),
        Row("standardising all scores, once per window", standardise * 1e3, "ms"),
        Row("Hardness.draws(step), all that a batch of 16 costs, per draw", _sampler_draw(images, repeats) * 1e6, "us"),
        Row("numpy.random.Generator.choice(p=...), per draw", times["numpy"].median * us, "us"),
        Row("torch.multinomial, per draw", times["torch"].median * us, "us"),
        Row("what both need after every update: all p anew", _seconds(lambda: weights(table), 3) * 1e3, "ms"),
    ]
    notes = [f"verified first: probabilities against numpy, {CHECK_DRAWS:,} draws by chi-square"]
    try:
        torch.multinomial(torch.ones(TORCH_LIMIT + 1), 1, replacement=True)
    except RuntimeError as error:
        notes.append(f"torch.multinomial ends at 2^24 categories: {str(error).splitlines()[0]}")
    return Part(name, title, rows, notes=notes)
