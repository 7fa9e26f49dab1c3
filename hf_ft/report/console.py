"""What a run says in the terminal: one heading per room, one line per decision, on the main process alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console as Terminal


class Console:
    """Prints headings, lines and tables, and times the rooms.

    Args:
        speaks: whether this process prints.
    """

    def __init__(self, speaks: bool = True):
        self.terminal = Terminal(quiet=not speaks, highlight=False, soft_wrap=True)
        self.seconds: dict[str, float] = {}
        self._room, self._start = "", 0.0

    def room(self, name: str) -> None:
        """Begin a room: the next part of the flow."""
        self.finish()
        self._room = name
        self.terminal.print(f"[bold]{name}[/bold]")

    def finish(self) -> dict[str, float]:
        """End the present room, and give the seconds of every room so far."""
        now = time.perf_counter()
        if self._room:
            self.seconds[self._room] = self.seconds.get(self._room, 0.0) + now - self._start
        self._room, self._start = "", now
        return self.seconds

    def lines(self, texts: Iterable[Any]) -> None:
        """Say things; text is never read as markup, since labels and paths may hold brackets."""
        for text in texts:
            for part in str(text).splitlines():
                self.terminal.print(f"  {part}", markup=False)

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Say things under their subjects."""
        self.lines(f"{subject:<16}{text}" for subject, text in facts.items())

    def table(self, table: Any) -> None:
        """Print a rich table."""
        self.terminal.print(table)
