"""The streets world: driving scenes made by the index, for asking how imperfect synthetic data may be."""

from dgseg.data.streets.dataset import Streets
from dgseg.data.streets.domains import ADVERSE, DOMAINS, SOURCES, SPLITS, STANDARD, TARGETS, VALIDATION

__all__ = ["ADVERSE", "DOMAINS", "SOURCES", "SPLITS", "STANDARD", "TARGETS", "VALIDATION", "Streets"]
