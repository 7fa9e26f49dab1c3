"""Paired timing: compare two ways to compute on this machine, in pairs, until most pairs agree."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# The new way must be faster by this factor to be chosen: a smaller gain is not worth it, or is the noise of a
# busy machine.
LEAST_SPEEDUP = 1.1
# A single pair is enough where it differs from LEAST_SPEEDUP by this factor.
DECISIVE_FACTOR = 1.5
# Where measuring takes longer than this, it ends as soon as the answer is sure; otherwise after USUAL_PAIRS.
LONG_SECONDS = 0.5
# Pairs that make a small difference sure, that are usually measured, and that are measured at most.
FEWEST_PAIRS, USUAL_PAIRS, MOST_PAIRS = 3, 5, 9


@dataclass(frozen=True)
class PairedTiming:
    """Seconds of the usual way and of the new way, measured alternately.

    Args:
        pairs: (seconds of the usual way, seconds of the new way).
        from_earlier_run: whether an earlier run measured them.
        decisive: a single pair is enough where it differs from LEAST_SPEEDUP by this factor.
    """

    pairs: tuple[tuple[float, float], ...]
    from_earlier_run: bool = False
    decisive: float = DECISIVE_FACTOR

    @property
    def speedups(self) -> list[float]:
        """Seconds of the usual way over those of the new way, for each pair."""
        return [usual / new for usual, new in self.pairs]

    @property
    def is_sure(self) -> bool:
        """Whether at least three quarters of the pairs agree; another program may disturb the others."""
        low, median, high = np.quantile(self.speedups, [0.25, 0.5, 0.75])
        if (
            len(self.pairs) < FEWEST_PAIRS
            and LEAST_SPEEDUP / self.decisive < median < LEAST_SPEEDUP * self.decisive
        ):
            return False
        return bool(low > LEAST_SPEEDUP or high < LEAST_SPEEDUP)

    @property
    def is_faster(self) -> bool:
        """Whether the new way is surely faster by LEAST_SPEEDUP."""
        return self.is_sure and bool(np.median(self.speedups) > LEAST_SPEEDUP)

    @property
    def fastest_seconds(self) -> tuple[float, float]:
        """The least seconds of the usual and of the new way, which other programs disturbed the least."""
        usual, new = zip(*self.pairs, strict=True)
        return min(usual), min(new)

    def __str__(self) -> str:
        speedups = self.speedups
        text = f"{np.median(speedups):.2f} times as fast with it"
        if len(speedups) > 1:
            text += f" ({min(speedups):.2f} to {max(speedups):.2f} in {len(speedups)} pairs)"
        if not self.is_sure:
            return f"{text}: not sure to be above {LEAST_SPEEDUP:g}"
        by = ", by an earlier run" if self.from_earlier_run else ""
        return f"{text}, {'above' if self.is_faster else 'below'} {LEAST_SPEEDUP:g}{by}"


def time_pairs(
    usual: Callable[[], float],
    new: Callable[[], float],
    *,
    decisive: float = DECISIVE_FACTOR,
) -> PairedTiming:
    """Measure both ways alternately until the answer is sure, at most MOST_PAIRS times.

    Args:
        usual: computes once in the usual way, and returns the seconds.
        new: computes once in the new way, and returns the seconds.
        decisive: as for PairedTiming.
    """
    begun, timing = time.monotonic(), PairedTiming((), decisive=decisive)
    for way in (usual, new):
        way()  # not counted: the first step allocates memory and fills caches
    while len(timing.pairs) < MOST_PAIRS:
        # One directly after the other, so that a burst of work of another program slows down both.
        timing = PairedTiming((*timing.pairs, (usual(), new())), decisive=decisive)
        enough = len(timing.pairs) >= USUAL_PAIRS or time.monotonic() - begun > LONG_SECONDS
        if enough and timing.is_sure:
            break
    return timing
