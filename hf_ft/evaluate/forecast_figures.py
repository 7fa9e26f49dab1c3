"""Figures of forecasts: examples beside the truth, errors by step ahead and by hour, errors of baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_ft.evaluate.figure_fonts import choose_fonts
from hf_ft.evaluate.figures import BAD, GOOD, INK, _hide_frame, _new_figure
from hf_ft.task import Evaluation, Figure

# Windows in the one line of one-step forecasts; windows that are drawn below each other for longer forecasts.
_POINTS = 288
_EXAMPLES = 4


def forecast_figures(evaluation: Evaluation, targets: Sequence[str], metric: str) -> list[Figure]:
    """Draw all figures of an evaluation of forecasts.

    Args:
        evaluation: results and references of `time-series-forecasting`.
        targets: names of the T targets.
        metric: by which the baselines are compared.
    """
    found = [truth_figure(evaluation, targets)]
    if len(evaluation.metrics["per_horizon"]) > 1:
        found.append(horizon_figure(evaluation.metrics["per_horizon"]))
    if len(evaluation.metrics["per_hour"]) > 1:
        found.append(hour_figure(evaluation.metrics["per_hour"]))
    return [*found, baseline_figure(evaluation, metric)]


def truth_figure(evaluation: Evaluation, targets: Sequence[str], name: str = "forecast") -> Figure:
    """Draw the truth, the forecast and the last known value of the first target."""
    horizon = len(evaluation.results[0]["value"])
    fonts = choose_fonts([targets[0]])
    if horizon == 1:
        shown = np.arange(min(len(evaluation.ids), _POINTS))
        spans = [(shown, np.zeros_like(shown))]
        text = f"The first {len(shown)} forecasts of one step"
    else:
        picked = np.unique(np.linspace(0, len(evaluation.ids) - 1, _EXAMPLES).round().astype(int))
        spans = [(np.full(horizon, index), np.arange(horizon)) for index in picked]
        text = f"{len(picked)} windows, from the first to the last of the split"
    figure, axes = _new_figure(7.2, 2.0 * len(spans) + 0.4, rows=len(spans), heights=[1] * len(spans))
    for panel, (windows, steps) in zip(np.atleast_1d(axes), spans, strict=True):
        pairs = list(zip(windows, steps, strict=True))
        known = {window: evaluation.references[int(window)] for window in np.unique(windows)}
        truth = [known[window]["value"][step, 0] for window, step in pairs]
        naive = [known[window]["last"][0] for window in windows]
        forecast = [evaluation.results[window]["value"][step, 0] for window, step in pairs]
        panel.plot(naive, color=INK, alpha=0.35, linewidth=1, linestyle=(0, (3, 2)), label="last value")
        panel.plot(truth, color=INK, linewidth=1.3, label="truth")
        panel.plot(forecast, color=GOOD, linewidth=1.5, label="forecast")
        panel.set_ylabel(fonts.spell(targets[0]), **fonts.style)
        _hide_frame(panel)
    first = np.atleast_1d(axes)[0]
    first.legend(frameon=False, fontsize=8, labelcolor=INK, ncols=3, loc="upper right")
    np.atleast_1d(axes)[-1].set_xlabel("step")
    return Figure(name, figure, f"{text}, beside the truth and the last known value. {fonts.note}".strip())


def horizon_figure(per_horizon: Sequence[Mapping[str, Any]], name: str = "error_by_step") -> Figure:
    """Draw the mean absolute error by step ahead, of the forecast and of the last value."""
    figure, axes = _new_figure(6.6, 2.8)
    steps = [row["step"] for row in per_horizon]
    _plot_beside_last_value(axes, steps, per_horizon)
    axes.set_xlabel("steps ahead")
    return Figure(name, figure, f"Mean absolute error by step ahead{_unit_note(per_horizon)}.")


def hour_figure(per_hour: Sequence[Mapping[str, Any]], name: str = "error_by_hour") -> Figure:
    """Draw the mean absolute error by the hour of day of the forecast step."""
    figure, axes = _new_figure(6.6, 2.8)
    _plot_beside_last_value(axes, [row["hour"] for row in per_hour], per_hour)
    axes.set_xlabel("hour of day")
    axes.set_xticks(range(0, 24, 3))
    return Figure(
        name, figure, f"Mean absolute error by the hour of day of the forecast step{_unit_note(per_hour)}."
    )


def _plot_beside_last_value(axes: Any, places: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(places, [row["last_value_mae"] for row in rows], color=BAD, linewidth=1.3, label="last value")
    axes.plot(places, [row["mae"] for row in rows], color=GOOD, linewidth=1.6, label="forecast")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("mean absolute error")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.grid(axis="y", color=INK, alpha=0.1, linewidth=0.7)
    _hide_frame(axes)


def _unit_note(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", of values standardised with the training rows" if rows[0]["scaled"] else ""


def baseline_figure(evaluation: Evaluation, metric: str, name: str = "baselines") -> Figure:
    """Draw the errors of model and baselines; the caption names baselines that miss some windows."""
    bars = [("this model", evaluation.metrics[metric], GOOD)]
    bars += [
        (title.partition(",")[0], scores[metric], INK)
        for title, scores in evaluation.baseline.items()
        if metric in scores
    ]
    notes = []
    for title, results in evaluation.baselines.items():
        answered = sum(result is not None for result in results)
        if answered < len(results):
            notes.append(f"{title}: scored on {answered:,} of {len(results):,} windows.")
    figure, axes = _new_figure(6.6, 0.7 + 0.34 * len(bars))
    axes.barh(
        range(len(bars)), [value for _, value, _ in bars], height=0.6, color=[colour for *_, colour in bars]
    )
    for patch in axes.patches[1:]:
        patch.set_alpha(0.35)
    axes.set_yticks(range(len(bars)), labels=[title for title, *_ in bars], fontsize=8)
    axes.invert_yaxis()
    for index, (_, value, _) in enumerate(bars):
        axes.text(value, index, f" {value:.4g}", va="center", fontsize=8, color=INK)
    axes.tick_params(length=0)
    axes.set_xlabel(metric)
    _hide_frame(axes)
    return Figure(name, figure, " ".join([f"{metric} on {evaluation.split}, lower is better.", *notes]))
