"""Gather what the report shows from a finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.evaluate.figures import learning_curve_figure
from hf_ft.report.report import Check, Headline, ReportContent, WorstRow

if TYPE_CHECKING:
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Evaluation, Task
    from hf_ft.train.assemble import Setup
    from hf_ft.verify import Item

WORST_ROWS = 12


def report_content(
    folder: Path, setup: Setup, evaluation: Evaluation, items: Sequence[Item], seconds: Mapping[str, float]
) -> ReportContent:
    """Put the content of the report together.

    Args:
        folder: the run folder, with log.jsonl and environment.json.
        setup: the run.
        evaluation: of the split that is reported.
        items: the gate.
        seconds: room -> seconds.
    """
    recipe, task, data, frozen = setup.recipe, setup.task, setup.data, setup.frozen
    metric, greater = setup.metric, setup.greater
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    environment = json.loads((folder / "environment.json").read_text())
    directions = {**task.greater_is_better, metric: greater}
    scalars = {name: value for name, value in evaluation.metrics.items() if isinstance(value, float)}
    counts = frozen.counts()
    learning, total = sum(row[1] for row in counts), sum(row[2] for row in counts)
    return ReportContent(
        name=recipe.name,
        task=task.name,
        model=recipe.model.name,
        data=str(recipe.data.source),
        split=evaluation.split,
        rows=len(evaluation.ids),
        headlines=_headlines(directions, evaluation, metric, task.headline_metrics),
        selected_on="validation",
        confidence=recipe.evaluate.confidence,
        interval_over="rows"
        if data.groups(task, evaluation.split) is None
        else "groups of rows that belong together",
        baseline=task.baseline_name,
        recipe=_told_apart(recipe),
        recipe_text=recipe.to_yaml(),
        splits={split: len(rows) for split, rows in data.rows.items()},
        data_facts={split: about["origin"] for split, about in data.info["splits"].items()},
        warnings=[*recipe.warnings, *data.findings.warnings, *evaluation.metrics.get("notes", [])],
        model_facts={
            "strategy": frozen.strategy,
            "parameters": f"{total:,}",
            "trainable": f"{learning:,} ({learning / total:.1%})",
            **({"batch norms held in eval mode": frozen.norms_in_eval} if frozen.norms_in_eval else {}),
        },
        train_facts={subject: str(choice) for subject, choice in setup.decisions.items()},
        metrics=scalars,
        directions=directions,
        per_class=evaluation.metrics.get("per_class", []),
        curve=learning_curve_figure(log, metric, _best_step(log, metric, greater)),
        figures=task.figures(evaluation),
        worst=_worst(task, data.rows[evaluation.split], evaluation),
        checks=[Check(item.name, item.passed, item.detail) for item in items],
        timing=dict(seconds),
        environment={
            **environment["packages"],
            "python": environment["python"],
            "device": environment["device"],
        },
        usage=[
            "from hf_ft import Predictor",
            f'predictor = Predictor.load("{folder}")',
            f"predictor({task.example_input!r})",
        ],
    )


def _headlines(
    directions: Mapping[str, bool], evaluation: Evaluation, metric: str, beside: Sequence[str]
) -> list[Headline]:
    names = [metric, *(name for name in beside if name != metric and name in evaluation.metrics)]
    return [
        Headline(
            name,
            evaluation.metrics[name],
            evaluation.intervals.get(name),
            evaluation.baseline.get(name),
            directions.get(name, True),
        )
        for name in names
    ]


def _told_apart(recipe: Recipe) -> dict[str, Any]:
    """Give the lines of the recipe that are not defaults, flat."""

    def flat(section: Any, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, about in type(section).model_fields.items():
            value = getattr(section, name)
            if value == about.get_default(call_default_factory=True):
                continue
            inner = (
                flat(value, f"{path}{name}.")
                if hasattr(value, "model_fields_set")
                else {f"{path}{name}": value}
            )
            found |= inner
        return found

    return dict(sorted(flat(recipe, "").items()))


def _best_step(log: Sequence[Mapping[str, Any]], metric: str, greater: bool) -> int | None:
    measured = [(line[f"eval_{metric}"], line["step"]) for line in log if f"eval_{metric}" in line]
    if not measured:
        return None
    best = max if greater else min
    # The first of equals, as the Trainer chooses.
    value = best(value for value, _ in measured)
    return next(step for found, step in measured if found == value)


def _worst(task: Task, rows: Any, evaluation: Evaluation) -> list[WorstRow]:
    losses = evaluation.losses
    if losses is None:
        return []
    order = sorted(range(len(losses)), key=lambda index: -losses[index])[:WORST_ROWS]
    return [
        WorstRow(
            evaluation.ids[index],
            str(task.decode_reference(evaluation.references[index])),
            task.describe(evaluation.results[index]),
            losses[index],
            task.thumbnail(rows[index]),
        )
        for index in order
    ]
