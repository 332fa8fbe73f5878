"""Label maps to synthetic images: generator.py (who draws), quality.py (what passes), augment.py (the data set)."""

from dgseg.generation.augment import Settings, Summary, generate
from dgseg.generation.generator import Command, Function, Generator, Request, StreetsRenderer
from dgseg.generation.quality import Filter, Verdict, by_colour

__all__ = [
    "Command",
    "Filter",
    "Function",
    "Generator",
    "Request",
    "Settings",
    "StreetsRenderer",
    "Summary",
    "Verdict",
    "by_colour",
    "generate",
]
