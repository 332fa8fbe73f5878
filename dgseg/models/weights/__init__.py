"""Weights in and out: our own safetensors, and published checkpoints by their key names."""

from dgseg.models.weights.format import Format, State
from dgseg.models.weights.loading import LoadReport, load_weights, save_weights
from dgseg.models.weights.reading import WeightsError

__all__ = ["Format", "LoadReport", "State", "WeightsError", "load_weights", "save_weights"]
