"""What lies where in a pack.

pack.json           the plan, written first: settings, source, number of shards
shard-00000.dgs     MAGIC, records, footer (npz: INDEX rows, class_pixels, ids), TRAILER; renamed into place when whole
index.npy           INDEX rows of all shards
class_pixels.npy    int64 [samples, classes], at the packed resolution
ids.txt             UTF-8, one per line; INDEX says where each begins
manifest.json       the plan and, of every file above, its bytes and CRC-32; and its own; written last: no manifest, no
                    pack
.lock               empty; held by the process that packs

A record is a table of PART rows (label if there are labels, further maps, tiles), then the parts in that order.
The record's table is checked by the CRC in INDEX, each part by the CRC in the table.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from dgseg.data.dataset import CorruptFile

FORMAT = 1
PLAN = "pack.json"
MANIFEST = "manifest.json"
LOCK = ".lock"
ASIDE = ".*.tmp"  # what is being written, or was when it was killed
MAGIC = b"dgseg-1\n"
PART = np.dtype([("bytes", "<u4"), ("crc", "<u4")])
TRAILER = np.dtype([("footer_bytes", "<u8"), ("footer_crc", "<u4"), ("records_crc", "<u4"), ("magic", "S8")])
INDEX = np.dtype(
    [
        ("shard", "<u4"),
        ("offset", "<u8"),  # of the record in its shard
        ("bytes", "<u8"),
        ("head_bytes", "<u4"),  # table, label and further maps
        ("table_crc", "<u4"),
        ("size", "<u4", (2,)),
        ("source_size", "<u4", (2,)),
        ("id_offset", "<u8"),
        ("id_bytes", "<u4"),
    ]
)


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}.dgs"


def write_whole(path: Path, content: bytes) -> None:
    """Under its name stands either nothing, what was there before, or all of it: also after a kill or a power cut."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)  # a full disk should not stay full of it
        raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, OSError) as error:
        raise CorruptFile(path, f"is not readable ({error}). Pack again into another folder") from error


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """With its own CRC, whatever order and spacing it is written in."""
    rest = {name: each for name, each in content.items() if name != "crc32"}
    return rest | {"crc32": zlib.crc32(json.dumps(rest, sort_keys=True).encode())}


def file_entry(content: bytes) -> dict[str, int]:
    return {"bytes": len(content), "crc32": zlib.crc32(content)}
