"""The sweep while it runs: a table of its trials, or a line per event where there is no terminal."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from dgseg.runs.sweep.record import Record, Status, TrialRecord, best
from dgseg.runs.sweep.space import Parameter
from dgseg.runs.sweep.summary import percent, shown

_STYLES: dict[Status, str] = {"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red"}


class Screen:
    def __init__(
        self, record: Record, parameters: Sequence[Parameter], metric: str, steps: int, trials: int, console: Console
    ) -> None:
        self.record, self.parameters, self.metric = record, parameters, metric
        self.steps, self.trials, self.console = steps, trials, console
        self._live = Live(self.table(), console=console, auto_refresh=False) if console.is_terminal else None
        self._told: dict[int, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(self.table(), refresh=True)
            self._live.stop()

    def changed(self, trial: TrialRecord) -> None:
        if self._live:
            self._live.update(self.table(), refresh=True)
        elif self._told.get(trial.number) != (trial.status, trial.step):
            self._told[trial.number] = (trial.status, trial.step)
            score = f", {self.metric} {percent(trial.score)} %" if trial.scores else ""
            why = f": {trial.reason.splitlines()[0]}" if trial.reason else ""
            self.console.print(
                f"trial {trial.number} {trial.status}, step {trial.step} of {self.steps}{score}{why}",
                soft_wrap=True,
                markup=False,
            )

    def table(self) -> Table:
        counts = {status: len(self.record.of(status)) for status in _STYLES}
        told = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        table = Table(title=f"{told or 'starting'} of {self.trials} trials", title_justify="left")
        for name in ("trial", *(each.short.replace(".", "\n") for each in self.parameters), "step", f"{self.metric} %"):
            table.add_column(name, justify="right")
        table.add_column("status")
        top = best(self.record.trials)
        for each in self.record.trials:
            style = _STYLES[each.status]
            status = f"{each.status}: {each.reason.splitlines()[0][:60]}" if each.reason else each.status
            table.add_row(
                str(each.number),
                *(shown(each.values[one.name]) for one in self.parameters),
                f"{each.step}/{self.steps}",
                percent(each.score),
                f"[{style}]{escape(status)}[/]" + (" ★" if each is top else ""),
            )
        return table
