"""One line of what the doctor says."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "slow", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    area: str
    name: str
    status: Status
    detail: str
    mend: str = ""
    stops: bool = False  # no training can start with it


@dataclass(frozen=True)
class Settings:
    runs: str  # folder of the runs
    data: tuple[str, ...]


Check = Callable[[Settings], Iterable[Finding]]


def guarded(area: str, check: Check, settings: Settings) -> Iterator[Finding]:
    """Whatever is broken on this machine, the other checks still speak."""
    try:
        yield from check(settings)
    except Exception as error:
        name = check.__name__.strip("_").replace("_", " ")
        yield Finding(area, name, "broken", f"could not be looked at: {type(error).__name__}: {error}")


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
