"""The streets world: driving scenes made by the index, for asking how imperfect synthetic data may be."""

from dgseg.data.streets.dataset import Streets
from dgseg.data.streets.domains import ADVERSE, DOMAINS, SOURCES, SPLITS, STANDARD, TARGETS, VALIDATION
from dgseg.data.streets.pairs import SHIFTS, StreetsPairs

__all__ = [
    "ADVERSE",
    "DOMAINS",
    "SHIFTS",
    "SOURCES",
    "SPLITS",
    "STANDARD",
    "TARGETS",
    "VALIDATION",
    "Streets",
    "StreetsPairs",
]
