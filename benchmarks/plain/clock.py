"""Measurements of a process by itself: the seconds of its phases and its peak memory, written as JSON."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Clock:
    """Time the phases of this process. Create it after the imports: the time before is the phase `start`."""

    def __init__(self) -> None:
        self.phases = {"start": time.time() - float(os.environ.get("BENCH_STARTED", time.time()))}
        self.begun: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.begun[name] = time.perf_counter()
        yield
        self.phases[name] = time.perf_counter() - self.begun[name]

    def curve(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """Return (moment, metric) as (seconds of data and training until then, metric)."""
        before = self.phases["data"] + self.phases.get("prepare", 0.0) - self.begun["train"]
        return [(before + moment, value) for moment, value in points]

    def write(self, path: str, **facts: Any) -> None:
        """Write the phases, the peak memory of this process in MB, and the facts, as JSON."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        Path(path).write_text(json.dumps({"phases": self.phases, "peak": peak, **facts}))
