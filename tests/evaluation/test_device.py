"""A GPU counts what the CPU counts."""

import pytest
import torch

from dgseg.bench.inputs import label_map
from dgseg.data import from_spec
from dgseg.evaluation import (
    PROTOCOLS,
    BoundaryErrors,
    BoundaryIou,
    Calibration,
    Confusion,
    OodScores,
    entropy_map,
    evaluate,
)
from dgseg.evaluation.evaluate import EXTRAS
from dgseg.evaluation.maps import outside_map, predicted_labels
from dgseg.models import build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("deterministic", [False, True])
def test_every_tally(deterministic):
    labels = label_map(2, 64, 128, ignored=0.05)
    labels[:, :8, :8] = 254
    # Whole numbers at a quarter of the size: interpolation is exact on both.
    g = torch.Generator().manual_seed(0)
    logits = torch.randint(-4, 5, (2, 19, 16, 32), generator=g).float()
    scores = torch.randn(labels.shape, generator=g)
    predicted = predicted_labels(logits, (64, 128))
    tallies = []
    torch.use_deterministic_algorithms(deterministic)
    try:
        for device in ("cpu", "cuda"):
            of = [x.to(device) for x in (logits, labels, predicted, scores)]
            confusion, by_labels = Confusion(device=device), Confusion()  # counts may also live on the CPU
            errors, iou = BoundaryErrors(device=device), BoundaryIou(device=device)
            ood, calibration = OodScores(device=device), Calibration(device=device)
            confusion.update(of[0], of[1])
            by_labels.update_labels(predicted_labels(of[0], (64, 128)), of[1])
            errors.update_labels(of[2], of[1])
            iou.update_labels(of[2], of[1])
            ood.update(of[3], outside_map(of[1]))
            calibration.update(of[0], of[1])
            tallies.append((confusion, by_labels, errors, iou, ood))
            entropy = entropy_map(of[0], (64, 128)).cpu()
            result = calibration.result()
            if device == "cpu":
                expected = entropy, result.ece
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(entropy, expected[0], rtol=1e-4, atol=1e-5)
    assert result.ece == pytest.approx(expected[1], abs=1e-3)
    merged = Confusion().merge(tallies[1][0])
    assert torch.equal(merged.matrix, tallies[0][0].matrix)
    for ours, theirs in zip(*tallies, strict=True):
        for name, counts in ours.counts.items():
            assert torch.equal(counts, theirs.counts[name].cpu()), (type(ours).__name__, name)


def test_a_model_is_scored_alike():
    """A pixel between two classes may fall either way."""
    torch.manual_seed(0)
    model = build("bisenet_mini").eval()
    data = [from_spec("streets=night,size=96x192,length=3,unknown=true")]
    found = [
        evaluate(
            model.to(device), data, PROTOCOLS["native"], device=device, extras=EXTRAS, batch_size=2, workers=workers
        )
        for device, workers in (("cpu", 0), ("cuda", 2))
    ]
    cpu, gpu = (each.domains["night"].confusion.matrix.cpu() for each in found)
    assert torch.equal(cpu.sum(1), gpu.sum(1))
    assert int((cpu - gpu).abs().sum()) <= 0.01 * int(cpu.sum())
    assert found[1].domains["night"].ood.keys() == found[0].domains["night"].ood.keys()
    assert found[1].as_dict()["domains"]["night"]["images"] == 3
