"""Every report of a run as a line of JSON in its folder: what stays when nobody else listened."""

import json
import logging
from typing import Any

from dgseg.training.listener import Listener, RunEnd, RunStart, ScoreReport, StepReport
from dgseg.training.storage import Storage, run_folder

log = logging.getLogger("dgseg.training")

FILE = "metrics.jsonl"


class Journal(Listener):
    """Lines are kept in memory and written with every checkpoint: a resumed run goes on behind its
    checkpoint's lines."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._resumed = 0  # lines up to the checkpoint that the run goes on from
        self._folder: Storage | None = None

    def on_start(self, start: RunStart) -> None:
        self._folder = run_folder(start.folder, start.run.storage, start.name)
        if self._resumed and self._folder.exists(FILE):
            self._lines = self._folder.read(FILE).decode().splitlines()[: self._resumed]
        self._add("start", start.step, world_size=start.world_size, device=start.device)

    def on_step(self, report: StepReport) -> None:
        self._add(
            "step",
            report.step,
            losses=dict(report.losses),
            metrics=dict(report.metrics),
            images_per_second=report.images_per_second,
            timings=dict(report.timings),
            memory=report.memory,
        )

    def on_scores(self, report: ScoreReport) -> None:
        self._add("scores", report.step, final=report.final, scores=report.named)

    def on_end(self, end: RunEnd) -> None:
        self._add("end", end.step, status=end.status, reason=end.reason, timings=dict(end.timings))
        self._write()

    def state_dict(self) -> dict[str, Any]:
        self._write()
        return {"lines": len(self._lines)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resumed = state["lines"]

    def _add(self, kind: str, step: int, **values: Any) -> None:
        self._lines.append(json.dumps({"kind": kind, "step": step, **values}))

    def _write(self) -> None:
        """A full disk is the checkpoint's to tell: a listener's error would stand before it."""
        if self._folder is not None:
            try:
                self._folder.write(FILE, ("\n".join(self._lines) + "\n").encode())
            except OSError as error:
                log.warning("%s could not be written (%s)", self._folder.where(FILE), error.strerror or error)
