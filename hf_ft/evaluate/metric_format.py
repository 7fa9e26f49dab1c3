"""Text of metrics: names, values, intervals and differences, rounded to the digits that are certain."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Metrics that are shares of rows and read best as a percentage.
_SHARES = ("accuracy", "precision", "recall", "f1", "mape")
# Metrics in the unit of the target.
_IN_UNITS = ("mae", "rmse")
_ABBREVIATIONS = r"\b(f1|mcc|mae|mse|rmse|mape|mase|r2|map)\b"


def is_share(name: str) -> bool:
    """Tell whether a metric is a share between 0 and 1, which is shown in percent."""
    return name.endswith(_SHARES)


def show_name(name: str) -> str:
    """Return the name of a metric for a reader: `macro_f1` becomes "macro F1", `roc_auc` "ROC-AUC"."""
    plain = re.sub(_ABBREVIATIONS, lambda found: found[0].upper(), name.replace("_", " "))
    return plain.replace("roc auc", "ROC-AUC")


def show_metric(name: str, value: float, interval: Sequence[float] | None = None, unit: str = "") -> str:
    """Format the value of a metric: in percent, or as a number with its unit.

    Args:
        name: of the metric.
        value: in the metric's own unit; a share lies between 0 and 1.
        interval: (low, high); the value is rounded to the digits that the width of the interval leaves
            certain. None: to one decimal of a percentage, or to three significant digits.
        unit: of the value.
    """
    if math.isnan(value):
        return "undefined"
    decimals = _decimals(name, value, interval)
    return _number(_scaled(name, value), decimals) + _unit(name, unit)


def show_interval(name: str, interval: Sequence[float], unit: str = "") -> str:
    """Format an interval of a metric: `83.8 to 90.3 %`, `6.90 to 7.50 °C`."""
    decimals = _decimals(name, max(map(abs, interval)), interval)
    low, high = (_number(_scaled(name, value), decimals) for value in interval)
    return f"{low} to {high}{_unit(name, unit)}"


def show_difference(name: str, difference: float, interval: Sequence[float] | None, unit: str = "") -> str:
    """Format the size of a difference between two values of a metric: `9.2 points`, `1.3 °C`."""
    decimals = _decimals(name, difference, interval)
    number = _number(abs(_scaled(name, difference)), decimals)
    points = " point" if number == "1" else " points"
    return number + (points if is_share(name) else f" {unit}" if unit else "")


def show_difference_interval(
    name: str, interval: Sequence[float], higher: str = "higher", lower: str = "lower", unit: str = ""
) -> str:
    """Format the interval of a difference: `7.9 to 10.4 points`, `from 1.2 points lower to 2 points higher`.

    Args:
        name: of the metric.
        interval: (low, high) of the difference.
        higher: the word for a difference above 0.
        lower: the word for a difference below 0.
        unit: of the metric.
    """
    low, high = interval
    if low < 0 < high:
        below, above = (show_difference(name, value, interval, unit) for value in interval)
        return f"from {below} {lower} to {above} {higher}"
    near, far = sorted(interval, key=abs)
    number, _, measure = show_difference(name, far, interval, unit).partition(" ")
    return f"{show_difference(name, near, interval, unit).partition(' ')[0]} to {number} {measure}".rstrip()


def unit_of(name: str, metrics: Mapping[str, Any]) -> str:
    """Return the unit of a metric, "" for none.

    Args:
        name: of the metric.
        metrics: what `Metrics.compute` returned; its table `per_target` has the unit of a single target.
    """
    targets = metrics.get("per_target", [])
    return targets[0].get("unit", "") if name in _IN_UNITS and len(targets) == 1 else ""


def _scaled(name: str, value: float) -> float:
    return 100 * value if is_share(name) else value


def _unit(name: str, unit: str) -> str:
    return " %" if is_share(name) else f" {unit}" if unit else ""


def _decimals(name: str, value: float, interval: Sequence[float] | None) -> int:
    """Choose the decimals: two significant digits of the interval's width, else three of the value."""
    width = abs(interval[1] - interval[0]) if interval else 0.0
    # Equal values that were added in another order differ by rounding.
    width = 0.0 if math.isclose(width, 0.0, abs_tol=1e-9 * max(1.0, abs(value))) else width
    known = _scaled(name, width or value)
    if known == 0 or not math.isfinite(known):
        return int(is_share(name))
    if is_share(name):
        return min(2, max(0, 1 - _magnitude(known))) if width else 1
    return max(0, (1 if width else 2) - _magnitude(known))


def _magnitude(value: float) -> int:
    return math.floor(math.log10(abs(value)))


def _number(value: float, decimals: int) -> str:
    text = f"{value:,.{decimals}f}"
    # A value that rounds to 0 has no sign.
    return text.removeprefix("-") if not re.search("[1-9]", text) else text
