"""The sweep while it runs: a table of its trials, or a line per event where there is no terminal."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import optuna
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from dgseg.runs.sweep.record import Status, TrialRecord, best, trials
from dgseg.runs.sweep.space import Parameter
from dgseg.runs.sweep.summary import percent, shown

_STYLES: dict[Status, str] = {"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red"}


class Screen:
    def __init__(
        self,
        study: optuna.Study,
        parameters: Sequence[Parameter],
        metric: str,
        steps: int,
        count: int,
        console: Console,
    ) -> None:
        self.study, self.parameters, self.metric = study, parameters, metric
        self.steps, self.count, self.console = steps, count, console
        self._live = Live(self.table(), console=console, auto_refresh=False) if console.is_terminal else None
        self._printed: dict[int, tuple[str, int]] = {}

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
        elif self._printed.get(trial.number) != (trial.status, trial.step):
            self._printed[trial.number] = (trial.status, trial.step)
            score = f", {self.metric} {percent(trial.score)} %" if trial.scores else ""
            why = f": {trial.reason.splitlines()[0]}" if trial.reason else ""
            self.console.print(
                f"trial {trial.number} {trial.status}, step {trial.step} of {self.steps}{score}{why}",
                soft_wrap=True,
                markup=False,
            )

    def table(self) -> Table:
        records = trials(self.study)
        counts = {status: sum(each.status == status for each in records) for status in _STYLES}
        title = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        table = Table(title=f"{title or 'starting'} of {self.count} trials", title_justify="left")
        for name in ("trial", *(each.short.replace(".", "\n") for each in self.parameters), "step", f"{self.metric} %"):
            table.add_column(name, justify="right")
        table.add_column("status")
        top = best(records)
        for each in records:
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
