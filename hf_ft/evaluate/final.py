"""What a run comes to: thresholds, metrics with intervals, baselines on the same rows, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.evaluate.linear_probe import linear_probe
from hf_ft.evaluate.loop import AT_ONCE, measure
from hf_ft.evaluate.verdict import Bootstrap, Verdict, judge

if TYPE_CHECKING:
    from hf_ft.data.prepare import Prepared
    from hf_ft.evaluate.linear_probe import HeadInputs
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


def conclude(
    evaluations: Mapping[str, Evaluation],
    task: Task,
    section: EvaluateSection,
    *,
    metric: str,
    greater: bool,
    data: Prepared,
    features: HeadInputs | None = None,
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
        features: what the pretrained body gives to the head, for a linear probe of the final split.
    """
    verdicts = {}
    for split, evaluation in evaluations.items():
        final, train = split == data.final_split, data.rows["train"]
        answers = task.baselines(train, data.rows[split])
        if final and features is not None:
            answers |= linear_probe(task, features, train, len(evaluation.ids))
        _add_baselines(evaluation, task, answers)
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
        evaluation.baselines if compare else {},
        evaluation.baseline if compare else {},
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


def _add_baselines(evaluation: Evaluation, task: Task, answers: Mapping[str, list[Any]]) -> None:
    """Measure baselines, each on the rows that it answers; leave out one that answers none."""
    for name, results in answers.items():
        if all(result is None for result in results):
            continue
        metrics, kept = task.metrics(), list[Any]()
        for start in range(0, len(results), AT_ONCE):
            part = results[start : start + AT_ONCE]
            references = evaluation.references[start : start + AT_ONCE]
            known = [index for index, result in enumerate(part) if result is not None]
            chosen = [references[index] for index in known]
            summarized = task.summarize([part[index] for index in known], chosen) if known else []
            metrics.update(summarized, chosen)
            by_index = dict(zip(known, summarized, strict=True))
            kept += [by_index.get(index) for index in range(len(part))]
        evaluation.baselines[name] = kept
        evaluation.baseline[name] = {
            key: value for key, value in metrics.compute().items() if isinstance(value, float)
        }
