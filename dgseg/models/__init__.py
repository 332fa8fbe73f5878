"""Images in, Prediction out: every architecture of the papers, by name."""

from dgseg.models.build import build
from dgseg.models.inference import predict_logits
from dgseg.models.prediction import Aux, Box, Prediction
from dgseg.models.weights import LoadReport, load_weights, save_weights

__all__ = ["Aux", "Box", "LoadReport", "Prediction", "build", "load_weights", "predict_logits", "save_weights"]
