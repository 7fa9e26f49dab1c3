"""Choices that hf_ft makes for the user, with their reasons; a resumed run reads them from its folder."""

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
        reason: why, in a few words; empty where the value needs no reason.
    """

    value: Any
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.value}: {self.reason}" if self.reason else str(self.value)


def recorded_decisions(folder: Path | None) -> dict[str, Decision]:
    """Read the decisions of an earlier run, and send them to all processes.

    Args:
        folder: of the run; None: there is no earlier run, and the result is empty.
    """
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
