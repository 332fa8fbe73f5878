"""The table for people (120 columns, plain text) and the JSON for the record."""

import dataclasses
import textwrap
from typing import Any

import torch

from dgseg.bench.case import OURS
from dgseg.bench.ops import Result, Settings
from dgseg.machine import machine

OPERATOR_PEERS = (("opencv", "opencv-python-headless"), ("torchmetrics", "torchmetrics"))


def header(settings: Settings) -> dict[str, Any]:
    return machine(settings.device, OPERATOR_PEERS) | {
        "settings": {
            "device": str(settings.device),
            "rounds": settings.rounds,
            "size": settings.size,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
    }


def header_text(found: dict[str, Any]) -> str:
    hardware, versions = found["hardware"], found["versions"]
    where = f"{hardware['cpu']} ({hardware['cpu_capability']}), {hardware['threads']} of {hardware['cores']} cores"
    if "gpu" in hardware:
        where = f"{hardware['gpu']} (sm {hardware['compute_capability']}); {where}"
    commit = f"commit {found['commit'][:12]}" if found["commit"] else "commit unknown"
    commit += " + changes" if found["uncommitted_changes"] else ""
    software = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    forced = "".join(f", {name}={value}" for name, value in found["environment"].items())
    return "\n".join([where, *textwrap.wrap(f"{software}, {commit}{forced}", 118), ""])


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4f}" if seconds < 1e-3 else f"{seconds * 1e3:.3f}"


def text(result: Result) -> str:
    if result.refused and not result.title:
        return f"\n{result.refused}\n"
    lines = ["", f"{result.op} ({result.backend})", f"  {result.title}"]
    if result.refused:
        lines.append(f"  REFUSED: no speed is reported, because {result.refused}")
    elif not result.times:
        lines.append("  verified against the reference")
    else:
        lines.append(f"    {'':16}{'median ms':>12}{'min ms':>12}{'p90 ms':>12}{'vs dgseg':>10}{'extra MB':>12}")
        for name, times in result.times.items():
            ratio = times.median / result.times[OURS].median
            extra = f"{result.peak_extra[name] / 1e6:.1f}" if name in result.peak_extra else "-"
            spread = "".join(f"{_milliseconds(t):>12}" for t in (times.median, times.least, times.p90))
            lines.append(f"    {name:16}{spread}{f'{ratio:.2f}x':>10}{extra:>12}")
        if result.floor:
            ratio = result.floor / result.times[OURS].median
            lines.append(f"    {'floor':16}{_milliseconds(result.floor):>12}{'':24}{f'{ratio:.2f}x':>10}")
            lines += textwrap.wrap(f"({result.floor_words})", 116, initial_indent="    ", subsequent_indent="     ")
        for verdict in result.verdicts:
            reached = "not run" if verdict.reached is None else f"{verdict.reached:.2f}x"
            judged = {None: "-", True: "OK", False: "BELOW"}[verdict.ok]
            lines.append(f"    target: {verdict.target:60}{reached:>10}  {judged}")
    lines += [f"    note: {note}" for note in result.notes]
    return "\n".join(lines)


def as_json(found: dict[str, Any], results: list[Result]) -> dict[str, Any]:
    return found | {"unit": "seconds, bytes", "results": [dataclasses.asdict(result) for result in results]}
