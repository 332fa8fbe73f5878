"""The journal: whole lines whoever is killed, and what counts of them."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from dgseg.training import journal
from dgseg.training.journal import FILE, Journal, entries
from dgseg.training.listener import RunEnd
from dgseg.training.remote_storage import ArrowStorage
from dgseg.training.storage import open_storage
from tests.runs.tracking import fake_training

EVENTS = st.lists(st.sampled_from(["step", "checkpoint", "killed", "torn", "stopped"]), max_size=30)


def steps(folder: Path) -> list[int]:
    return [entry["step"] for entry in entries(open_storage(folder)) if entry["kind"] == "step"]


@settings(max_examples=100, deadline=None)
@given(EVENTS)
def test_every_step_counts_once_whoever_is_killed(tmp_path_factory: pytest.TempPathFactory, events: list[str]):
    folder = tmp_path_factory.mktemp("run")
    current, state, step, saved = Journal(), {}, 0, 0
    current.on_start(fake_training.start(folder))
    for event in events:
        if event == "step":
            step += 1
            current.on_step(fake_training.step_report(step))
        elif event == "checkpoint":
            state, saved = json.loads(json.dumps(current.state_dict())), step
        else:
            if event == "torn":
                with (folder / FILE).open("ab") as file:
                    file.write(b'{"kind": "step", "st')
            if event == "stopped":
                current.on_end(RunEnd("stopped", step))
            key, step, current = current.key, saved, Journal()
            current.load_state_dict(state)
            current.on_start(fake_training.start(folder, step=step))
            assert current.key == key
        assert steps(folder) == list(range(1, step + 1))
        for line in (folder / FILE).read_text().splitlines():
            assert event == "torn" or json.loads(line)
    current.on_end(RunEnd("finished", step))
    assert [entry["kind"] for entry in entries(open_storage(folder))].count("end") == 1


def test_what_a_full_disk_did_not_take_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    current, write, calls = Journal(), os.write, 0
    current.on_start(fake_training.start(tmp_path))

    def full(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(descriptor, data[:7])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(journal.os, "write", full)
        current.on_step(fake_training.step_report(1))
        current.on_step(fake_training.step_report(2))
    assert caplog.text.count("metrics.jsonl could not be written (No space left on device)") == 1
    assert steps(tmp_path) == []
    current.on_step(fake_training.step_report(3))
    assert steps(tmp_path) == [1, 2, 3]


def test_the_journal_of_a_bucket_is_carried_to_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    folder = ArrowStorage(files, "bucket/run", "test://bucket/run")
    monkeypatch.setattr(journal, "run_folder", lambda *_: folder)
    monkeypatch.setattr(journal.tempfile, "gettempdir", lambda: str(tmp_path / "here"))
    first = Journal()
    first.on_start(fake_training.start("test://bucket/run"))
    first.on_step(fake_training.step_report(1))
    assert [entry["kind"] for entry in entries(folder)] == ["start"], "known before its first checkpoint"
    first.state_dict()
    first.on_step(fake_training.step_report(2))  # is lost with its machine

    monkeypatch.setattr(journal.tempfile, "gettempdir", lambda: str(tmp_path / "there"))
    second = Journal()
    second.on_start(replace(fake_training.start("test://bucket/run"), step=1))
    assert second.key == first.key
    second.on_step(fake_training.step_report(2))
    second.on_end(RunEnd("finished", 2))
    assert [entry["step"] for entry in entries(folder) if entry["kind"] == "step"] == [1, 2]
