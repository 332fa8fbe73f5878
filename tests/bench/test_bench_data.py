"""dgseg bench data: runs, verifies before it times, and writes what it found."""

import json

import pytest
import torch

from dgseg.bench import data_throughput
from dgseg.cli import main
from dgseg.data import Sample
from dgseg.data.pack import Packed


@pytest.mark.slow
def test_throughput_and_codecs(tmp_path, capsys):
    assert main(["bench", "data", "--quick", "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    assert "photometric distortion" in printed
    assert "JPEG 95 4:4:4, tiles 144×256" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["throughput"]["samples_per_second"]) >= {"dgseg, packed", "dgseg, PNG", "torchvision"}
    assert found["throughput"]["source_bytes"][0] > 1.8e6


def test_wrong_pixels_are_refused(monkeypatch):
    def shifted(self, index, box):
        part = self.lazy(index).crop(box)
        return Sample(part.image.roll(1, -1), part.label, part.id)

    monkeypatch.setattr(Packed, "crop", shifted)
    torch.set_num_threads(1)
    result = data_throughput.run(rounds=1, images=1, reads=10)
    assert "differs from its whole" in result.refused
    assert not result.times
    assert "REFUSED" in data_throughput.text(result)
