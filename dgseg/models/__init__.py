"""Images in, Prediction out: every architecture of the papers, by name."""

from dgseg.models.build import build
from dgseg.models.prediction import Aux, Box, Prediction

__all__ = ["Aux", "Box", "Prediction", "build"]
