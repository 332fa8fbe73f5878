"""dgseg data gap: is the streets world hard enough to be worth something?"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from dgseg.bench import gap
from dgseg.cli.data.show import size
from dgseg.data.labels import CLASSES
from dgseg.data.streets import ADVERSE, STANDARD, TARGETS
from dgseg.machine import machine

DESCRIPTION = (
    "Trains the default model with plain cross-entropy on `game`, and once on every target itself (the oracle), scores "
    "them on test ranges, and prints the gaps. About 20 minutes on two cores; --size 128x256 halves that. "
    "Exit status 1 if a gap is too small."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = gap.Settings()
    parser.add_argument("--steps", type=int, default=default.steps, help=f"per model (default: {default.steps})")
    parser.add_argument("--batch", type=int, default=default.batch, help=f"default: {default.batch}")
    parser.add_argument("--size", type=size, default=default.size, metavar="HxW", help="default: 192x384")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the world and of the training (default: 0)")
    parser.add_argument("--test", type=int, default=default.test, help=f"scenes scored on (default: {default.test})")
    parser.add_argument(
        "--domains", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET", help="default: all seven"
    )
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything there")


def main(arguments: argparse.Namespace) -> int:
    if min(arguments.steps, arguments.batch, arguments.threads, arguments.test) < 1:
        raise SystemExit("dgseg data gap: --steps, --batch, --threads and --test must be at least 1")
    torch.set_num_threads(arguments.threads)
    settings = gap.Settings(
        steps=arguments.steps,
        batch=arguments.batch,
        size=arguments.size,
        seed=arguments.seed,
        test=arguments.test,
        domains=tuple(domain for domain in TARGETS if domain in arguments.domains),
    )
    result = gap.run(settings, lambda line: print(line, flush=True))
    summary = gap.summary(result, settings)
    print("\n" + table(result, settings, summary))
    if arguments.json:
        content = machine() | {
            "settings": dataclasses.asdict(settings) | {"threads": arguments.threads},
            "targets": {"loss": gap.LOSS_TARGET, "oracle": gap.ORACLE_TARGET, "scenes_per_second": gap.SPEED_TARGET},
            "summary": summary,
        }
        content |= dataclasses.asdict(result)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    reached = [summary["loss"], summary["least_oracle"]]
    goals = [gap.LOSS_TARGET, gap.ORACLE_TARGET]
    return 1 if any(value is not None and value < goal for value, goal in zip(reached, goals, strict=True)) else 0


def table(result: gap.Result, settings: gap.Settings, summary: dict[str, float | None]) -> str:
    home = result.source[gap.SOURCE].miou
    lines = [
        f"mIoU in points, {settings.test} test scenes each; {settings.model}, {settings.steps} steps of "
        f"{settings.batch} at {settings.size[0]}x{settings.size[1]}, seed {settings.seed}",
        f"{'':14}{'trained on game':>16}{'lost':>8}{'oracle':>10}{'ahead':>8}",
        f"{gap.SOURCE:14}{home:16.1f}",
    ]
    lines += [_row(domain, home, result.source[domain].miou, result.oracle[domain].miou) for domain in settings.domains]
    for name, group in (("standard", STANDARD), ("adverse", ADVERSE)):
        ran = [domain for domain in settings.domains if domain in group]
        if len(ran) > 1:
            there = sum(result.source[domain].miou for domain in ran) / len(ran)
            own = sum(result.oracle[domain].miou for domain in ran) / len(ran)
            lines.append(_row(f"{name} mean", home, there, own))
    lines += ["", "IoU at home: " + _by_class(result.source[gap.SOURCE].iou)]
    for what, key, goal in (
        ("lost from game to the adverse mean", "loss", gap.LOSS_TARGET),
        ("least that an adverse oracle is ahead", "least_oracle", gap.ORACLE_TARGET),
    ):
        value = summary[key]
        if value is not None:
            lines.append(f"{what:40}{value:6.1f}   target {goal:g}   {'OK' if value >= goal else 'BELOW'}")
    if result.scenes_per_second:
        slowest = min(result.scenes_per_second.values())
        verdict = "OK" if slowest >= gap.SPEED_TARGET else "BELOW"
        lines.append(
            f"{'scenes/s on one core at 256x512, least':40}{slowest:6.1f}   target {gap.SPEED_TARGET:g}   {verdict}"
        )
    lines.append(f"training took {sum(result.seconds.values()) / 60:.1f} minutes for {len(result.seconds)} models")
    return "\n".join(lines)


def _row(name: str, home: float, there: float, own: float) -> str:
    return f"{name:14}{there:16.1f}{home - there:8.1f}{own:10.1f}{own - there:8.1f}"


def _by_class(iou: dict[str, float]) -> str:
    parts = [f"{name} {iou[name]:.0f}" for name in CLASSES if name in iou]
    half = (len(parts) + 1) // 2
    return ", ".join(parts[:half]) + ",\n             " + ", ".join(parts[half:])
