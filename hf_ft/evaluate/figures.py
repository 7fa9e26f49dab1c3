"""Figures of an evaluation and of a training run, drawn with matplotlib without its global state.

Text and axes have the colour `INK` on a transparent background, so that a page can recolour them for a dark
screen; the other colours are visible on light and on dark. `choose_fonts` finds fonts for any script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_ft.evaluate.figure_fonts import choose_fonts
from hf_ft.task import Figure

INK = "#1b1d21"
GOOD = "#3b7dd8"
BAD = "#e0683c"
# More classes than this cannot be read in one figure; then those with the most mistakes are shown.
_MOST_CLASSES = 48


def confusion_figure(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], name: str = "confusion"
) -> Figure:
    """Draw a confusion matrix; the colour of a cell is as strong as its share of the true class.

    Args:
        confusion: K x K counts; rows are the true classes.
        labels: K class names.
        name: name of the figure.
    """
    counts = np.asarray(confusion)
    mistakes = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diag(counts)
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:_MOST_CLASSES])
    fonts = choose_fonts([labels[index] for index in shown])
    names = [fonts.spell(labels[index]) for index in shown]
    share = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))[np.ix_(shown, shown)]
    counts, size = counts[np.ix_(shown, shown)], len(shown)

    cell = 0.62 if size <= 6 else 0.42 if size <= 16 else 0.24
    margin = 0.45 + 0.085 * max(map(len, names))
    figure, axes = _new_figure(max(size * cell, 2.2) + margin, max(size * cell, 2.2) + margin)
    axes.imshow(_confusion_colours(share), aspect="equal", interpolation="nearest")
    small = 9 if size <= 16 else 6.5
    axes.set_xticks(range(size), labels=names, rotation=90, fontsize=small, **fonts.style)
    axes.set_yticks(range(size), labels=names, fontsize=small, **fonts.style)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    for row, column in zip(*np.nonzero(counts), strict=True):
        if size <= 16 or row != column:
            colour = "#ffffff" if share[row, column] > 0.55 else INK
            text = str(counts[row, column])
            axes.text(
                column, row, text, ha="center", va="center", fontsize=small - len(text) // 4, color=colour
            )
    _style_axes(axes)
    left_out = f" The {size} of {len(labels)} classes with most mistakes." if size < len(labels) else ""
    caption = f"Rows are the truth, columns the prediction; {_colour_legend()}.{left_out} {fonts.note}"
    return Figure(name, figure, caption.strip())


def per_class_figure(
    per_class: Sequence[Mapping[str, Any]], metric: str = "f1", name: str = "per_class"
) -> Figure:
    """Draw one bar per class, the worst on top.

    Args:
        per_class: rows with `label`, `support` and the metric.
        metric: `precision`, `recall` or `f1`.
        name: name of the figure.
    """
    counted = [row for row in per_class if row["support"]]
    rows = sorted(counted, key=lambda row: row[metric])[:_MOST_CLASSES]
    fonts = choose_fonts([row["label"] for row in rows])
    figure, axes = _new_figure(6.6, 0.7 + 0.24 * len(rows))
    values = [row[metric] for row in rows]
    axes.barh(range(len(rows)), [1] * len(rows), height=0.62, color=INK, alpha=0.06)
    axes.barh(range(len(rows)), values, height=0.62, color=GOOD)
    names = [fonts.spell(row["label"]) for row in rows]
    axes.set_yticks(range(len(rows)), labels=names, fontsize=8, **fonts.style)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    for index, row in enumerate(rows):
        axes.text(
            1.015, index, f"{row[metric]:.3f}  n={row['support']}", va="center", fontsize=7.5, color=INK
        )
    axes.tick_params(length=0)
    axes.set_xticks([0, 0.5, 1])
    _hide_frame(axes)
    worst = f"The {len(rows)} worst of {len(counted)} classes" if len(rows) < len(counted) else "Every class"
    return Figure(
        name, figure, f"{worst} by {metric}, worst first; n is its number of rows. {fonts.note}".strip()
    )


def reliability_figure(scores: np.ndarray, references: Sequence[int], name: str = "reliability") -> Figure:
    """Draw the calibration of a classifier (accuracy against score) and the histogram of its scores.

    The expected calibration error is that of Guo et al. 2017, "On calibration of modern neural networks",
    over 15 bins of equal width.

    Args:
        scores: probabilities, float [N, K].
        references: class ids, int [N].
        name: name of the figure.
    """
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == np.asarray(references)
    edges = np.linspace(0, 1, 16)
    bins = np.clip(np.digitize(confidence, edges[1:-1]), 0, 14)
    count = np.bincount(bins, minlength=15)
    filled = count > 0
    mean_confidence = np.bincount(bins, weights=confidence, minlength=15)[filled] / count[filled]
    mean_right = np.bincount(bins, weights=right, minlength=15)[filled] / count[filled]
    error = float(np.abs(mean_confidence - mean_right) @ count[filled] / len(confidence))

    figure, (left, counted) = _new_figure(6.8, 3.0, columns=2)
    left.plot([0, 1], [0, 1], color=INK, alpha=0.35, linewidth=1, linestyle=(0, (4, 3)))
    left.plot(mean_confidence, mean_right, color=GOOD, linewidth=1.6, marker="o", markersize=4)
    left.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="score of the predicted class", ylabel="share right")
    parts = [confidence[right], confidence[~right]]
    counted.hist(parts, bins=edges, stacked=True, color=[GOOD, BAD], label=["right", "wrong"], rwidth=0.9)
    counted.set(xlim=(0, 1.01), xlabel="score of the predicted class", ylabel="rows")
    counted.legend(frameon=False, fontsize=8, labelcolor=INK, loc="best")
    _hide_frame(left)
    _hide_frame(counted)
    caption = (
        f"A calibrated model follows the dashed line. Expected calibration error {error:.3f} over 15 bins."
    )
    return Figure(name, figure, caption)


def learning_curve_figure(
    log: Sequence[Mapping[str, Any]],
    metric: str | None = None,
    best_step: int | None = None,
    name: str = "learning",
) -> Figure:
    """Draw training and validation loss by step, and below them the validation metric.

    Args:
        log: log entries with `step` and any of `loss`, `eval_loss`, `eval_<metric>`.
        metric: the metric below, without `eval_`; None: only the losses.
        best_step: step of the best checkpoint, which is marked; None: no mark.
        name: name of the figure.
    """
    wanted = None if metric in (None, "loss") else f"eval_{metric}"
    figure, axes = _new_figure(6.6, 4.4, rows=2, heights=(1.5, 1)) if wanted else _new_figure(6.6, 2.9)
    panels = list(axes) if wanted else [axes]
    for key, colour, text in (("loss", GOOD, "training"), ("eval_loss", BAD, "validation")):
        _plot_line(panels[0], log, key, colour, text)
    panels[0].set_ylabel("loss")
    if panels[0].lines:
        panels[0].legend(frameon=False, fontsize=8, labelcolor=INK)
    if wanted:
        _plot_line(panels[1], log, wanted, BAD, "validation")
        panels[1].set_ylabel(str(metric).replace("_", " "))
    for panel in panels:
        if best_step is not None:
            panel.axvline(best_step, color=INK, alpha=0.4, linewidth=1, linestyle=(0, (2, 2)))
        _hide_frame(panel)
        panel.grid(axis="y", color=INK, alpha=0.1, linewidth=0.7)
    panels[-1].set_xlabel("step")
    chosen = (
        f" The dotted line is step {best_step}, the checkpoint that was chosen."
        if best_step is not None
        else ""
    )
    return Figure(name, figure, f"Loss of training and validation rows over the steps.{chosen}")


def scatter_figure(
    predicted: np.ndarray, references: np.ndarray, target: str, unit: str = "", name: str = "scatter"
) -> Figure:
    """Draw predictions against the truth for one target.

    Args:
        predicted: float [N], in original units.
        references: float [N].
        target: name of the target.
        unit: its unit.
        name: name of the figure.
    """
    fonts = choose_fonts([target, unit])
    figure, axes = _new_figure(4.8, 4.8)
    low = float(min(predicted.min(), references.min()))
    high = float(max(predicted.max(), references.max()))
    axes.plot([low, high], [low, high], color=INK, alpha=0.35, linewidth=1, linestyle=(0, (4, 3)))
    faint = float(np.clip(60 / np.sqrt(len(predicted)) / 10, 0.08, 0.8))
    axes.scatter(
        references, predicted, s=9, color=GOOD, alpha=faint, linewidths=0, rasterized=len(predicted) > 2000
    )
    text = f"{fonts.spell(target)} [{fonts.spell(unit)}]" if unit else fonts.spell(target)
    axes.set_xlabel(f"true {text}", **fonts.style)
    axes.set_ylabel(f"predicted {text}", **fonts.style)
    _hide_frame(axes)
    return Figure(name, figure, f"A right prediction lies on the dashed line. {fonts.note}".strip())


def _new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Any, Any]:
    """Return a figure with a transparent background, and its axes, one or an array of them."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height), layout="constrained", facecolor="none", dpi=110)
    return figure, figure.subplots(rows, columns, sharex=rows > 1, height_ratios=heights)


