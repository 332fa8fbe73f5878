"""Runs kept in MLflow, at no cost to training: begin with listener.py, then spool.py, follow.py, sender.py."""

import importlib.util

if importlib.util.find_spec("mlflow") is None:
    raise ImportError("MLflow is not installed: pip install 'dgseg[train]', or train without it")
