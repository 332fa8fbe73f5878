"""What serves the operators: on a tested device never the reference, which would be compared with itself."""

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
