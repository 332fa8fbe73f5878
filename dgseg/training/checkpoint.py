"""Checkpoints of a run: written aside while training goes on, proved by a manifest, renamed into place.

checkpoints/step-00000500/
    model.safetensors   state["model"]
    ema.safetensors     state["ema"], where there is one
    state.pt            everything else; loads with weights_only=True
    deepspeed/          what a strategy wrote itself, on every rank
    manifest.json       sizes and checksums of them all

A step that is saved again (after a stop, after damage) becomes step-00000500-2: nothing valid is ever written over.
Rank 0 alone saves; the run's lock (Storage.lock) keeps other runs out.
"""

import io
import logging
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dgseg.training.lock import Busy, FileLock
from dgseg.training.manifest import MANIFEST, Damaged, Manifest, NewerFormat
from dgseg.training.snapshot import WEIGHTS, Snapshot
from dgseg.training.storage import Storage, remove, sync

log = logging.getLogger("dgseg.training")

FOLDER = "checkpoints"
STATE = "state.pt"
EXTRA = "deepspeed"
_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")
_ASIDE = re.compile(r"step-\d+(?:-\d+)?\.tmp-[0-9a-f]+")


class CheckpointError(RuntimeError):
    """Nothing could be saved, or nothing that is there can be loaded."""


@dataclass(frozen=True)
class Found:
    step: int
    path: str
    score: float | None


@dataclass(frozen=True)
class Loaded(Found):
    state: dict[str, Any]
    skipped: list[tuple[str, str]]  # newer ones: name and reason


