"""One function per published system or preset, returning a complete Recipe, and the rows of their tables.

streets    FLEX-Seg and its baseline on the embedded world: the default job
daformer   DAFormer and HRDA, with FLEX-Seg as published
flexseg    FLEX-Seg's parts on any recipe, and the rows of its Table 2
blindnet   BlindNet, its ablations and baselines
realtime   domain adaptation in real time: the study's tables
detect     Generalize or Detect: its stages, CG-Aug's ablation, baselines
catalogue  what recipes and rows are called, and the options of a name
"""

from dgseg.recipes import blindnet, daformer, detect, realtime, streets
from dgseg.recipes.catalogue import RECIPES, TABLES, Entry, Table, from_words, named, words_by_name
from dgseg.training.yaml import differences, flatten, from_yaml, override, to_yaml

__all__ = [
    "RECIPES",
    "TABLES",
    "Entry",
    "Table",
    "blindnet",
    "daformer",
    "detect",
    "differences",
    "flatten",
    "from_words",
    "from_yaml",
    "named",
    "override",
    "realtime",
    "streets",
    "to_yaml",
    "words_by_name",
]
