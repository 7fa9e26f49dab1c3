"""The final measurements of a run: thresholds, metrics with intervals, baselines, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hf_ft.errors import DataError
from hf_ft.evaluate.linear_probe import linear_probe
from hf_ft.evaluate.loop import AT_ONCE, References, measure
from hf_ft.evaluate.verdict import Bootstrap, Verdict, judge

if TYPE_CHECKING:
    from hf_ft.data.prepare import Prepared
    from hf_ft.evaluate.linear_probe import HeadInputs
    from hf_ft.recipe.schema import EvaluateSection
    from hf_ft.task import Evaluation, Task


def calibrate(task: Task, validation: Evaluation) -> list[str]:
    """Let the task choose thresholds on the validation rows, and compute their metrics again with these.

    Args:
        task: the fitted task; stores the thresholds.
        validation: evaluation of the finished model; its metrics are updated in place.

    Returns:
        One line for each choice; the lines are added to the notes of the metrics too.
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
        evaluations: split -> evaluation of the finished model; intervals and baselines are added in place.
        task: the fitted task.
        section: the recipe's `evaluate:`.
        metric: the main metric. Baselines have no loss, so if it is `loss`, the verdict compares the default
            metric of the task.
        greater: whether a greater value of the metric is better.
        data: the rows. Baselines are fitted on `train`; the bootstrap draws whole groups if the rows of a
            group are not independent. If rows of the final split are in an earlier split, too, the verdict
            holds a second one without them.
        features: inputs of the head before training, for a linear probe on the final split; None: no probe.
    """
    train = data.rows["train"]
    for split, evaluation in evaluations.items():
        answers = task.baselines(train, data.rows[split])
        if split == data.final_split and features is not None:
            answers |= linear_probe(task, features, train, len(evaluation.ids))
        _add_baselines(evaluation, task, answers)
    return judge_splits(evaluations, task, section, metric=metric, greater=greater, data=data)


def judge_splits(
    evaluations: Mapping[str, Evaluation],
    task: Task,
    section: EvaluateSection,
    *,
    metric: str,
    greater: bool,
    data: Prepared,
) -> Verdict:
    """Measure the baselines of evaluations, add intervals, and judge the model on the final split.

    Args:
        evaluations: split -> evaluation, with the answers of the baselines; their metrics, and intervals, are
            added in place.
        task: as for `conclude`.
        section: as for `conclude`.
        metric: as for `conclude`.
        greater: as for `conclude`.
        data: as for `conclude`.
    """
    verdicts = {}
    for split, evaluation in evaluations.items():
        evaluation.baseline.update(
            {name: _measured(evaluation, task, answers) for name, answers in evaluation.baselines.items()}
        )
        bootstrap = Bootstrap(
            section.resamples if section.intervals == "bootstrap" else 0,
            section.confidence,
            data.seed,
            data.groups(task, split),
        )
        final = split == data.final_split
        verdicts[split] = _judge(evaluation, task, bootstrap, metric, greater, compare=final)
        if final and data.seen(split):
            part, places = _unseen(evaluation, task, data)
            groups = bootstrap.groups and [bootstrap.groups[place] for place in places]
            drawn = replace(bootstrap, groups=groups)
            unseen = _judge(part, task, drawn, metric, greater, compare=True)
            verdicts[split] = replace(verdicts[split], unseen=unseen)
    return verdicts[data.final_split]


def _unseen(evaluation: Evaluation, task: Task, data: Prepared) -> tuple[Evaluation, list[int]]:
    """Restrict an evaluation to the rows that are in no earlier split; return it and the rows' positions."""
    seen = data.seen(evaluation.split)
    places = [place for place, row_id in enumerate(evaluation.ids) if row_id not in seen]
    part = replace(
        evaluation,
        ids=[evaluation.ids[place] for place in places],
        results=[evaluation.results[place] for place in places],
        references=References(task, data.rows[evaluation.split].select(places)),
        losses=None,
        metrics=dict(evaluation.metrics),
        intervals={},
        baselines={
            name: [answers[place] for place in places] for name, answers in evaluation.baselines.items()
        },
        baseline={},
    )
    return part, places


def _judge(
    evaluation: Evaluation, task: Task, bootstrap: Bootstrap, metric: str, greater: bool, *, compare: bool
) -> Verdict:
    """Compare the model with its baselines on one split; note it if no interval can be computed."""
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
        # The metrics themselves are correct, so a missing interval must not fail the run.
        evaluation.metrics["notes"] = [*evaluation.metrics.get("notes", []), f"no interval: {error}"]
        verdict = judged(Bootstrap(resamples=0))
    if verdict.interval is not None and verdict.metric in evaluation.metrics:
        evaluation.intervals[verdict.metric] = verdict.interval
    return verdict


def _add_baselines(evaluation: Evaluation, task: Task, answers: Mapping[str, list[Any]]) -> None:
    """Summarize the answers of each baseline as those of the model; skip a baseline without answers."""
    for name, results in answers.items():
        if all(result is None for result in results):
            continue
        by_row: list[Any] = []
        for start in range(0, len(results), AT_ONCE):
            part = results[start : start + AT_ONCE]
            references = evaluation.references[start : start + AT_ONCE]
            known = [index for index, result in enumerate(part) if result is not None]
            summarized = task.summarize(
                [part[index] for index in known], [references[index] for index in known]
            )
            by_index = dict(zip(known, summarized, strict=True))
            by_row += [by_index.get(index) for index in range(len(part))]
        evaluation.baselines[name] = by_row


def _measured(evaluation: Evaluation, task: Task, answers: Sequence[Any]) -> dict[str, float]:
    """Compute the metrics of a baseline on the rows that it answers."""
    metrics = task.metrics()
    for start in range(0, len(answers), AT_ONCE):
        part = answers[start : start + AT_ONCE]
        references = evaluation.references[start : start + AT_ONCE]
        known = [index for index, answer in enumerate(part) if answer is not None]
        metrics.update([part[index] for index in known], [references[index] for index in known])
    return {key: value for key, value in metrics.compute().items() if isinstance(value, float)}
