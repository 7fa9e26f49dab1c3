"""Arithmetic of the measurements: compared seconds, paired ratios, the time to the same metric."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.works import Goal

# Phases that are not compared, on both sides: start-up, loading the weights, saving, the gate, the report.
# `self-test` is the name of `preflight` in earlier commits, which may be the side `before`.
APART = ("start", "recipe", "model", "read", "save", "preflight", "self-test", "verify", "report")
Measured = Mapping[str, Any]
Round = Mapping[str, Measured]


def seconds(measured: Measured) -> float:
    """Return the compared seconds: data, training, evaluation, and any phase that is not in APART."""
    return sum(value for name, value in measured["phases"].items() if name not in APART)


def seconds_to_finish(measured: Measured) -> float:
    """Return the seconds from the start of the process to its last file, gate and report included."""
    return sum(measured["phases"].values())


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of paired ratios."""

    median: float
    least: float
    most: float
    pairs: int

    def __str__(self) -> str:
        if self.pairs == 1:
            return f"{short(self.median)} (1 pair)"
        return f"{short(self.median)} ({short(self.least)} to {short(self.most)}, {self.pairs} pairs)"


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of values, one per round."""
    return Spread(statistics.median(values), min(values), max(values), len(values))


def ratios(goal: Goal, rounds: Sequence[Round]) -> Spread:
    """Divide the two sides within each round, because another program disturbs both sides of a round."""
    if goal.under is None:
        return spread([found[goal.over][goal.figure] for found in rounds])
    measure = seconds_to_finish if goal.figure == "finish" else seconds
    return spread([measure(found[goal.over]) / measure(found[goal.under]) for found in rounds])


def verdict(goal: Goal, ratio: float) -> str:
    """Describe the goal, and whether the ratio reaches it."""
    if goal.least is not None:
        return f"at least {goal.least:g}: {'reached' if ratio >= goal.least else 'not reached'}"
    if goal.most is not None:
        return f"at most {goal.most:g}: {'reached' if ratio <= goal.most else 'not reached'}"
    return "-"


def seconds_to(metric: float, curve: Sequence[Sequence[float]]) -> float | None:
    """Return the compared seconds until the metric was first reached; None if it was not."""
    return next((moment for moment, value in curve if value >= metric), None)


def same_metric(over: Measured, under: Measured) -> tuple[float, float, float] | None:
    """Return the lower of the best metrics of two sides, and the seconds of each side until it reached it."""
    if not over.get("curve") or not under.get("curve"):
        return None
    metric = min(max(value for _, value in side["curve"]) for side in (over, under))
    moments = seconds_to(metric, over["curve"]), seconds_to(metric, under["curve"])
    return None if None in moments else (metric, *moments)  # type: ignore[return-value]


def unequal_work(sides: Mapping[str, Measured]) -> list[str]:
    """List where two sides differ in rows, steps, epochs, the number of trainable weights, or the metric.

    Metrics may differ by chance: by 2.5 standard errors of the difference of two shares of the measured rows.
    """
    found = []
    for first, second in itertools.pairwise(sides):
        one, other = sides[first], sides[second]
        for key in ("rows", "steps", "epochs", "learning"):
            # The floor script with one forward pass has no steps.
            if one.get(key) and other.get(key) and one[key] != other[key]:
                found.append(f"{key}: {one[key]} ({first}), {other[key]} ({second})")
        if one.get("metric") is not None and other.get("metric") is not None:
            share = (one["metric"] + other["metric"]) / 2
            rows = one["rows"].get("validation") or sum(one["rows"].values())
            chance = 2.5 * math.sqrt(max(2 * share * (1 - share), 1 / rows) / rows)
            if abs(one["metric"] - other["metric"]) > chance:
                found.append(f"metric: {one['metric']:.3f} ({first}), {other['metric']:.3f} ({second})")
    return found


def short(value: float) -> str:
    """Write a number with three significant digits and no exponent."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"
