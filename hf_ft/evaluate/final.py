"""The figure at the end: metrics of a split with their intervals, beside a trivial baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_ft.evaluate.bootstrap import bootstrap_interval
from hf_ft.evaluate.loop import measure

if TYPE_CHECKING:
    from hf_ft.data.prepare import Prepared
    from hf_ft.recipe.schema import EvaluateSection
    from hf_ft.task import Evaluation, Task


def calibrate(task: Task, validation: Evaluation) -> list[str]:
    """Let the task choose its thresholds on the validation rows, and measure these again with what it chose.

    Args:
        task: the fitted task; keeps what it chose.
        validation: of the finished model; its metrics are brought up to date.

    Returns:
        What was chosen, one line each; also added to the notes of the metrics.
    """
    chosen = task.calibrate(validation)
    if chosen:
        measured = measure(task, validation.results, validation.references).compute()
        validation.metrics |= {**measured, "notes": [*measured.get("notes", []), *chosen]}
    return chosen


def with_interval_and_baseline(
    evaluation: Evaluation,
    task: Task,
    section: EvaluateSection,
    *,
    metric: str,
    data: Prepared,
) -> Evaluation:
    """Add the bootstrap interval of the main metric, and what a trivial answer scores on the same rows.

    Args:
        evaluation: of one split; completed in place and returned.
        task: the fitted task.
        section: the recipe's `evaluate:`.
        metric: the main metric.
        data: the rows; the baseline is fitted on `train`, and the bootstrap draws whole groups where rows of
            one group are not independent.
    """
    evaluation.baseline = task.baseline(data.rows["train"], data.rows[evaluation.split])
    if section.intervals == "bootstrap" and metric != "loss":
        interval = bootstrap_interval(
            measure(task, evaluation.results, evaluation.references),
            metric,
            len(evaluation.ids),
            resamples=section.resamples,
            confidence=section.confidence,
            seed=data.seed,
            groups=data.groups(task, evaluation.split),
        )
        if metric == "accuracy" and interval[0] == interval[1]:
            interval = _wilson(evaluation.metrics[metric], len(evaluation.ids), section.confidence)
        evaluation.intervals[metric] = interval
    return evaluation


def _wilson(share: float, rows: int, confidence: float) -> tuple[float, float]:
    """Give Wilson's score interval (1927); where all rows are right, the bootstrap has no width."""
    from scipy.stats import binomtest

    interval = binomtest(round(share * rows), rows).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
