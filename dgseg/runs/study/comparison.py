"""Runs grouped by what they have in common, so that a group's runs differ in their seeds alone."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dgseg.data.labels import CLASSES
from dgseg.evaluation.names import domain_of, miou
from dgseg.evaluation.protocols import AVERAGES
from dgseg.evaluation.report.table import ABSENT
from dgseg.recipes import words_by_name
from dgseg.runs.study.records import COSTS, DETECTION, LOWER_IS_BETTER, VALIDATION, Record
from dgseg.runs.study.statistics import SeedDifference, Summary, difference, summary

# What may differ between two runs of one group: the seed, and what changes no weights.
SEED = "seed"
HARMLESS = frozenset({SEED, "data.loaders", "data.test_batch", "train.save_every", "train.evaluate_every", *COSTS})


@dataclass(frozen=True)
class Comparison:
    groups: Mapping[str, Sequence[Record]]  # label -> its runs, by seed
    columns: Sequence[str]  # scores that are shown, by name: averages, then domains, or what was asked for
    against: Mapping[str, str]  # label -> label of its baseline
    fields: Sequence[str] = ()  # of the recipes, shown beside the labels
    notes: Sequence[str] = ()
    confidence: float = 0.95
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # label -> what its like have otherwise

    @property
    def families(self) -> list[list[str]]:
        """Labels of groups that share a domain, directly or by way of others: the rest has nothing to compare."""
        found: list[tuple[list[str], set[str]]] = []
        for label, runs in self.groups.items():
            domains = {name for run in runs for name in run.scores if _is_domain(name)}
            kin = [each for each in found if each[1] & domains]
            labels = [*(label for each in kin for label in each[0]), label]
            found = [each for each in found if each not in kin]
            found.append((labels, domains.union(*(each[1] for each in kin))))
        order = list(self.groups)
        return sorted(
            (sorted(labels, key=order.index) for labels, _ in found), key=lambda labels: order.index(labels[0])
        )

    def scored(self, labels: Sequence[str]) -> list[str]:
        """The columns that any of these has."""
        return [column for column in self.columns if any(self.values(label, column) for label in labels)]

    def is_miou(self, column: str) -> bool:
        """Rather than a score that its name tells: AUROC, "fog/macc"."""
        return domain_of(column) != column

    def values(self, label: str, column: str) -> dict[int, float]:
        """By seed."""
        return {run.seed: run.scores[column] for run in self.groups[label] if column in run.scores}

    def summary(self, label: str, column: str) -> Summary | None:
        values = self.values(label, column)
        return summary(list(values.values())) if values else None

    def difference(self, label: str, column: str) -> SeedDifference | None:
        """To the baseline; None for what has none, or where one side has no such score."""
        if label not in self.against:
            return None
        mine, other = self.values(label, column), self.values(self.against[label], column)
        if not mine or not other:
            return None
        return replace(difference(mine, other, self.confidence), lower_is_better=column in LOWER_IS_BETTER)

    def field(self, label: str, name: str) -> str:
        return ", ".join(dict.fromkeys(run.fields.get(name, ABSENT) for run in self.groups[label]))

    def sentence(self, label: str, column: str) -> str:
        """The verdict on one difference, in words."""
        found = self.difference(label, column)
        assert found is not None, "this column has no difference"
        what = f"{label} against {self.against[label]}, {domain_of(column)}: {100 * found.mean:+.2f} points"
        if found.low is None or found.high is None:
            return f"{what}; {found.verdict}"
        how = "paired by seed" if found.method == "paired" else "Welch, because the seeds differ"
        return (
            f"{what} ({100 * self.confidence:g} % interval {100 * found.low:+.2f} to {100 * found.high:+.2f}; {how}, "
            f"{found.seeds} seeds): {found.verdict}"
        )

    @property
    def method(self) -> str:
        if not self.against:
            return "Mean ± standard deviation over seeds; the last checkpoint of every run."
        methods = {
            found.method
            for label in self.against
            for column in self.columns
            if (found := self.difference(label, column)) is not None
        }
        said = {
            "paired": "paired by seed (both sides have the same seeds)",
            "Welch": "Welch's (the seeds differ)",
            "none": "none where a side has fewer than 2 seeds",
        }
        kinds = "; ".join(said[kind] for kind in ("paired", "Welch", "none") if kind in methods)
        return (
            "Mean ± standard deviation over seeds; the last checkpoint of every run. Differences with Student's t "
            f"intervals over seeds at {100 * self.confidence:g} %: {kinds}. They know the noise of training again, not "
            f"of which images were scored, and each stands for itself: of {round(1 / (1 - self.confidence))} intervals "
            "of nothing one excludes 0. A star marks those that exclude 0."
        )


def compare(
    records: Sequence[Record],
    *,
    group_by: Sequence[str] = (),
    columns: Sequence[str] = (),
    baseline: str | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """group_by: dotted fields of the recipe; none: by recipe, and apart where two runs' settings differ. columns:
    "fog" or "fog/miou", "adverse", "fog/iou" for all its classes, "fog/iou/road", "fog/macc", or dotted fields."""
    if not records:
        raise ValueError("there is no finished run to compare")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}")
    known = {name for run in records for name in run.fields}
    for name in group_by:
        _check(name, known, "no recipe here has a field")
    scores, fields = _columns(records, columns, known)
    places = {name: place for place, name in enumerate(words_by_name())}
    records = sorted(records, key=lambda run: places.get(run.fields.get("name", ""), len(places)))
    groups, settings, notes = _grouped(records, group_by or ("name",), apart=not group_by)
    reference = None if baseline is None else _baseline(baseline, groups)
    if reference is None:
        return Comparison(groups, scores, {}, fields, notes, confidence, settings)
    found = Comparison({reference: groups[reference], **groups}, scores, {}, fields, notes, confidence, settings)
    kin = next(labels for labels in found.families if reference in labels)
    return replace(found, against={label: reference for label in kin if label != reference})


def of_rows(
    rows: Mapping[str, Sequence[Record]],
    against: Mapping[str, str],
    notes: Sequence[str] = (),
    confidence: float = 0.95,
) -> Comparison:
    """A study's rows, as they are."""
    there = {label: runs for label, runs in rows.items() if runs}
    records = [run for runs in there.values() for run in runs]
    pairs = {label: other for label, other in against.items() if label in there and other in there}
    return Comparison(there, _columns(records, (), set())[0], pairs, (), notes, confidence)


