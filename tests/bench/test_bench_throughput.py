"""dgseg bench data: runs, verifies before it times, and writes what it found."""

import json

import pytest

from dgseg.bench import data_source, data_throughput
from dgseg.bench.data_source import write
from dgseg.cli import main
from dgseg.data import Sample
from dgseg.data.pack import Packed, Settings, pack


@pytest.mark.slow
def test_throughput_and_codecs(tmp_path, capsys):
    assert (
        main(
            [
                "bench",
                "data",
                "--only",
                "throughput",
                "--only",
                "codecs",
                "--quick",
                "--json",
                str(tmp_path / "found.json"),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "photometric distortion" in printed
    assert "JPEG 95 4:4:4, tiles 144×256" in printed
    throughput, codecs = json.loads((tmp_path / "found.json").read_text())["parts"]
    figures = {row["what"]: row for row in throughput["rows"]}
    assert figures["dgseg, packed"]["target"] == 100
    assert figures["packed over the faster usual pipeline"]["ok"]
    assert {"torchvision", "albumentations", "dgseg, PNG"} <= figures.keys()
    assert len(codecs["rows"]) > 15


def test_wrong_pixels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(data_source, "SIZE", (263, 479))  # most of the time would go into writing the PNG
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
