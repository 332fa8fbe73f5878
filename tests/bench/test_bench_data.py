"""dgseg bench data: runs, verifies before it times, and writes what it found."""

import json

import pytest

from dgseg.bench import data_throughput
from dgseg.bench.data_source import write
from dgseg.cli import main
from dgseg.data import Sample
from dgseg.data.pack import Packed, Settings, pack


@pytest.mark.slow
def test_throughput_and_codecs(tmp_path, capsys):
    assert main(["bench", "data", "--quick", "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr().out
    assert "photometric distortion" in printed
    assert "JPEG 95 4:4:4, tiles 144×256" in printed
    found = json.loads((tmp_path / "found.json").read_text())
    assert set(found["throughput"]["samples_per_second"]) >= {"dgseg, packed", "dgseg, PNG", "torchvision"}
    assert found["throughput"]["source_bytes"][0] > 1.8e6


def test_wrong_pixels_are_refused(tmp_path, monkeypatch):
    pngs = write(tmp_path, 1)
    pack(pngs, tmp_path / "packed", Settings(size=data_throughput.SIZE))
    packed = Packed(tmp_path / "packed")
    ours = data_throughput._contenders(pngs, packed)[0][data_throughput.OURS]
    race = {data_throughput.OURS: ours}
    assert data_throughput._objection(pngs, packed, race) is None

    def shifted(self, index, box):
        part = self.lazy(index).crop(box)
        return Sample(part.image.roll(1, -1), part.label, part.id)

    monkeypatch.setattr(Packed, "crop", shifted)
    assert "differs from its whole" in data_throughput._objection(pngs, packed, race)
    refused = data_throughput.Result(pngs.bytes(), 1.0, 1, refused="the crop differs")
    assert "REFUSED" in data_throughput.text(refused)
