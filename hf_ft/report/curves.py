"""Draw small curves as inline SVG in the colours of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

from hf_ft.evaluate.metric_format import show_metric

_WIDTH, _HEIGHT, _MARGIN = 300, 110, 6
_MOST_POINTS = 150


def curve_svg(curves: Mapping[str, Sequence[float]]) -> Markup:
    """Draw curves over steps; the curve named `history` ends where all other curves begin.

    Args:
        curves: name -> values, one for each step; values that are not finite leave a gap. The name is the
            CSS class of the curve.

    Returns:
        An `<svg>` element of at most a few thousand characters.
    """
    past = len(curves.get("history", ()))
    placed = {
        name: (0 if name == "history" else past, np.asarray(values, float)) for name, values in curves.items()
    }
    finite = np.concatenate([values[np.isfinite(values)] for _, values in placed.values()] or [np.zeros(0)])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    steps = max((start + len(values) for start, values in placed.values()), default=1)
    lines = "".join(
        f'<path class="{escape(name)}" d="{_path(start, values, steps, low, high)}"/>'
        for name, (start, values) in placed.items()
    )
    names = escape(", ".join(curves))
    ends = "".join(
        f'<text x="{_WIDTH + 4}" y="{y}">{escape(show_metric("", value))}</text>'
        for value, y in ((high, _MARGIN + 4), (low, _HEIGHT - _MARGIN + 4))
    )
    return Markup(
        f'<svg class="curve" viewBox="0 0 {_WIDTH + 44} {_HEIGHT}" role="img" aria-label="{names}">'
        f"{lines}{ends if low < high else ''}</svg>"
    )


def _path(start: int, values: np.ndarray, steps: int, low: float, high: float) -> str:
    """Return the SVG path of one curve; a long curve is drawn through `_MOST_POINTS` evenly spaced points."""
    drawn = np.unique(np.linspace(0, len(values) - 1, min(len(values), _MOST_POINTS)).round().astype(int))
    x = _MARGIN + (drawn + start) * (_WIDTH - 2 * _MARGIN) / max(steps - 1, 1)
    y = _HEIGHT - _MARGIN - (values[drawn] - low) * (_HEIGHT - 2 * _MARGIN) / ((high - low) or 1.0)
    parts, drawing = [], False
    for across, up in zip(x, y, strict=True):
        if np.isfinite(up):
            # A line of length zero with a round end draws a step without neighbours as a point.
            parts.append(f"L{across:.1f} {up:.1f}" if drawing else f"M{across:.1f} {up:.1f}h0")
        drawing = bool(np.isfinite(up))
    return "".join(parts)
