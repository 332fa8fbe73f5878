"""dgseg doctor: what this machine has, what is missing or slow, and how to mend it."""

import argparse
import dataclasses
import json
from collections.abc import Iterator

from dgseg.cli.doctor import datasets, machine, operators, services
from dgseg.cli.doctor.finding import Finding, Settings, guarded

DESCRIPTION = (
    "Looks at everything that a training needs or could use, and says how to mend what is missing, slow or broken. "
    "The exit status is 1 when no training could start. RAY_ADDRESS and MLFLOW_TRACKING_URI say where the cluster and "
    "the tracking server are."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", action="append", default=[], metavar="SPEC", help="also open this: gta5=/data/gta5@train; repeatable"
    )
    parser.add_argument("--runs", default="runs", metavar="FOLDER", help="where runs are to be stored (default: runs)")
    parser.add_argument("--json", action="store_true", help="for programs")


def main(arguments: argparse.Namespace) -> int:
    findings = []
    area = ""
    for finding in examine(Settings(arguments.runs, tuple(arguments.data))):
        findings.append(finding)
        if not arguments.json:
            if finding.area != area:
                print(f"{area and chr(10)}{finding.area}")
                area = finding.area
            print(f"  {finding.status:<8} {finding.name}: {finding.detail}", flush=True)
            if finding.mend:
                print(f"           → {finding.mend}", flush=True)
    stopping = [finding for finding in findings if finding.stops]
    if arguments.json:
        record = {"can_train": not stopping, "findings": [dataclasses.asdict(each) for each in findings]}
        print(json.dumps(record, indent=1, ensure_ascii=False))
    elif stopping:
        print(f"\nNo training can start: {', '.join(finding.name for finding in stopping)}.")
    else:
        print("\nA training can start.")
    return 1 if stopping else 0


def examine(settings: Settings) -> Iterator[Finding]:
    probes = services.Probes()  # first: they run beside everything else
    for module, checks in (
        (machine, machine.CHECKS),
        (operators, operators.CHECKS),
        (services, probes.checks),
        (datasets, datasets.CHECKS),
    ):
        for check in checks:
            yield from guarded(module.AREA, check, settings)