@dataclass(frozen=True)
class _Aside:
    """A checkpoint in the making. Its lock says to others that its writer lives."""

    step: int
    path: Path
    lock: FileLock | None

    def discard(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self.lock is not None:
            self.lock.release()


class Checkpoints:
    def __init__(self, run: Storage, *, keep: int = 2, keep_best: int = 1) -> None:
        if keep < 1 or keep_best < 0:
            raise ValueError(f"keep is {keep}, keep_best {keep_best}: keep at least 1 and 0 checkpoints")
        self.storage = run.folder(FOLDER)
        self.keep, self.keep_best = keep, keep_best
        self._snapshot = Snapshot()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="dgseg checkpoint")  # joined when Python ends
        self._writing: Future[None] | None = None
        self._aside: _Aside | None = None
        self._damaged: set[str] = set()  # whose sizes are right, and bytes are not

    def reserve(self, nbytes: int) -> None:
        """About as many bytes as a state on the CPU has: the first save then blocks as shortly as the others."""
        self._snapshot.reserve(nbytes)

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        *,
        score: float | None = None,
        higher_is_better: bool = True,
        extra: Callable[[Path], None] | None = None,
    ) -> float:
        """Seconds that training stood still: for the copy, for `extra`, and for the save before if it still ran.

        extra: writes files of its own into the folder that it is given.
        """
        start = time.perf_counter()
        aside = self._begin(step) if extra is None else self.begin(step)
        if extra is not None:
            assert isinstance(aside, Path)
            try:
                extra(aside / EXTRA)
            except BaseException:
                self.abandon()
                raise
        self.commit(state, score=score, higher_is_better=higher_is_better)
        return time.perf_counter() - start

    def begin(self, step: int) -> Path:
        """For strategies that write on every rank: a folder in which all of them fill deepspeed/; then commit."""
        if self.storage.local is None:
            raise ValueError(
                f"this strategy writes files of its own, and {self.storage.url} is no folder that it can write to: "
                "give --storage a path, on NFS for several machines, or choose another --strategy"
            )
        aside = self._begin(step)
        (aside / EXTRA).mkdir()
        return aside

    def commit(self, state: Mapping[str, Any], *, score: float | None = None, higher_is_better: bool = True) -> float:
        """Seconds that it blocked; the writing goes on behind."""
        start = time.perf_counter()
        assert self._aside is not None, "begin first"
        aside = self._aside
        try:
            copied = self._snapshot.copy(state)
        except BaseException:
            self.abandon()
            raise
        self._aside = None
        self._writing = self._executor.submit(self._write, aside, copied, score, higher_is_better)
        return time.perf_counter() - start

    def abandon(self) -> None:
        """Discards what `begin` began."""
        if self._aside is not None:
            self._aside.discard()
            self._aside = None

    def wait(self) -> None:
        """Until everything is written. Raises what went wrong in it, once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def begun(self) -> bool:
        """Whether anything was ever saved, damaged or not."""
        return bool(self._names(every=True))

    def latest(self) -> Found | None:
        """By manifest and sizes; load reads the bytes too."""
        found = self._valid()
        return self._found(*found[0]) if found else None

    def best(self) -> Found | None:
        found = _by_score(self._valid())
        return self._found(*found[0]) if found else None

    def load(self, device: str | torch.device = "cpu") -> Loaded | None:
        """The newest that is whole; None when nothing was ever saved. Raises CheckpointError when nothing is whole."""
        self._clean()
        return self._load(self._names(), device)

    def load_step(self, step: int, device: str | torch.device = "cpu") -> Loaded:
        names = [name for name in self._names() if _order(name)[0] == step]
        loaded = self._load(names, device)
        if loaded is None:
            there = ", ".join(str(one) for one in sorted({_order(name)[0] for name in self._names()})) or "none"
            raise ValueError(f"{self.storage.url} has no checkpoint of step {step}; steps there: {there}")
        return loaded

    # Saving

    def _begin(self, step: int) -> Path:
        assert self._aside is None, "one save at a time: commit or abandon the other first"
        self.wait()
        self._clean()
        name = f"step-{step:08d}.tmp-{uuid.uuid4().hex[:12]}"
        root = self.storage.local
        try:
            if root is None:
                self._aside = _Aside(step, Path(tempfile.mkdtemp(prefix="dgseg-")), None)
            else:
                lock = FileLock(root / f"{name}.lock")  # before the folder: one without a lock has a dead writer
                lock.acquire()
                self._aside = _Aside(step, root / name, lock)
                (root / name).mkdir()
        except OSError as error:
            self.abandon()
            raise self._failed(step, error) from error
        return self._aside.path

    def _write(self, aside: _Aside, state: dict[str, Any], score: float | None, higher_is_better: bool) -> None:
        from safetensors.torch import save_file

        try:
            weights = {part: state[part] for part in WEIGHTS if isinstance(state.get(part), dict)}
            torch.save({part: value for part, value in state.items() if part not in weights}, aside.path / STATE)
            for part, tensors in weights.items():
                path = aside.path / f"{part}.safetensors"
                save_file(tensors, path)
                path.chmod((aside.path / STATE).stat().st_mode)  # safetensors lets its user alone read it
            manifest = Manifest.of(aside.path, aside.step, score, higher_is_better)
            (aside.path / MANIFEST).write_bytes(manifest.encode())
            name = self._publish(aside)
        except Exception as error:  # whatever a disk, a network or a library can raise
            raise self._failed(aside.step, error) from error
        finally:
            aside.discard()
        try:
            self._prune(name)
        except OSError as error:
            log.warning("%s: old checkpoints could not be deleted (%s)", self.storage.url, error)

    def _publish(self, aside: _Aside) -> str:
        """Its name. Renamed here; in remote storages uploaded, the manifest last."""
        root = self.storage.local
        if root is not None:
            sync(aside.path)
        while True:
            taken = [attempt for step, attempt in map(_order, self._names(every=True)) if step == aside.step]
            name = f"step-{aside.step:08d}" + (f"-{max(taken) + 1}" if taken else "")
            if root is None:
                self.storage.upload(aside.path, name, last=MANIFEST)
                return name
            try:
                aside.path.rename(root / name)
            except OSError:
                if not (root / name).exists():
                    raise
                continue  # another saver was faster
            sync(root, deep=False)
            return name

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        try:
            latest = self.latest()
        except OSError:
            latest = None
        said = f"{error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        if not isinstance(error, OSError) and self.storage.local is not None:  # torch does not say that a disk is full
            with suppress(OSError):
                said += f"; {shutil.disk_usage(self.storage.local).free >> 20} MB are free there"
        kept = f"the last valid one is of step {latest.step}: {latest.path}" if latest else "there is none yet"
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {self.storage.url} ({said}); {kept}"
        )

    def _prune(self, written: str) -> None:
        """All but the newest, the best and what a newer dgseg wrote. `written` is whole, so the damaged go too."""
        valid = self._valid()
        newest: dict[int, str] = {}
        for name, manifest in valid:
            newest.setdefault(manifest.step, name)
        kept = {written, *list(newest.values())[: self.keep]}
        kept |= {name for name, _ in _by_score([one for one in valid if one[0] in newest.values()])[: self.keep_best]}
        for name in self._names():
            if name not in kept and not self._is_newer(name):
                self._delete(name)

    def _delete(self, name: str) -> None:
        """Rename before deleting: an interrupted delete is then not taken for damage."""
        root = self.storage.local
        if root is None:
            self.storage.delete(f"{name}/{MANIFEST}")
            self.storage.delete(name)
        else:
            gone = root / f"{name}.tmp-{uuid.uuid4().hex[:12]}"
            (root / name).rename(gone)
            remove(gone)

    def _clean(self) -> None:
        """Deletes what dead writers left."""
        root = self.storage.local
        if root is None:
            for name in set(self._names(every=True)) - set(self._names()):
                self.storage.delete(name)  # the run's lease says that no other process writes it
            return
        for name in {found.removesuffix(".lock") for found in self.storage.names()}:
            if not _ASIDE.fullmatch(name):
                continue
            lock = FileLock(root / f"{name}.lock")
            try:
                lock.acquire()
            except Busy:
                continue
            except OSError as error:
                log.warning("%s: %s was left by a dead writer and stays (%s)", self.storage.url, name, error)
                continue
            shutil.rmtree(root / name, ignore_errors=True)
            lock.release()

    # Looking

    def _names(self, *, every: bool = False) -> list[str]:
        """Newest first. In a remote storage, those with a manifest: the others never came to an end."""
        found = sorted((name for name in self.storage.names() if _NAME.fullmatch(name)), key=_order, reverse=True)
        if every or self.storage.local is not None:
            return found
        return [name for name in found if self.storage.exists(f"{name}/{MANIFEST}")]

    def _valid(self) -> list[tuple[str, Manifest]]:
        """Newest first."""
        found = []
        for name in self._names():
            if name not in self._damaged:
                try:
                    found.append((name, Manifest.read(self.storage.folder(name))))
                except Damaged:
                    continue
        return found

    def _is_newer(self, name: str) -> bool:
        try:
            Manifest.read(self.storage.folder(name))
        except NewerFormat:
            return True
        except Damaged:
            return False
        return False

    def _found(self, name: str, manifest: Manifest) -> Found:
        return Found(manifest.step, self.storage.where(name), manifest.score)

    # Loading

    def _load(self, names: list[str], device: str | torch.device) -> Loaded | None:
        skipped: list[tuple[str, str]] = []
        for name in names:
            try:
                manifest, state = self._read(name, device)
            except Damaged as damage:
                self._damaged.add(name)
                skipped.append((name, str(damage)))
                log.warning("checkpoint %s is skipped: %s", self.storage.where(name), damage)
                continue
            return Loaded(manifest.step, self.storage.where(name), manifest.score, state, skipped)
        if skipped:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped)
            raise CheckpointError(
                f"no checkpoint in {self.storage.url} is whole ({reasons}); bring one back, or start anew with another "
                "--name"
            )
        return None

    def _read(self, name: str, device: str | torch.device) -> tuple[Manifest, dict[str, Any]]:
        from safetensors.torch import load

        folder = self.storage.folder(name)
        manifest = Manifest.read(folder)
        ours = [STATE, *(f"{part}.safetensors" for part in WEIGHTS)]
        for file in manifest.files:
            if file not in ours:
                manifest.compare(folder, file)
        state: dict[str, Any] = torch.load(
            io.BytesIO(manifest.content(folder, STATE)), map_location=device, weights_only=True
        )
        for part in WEIGHTS:
            if f"{part}.safetensors" in manifest.files:
                tensors = load(manifest.content(folder, f"{part}.safetensors"))
                state[part] = {key: tensor.to(device) for key, tensor in tensors.items()}
        return manifest, state


def _order(name: str) -> tuple[int, int]:
    """Step and attempt."""
    match = _NAME.fullmatch(name)
    assert match is not None, name
    return int(match[1]), int(match[2] or 1)


def _by_score(found: list[tuple[str, Manifest]]) -> list[tuple[str, Manifest]]:
    """Best first, of equals the newer. What is better, the newest says."""
    scored = [(name, manifest) for name, manifest in found if manifest.score is not None]
    if not scored:
        return []
    sign = 1 if scored[0][1].higher_is_better else -1
    return sorted(scored, key=lambda one: (sign * (one[1].score or 0.0), one[1].step), reverse=True)