def headline(found: Comparison) -> list[str]:
    """Scores to say a sentence about: the widest average, where there is one, and how unknown objects are found."""
    shown = [name for name in map(miou, ("all", "Avg5", "Avg2", "adverse")) if name in found.columns]
    shown = shown[:1] + (["AP"] if "AP" in found.columns else [])
    return shown or [name for name in found.columns if name != VALIDATION][:1]


def sentences(found: Comparison) -> list[str]:
    """The verdict on every group that has a baseline, by the headline's scores."""
    return [
        found.sentence(label, column)
        for label in found.against
        for column in headline(found)
        if found.difference(label, column) is not None
    ]


def _is_domain(name: str) -> bool:
    """Rather than an average, which may be of other domains in another run."""
    domain = domain_of(name)
    return domain not in (name, *AVERAGES) and name != VALIDATION


def _grouped(
    records: Sequence[Record], group_by: Sequence[str], *, apart: bool
) -> tuple[dict[str, Sequence[Record]], dict[str, dict[str, str]], list[str]]:
    """Groups by label, what some of them differ in, and notes."""
    found: dict[str, list[Record]] = {}
    for run in records:
        found.setdefault(_label(run, group_by), []).append(run)
    found, settings = _apart(found) if apart else (found, {})
    notes = []
    groups: dict[str, Sequence[Record]] = {}
    for label, runs in found.items():
        mixed = _mixed(runs)
        if mixed:
            notes.append(f"{label}: its runs differ in more than the seed: {', '.join(mixed)}.")
        by_seed: dict[int, Record] = {}
        for run in runs:
            if run.seed in by_seed:
                earlier = by_seed[run.seed]
                if other := _mixed([earlier, run]):
                    raise ValueError(
                        f"{label}: {earlier.name} and {run.name} share seed {run.seed} and differ in "
                        f"{', '.join(other)}: name that in --group-by too"
                    )
                notes.append(f"{label}: seed {run.seed} is there twice; {run.name} counts, {earlier.where} does not.")
            by_seed[run.seed] = run
        groups[label] = tuple(by_seed[seed] for seed in sorted(by_seed))
    return groups, settings, notes


