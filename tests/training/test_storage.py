"""Where runs are kept: the same behaviour on a disk and behind pyarrow, and one run at a time whoever dies."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dgseg.data.names import without_secrets
from dgseg.training.lock import Busy
from dgseg.training.remote_storage import ArrowStorage, Lease
from dgseg.training.storage import LocalStorage, Storage, open_storage
from tests.training import processes


def arrow_over(folder: Path) -> ArrowStorage:
    """A real file system that knows neither rename nor lock as far as we use it."""
    fs = pytest.importorskip("pyarrow.fs")
    return ArrowStorage(fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), "bucket/runs", "test://bucket/runs")


def arrow_in_memory() -> ArrowStorage:
    fs = pytest.importorskip("pyarrow._fs")
    return ArrowStorage(fs._MockFileSystem(), "bucket/runs", "memory://bucket/runs")


@pytest.fixture(params=["local", "file://", "pyarrow on a disk", "pyarrow in memory"])
def storage(request: Any, tmp_path: Path) -> Storage:
    match request.param:
        case "local":
            return open_storage(tmp_path / "runs")
        case "file://":
            return open_storage(f"file://{tmp_path}/with%20space")
        case "pyarrow on a disk":
            return arrow_over(tmp_path)
        case _:
            return arrow_in_memory()


def test_files(storage: Storage) -> None:
    assert storage.names() == []
    assert not storage.exists()
    for absent in (storage.read, storage.size):
        with pytest.raises(FileNotFoundError):
            absent("a/b")
    storage.delete("a")  # nothing there, nothing done
    storage.write("a/b", b"12345")
    storage.write("a/b", b"123")
    storage.write("c", b"")
    assert storage.names() == ["a", "c"]
    assert storage.folder("a").names() == ["b"]
    assert (storage.read("a/b"), storage.size("a/b"), storage.read("c")) == (b"123", 3, b"")
    assert storage.exists("a")
    assert storage.exists("a/b")
    assert not storage.exists("a/c")
    with pytest.raises(FileNotFoundError):
        storage.size("a/c")
    assert storage.folder("a").where("b") == f"{storage.url}/a/b"
    storage.delete("a")
    storage.delete("c")
    assert storage.names() == []


def test_folders_travel(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "x").write_bytes(os.urandom(100_000))
    (source / "last").write_bytes(b"done")
    storage.upload(source, "run/folder", last="last")
    storage.upload(source / "deep" / "x", "run/single")
    storage.download("run/folder", tmp_path / "back")
    storage.download("run/single", tmp_path / "new" / "single")
    for name in ("deep/x", "last"):
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()
    assert (tmp_path / "new" / "single").read_bytes() == (source / "deep" / "x").read_bytes()
    assert storage.folder("run").names() == ["folder", "single"]


def test_the_last_file_comes_last(tmp_path: Path) -> None:
    order: list[str] = []

    class Recording(ArrowStorage):
        def _put(self, source: Path, name: str) -> None:
            order.append(name)
            super()._put(source, name)

    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "manifest.json", "z"):
        (source / name).write_text(name)
    plain = arrow_over(tmp_path)
    Recording(plain.system, plain.path, plain.url).upload(source, "step", last="manifest.json")
    assert order == ["step/a", "step/z", "step/manifest.json"]


def test_writable(storage: Storage) -> None:
    storage.check_writable()
    assert storage.names() == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that other users reach: pytest's own is its user's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody() -> None:
    if os.getuid() == 0:  # to whom permissions mean nothing
        os.setuid(65534)


def test_read_only_folder(open_folder: Path) -> None:
    open_folder.chmod(0o555)

    def check() -> None:
        as_nobody()
        with pytest.raises(ValueError, match=r"cannot be written \(Permission denied\).*--storage"):
            open_storage(open_folder / "runs").check_writable()

    processes.finish(processes.start(check))


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("no folder")
    with pytest.raises(ValueError, match="cannot be written"):
        open_storage(tmp_path / "runs").check_writable()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("s3://bucket/runs", "s3://bucket/runs"),
        ("s3://key:secret@bucket/runs?endpoint_override=host:9000", "s3://key:***@bucket/runs"),
        ("abfs://account@host/runs?client_secret=secret", "abfs://account@host/runs"),
        ("runs/a:b@c?d", "runs/a:b@c?d"),
    ],
)
def test_messages_and_records_hold_no_secret(uri: str, told: str) -> None:
    assert without_secrets(uri) == told


def test_unknown_uris() -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"s4://bucket cannot be opened.*s3://"):
        open_storage("s4://bucket")


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        open_storage("s3://bucket/runs")


def hold(storage: Storage, ready: Any, child: Any = None) -> None:
    with storage.lock():
        if child is not None:
            child.put(processes.start(time.sleep, 60).pid)  # as a loader's worker is
        ready.set()
        time.sleep(60)


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    run = LocalStorage(tmp_path / "run")
    ready, child = processes.event(), processes.queue()
    first = processes.start(hold, run, ready, child)
    assert ready.wait(30)
    grandchild = child.get()
    try:
        with pytest.raises(Busy, match=f"another run works on {run.url}.*process {first.pid} on .*--name"):
            run.lock()
        start = time.monotonic()
        with pytest.raises(Busy):
            run.lock(wait=0.3)
        assert time.monotonic() - start >= 0.3
        LocalStorage(tmp_path / "other").lock().release()  # another name is free
        processes.kill(first)
        assert Path(f"/proc/{grandchild}").exists()  # a child of the dead does not hold on to it
        with run.lock():
            assert run.names() == ["lock"]
    finally:
        os.kill(grandchild, 9)
    assert run.names() == []


def take_turns(run: Storage, counter: Path, turns: int) -> None:
    for _ in range(turns):
        with run.lock(wait=30):
            value = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(value + 1))


def test_locks_exclude(tmp_path: Path) -> None:
    """Files appear and vanish with every turn, which is where a lock on a removed file would let two in."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    contenders = [processes.start(take_turns, LocalStorage(tmp_path / "run"), counter, 20) for _ in range(4)]
    for contender in contenders:
        processes.finish(contender)
    assert counter.read_text() == "80"


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    run = LocalStorage(tmp_path / "run")
    with run.lock() as lock:
        lock.check()
        with pytest.raises(Busy, match=f"process {os.getpid()} on"):
            run.lock()
    run.lock().release()


