"""The verdict of a run: is the model better than the baselines, and by how much?

A verdict is "better" or "worse" only where the paired bootstrap interval of the difference excludes 0.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hf_ft.errors import VerdictError
from hf_ft.evaluate.bootstrap import Interval, PairedBaseline, paired_intervals
from hf_ft.evaluate.metric_format import (
    show_difference,
    show_difference_interval,
    show_interval,
    show_metric,
    show_name,
    unit_of,
)
from hf_ft.task import Evaluation, Metrics

Measure = Callable[[Sequence[Any], Sequence[Any]], Metrics]
Outcome = Literal["better", "not better", "worse", "not compared"]
# Metrics that are 1 only if all rows are right, and 0 only if all are wrong.
_ALL_RIGHT = ("accuracy", "balanced_accuracy", "macro_f1", "macro_precision", "macro_recall", "weighted_f1")
# Order of the comparisons: bad outcomes first.
_ORDER: tuple[Outcome, ...] = ("worse", "not better", "not compared", "better")


@dataclass(frozen=True)
class Bootstrap:
    """Settings of the bootstrap.

    Args:
        resamples: number of resamples; 0: there are no intervals.
        confidence: nominal coverage of the intervals.
        seed: of the random draws.
        groups: group of each row where rows of a group are not independent, or None.
    """

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    groups: Sequence[Hashable] | None = None

    def units(self, chosen: np.ndarray | None, rows: int) -> int:
        """Count the independent units: the groups, or the rows, of the chosen ones or of all rows."""
        if self.groups is None:
            return rows if chosen is None else len(chosen)
        return len({self.groups[row] for row in (range(rows) if chosen is None else chosen)})


@dataclass(frozen=True)
class Comparison:
    """The model compared with one baseline, by the main metric.

    Args:
        name: of the baseline, in words.
        outcome: `better` or `worse` only where the interval excludes 0; `not compared` without an interval.
        value: the baseline's metric.
        model_value: the model's metric on the same rows.
        interval: (low, high) of the difference, model minus baseline; None: not compared row by row.
        rows: number of rows that the baseline answers.
        metrics: every metric of the baseline.
    """

    name: str
    outcome: Outcome
    value: float
    model_value: float
    interval: Interval | None
    rows: int
    metrics: Mapping[str, float]

    @property
    def difference(self) -> float:
        """The model's metric minus the baseline's."""
        return self.model_value - self.value


@dataclass(frozen=True)
class Verdict:
    """The result of comparing a model with the baselines on a split.

    Args:
        metric: the metric that is compared.
        greater: whether a greater value of it is better.
        unit: its unit, "" for none.
        split: name of the split.
        rows: number of its rows.
        selected: whether these rows also chose the checkpoint.
        value: the model's metric on all of them.
        interval: (low, high) of that value, or None.
        confidence: nominal coverage of all intervals.
        comparisons: one for each baseline: first those that beat the model, and harder baselines before
            easier ones.
        undefined: names of baselines for which the metric is not defined.
        unseen: the same comparison on the rows that are not in train or validation, too; None: no row is.
    """

    metric: str
    greater: bool
    unit: str
    split: str
    rows: int
    selected: bool
    value: float
    interval: Interval | None
    confidence: float
    comparisons: Sequence[Comparison] = ()
    undefined: Sequence[str] = ()
    unseen: Verdict | None = None

    @property
    def first(self) -> Comparison | None:
        """The comparison that matters most, or None where there is no baseline."""
        return self.comparisons[0] if self.comparisons else None

    @property
    def outcome(self) -> Outcome:
        """The outcome of the comparison that matters most."""
        return self.first.outcome if self.first else "not compared"

    @property
    def alarming(self) -> bool:
        """Whether a baseline is better than the model: surely, or by metrics that could not be paired."""
        return any(
            one.outcome == "worse"
            or (one.outcome == "not compared" and _gain(one.difference, self.greater) < 0)
            for one in self.comparisons
        )

    @property
    def text(self) -> str:
        """The verdict as a sentence."""
        where = f"on {self.rows:,} rows of {self.split}"
        if self.selected:
            where += ", which also chose the checkpoint: expect less on new rows"
        if self.first is None:
            return f"Not compared: no baseline has {show_name(self.metric)} {where}."
        return f"{self.describe(self.first)}, {where}."

    def show(self, value: float) -> str:
        """Format a value of the metric, rounded like the model's own value."""
        return show_metric(self.metric, value, self.interval, self.unit)

    def describe(self, comparison: Comparison) -> str:
        """Describe one comparison in a clause: outcome, baseline, both values, and their difference."""
        one = comparison
        start = "not compared row by row with" if one.interval is None else f"{one.outcome} than"
        values = f"{show_name(self.metric)} {self.show(one.model_value)} against {self.show(one.value)}"
        return f"{start[0].upper()}{start[1:]} {one.name}: {values}, {self.describe_difference(one)}"

    def describe_difference(self, comparison: Comparison) -> str:
        """Describe the difference from a baseline: `9.2 points higher (95 % interval: ...)`."""
        one = comparison
        size = show_difference(self.metric, one.difference, one.interval, self.unit)
        text = f"{size} {'higher' if one.difference > 0 else 'lower'}" if one.difference else "no difference"
        if one.interval is not None and not any(one.interval):
            text += ", on no resample of the rows"
        elif one.interval is not None:
            interval = show_difference_interval(self.metric, one.interval, unit=self.unit)
            text += f" ({100 * self.confidence:g} % interval: {interval})"
        return text + (f", on the {one.rows:,} rows that it answers" if one.rows < self.rows else "")

    @property
    def unseen_text(self) -> str | None:
        """What the metric is without the rows that are in an earlier split, too; None: there are none."""
        if self.unseen is None:
            return None
        one, earlier = self.unseen, "train" if self.selected else "train or validation"
        interval = ""
        if one.interval is not None:
            shown = show_interval(one.metric, one.interval, one.unit)
            interval = f" ({100 * one.confidence:g} % interval: {shown})"
        return (
            f"{self.rows - one.rows:,} of the {self.rows:,} rows of {self.split} are equal to a row of "
            f"{earlier} (data.duplicates: report). Without them: {show_name(one.metric)} "
            f"{one.show(one.value)}{interval}, in place of {self.show(self.value)}. {one.text}"
        )

    def without_duplicates(self) -> dict[str, Any]:
        """Return the metric without the rows that are in an earlier split, too, as an entry of results.json.

        Returns:
            {} if no row is, else the entry `without_duplicates`: rows, metric, value, interval and text.
        """
        if self.unseen is None:
            return {}
        one = self.unseen
        figures = {"rows": one.rows, "metric": one.metric, "value": one.value, "interval": one.interval}
        return {"without_duplicates": {**figures, "text": self.unseen_text}}

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain values for results.json; differences are model minus baseline."""
        return {
            "outcome": self.outcome,
            "text": self.text,
            "metric": self.metric,
            "split": self.split,
            "against": self.first and self.first.name,
            "difference": self.first and self.first.difference,
            "interval": self.first and self.first.interval,
            "confidence": self.confidence,
            "baselines": [
                {
                    "name": one.name,
                    "outcome": one.outcome,
                    "text": f"{self.describe(one)}.",
                    "value": one.value,
                    "difference": one.difference,
                    "interval": one.interval,
                    "rows": one.rows,
                    "metrics": dict(one.metrics),
                }
                for one in self.comparisons
            ],
        }

    def _not_beaten(self) -> list[str]:
        """Describe each comparison in which the model is not better."""
        failed = [f"{self.describe(one)}" for one in self.comparisons if one.outcome != "better"]
        if self.unseen is not None:
            failed += [
                f"{self.unseen.describe(one)}, on the {self.unseen.rows:,} rows that are in no earlier split"
                for one in self.unseen.comparisons
                if one.outcome != "better"
            ]
        return failed

    def meets(self, must_beat: str | None) -> bool:
        """Tell whether the model meets `evaluate.must_beat`; the argument is that of `require`."""
        return must_beat is None or (bool(self.comparisons) and not self._not_beaten())

    def require(self, must_beat: str | None) -> None:
        """Raise an error if the model does not meet `evaluate.must_beat`.

        Args:
            must_beat: `baseline`: the model must be better than every baseline; None: no requirement.

        Raises:
            VerdictError: the model is not better than every baseline; the message names those that it does
                not beat.
        """
        if self.meets(must_beat):
            return
        reasons = "".join(f"\n  {text}" for text in self._not_beaten() or [self.text])
        raise VerdictError(
            f"evaluate.must_beat: {must_beat}: on {self.split} the model was not shown to be better than "
            f"every baseline:{reasons}\nThe files of the run are kept. Change data, model or "
            "settings, evaluate on more rows, or write evaluate.must_beat: null"
        )


def judge(
    evaluation: Evaluation,
    measure: Measure,
    answers: Mapping[str, Sequence[Any]],
    scores: Mapping[str, Mapping[str, float]],
    bootstrap: Bootstrap,
    *,
    metric: str,
    greater: bool,
    selected: bool,
) -> Verdict:
    """Compare a model with baselines on the same rows.

    Args:
        evaluation: of the model, on N rows.
        measure: makes metrics of results and references, both of the model and of the baselines.
        answers: name of a baseline -> N results in the form of the model's; None for a row without an answer.
        scores: name of a baseline -> metrics; also for baselines whose results are not known.
        bootstrap: settings of the intervals.
        metric: the metric that is compared.
        greater: whether a greater value of it is better.
        selected: whether these rows also chose the checkpoint; the text of the verdict then says so.

    Raises:
        DataError: there are too few rows for an interval, or the metric is undefined on most resamples.
    """
    model, rows = measure(evaluation.results, evaluation.references), len(evaluation.ids)
    baselines = _paired_baselines(measure, answers, evaluation, metric)
    own, intervals = _intervals(model, list(baselines.values()), metric, rows, bootstrap)
    comparisons = [
        Comparison(
            name,
            _outcome(interval, greater),
            baseline.metrics.value(metric),
            model.value(metric, baseline.rows),
            interval,
            rows if baseline.rows is None else len(baseline.rows),
            scores.get(name) or _numbers(baseline.metrics),
        )
        for (name, baseline), interval in zip(baselines.items(), intervals, strict=True)
    ]
    comparisons += [
        Comparison(name, "not compared", known[metric], model.value(metric), None, rows, known)
        for name, known in scores.items()
        if name not in answers and metric in known
    ]
    named = {one.name for one in comparisons}
    return Verdict(
        metric=metric,
        greater=greater,
        unit=unit_of(metric, evaluation.metrics),
        split=evaluation.split,
        rows=rows,
        selected=selected,
        value=model.value(metric),
        interval=own,
        confidence=bootstrap.confidence,
        comparisons=sorted(
            comparisons, key=lambda one: (_ORDER.index(one.outcome), _gain(one.difference, greater))
        ),
        undefined=[name for name in dict.fromkeys([*answers, *scores]) if name not in named],
    )


def _paired_baselines(
    measure: Measure,
    answers: Mapping[str, Sequence[Any]],
    evaluation: Evaluation,
    metric: str,
) -> dict[str, PairedBaseline]:
    """Measure each baseline on the rows that it answers; leave out those with an undefined metric."""
    baselines = {}
    for name, results in answers.items():
        answered = [row for row, result in enumerate(results) if result is not None]
        if not answered:
            continue
        whole = len(answered) == len(results)
        metrics = measure(
            results if whole else [results[row] for row in answered],
            evaluation.references if whole else [evaluation.references[row] for row in answered],
        )
        if not np.isnan(metrics.value(metric)):
            baselines[name] = PairedBaseline(metrics, None if whole else np.asarray(answered))
    return baselines


def _intervals(
    model: Metrics, baselines: Sequence[PairedBaseline], metric: str, rows: int, bootstrap: Bootstrap
) -> tuple[Interval | None, Sequence[Interval | None]]:
    """Return the interval of the model's metric, and of its difference from each baseline."""
    if not bootstrap.resamples:
        return None, [None] * len(baselines)
    own, paired = paired_intervals(
        model,
        baselines,
        metric,
        rows,
        resamples=bootstrap.resamples,
        confidence=bootstrap.confidence,
        seed=bootstrap.seed,
        groups=bootstrap.groups,
    )
    if metric in _ALL_RIGHT:
        if own[0] == own[1] and own[0] in (0, 1):
            own = _wilson(own[0], bootstrap.units(None, rows), bootstrap.confidence)
        paired = [
            one and _widened(one, bootstrap.units(baseline.rows, rows), bootstrap.confidence)
            for one, baseline in zip(paired, baselines, strict=True)
        ]
    return own, paired


def _wilson(share: float, units: int, confidence: float) -> Interval:
    """Return Wilson's score interval (1927) of a share that is 0 or 1 on every resample.

    The bootstrap interval of such a share has no width, which claims too much.
    """
    from scipy.stats import binomtest

    interval = binomtest(round(share * units), units).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def _widened(difference: Interval, units: int, confidence: float) -> Interval:
    """Widen the interval of a difference of shares that is 1 or -1 on every resample."""
    if abs(difference[0]) != 1 or difference[0] != difference[1]:
        return difference
    low = 2 * _wilson(1.0, units, confidence)[0] - 1
    return (low, 1.0) if difference[0] > 0 else (-1.0, -low)


def _outcome(interval: Interval | None, greater: bool) -> Outcome:
    """Return the outcome that follows from the interval of a difference, model minus baseline."""
    if interval is None:
        return "not compared"
    low, high = sorted(_gain(value, greater) for value in interval)
    return "better" if low > 0 else "worse" if high < 0 else "not better"


def _numbers(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.compute().items() if isinstance(value, float)}


def _gain(difference: float, greater: bool) -> float:
    """Return how much better the model is; negative if it is worse."""
    return difference if greater else -difference
