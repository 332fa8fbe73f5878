"""Rewrites a dataset shard by shard. A shard that stands under its name is whole: whatever stopped an earlier run, the
same call continues with the missing ones."""

import dataclasses
import fcntl
import hashlib
import io
import json
import multiprocessing
import os
import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

import dgseg
from dgseg.data.dataset import DataError, Dataset
from dgseg.data.pack.layout import (
    ASIDE,
    FORMAT,
    LOCK,
    MANIFEST,
    PLAN,
    file_entry,
    read_json,
    sealed,
    shard_name,
    write_json,
    write_whole,
)
from dgseg.data.pack.shard import Settings, ShardWriter, kinds, read_footer
from dgseg.data.streets.domains import check_packing

Progress = Callable[[int], None]  # told how many more samples are done


def pack(
    dataset: Dataset,
    out: Path | str,
    settings: Settings | None = None,
    *,
    workers: int = 1,
    progress: Progress = lambda more: None,
) -> None:
    """Writes `dataset` to the folder `out`, which `Packed(out)` then reads. The bytes do not depend on `workers`."""
    out, settings = Path(out), settings or Settings()
    if workers < 1:
        raise ValueError(f"workers must be at least 1; it is {workers}")
    if not len(dataset):
        raise DataError(f"{dataset.name} is empty: there is nothing to pack")
    if dataset.name == "streets":
        check_packing(dataset.domain)
    plan = _plan(dataset, settings)
    with _alone(out):
        _begin(out, plan)
        missing = [shard for shard in range(plan["shards"]) if not (out / shard_name(shard)).exists()]
        per_shard = settings.samples_per_shard
        progress(len(dataset) - sum(min(per_shard, len(dataset) - shard * per_shard) for shard in missing))
        if workers == 1 or len(missing) <= 1:
            for shard in missing:
                _write_shard(dataset, out, plan, settings, shard, progress)
        else:
            _spread(dataset, out, plan, settings, missing, min(workers, len(missing)), progress)
        _finish(out, plan)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """A second process would take this one's unfinished files for what a killed one left."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file. Choose a new or empty folder")
    if out.is_dir() and not (out / PLAN).exists() and any(not _ours(path) for path in out.iterdir()):
        raise DataError(f"{out} exists and is no pack. Choose a new or empty folder")
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{out}: another process is packing into this folder. Wait for it, or end it") from error
        yield


def _ours(path: Path) -> bool:
    """What stands in the folder of a run that was killed before its plan was written."""
    return path.name == LOCK or path.match(ASIDE)


def _plan(dataset: Dataset, settings: Settings) -> dict[str, Any]:
    ids = hashlib.sha256()
    for index in range(len(dataset)):
        ids.update(dataset.id(index).encode() + b"\n")
    plan = {
        "format": FORMAT,
        "source": {
            "name": dataset.name,
            "domain": dataset.domain,
            "num_classes": dataset.num_classes,
            "samples": len(dataset),
            "ids_sha256": ids.hexdigest(),
            "maps": kinds(dataset[0]),  # "" is the label
        },
        "settings": dataclasses.asdict(settings),
        "shards": -(-len(dataset) // settings.samples_per_shard),
    }
    return dict(json.loads(json.dumps(plan)))  # as it reads back: tuples are lists


def _begin(out: Path, plan: dict[str, Any]) -> None:
    if (out / PLAN).exists():
        begun = read_json(out / PLAN)
        if begun != plan:
            raise DataError(f"{out} holds another pack: {_difference(begun, plan)}. Choose another folder or delete it")
        _sweep(out)
    else:
        write_json(out / PLAN, plan)


def _difference(begun: Any, plan: Any, name: str = "") -> str:
    if isinstance(begun, dict) and isinstance(plan, dict):
        keys = sorted(begun.keys() | plan.keys())
        unequal = [key for key in keys if begun.get(key) != plan.get(key)]
        return ", ".join(_difference(begun.get(key), plan.get(key), f"{name}.{key}".lstrip(".")) for key in unequal)
    return f"{name} is {begun} there and {plan} now"


def _write_shard(
    dataset: Dataset, out: Path, plan: dict[str, Any], settings: Settings, shard: int, progress: Progress
) -> None:
    source = plan["source"]
    writer = ShardWriter(out / shard_name(shard), settings, source["num_classes"], source["maps"])
    first = shard * settings.samples_per_shard
    try:
        for index in range(first, min(first + settings.samples_per_shard, len(dataset))):
            writer.add(dataset[index])
            progress(1)
        writer.finish()
    except BaseException:
        writer.discard()
        raise


def _spread(
    dataset: Dataset,
    out: Path,
    plan: dict[str, Any],
    settings: Settings,
    shards: Sequence[int],
    workers: int,
    progress: Progress,
) -> None:
    # Forking this process might hang, because torch may have run threads in it; a fork server imports torch once.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    context.set_forkserver_preload([__name__])
    done: Any = context.Queue()
    processes = [
        context.Process(target=_work, args=(dataset, out, plan, settings, shards[worker::workers], done), daemon=True)
        for worker in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        running = workers
        while running:
            try:
                told = done.get(timeout=1)
            except queue.Empty:
                if fallen := [process.exitcode for process in processes if process.exitcode]:
                    raise DataError(
                        f"{out}: a packing process died (status {fallen[0]}), perhaps for want of memory. Run the same "
                        "again to go on, with fewer workers"
                    ) from None
                continue
            if isinstance(told, BaseException):
                raise told
            if told is None:
                running -= 1
            else:
                progress(told)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(
    dataset: Dataset, out: Path, plan: dict[str, Any], settings: Settings, shards: Sequence[int], done: Any
) -> None:
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def progress(more: int) -> None:
        if parent is not None and not parent.is_alive():  # killed: nobody waits for this process any more
            os._exit(1)
        done.put(more)

    try:
        for shard in shards:
            _write_shard(dataset, out, plan, settings, shard, progress)
        done.put(None)
    except Exception as error:
        done.put(_portable(error))


def _portable(error: Exception) -> Exception:
    """Not every library's exceptions survive pickling; their words do."""
    if isinstance(error, DataError):
        return error
    words = f"{type(error).__name__}: {error}"
    return OSError(words) if isinstance(error, OSError) else RuntimeError(words)


def _sweep(out: Path) -> None:
    """What a killed run left half written."""
    for aside in out.glob(ASIDE):
        aside.unlink(missing_ok=True)


def _finish(out: Path, plan: dict[str, Any]) -> None:
    _sweep(out)
    footers = [read_footer(out / shard_name(shard)) for shard in range(plan["shards"])]
    ids = b""
    for shard, footer in enumerate(footers):
        footer.index["shard"] = shard
        footer.index["id_offset"] += len(ids)
        ids += footer.ids
    contents = {
        "index.npy": _npy(np.concatenate([footer.index for footer in footers])),
        "class_pixels.npy": _npy(np.concatenate([footer.class_pixels for footer in footers])),
        "ids.txt": ids,
    }
    for name, content in contents.items():
        write_whole(out / name, content)
    files = {name: file_entry(content) for name, content in contents.items()}
    for shard, footer in enumerate(footers):
        files[shard_name(shard)] = {"bytes": footer.shard_bytes, "crc32": footer.shard_crc}
    versions = {"dgseg": dgseg.__version__, "pillow": PIL.__version__}
    write_json(out / MANIFEST, sealed(plan | {"written_by": versions, "files": files}))


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()
