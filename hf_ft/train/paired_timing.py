"""Paired timing: which of two ways to compute is faster here, answered only where the pairs agree."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# A new way is taken only where it is at least so much faster: less is not worth it, or the noise of a busy
# machine.
CLEARLY = 1.1
# Pairs that are measured: one where it is decisive by this factor and measuring takes long, or three; five
# where they are quick; more, but at most nine, where they do not agree.
DECISIVE = 1.5
LONG_SECONDS = 1.0
LEAST_PAIRS = 3
USUAL_PAIRS = 5
MOST_PAIRS = 9


@dataclass(frozen=True)
class PairedTiming:
    """Seconds of the usual way and of the new one, measured in turns.

    Args:
        pairs: (usual, new), one after the other.
        earlier: whether an earlier run has measured them.
    """

    pairs: tuple[tuple[float, float], ...]
    earlier: bool = False

    @property
    def gains(self) -> list[float]:
        """How many times as fast the new way was, pair by pair."""
        return [usual / new for usual, new in self.pairs]

    @property
    def sure(self) -> bool:
        """Whether at least three quarters of the pairs give one answer: another program disturbs some."""
        low, median, high = np.quantile(self.gains, [0.25, 0.5, 0.75])
        if len(self.pairs) < LEAST_PAIRS and CLEARLY / DECISIVE < median < CLEARLY * DECISIVE:
            return False
        return bool(low > CLEARLY or high < CLEARLY)

    @property
    def pays(self) -> bool:
        """Whether the new way is surely the faster one."""
        return self.sure and bool(np.median(self.gains) > CLEARLY)

    @property
    def fastest(self) -> tuple[float, float]:
        """The least seconds of either way: those that another program disturbed the least."""
        usual, new = zip(*self.pairs, strict=True)
        return min(usual), min(new)

    def __str__(self) -> str:
        gains = self.gains
        said = f"{np.median(gains):.2f} times as fast with it"
        if len(gains) > 1:
            said += f" ({min(gains):.2f} to {max(gains):.2f} in {len(gains)} pairs)"
        if not self.sure:
            return f"{said}: not sure to be above {CLEARLY:g}"
        by = ", by an earlier run" if self.earlier else ""
        return f"{said}, {'above' if self.pays else 'below'} {CLEARLY:g}{by}"


def time_pairs(usual: Callable[[], float], new: Callable[[], float]) -> PairedTiming:
    """Measure both ways until the answer is sure, or has taken long enough.

    Args:
        usual: computes once, and gives the seconds.
        new: likewise.
    """
    begun, timing = time.monotonic(), PairedTiming(())
    for way in (usual, new):
        way()  # the first step builds what later ones find
    while len(timing.pairs) < MOST_PAIRS:
        # One after the other, so that another program's burst of work hits both.
        timing = PairedTiming((*timing.pairs, (usual(), new())))
        enough = len(timing.pairs) >= USUAL_PAIRS or time.monotonic() - begun > LONG_SECONDS
        if enough and timing.sure:
            break
    return timing
