"""The studies: which recipes stand side by side, and which baseline each is judged against.

Every row is a whole recipe; those of tables have the names that dgseg/recipes gives them. The last checkpoint is
scored: nothing is chosen by a score, the targets' least of all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any

from dgseg.data.datasets import parse_spec
from dgseg.recipes import TABLES, named, override
from dgseg.runs.study.charts import Lines
from dgseg.training.recipe import Recipe

CENTRE = "FLEX-Seg as it is"
# One at a time around the recipe's own: half, double and beyond, as a practitioner would turn the knob. λ_gap goes far
# up, because GAP's weights favour rare prototypes: on the streets world their mean is .02, so little is left of it.
SENSITIVITY: dict[str, tuple[str, tuple[float, ...]]] = {
    "α": ("objective.ube.alpha", (0.0, 1.0, 3.0, 6.0, 12.0)),
    "τ": ("objective.gap.temperature", (0.02, 0.07, 0.2, 0.5)),
    "λ_gap": ("objective.gap.weight", (0.1, 0.5, 2.0, 8.0, 32.0)),
    "k": ("sampler.hardness.steepness", (0.0125, 0.025, 0.05, 0.1, 0.4)),
}
PIXELS = (0.0, 1.0, 2.0, 4.0, 8.0)
# Ways to ask a model that was trained on known classes alone.
SCORERS = {
    "max_softmax": "max softmax",
    "odin": "ODIN",
    "mahalanobis": "Mahalanobis",
    "entropy": "entropy",
    "energy": "energy",
}


@dataclass(frozen=True)
class Row:
    label: str
    recipe: Recipe
    against: str | None = None  # label of its baseline
    after: str | None = None  # label of an earlier row, whose last weights this one begins with
    scorer: str | None = None  # how its model is asked for unknown objects
    shown: bool = True  # False: only other rows begin with it


@dataclass(frozen=True)
class Grid:
    name: str
    question: str
    rows: Sequence[Row]
    panels: Mapping[str, Lines] = field(default_factory=dict)  # what varies -> its lines; none: bars


@dataclass(frozen=True)
class Budget:
    """How much training and scoring; None: what the recipes say."""

    steps: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    test: int | None = None  # images per domain of the streets world


BUDGETS = {
    "smoke": Budget(steps=20, seeds=(0, 1), test=8),
    "cpu": Budget(steps=400),
    "full": Budget(),
}


def _against(base: str, recipes: Mapping[str, Recipe]) -> list[Row]:
    """A row for every recipe, by its name; all but the baseline stand against it."""
    return [Row(label, recipe, None if label == base else base) for label, recipe in recipes.items()]


def ablation() -> Grid:
    return Grid(
        "ablation",
        "What does each part of FLEX-Seg bring? The rows of the paper's Table 2.",
        _against("baseline", TABLES["ablation"].recipes()),
    )


def boundary() -> Grid:
    parts = TABLES["ablation"].recipes()
    rows = {"baseline": parts["baseline"], **TABLES["boundary"].recipes(), "ube": parts["ube"]}
    return Grid(
        "boundary",
        "Should pixels at boundaries weigh more, less, or as much as their uncertainty says?",
        _against("baseline", rows),
    )


def misalignment(pixels: Sequence[float] = PIXELS) -> Grid:
    kinds = {"cross-entropy": named("erm-streets"), "FLEX-Seg": named("flexseg-streets")}
    rows: list[Row] = []
    lines: dict[str, Sequence[tuple[float, str]]] = {}
    for kind, recipe in kinds.items():
        lines[kind] = [(each, f"{kind}, {each:g} px") for each in pixels]
        for each, label in lines[kind]:
            against = None if kind == "cross-entropy" else f"cross-entropy, {each:g} px"
            rows.append(Row(label, misaligned(recipe, each), against))
    return Grid(
        "misalignment",
        "How much do labels that stray from their images cost, and does FLEX-Seg win it back? The pixels are those of "
        "the generated source; the game's labels stay exact.",
        rows,
        {"misalignment of the generated source, pixels": lines},
    )


def sensitivity() -> Grid:
    centre = named("flexseg-streets")
    rows = [Row(CENTRE, centre)]
    panels: dict[str, Lines] = {}
    for symbol, (name, values) in SENSITIVITY.items():
        points: list[tuple[float, str]] = []
        for value in values:
            recipe = override(centre, {name: value})
            label = CENTRE if recipe == centre else f"{symbol} = {value:g}"
            points.append((value, label))
            if recipe != centre:
                rows.append(Row(label, recipe, CENTRE))
        assert CENTRE in {label for _, label in points}, "each line passes through the recipe as it is"
        panels[f"{symbol} ({name})"] = {symbol: points}
    return Grid(
        "sensitivity",
        "How much does it matter how α, τ, λ_gap and k are set? One at a time around the recipe's own.",
        rows,
        panels,
    )


def blindnet() -> Grid:
    rows = TABLES["blindnet"].recipes()
    del rows["cc-whitening"]  # a variant of one loss, which this study does not ask about
    return Grid(
        "blindnet",
        "What does each of BlindNet's losses bring, alone and with others? Its Table 4 in small, with all four alone; "
        "cross-entropy of both views is in every row.",
        _against("baseline", rows),
    )


def realtime() -> Grid:
    def baseline(row: str) -> str | None:
        if row.startswith("augment-"):
            return None if row == "augment-none" else "augment-none"
        return "augment-jitter" if row == "adversary" else "adversary"

    return Grid(
        "realtime",
        "What do augmentation, an adversary that has seen fog's images, and other losses bring? Tables 2 to 4 of the "
        "real-time study in small: what is adapted to is fog.",
        [Row(row, recipe, baseline(row)) for row, recipe in TABLES["realtime"].recipes().items()],
    )


def detection(family: str = "deeplabv3plus") -> Grid:
    name = "detection" if family == "deeplabv3plus" else f"detection-{family}"
    table = TABLES[name].recipes()
    # The start is scored on what the others are: the targets with unknown objects.
    start = override(
        named("detect-streets-start", family=family),
        {"data.test": list(named("detect-streets-stage2", family=family).data.test)},
    )
    scorers = {"max-entropy": "entropy", "generalizer": "energy"}  # the others have learned a score
    rows = [Row("start", start, shown=False)]
    for scorer, label in SCORERS.items():
        rows.append(Row(label, start, None if label == "energy" else "energy", scorer=scorer))
    for label, recipe in table.items():
        if label.endswith("-stage1"):
            unscored = override(recipe, {"data.test": [], "data.validation": []})
            rows.append(Row(label, unscored, after="start", shown=False))
        else:
            after = label.replace("-stage2", "-stage1") if label.endswith("-stage2") else "start"
            rows.append(Row(label, recipe, "energy", after, scorers.get(label, "learned")))
    return Grid(
        name,
        "Does one model find unknown objects and tell known classes, in fog and at night too? The paper's Tables 2 "
        f"and 4 in small, on {start.model.name}. Scores are means over the target domains.",
        rows,
    )


GRIDS: dict[str, Callable[[], Grid]] = {
    "ablation": ablation,
    "misalignment": misalignment,
    "sensitivity": sensitivity,
    "boundary": boundary,
    "blindnet": blindnet,
    "realtime": realtime,
    "detection": detection,
    "detection-mask2former": partial(detection, "mask2former"),
}


def within(grid: Grid, budget: Budget, changes: Mapping[str, Any] | None = None) -> Grid:
    """The grid with every recipe changed alike. The longest have the budget's steps, the others their share of them."""
    longest = max(row.recipe.schedule.steps for row in grid.rows)
    rows = [replace(row, recipe=override(_budgeted(row.recipe, budget, longest), changes or {})) for row in grid.rows]
    for (one, first), (other, second) in combinations(zip(grid.rows, rows, strict=True), 2):
        if one.recipe != other.recipe and replace(first.recipe, name="") == replace(second.recipe, name=""):
            raise ValueError(
                f"{', '.join(changes or {})}: this makes {one.label!r} and {other.label!r} the same, whose difference "
                "is what the study is about: leave it out"
            )
    return replace(grid, rows=rows)


