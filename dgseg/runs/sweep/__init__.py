"""Sweeps over recipes' settings: begin with sweep.py, then record.py, search.py, trial.py.

What is searched, and why, stands in the folder tuning/ beside the package.
"""

import importlib.util

for _needed in ("ray", "optuna"):
    if importlib.util.find_spec(_needed) is None:
        raise ImportError(f"sweeps need {_needed}, which is not installed: pip install 'dgseg[train]'")
