"""Panels show the pixels they were given, and plots the numbers."""

import io

import numpy as np
import pytest
import torch

from dgseg.bench.inputs import label_map, logits
from dgseg.data.labels import COLOURS
from dgseg.evaluation import BoundaryErrors, Calibration, Confusion, OodScores, charts
from dgseg.evaluation.pictures import BLACK, WRONG, Example, error_map, heat, overlay, panel

H, W = 40, 80


@pytest.fixture
def example() -> Example:
    truth = np.full((H, W), 13, np.uint8)
    truth[:, 60:] = 255
    prediction = np.full((H, W), 13, np.uint8)
    prediction[:10] = 0
    return Example(np.full((H, W, 3), 100, np.uint8), truth, {"prediction": prediction}, np.zeros((H, W), np.float32))


def test_errors_are_red_and_void_is_black(example):
    found = error_map(example.image, example.truth, example.predictions["prediction"])
    assert tuple(found[0, 0]) == WRONG
    assert tuple(found[0, 70]) == BLACK
    assert tuple(found[20, 0]) == (178, 178, 178)


def test_overlays_mix_and_leave_void_alone(example):
    found = overlay(example.image, example.truth, 0.5)
    np.testing.assert_allclose(found[0, 0], (100 + COLOURS[13].astype(int)) / 2, atol=1)
    assert tuple(found[0, 70]) == (100, 100, 100)


def test_heat_goes_from_dark_to_bright():
    colours = heat(np.array([[-1.0, 0.0, 0.3, 0.6, 1.0, 2.0, np.nan]]))[0].astype(int)
    assert (colours[0] == colours[1]).all()
    assert (colours[4] == colours[5]).all()
    assert (np.diff(colours[[1, 2, 3, 4]].sum(1)) > 0).all()


def test_a_panel_has_a_column_per_view(example):
    # 80 pixels wide as the views are: nothing is scaled.
    sheet = np.asarray(panel([example, example], width=W))
    columns = [6 + i * (W + 6) for i in range(5)]
    row = 24 + 20
    seen = [tuple(sheet[row, x + 5]) for x in columns]
    car = tuple(COLOURS[13])
    assert seen == [(100, 100, 100), car, car, (178, 178, 178), tuple(heat(np.zeros((1, 1)))[0, 0])]
    assert tuple(sheet[24 + 5, columns[2] + 5]) == tuple(COLOURS[0])
    assert tuple(sheet[24 + H + 6 + 5, columns[3] + 5]) == WRONG  # the second row


def test_a_panel_of_two_models_and_what_does_not_fit(example):
    two = Example(example.image, example.truth, {"A": example.truth, "B": example.truth})
    assert panel([two], width=W).width == 6 * (W + 6) + 6
    with pytest.raises(ValueError, match="same predictions"):
        panel([two, example])
    with pytest.raises(ValueError, match="no example"):
        panel([])


def test_plots_draw_the_numbers():
    labels, low = label_map(1, 64, 128), logits(1, 16, 32, smooth=True)
    confusion, calibration, boundary, ood = Confusion(), Calibration(), BoundaryErrors(), OodScores()
    confusion.update(low, labels)
    calibration.update(low, labels)
    boundary.update_labels(labels.roll(2, 2), labels)
    unknown = torch.zeros_like(labels)
    unknown[:, :20] = 1
    ood.update(torch.randn(labels.shape), unknown)

    errors = charts.boundary_errors({"fog": boundary, "night": boundary})
    lines = errors.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["fog", "night"]
    np.testing.assert_allclose(lines[0].get_ydata(), 100 * boundary.error())
    trimap = charts.trimap_curves({"fog": boundary})
    np.testing.assert_allclose(
        trimap.axes[0].get_lines()[0].get_ydata(), [100 * found.miou for found in boundary.trimap()]
    )
    reliability = charts.reliability_diagram({"fog": calibration.result()})
    np.testing.assert_allclose(reliability.axes[0].get_lines()[1].get_ydata(), calibration.result().accuracy)
    heat_map = charts.confusion_heat_map(confusion)
    shares = np.asarray(heat_map.axes[0].get_images()[0].get_array())
    np.testing.assert_allclose(np.nansum(shares, 1)[confusion.matrix.sum(1).numpy() > 0], 100)
    figures = [
        errors, trimap, reliability, heat_map, charts.class_boundary_errors(boundary),
        charts.ood_curves({"energy": ood.curves()}),
    ]  # fmt: skip
    for figure in figures:
        written = io.BytesIO()
        figure.savefig(written, format="svg")
        assert b"</svg>" in written.getvalue()
    with pytest.raises(ValueError, match="same bands"):
        charts.boundary_errors({"a": boundary, "b": BoundaryErrors(radii=(1,))})
