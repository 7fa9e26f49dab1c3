"""What was chosen for the user and why, kept with the run so that a resumed run goes on with the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hf_ft.storage.atomic import read_json, write_json

FILE = "decisions.json"


@dataclass(frozen=True)
class Decision:
    """One choice.

    Args:
        value: what was chosen.
        reason: why, in a few words; empty where the value says it.
    """

    value: Any
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.value}: {self.reason}" if self.reason else str(self.value)


def recorded_decisions(folder: Path | None) -> dict[str, Decision]:
    """Read the decisions of the run in a folder, the same on all processes; none where there is no folder."""
    found: list[Any] = [None]
    if folder is not None and PartialState().is_main_process:
        found = [read_json(folder / FILE, dict)]
    broadcast_object_list(found)
    entries = found[0] or {}
    return {name: Decision(**entry) for name, entry in entries.items()}


def record_decisions(folder: Path, decisions: Mapping[str, Decision]) -> None:
    """Write the decisions of a run into its folder, on the main process."""
    if PartialState().is_main_process:
        write_json(folder / FILE, {name: asdict(one) for name, one in decisions.items()}, indent=2)
