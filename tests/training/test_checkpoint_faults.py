"""Bad luck, really: killed writers, flipped bytes, full disks, folders that vanish, two savers at once."""

import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgseg.training.checkpoint import CheckpointError, Checkpoints
from dgseg.training.storage import LocalStorage, Storage
from tests.training import processes
from tests.training.test_checkpoint import STEP, check_equal, names, state_of
from tests.training.test_storage import arrow_over, as_nobody

SIZE = 100_000  # elements: a save takes some milliseconds, of which every one is hit in time


def save_on_and_on(run: Storage, first: int, progress: Path) -> None:
    checkpoints = Checkpoints(run)
    for step in range(first, first + 10_000):
        checkpoints.save(step, state_of(step, SIZE), score=float(step % 7))
        checkpoints.wait()
        aside = progress.with_suffix(".aside")
        aside.write_text(f"{step}")
        aside.replace(progress)  # a kill leaves the number before or this one, never half of it


@pytest.mark.parametrize(("kind", "hits"), [("local", 3), ("pyarrow", 1)])
def test_kills_at_any_moment(kind: str, hits: int, tmp_path: Path) -> None:
    """What was saved is there, whole; what was being saved is there, whole, or is not there."""
    run: Storage = LocalStorage(tmp_path / "run") if kind == "local" else arrow_over(tmp_path)
    progress, moments = tmp_path / "progress", random.Random(0)
    checkpoints = Checkpoints(run)
    checkpoints.save(0, state_of(0, SIZE))
    checkpoints.wait()
    saved, torn, kills = 0, 0, 0
    while min(saved, torn) < hits or kills < 8:
        kills += 1
        assert kills < 200, f"of {kills} kills {torn} hit a save, and {saved} saves came to an end"
        progress.unlink(missing_ok=True)
        writer = processes.start(save_on_and_on, run, saved + 1, progress)
        time.sleep(moments.uniform(0.01, 0.1))
        processes.kill(writer)
        torn += any(".tmp-" in name or not (run.exists(f"checkpoints/{name}/manifest.json")) for name in names(run))
        acknowledged = int(progress.read_text()) if progress.exists() else saved
        loaded = checkpoints.load()
        assert loaded is not None
        assert acknowledged <= loaded.step <= acknowledged + 1
        check_equal(loaded.state, state_of(loaded.step, SIZE))
        saved = loaded.step
    checkpoints.save(saved + 1, state_of(saved + 1))
    checkpoints.wait()
    assert all(name.startswith("step-") and ".tmp-" not in name for name in names(run))
    assert len(names(run)) <= 3  # the two newest and the best


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    checkpoints = Checkpoints(LocalStorage(folder))
    for step in (1, 2):
        checkpoints.save(step, state_of(step, 10), score=0.5, extra=lambda path: (path / "x").write_text("0123"))  # type: ignore[arg-type, return-value]
    checkpoints.wait()
    return folder


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damage_anywhere(two_steps: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        shutil.copytree(two_steps, folder)
        files = sorted(path for path in (folder / STEP.format(2)).rglob("*") if path.is_file())
        file = data.draw(st.sampled_from(files))
        content = bytearray(file.read_bytes())
        how = data.draw(st.sampled_from(["flip", "flip", "truncate", "append", "delete"]))
        place = data.draw(st.integers(0, len(content) - 1))
        if how == "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        elif how == "truncate":
            del content[place:]
        elif how == "append":
            content += b"\0"
        if how == "delete":
            file.unlink()
        else:
            file.write_bytes(content)
        loaded = Checkpoints(LocalStorage(folder)).load()
        assert loaded is not None
        check_equal(loaded.state, state_of(loaded.step, 10))
        assert loaded.score == 0.5
        if file.name != "manifest.json":  # of which a blank may become a tab
            assert loaded.step == 1
        if loaded.step == 1:
            ((name, reason),) = loaded.skipped
            assert name == "step-00000002"
            assert reason.startswith(
                (file.relative_to(folder / STEP.format(2)).as_posix(), "manifest.json", "written by")
            )


def run_out_of_space(run: Storage, spend: Any, give_back: Any) -> None:
    """The small state fits, the large one does not; then there is room again."""
    checkpoints = Checkpoints(run)
    checkpoints.save(5, state_of(5))
    checkpoints.wait()
    spend()
    checkpoints.save(10, state_of(10, 400_000))
    with pytest.raises(CheckpointError, match=r"step 10 could not be written to .*the last valid one is of step 5: "):
        checkpoints.wait()
    checkpoints.wait()  # said once
    checkpoints.save(10, state_of(10, 400_000))
    with pytest.raises(CheckpointError, match="step 10 could not be written"):
        checkpoints.save(15, state_of(15))
    assert names(run) == ["step-00000005"]
    check_equal(checkpoints.load_step(5).state, state_of(5))
    give_back()
    checkpoints.save(15, state_of(15, 400_000))
    checkpoints.wait()
    assert names(run) == ["step-00000005", "step-00000015"]


def limit_files(most: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """Any user can have that: writes fail in the middle of a file, as they do on a full disk."""

    def child() -> None:
        run_out_of_space(
            LocalStorage(tmp_path), lambda: limit_files(500_000), lambda: limit_files(resource.RLIM_INFINITY)
        )

    processes.finish(processes.start(child))


FULL_DISK = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from dgseg.training.storage import LocalStorage
from tests.training.test_checkpoint_faults import run_out_of_space
disk = Path(sys.argv[1])
ballast = disk / "ballast"
run_out_of_space(LocalStorage(disk / "run"), lambda: ballast.write_bytes(bytes(18 << 20)), ballast.unlink)
"""


def test_full_disk(tmp_path: Path) -> None:
    """A disk of 20 MB, in a namespace of its own."""
    mount = f'mount -t tmpfs -o size=20m tmpfs "{tmp_path}"'
    unshare = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk; test_files_that_may_not_grow stands for it")
    done = subprocess.run(
        [*unshare, f'{mount} && exec "{sys.executable}" -c "$0" "{tmp_path}"', FULL_DISK],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_read_only_folder() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        checkpoints = Checkpoints(LocalStorage(folder))
        checkpoints.save(5, state_of(5))
        checkpoints.wait()
        (folder / "checkpoints").chmod(0o555)
        folder.chmod(0o555)

        def child() -> None:
            as_nobody()
            mine = Checkpoints(LocalStorage(folder))
            with pytest.raises(CheckpointError, match=r"step 10 could not .*\(Permission denied\).* is of step 5"):
                mine.save(10, state_of(10))
            check_equal(mine.load_step(5).state, state_of(5))

        processes.finish(processes.start(child))
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_the_folder_vanishes(tmp_path: Path) -> None:
    """Before a save it is made anew; in the midst of one that one fails."""
    checkpoints = Checkpoints(LocalStorage(tmp_path / "run"))
    checkpoints.begin(5)
    shutil.rmtree(tmp_path / "run")
    checkpoints.commit(state_of(5))
    with pytest.raises(CheckpointError, match=r"step 5 could not be written to .*; there is none yet"):
        checkpoints.wait()
    checkpoints.save(10, state_of(10))
    checkpoints.wait()
    check_equal(checkpoints.load_step(10).state, state_of(10))


def save_ten(run: Storage, size: int) -> None:
    checkpoints = Checkpoints(run)
    for step in range(10):
        checkpoints.save(step, state_of(step, size))
    checkpoints.wait()


def test_two_savers(tmp_path: Path) -> None:
    """The lock forbids it. Should it happen (a file system whose locks lie), nothing is torn."""
    run = LocalStorage(tmp_path)
    savers = [processes.start(save_ten, run, 1000) for _ in range(3)]
    for saver in savers:
        processes.finish(saver)
    loaded = Checkpoints(run).load()
    assert loaded is not None
    assert loaded.skipped == []
    check_equal(loaded.state, state_of(9))
    assert not any(".tmp-" in name for name in names(run))


def begin_and_wait(run: Storage, ready: Any) -> None:
    (Checkpoints(run).begin(10) / "deepspeed" / "part").write_text("x")
    ready.set()
    time.sleep(60)


def test_what_a_living_writer_has_begun_stays(tmp_path: Path) -> None:
    run = LocalStorage(tmp_path)
    ready = processes.event()
    writer = processes.start(begin_and_wait, run, ready)
    assert ready.wait(30)
    checkpoints = Checkpoints(run)
    checkpoints.save(5, state_of(5))
    checkpoints.wait()
    assert any(name.startswith("step-00000010.tmp-") for name in names(run))
    processes.kill(writer)
    assert checkpoints.load() is not None
    assert names(run) == ["step-00000005"]
