"""The console output of a run: a heading for each stage, a line for each decision; main process only."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console as Terminal

from hf_ft.errors import escape_unprintable

if TYPE_CHECKING:
    from rich.table import Table

    from hf_ft.report.report import ReportContent

_STYLES = {"better": "bold green", "not better": "bold yellow", "not compared": "bold", "worse": "bold red"}


class Console:
    """Prints headings, lines and tables, and measures the time of each stage of a run.

    Args:
        speaks: whether this process prints.
    """

    def __init__(self, speaks: bool = True):
        self.speaks = speaks
        escape_unprintable()
        self.terminal = Terminal(quiet=not speaks, highlight=False, soft_wrap=True)
        self.seconds: dict[str, float] = {}
        self._room, self._start = "", 0.0

    def room(self, name: str) -> None:
        """Begin the next stage of the run (`data`, `model`, ...): print its name and start its timer."""
        self.finish()
        self._room = name
        self.terminal.print(f"[bold]{name}[/bold]")

    @property
    def stage(self) -> str:
        """The current stage of the run."""
        return self._room

    def finish(self) -> dict[str, float]:
        """End the current stage; return stage -> seconds for all stages so far."""
        now = time.perf_counter()
        if self._room:
            self.seconds[self._room] = self.seconds.get(self._room, 0.0) + now - self._start
        self._room, self._start = "", now
        return self.seconds

    def lines(self, texts: Iterable[Any]) -> None:
        """Print texts; they are not parsed as markup, because labels and paths may contain brackets."""
        for text in texts:
            for part in str(text).splitlines():
                self.terminal.print(f"  {part}", markup=False)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Print subject and text of each fact on a line."""
        self.lines(f"{subject:<16}{text}" for subject, text in facts.items())

    def table(self, table: Any) -> None:
        """Print a rich table."""
        self.terminal.print(table)

    def result(self, content: ReportContent) -> None:
        """Print the result of a run: the verdict, the metrics, and the comparisons with further baselines."""
        verdict = content.verdict
        style = _STYLES["worse" if verdict.alarming else verdict.outcome]
        self.terminal.print(f"  {verdict.text}", style=style, markup=False)
        self.lines([verdict.unseen_text] if verdict.unseen_text else [])
        self.table(result_table(content))
        self.lines(f"{verdict.describe(one)}." for one in verdict.comparisons[1:])


def result_table(content: ReportContent) -> Table:
    """Build a table of the metrics of a run beside those of the first baseline, headline metrics first."""
    from rich.markup import escape
    from rich.table import Table

    from hf_ft.evaluate.metric_format import show_name

    verdict = content.verdict
    table = Table(
        title=escape(f"{content.name}: {verdict.split}, {verdict.rows:,} rows"), title_justify="left"
    )
    table.add_column("metric")
    table.add_column("this model", justify="right")
    table.add_column(f"{verdict.confidence:.0%} interval", justify="right")
    against = verdict.first.name if verdict.first else None
    if against is not None:
        table.add_column(escape(against), justify="right")
    for index, one in enumerate(content.metrics):
        cells = [show_name(one.name), one.shown, one.shown_interval]
        cells += [one.shown_baseline(against)] if against is not None else []
        style = "bold" if index == 0 else None if one.headline else "dim"
        table.add_row(*map(escape, cells), style=style)
    return table
