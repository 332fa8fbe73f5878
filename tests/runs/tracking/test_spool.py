"""What is appended is read once, in order, whoever is killed between."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg.runs.tracking import spool
from dgseg.runs.tracking.spool import Reader, Writer, read_json, segments, write_json

STEPS = st.lists(st.sampled_from(["append", "read", "confirm", "new writer", "torn line", "new reader"]), max_size=60)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_every_entry_is_read_in_order(tmp_path_factory: pytest.TempPathFactory, steps: list[str]):
    folder = tmp_path_factory.mktemp("spool")
    writer, reader = Writer(folder, "training"), Reader(folder, "training")
    appended, seen, confirmed = 0, [], 0
    for step in steps:
        if step == "append":
            writer.append({"number": appended, "text": "ü" * (appended % 7)})
            appended += 1
        elif step == "read":
            seen += [entry["number"] for entry in reader.read()]
        elif step == "confirm":
            reader.confirm()
            confirmed = len(seen)
        elif step == "new writer":  # training was killed and starts again
            writer = Writer(folder, "training")
        elif step == "torn line":  # killed within a write
            with segments(folder, "training")[-1].open("ab") as file:
                file.write(b'{"number": 9')
            writer = Writer(folder, "training")
        else:  # the sender was killed: it begins with what is left, and may see again what was not confirmed
            reader = Reader(folder, "training")
            again = [entry["number"] for entry in _all(reader)]
            assert again == list(range(again[0], appended)) if again else confirmed == appended
            assert not again or again[0] <= confirmed
            seen = list(range(appended))
    seen += [entry["number"] for entry in _all(reader)]
    assert seen == list(range(appended))


def _all(reader: Reader) -> list[spool.Entry]:
    found = []
    while entries := reader.read():
        found += entries
    return found


def test_long_spools_are_cut_into_segments_that_go_as_they_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spool, "_SEGMENT_BYTES", 100)
    writer, reader = Writer(tmp_path, "training"), Reader(tmp_path, "training")
    for number in range(50):
        writer.append({"number": number})
    assert len(segments(tmp_path, "training")) > 3
    assert [entry["number"] for entry in _all(reader)] == list(range(50))
    reader.confirm()
    assert len(segments(tmp_path, "training")) == 1, "the one that is written to stays"
    writer.close()
    reader.finish()
    assert not segments(tmp_path, "training")


def test_a_segment_with_something_new_outlives_the_end(tmp_path: Path):
    writer, reader = Writer(tmp_path, "training"), Reader(tmp_path, "training")
    writer.append({"number": 0})
    reader.read()
    Writer(tmp_path, "training").append({"number": 1})  # the run has been started again meanwhile
    reader.finish()
    assert [entry["number"] for entry in _all(Reader(tmp_path, "training"))] == [1]


def test_a_full_disk_tears_one_line_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    writer = Writer(tmp_path, "training")
    writer.append({"number": 0})
    write = spool.os.write
    with monkeypatch.context() as full:
        full.setattr(spool.os, "write", lambda descriptor, line: write(descriptor, line[:5]))
        with pytest.raises(OSError, match="disk is full"):
            writer.append({"number": 1})
    writer.append({"number": 2})
    reader = Reader(tmp_path, "training")
    assert [entry["number"] for entry in _all(reader)] == [0, 2]
    assert reader.torn == 1


def test_json_is_replaced_whole_and_nonsense_reads_as_nothing(tmp_path: Path):
    write_json(tmp_path / "a.json", {"key": 1})
    assert read_json(tmp_path / "a.json") == {"key": 1}
    (tmp_path / "a.json").write_text('{"key": ')
    assert read_json(tmp_path / "a.json") == {}
    assert read_json(tmp_path / "none.json") == {}
