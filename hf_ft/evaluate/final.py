"""The figure at the end: metrics of a split with their intervals, beside a trivial baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_ft.evaluate.intervals import bootstrap_interval

if TYPE_CHECKING:
    from hf_ft.recipe.schema import EvaluateSection
    from hf_ft.task import Evaluation, Task


def with_interval_and_baseline(
    evaluation: Evaluation, task: Task, section: EvaluateSection, *, metric: str, rows: dict[str, Any], seed: int
) -> Evaluation:
    """Add the bootstrap interval of the main metric, and what a trivial answer scores on the same rows.

    Args:
        evaluation: of one split; completed in place and returned.
        task: the fitted task.
        section: the recipe's `evaluate:`.
        metric: the main metric.
        rows: split -> raw rows; the baseline is fitted on `train`.
        seed: of the bootstrap.
    """
    evaluation.baseline = task.baseline(rows["train"], rows[evaluation.split])
    if section.intervals == "bootstrap" and metric != "loss":
        metrics = task.metrics()
        metrics.update(evaluation.results, evaluation.references)
        evaluation.intervals[metric] = bootstrap_interval(
            metrics,
            metric,
            len(evaluation.ids),
            resamples=section.resamples,
            confidence=section.confidence,
            seed=seed,
        )
    return evaluation
