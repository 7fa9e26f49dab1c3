"""Simulated processes: threads that act as ranks and exchange pickled objects."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any


class Processes:
    """Run a function as each of several ranks, and return all their results.

    Args:
        number: of ranks.
        monkeypatch: of the test; accelerate's state and gathering are replaced while it runs.
    """

    def __init__(self, number: int, monkeypatch: Any):
        self.number, self.local = number, threading.local()
        self.barrier, self.sent = threading.Barrier(number, timeout=60), [b""] * number
        monkeypatch.setattr("accelerate.PartialState", lambda: self.local.state)
        monkeypatch.setattr("accelerate.utils.gather_object", self.gather)

    def gather(self, part: list[Any]) -> list[Any]:
        """Join the lists of all ranks, in their order."""
        self.sent[self.local.state.process_index] = pickle.dumps(part)
        self.barrier.wait()
        joined = [one for sent in self.sent for one in pickle.loads(sent)]
        self.barrier.wait()
        return joined

    def run(self, function: Any) -> list[Any]:
        """Call `function(rank)` in a thread for each rank."""

        def as_rank(rank: int) -> Any:
            self.local.state = SimpleNamespace(
                num_processes=self.number, process_index=rank, is_main_process=rank == 0
            )
            return function(rank)

        with ThreadPoolExecutor(self.number) as pool:
            return list(pool.map(as_rank, range(self.number)))
