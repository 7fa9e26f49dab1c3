"""What a run comes to: thresholds, metrics with intervals, baselines on the same rows, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from hf_ft.errors import DataError
from hf_ft.evaluate.loop import measure
from hf_ft.evaluate.verdict import Bootstrap, Verdict, judge

if TYPE_CHECKING:
    from hf_ft.data.prepare import Prepared
    from hf_ft.recipe.schema import EvaluateSection
    from hf_ft.task import Evaluation, Task

# Baselines whose metrics `Task.baseline` gives beside those of the trivial answer, under these prefixes.
_PREFIXES = {"seasonal_naive_": "the seasonal naive forecast", "trees_": "boosted trees"}


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


def conclude(
    evaluations: Mapping[str, Evaluation],
    task: Task,
    section: EvaluateSection,
    *,
    metric: str,
    greater: bool,
    data: Prepared,
) -> Verdict:
    """Add intervals and baselines to the evaluations of a run, and judge the model on the final split.

    Args:
        evaluations: split -> evaluation of the finished model; completed in place.
        task: the fitted task.
        section: the recipe's `evaluate:`.
        metric: the main metric. The verdict on `loss`, which a baseline has none of, is by the task's own.
        greater: whether a greater value of it is better.
        data: the rows; baselines are fitted on `train`, and the bootstrap draws whole groups where rows of
            one group are not independent.
    """
    verdicts = {}
    for split, evaluation in evaluations.items():
        evaluation.baseline = task.baseline(data.rows["train"], data.rows[split])
        final = split == data.final_split
        bootstrap = Bootstrap(
            section.resamples if section.intervals == "bootstrap" else 0,
            section.confidence,
            data.seed,
            data.groups(task, split),
        )
        verdicts[split] = _judge(evaluation, task, bootstrap, metric, greater, compare=final)
    return verdicts[data.final_split]


def _judge(
    evaluation: Evaluation, task: Task, bootstrap: Bootstrap, metric: str, greater: bool, *, compare: bool
) -> Verdict:
    """Judge the model on one split; where an interval cannot be made, say so among the notes."""
    if metric == "loss":
        metric, greater = task.main_metric, task.greater_is_better[task.main_metric]
    judged = partial(
        judge,
        evaluation,
        partial(measure, task),
        {},
        named_scores(task, evaluation.baseline) if compare else {},
        metric=metric,
        greater=greater,
        selected=evaluation.split == "validation",
    )
    try:
        verdict = judged(bootstrap)
    except DataError as error:
        # The run is done and its figures are good: an interval less is no reason to lose them.
        evaluation.metrics["notes"] = [*evaluation.metrics.get("notes", []), f"no interval: {error}"]
        verdict = judged(Bootstrap(resamples=0))
    if verdict.interval is not None and verdict.metric in evaluation.metrics:
        evaluation.intervals[verdict.metric] = verdict.interval
    return verdict


def named_scores(task: Task, metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Give the metrics of each baseline under its name in words.

    Args:
        task: names its trivial answer.
        metrics: of `Task.baseline`: those of the trivial answer, and of others under a prefix.
    """
    found: dict[str, dict[str, float]] = {}
    trivial = task.baseline_name.removeprefix("always ") or "the trivial answer"
    for key, value in metrics.items():
        prefix = next((one for one in _PREFIXES if key.startswith(one)), "")
        found.setdefault(_PREFIXES.get(prefix, trivial), {})[key.removeprefix(prefix)] = value
    return found
