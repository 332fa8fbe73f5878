"""What serves the operators: on a tested device never the reference, which would be compared with itself."""

import importlib
import inspect
import os

import pytest
import torch

from dgseg.ops import backends, boundary_bands, segmentation_counts
from tests.ops.harness import DEVICE


@pytest.mark.skipif(os.environ.get("DGSEG_BACKEND") == "reference", reason="the reference is asked for")
def test_every_operator_is_compiled_here():
    found = backends(DEVICE)
    assert len(found) == 6
    assert "reference" not in found.values(), found


def test_meta_tensors_have_shapes():
    labels = torch.empty(2, 9, 13, dtype=torch.uint8, device="meta")
    assert boundary_bands(labels, (1, 2), stride=2).shape == (2, 5, 7)
    logits = torch.empty(2, 4, 9, 13, device="meta")
    assert segmentation_counts(logits, labels, num_classes=4).shape == (4, 5)


class Entered(Exception):
    pass


@pytest.mark.parametrize(
    ("operator", "functions"),
    {
        "entropy_weighted_cross_entropy": ("_cuda_pixels", "_cuda_loss", "_cuda_backward"),
        "focal_dice": ("_cuda_sums", "_cuda_backward", "_cuda_losses", "_cuda_through_losses"),
        "prototype_info_nce": ("_cuda_forward", "_cuda_backward"),
        "prototype_ema": ("_sums_cuda", "_move_cuda"),
    }.items(),
)
def test_triton_launches_on_the_device_of_its_tensors(operator, functions, monkeypatch):
    """Triton launches on the current device, wherever the tensors are."""
    pytest.importorskip("triton")

    def device_of(tensor):
        raise Entered

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    room = importlib.import_module(f"dgseg.ops.{operator}")
    for name in functions:
        function = getattr(room, name)
        some = [p for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        tensors = [torch.ones(1)] * max(len(some), 3)
        with pytest.raises(Entered):
            function(*tensors)
