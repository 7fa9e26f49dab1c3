"""Which of two ways to compute is faster here: measured in turns, and answered only where the turns agree."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# A new way is taken only where it is at least so much faster: less is not worth it, or the noise of a busy
# machine.
CLEARLY = 1.1
# Turns that are measured: one where it is decisive by this factor and the measuring takes long, or three;
# five where they are quick; more, but at most nine, where they do not agree.
DECISIVE = 1.5
LONG_SECONDS = 1.0
LEAST_TURNS = 3
USUAL_TURNS = 5
MOST_TURNS = 9


@dataclass(frozen=True)
class Turns:
    """Seconds of the usual way and of the new one, measured one after the other, again and again.

    Args:
        pairs: (usual, new) of each turn.
        earlier: whether an earlier run has measured them.
    """

    pairs: tuple[tuple[float, float], ...]
    earlier: bool = False

    @property
    def gains(self) -> list[float]:
        """How many times as fast the new way was, turn by turn."""
        return [usual / new for usual, new in self.pairs]

    @property
    def sure(self) -> bool:
        """Whether at least three quarters of the turns give one answer: another program disturbs some."""
        low, median, high = np.quantile(self.gains, [0.25, 0.5, 0.75])
        if len(self.pairs) < LEAST_TURNS and CLEARLY / DECISIVE < median < CLEARLY * DECISIVE:
            return False
        return bool(low > CLEARLY or high < CLEARLY)

    @property
    def pays(self) -> bool:
        """Whether the new way is surely the faster one."""
        return self.sure and bool(np.median(self.gains) > CLEARLY)

    @property
    def fastest(self) -> tuple[float, float]:
        """The least seconds of either way: those that were disturbed the least."""
        usual, new = zip(*self.pairs, strict=True)
        return min(usual), min(new)

    def __str__(self) -> str:
        gains = self.gains
        said = f"{np.median(gains):.2f} times as fast with it"
        if len(gains) > 1:
            said += f" ({min(gains):.2f} to {max(gains):.2f} in {len(gains)} turns)"
        if not self.sure:
            return f"{said}: not sure to be above {CLEARLY:g}"
        by = ", by an earlier run" if self.earlier else ""
        return f"{said}, {'above' if self.pays else 'below'} {CLEARLY:g}{by}"


def take_turns(usual: Callable[[], float], new: Callable[[], float]) -> Turns:
    """Measure both ways until the answer is sure, or has taken long enough.

    Args:
        usual: computes once, and gives the seconds.
        new: likewise.
    """
    begun, turns = time.monotonic(), Turns(())
    for way in (usual, new):
        way()  # the first step builds what later ones find
    while len(turns.pairs) < MOST_TURNS:
        # One after the other, so that another program's burst of work hits both.
        turns = Turns((*turns.pairs, (usual(), new())))
        enough = len(turns.pairs) >= USUAL_TURNS or time.monotonic() - begun > LONG_SECONDS
        if enough and turns.sure:
            break
    return turns