def _apart(found: Mapping[str, list[Record]]) -> tuple[dict[str, list[Record]], dict[str, dict[str, str]]]:
    """Runs of one recipe whose settings differ as groups of their own, and the settings in which these differ."""
    names = [run.name for runs in found.values() for run in runs]
    groups: dict[str, list[Record]] = {}
    settings: dict[str, dict[str, str]] = {}
    for recipe, runs in found.items():
        mixed = _mixed(runs)
        parts: dict[tuple[str, ...], list[Record]] = {}
        for run in runs:
            parts.setdefault(tuple(run.fields.get(name, ABSENT) for name in mixed), []).append(run)
        for number, (values, part) in enumerate(parts.items()):
            # A run is known by its name, several seeds of it by a letter.
            known = len(part) == 1 and names.count(part[0].name) == 1 and part[0].name not in found
            label = recipe if len(parts) == 1 else part[0].name if known else f"{recipe} {_letters(number)}"
            groups[label] = part
            if mixed:
                settings[label] = dict(zip(mixed, values, strict=True))
    return groups, settings


def _letters(number: int) -> str:
    """A … Z, AA …"""
    return (_letters(number // 26 - 1) if number > 25 else "") + chr(ord("A") + number % 26)


def _mixed(runs: Sequence[Record]) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in run.fields if name not in HARMLESS)
    mixed = [name for name in names if len({run.fields.get(name, ABSENT) for run in runs}) > 1]
    # Where some do without a part (objective.gap), its kind says it, and its own settings nothing more.
    kinds = [name for name in mixed if name.endswith(".kind") and any(name not in run.fields for run in runs)]
    without = tuple(f"{name}." for name in [*mixed, *(kind.removesuffix(".kind") for kind in kinds)])
    return [name for name in mixed if name in kinds or not name.startswith(without)]


def _label(run: Record, group_by: Sequence[str]) -> str:
    values = [run.fields.get(name, ABSENT) for name in group_by]
    return values[0] if len(values) == 1 else ", ".join(map(" ".join, zip(group_by, values, strict=True)))


def _baseline(wanted: str, groups: Mapping[str, Sequence[Record]]) -> str:
    """A group by its label, the end of one, or the recipe of its runs."""
    fits = [label for label in groups if label == wanted] or [
        label
        for label, runs in groups.items()
        if label.endswith(f" {wanted}") or all(run.fields.get("name") == wanted for run in runs)
    ]
    if len(fits) != 1:
        problem = "fits several groups" if fits else "is no group"
        raise ValueError(f"the baseline {wanted!r} {problem}; there are: {'; '.join(fits or groups)}")
    return fits[0]


def _columns(records: Sequence[Record], wanted: Sequence[str], known: set[str]) -> tuple[list[str], list[str]]:
    """Scores, and fields that are shown beside them."""
    there = dict.fromkeys(name for run in records for name in run.scores)
    if not wanted:
        of_domains = [each for members in AVERAGES.values() for each in members]
        order = [*DETECTION, *map(miou, AVERAGES), VALIDATION, *map(miou, dict.fromkeys(of_domains))]
        places = {name: place for place, name in enumerate(order)}
        means = [name for name in there if name in DETECTION or domain_of(name) != name]
        return sorted(means, key=lambda name: (places.get(name, len(places)), name)), []
    # Classes in their own order: the first run may lack one that the others have.
    places = {name: place for place, name in enumerate(CLASSES)}
    details = sorted(
        (name for name in there if domain_of(name) == name), key=lambda name: places.get(name.rpartition("/")[2], -1)
    )
    scores, fields = [], []
    for name in wanted:
        inside = [each for each in details if each.startswith(f"{name}/")]
        if name in there or miou(name) in there:
            scores.append(name if name in there else miou(name))
        elif inside:  # "fog/iou": of all classes
            scores += inside
        else:
            _check(name, {*known, *there, *map(domain_of, there)}, "neither a score nor a field of these runs is")
            fields.append(name)
    if not scores:
        raise ValueError("--columns names fields alone; name a score too: a domain or an average")
    return scores, fields


def _check(name: str, known: set[str], complaint: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        raise ValueError(f"{complaint} {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
