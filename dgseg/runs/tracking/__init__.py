"""Runs kept in MLflow, at no cost to training: begin with listener.py, then shipper.py, content.py, mlflow.py."""

import importlib.util

if importlib.util.find_spec("mlflow") is None:
    raise ImportError("MLflow is not installed: pip install 'dgseg[train]', or train without it")
