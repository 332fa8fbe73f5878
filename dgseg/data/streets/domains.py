"""The domains, the index ranges of their splits, and who may draw from which: the one place that says so."""

from dgseg.data.dataset import DataError

# The order of csrc/streets/kernel.h, which is part of every scene's hash: append only.
DOMAINS = ("game", "generated", "city", "country", "suburb", "fog", "rain", "snow", "night", "dusk")

SOURCES = ("game", "generated")
STANDARD = ("city", "country", "suburb")
ADVERSE = ("fog", "rain", "snow", "night")
TARGETS = STANDARD + ADVERSE
VALIDATION = "dusk"

# Scene indices of every domain's splits: disjoint, so no scene is in two of them.
SPLITS = {
    "train": range(0, 1_000_000),
    "val": range(1_000_000, 2_000_000),
    "test": range(2_000_000, 3_000_000),
}
DEFAULT_LENGTHS = {"train": 4000, "val": 100, "test": 200}

# What a target's train range serves.
ORACLE = "oracle"  # with labels: how good could one be?
ADAPTATION = "adaptation"  # without


def check_rules(domain: str, split: str, use: str | None) -> None:
    """Scores come from test ranges alone, selection from `dusk`, and no target trains what is scored on it."""
    if domain not in DOMAINS:
        raise DataError(f"streets has no domain {domain!r}; it has {', '.join(DOMAINS)}")
    if split not in SPLITS:
        raise DataError(f"streets has no split {split!r}; it has {', '.join(SPLITS)}")
    if domain in TARGETS and split == "train":
        if use not in (ORACLE, ADAPTATION):
            raise DataError(
                f"{domain} is a target: its train range serves use={ORACLE!r} (with labels, to see how good one could "
                f"be) or use={ADAPTATION!r} (without labels), and nothing else; it was asked for use={use!r}. Train on "
                f"{' or '.join(SOURCES)}"
            )
        return
    if use is not None:
        raise DataError(f"use={use!r} is for a target's train range; {domain} {split} takes none: leave it out")
    if domain in TARGETS and split == "val":
        raise DataError(
            f"{domain} is a target: nothing may be selected on it. Select on {VALIDATION!r}, score on the test range"
        )
    if domain == VALIDATION and split == "train":
        raise DataError(f"{VALIDATION} is for validation and selection: train on {' or '.join(SOURCES)}")


def check_packing(domain: str) -> None:
    """A pack is an ordinary dataset, which anybody may train on: no other domain than a source may become one."""
    if domain not in SOURCES:
        raise DataError(
            f"{domain} of the streets world is not packed: a pack could be trained on, and only "
            f"{' and '.join(SOURCES)} may. Use it as it is: it has no files, and one core renders 60 scenes "
            "a second"
        )
