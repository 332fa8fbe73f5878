"""A run on the terminal: a bar with losses, images/s and the time left, or plain lines; at the end, where time went."""

import sys
import time
from collections.abc import Mapping
from typing import IO, Any

from dgseg.training.clock import STEP, summary
from dgseg.training.listener import (
    CheckpointReport,
    Listener,
    ProfileReport,
    RunEnd,
    RunStart,
    ScoreReport,
    StepReport,
)

PLAIN_EVERY = 10.0  # seconds between two plain lines


class Progress(Listener):
    def __init__(self, stream: IO[str] | None = None) -> None:
        from rich.console import Console

        self.console = Console(file=stream or sys.stderr, highlight=False)
        self._bar: Any = None
        self._printed_at = 0.0
        self._first_step = 0
        self._name = ""

    def on_start(self, start: RunStart) -> None:
        self._first_step = start.step
        self._name = start.name
        workers = f"{start.world_size} worker" + ("s" if start.world_size > 1 else "")
        resumed = f", resumed after step {start.step}" if start.step else ""
        self.console.print(f"[bold]{start.name}[/]: {start.recipe.model.name} on {start.device}, {workers}{resumed}")
        self.console.print(f"kept in {start.folder}", soft_wrap=True)
        if self.console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.fields[rates]}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[terms]}"),
                console=self.console,
            )
            steps = start.recipe.schedule.steps
            self._task = self._bar.add_task("", total=steps, completed=start.step, rates="starting", terms="")
            self._bar.start()

    def on_step(self, report: StepReport) -> None:
        terms = "  ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
        rates = f"{report.images_per_second:5.1f} img/s{_waiting(report.timings)}  lr {report.metrics['lr']:.1e}"
        if report.memory:
            rates += f"  {report.memory / 1e9:.1f} GB"
        if self._bar is not None:
            self._bar.update(self._task, completed=report.step, rates=rates, terms=terms)
            return
        now = time.monotonic()
        if now - self._printed_at >= PLAIN_EVERY or report.step == report.max_steps:
            self._printed_at = now
            done = report.step - self._first_step
            left = report.seconds / done * (report.max_steps - report.step) if done else 0.0
            self._line(f"step {report.step}/{report.max_steps}  {rates}  {_clock(left)} left  {terms}")

    def on_scores(self, report: ScoreReport) -> None:
        if not report.final:
            domains = "  ".join(f"{domain} {scores['miou']:.3f}" for domain, scores in report.scores.items())
            self._line(f"step {report.step}: validation mIoU {domains}")

    def on_checkpoint(self, report: CheckpointReport) -> None:
        if report.seconds > 2:
            self._line(f"step {report.step}: training stood still for {report.seconds:.1f} s for a checkpoint")

    def on_profile(self, report: ProfileReport) -> None:
        trace, *memory = report.files
        self._line(f"trace     {trace}  (open it at ui.perfetto.dev)")
        for file in memory:
            self._line(f"memory    {file}  (open it at pytorch.org/memory_viz)")

    def on_end(self, end: RunEnd) -> None:
        if self._bar is not None:
            self._bar.stop()
        if end.status == "stopped":
            self._line(f"stopped after step {end.step} ({end.reason}) and saved: the same command resumes from there")
        if end.timings:
            self._show_timings(end.timings, end.step - self._first_step)

    def _show_timings(self, timings: Mapping[str, float], steps: int) -> None:
        from rich.table import Table

        whole = sum(timings.values())
        table = Table(title=f"{_clock(whole)} for {steps} steps", title_justify="left")
        table.add_column("part")
        for column in ("seconds", "share", "ms a step"):
            table.add_column(column, justify="right")
        for part, seconds in timings.items():
            each = f"{1e3 * seconds / steps:.1f}" if part in STEP and steps else ""
            table.add_row(part, f"{seconds:.1f}", f"{100 * seconds / whole:.1f} %", each)
        self.console.print(table)
        self._line(summary(timings))

    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)


def _waiting(timings: Mapping[str, float]) -> str:
    """How much of the time went into waiting for images, where it is worth a word."""
    whole = sum(timings.values())
    share = timings.get("data", 0.0) / whole if whole else 0.0
    return f" ({100 * share:.0f} % waiting for data)" if share > 0.05 else ""


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