def with_rows(grid: Grid, labels: Sequence[str]) -> Grid:
    """These rows alone, and those that they stand against or begin with."""
    rows = {row.label: row for row in grid.rows}
    kept: set[str] = set()
    waiting = list(labels)
    while waiting:
        label = waiting.pop()
        if label not in rows:
            raise ValueError(f"--rows {label!r} is no row of {grid.name}; there are: {'; '.join(rows)}")
        if label not in kept:
            kept.add(label)
            waiting += [other for other in (rows[label].against, rows[label].after) if other]
    return replace(grid, rows=[row for row in grid.rows if row.label in kept])


def misaligned(recipe: Recipe, pixels: float) -> Recipe:
    """Of the sources that have a misalignment."""
    sources = [
        with_option(each, misalignment=f"{pixels:g}") if "misalignment" in parse_spec(each).options else each
        for each in recipe.data.sources
    ]
    return override(recipe, {"data.sources": sources})


def _budgeted(recipe: Recipe, budget: Budget, longest: int) -> Recipe:
    changes: dict[str, Any] = {}
    if budget.steps is not None:
        if budget.steps < 1:
            raise ValueError(f"--steps is {budget.steps}; a run needs at least 1")
        steps = max(1, round(recipe.schedule.steps * budget.steps / longest))
        warmup = round(recipe.schedule.warmup * min(1.0, steps / recipe.schedule.steps))
        changes |= {"schedule.steps": steps, "schedule.warmup": warmup}
    if budget.test is not None:
        for name, specs in (("data.test", recipe.data.test), ("data.validation", recipe.data.validation)):
            changes[name] = [
                with_option(each, length=str(budget.test)) if parse_spec(each).name == "streets" else each
                for each in specs
            ]
    return override(recipe, changes)


def with_option(spec: str, **options: str) -> str:
    parsed = parse_spec(spec)
    split = f"@{parsed.split}" if parsed.split else ""
    rest = "".join(f",{name}={value}" for name, value in {**parsed.options, **options}.items())
    return f"{parsed.name}={parsed.path}{split}{rest}"