def lease(storage: Storage) -> Lease:
    return Lease(storage, beat=0.05, patience=0.5, settle=0.05)


def hold_lease(folder: Path, ready: Any) -> None:
    lease(arrow_over(folder)).acquire()
    ready.set()
    time.sleep(60)


def test_leases_outlive_nobody(tmp_path: Path) -> None:
    ready = processes.event()
    first = processes.start(hold_lease, tmp_path, ready)
    assert ready.wait(30)
    mine = lease(arrow_over(tmp_path))
    with pytest.raises(Busy, match=f"is held by process {first.pid} on"):
        mine.acquire()
    processes.kill(first)
    start = time.monotonic()
    mine.acquire()
    assert time.monotonic() - start >= 0.5  # watched before it was taken over
    mine.check()
    mine.release()
    assert not arrow_over(tmp_path).exists("lock")


def test_a_lease_that_is_taken_over_is_noticed(tmp_path: Path) -> None:
    storage = arrow_over(tmp_path)
    with lease(storage) as mine:
        mine.acquire()
        storage.write("lock", b'{"lease": "another", "host": "elsewhere", "pid": 1, "since": "now"}')
        time.sleep(1)  # twenty beats
        with pytest.raises(Busy, match="taken over by process 1 on elsewhere"):
            mine.check()
    assert b"another" in storage.read("lock")  # the other's is not ours to delete