def _hide_frame(axes: Any) -> None:
    """Hide the frame above and on the right, and style the rest."""
    axes.spines[["top", "right"]].set_visible(False)
    _style_axes(axes)


def _style_axes(axes: Any) -> None:
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, labelsize=None)
    for spine in axes.spines.values():
        spine.set_color(INK)
        spine.set_alpha(0.3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def _plot_line(axes: Any, log: Sequence[Mapping[str, Any]], key: str, colour: str, text: str) -> None:
    points = [(row["step"], row[key]) for row in log if key in row]
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(
            steps,
            values,
            color=colour,
            linewidth=1.6,
            label=text,
            marker="o" if len(points) < 40 else None,
            ms=3,
        )


def _confusion_colours(share: np.ndarray) -> np.ndarray:
    """Return the colours of a confusion matrix: the diagonal in GOOD, mistakes in BAD, transparent at 0.

    Args:
        share: share of each cell in its true class, float [K, K].

    Returns:
        RGBA, float [K, K, 4].
    """
    from matplotlib.colors import to_rgb

    pixels = np.empty((*share.shape, 4))
    pixels[..., :3] = to_rgb(BAD)
    pixels[np.eye(len(share), dtype=bool), :3] = to_rgb(GOOD)
    # The square root makes the few mistakes of a good model visible.
    pixels[..., 3] = np.sqrt(share)
    return pixels


def _colour_legend() -> str:
    return "blue is right, orange is wrong, and the stronger, the larger the share of the true class"
