"""A run on the terminal: a bar with loss, rate, images/s and the time that is left; plain lines where there is none."""

import sys
import time
from typing import IO, Any

from dgseg.training.listener import CheckpointReport, Listener, RunEnd, RunStart, ScoreReport, StepReport

PLAIN_EVERY = 10.0  # seconds between two plain lines


class Progress(Listener):
    def __init__(self, stream: IO[str] | None = None) -> None:
        from rich.console import Console

        self.console = Console(file=stream or sys.stderr, highlight=False)
        self._bar: Any = None
        self._said = 0.0
        self._first_step = 0
        self._name = ""

    def on_start(self, start: RunStart) -> None:
        self._first_step = start.step
        self._name = start.name
        workers = f"{start.world_size} worker" + ("s" if start.world_size > 1 else "")
        again = f", going on after step {start.step}" if start.step else ""
        self.console.print(f"[bold]{start.name}[/]: {start.recipe.model.name} on {start.device}, {workers}{again}")
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
        rates = f"{report.images_per_second:5.1f} img/s  lr {report.metrics['lr']:.1e}"
        if self._bar is not None:
            self._bar.update(self._task, completed=report.step, rates=rates, terms=terms)
            return
        now = time.monotonic()
        if now - self._said >= PLAIN_EVERY or report.step == report.max_steps:
            self._said = now
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

    def on_end(self, end: RunEnd) -> None:
        if self._bar is not None:
            self._bar.stop()
        if end.status == "stopped":
            self._line(f"stopped after step {end.step} ({end.reason}) and saved: the same command goes on from there")

    def _line(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
