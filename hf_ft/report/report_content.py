"""Collect the content of the report from a finished run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.evaluate.figures import learning_curve_figure
from hf_ft.evaluate.metric_format import unit_of
from hf_ft.report.examples import choose_examples, plain
from hf_ft.report.report import Check, MetricRow, ReportContent, ReportTable

if TYPE_CHECKING:
    from hf_ft.evaluate.verdict import Verdict
    from hf_ft.recipe.schema import Recipe
    from hf_ft.report.renew import Reported
    from hf_ft.task import Evaluation, Task
    from hf_ft.train.assemble import Setup
    from hf_ft.verification.items import Item

# name of a table -> its title, and whether it is folded because a figure shows the same values.
_TITLES = {
    "per_class": ("Classes", False),
    "per_target": ("Targets", False),
    "per_horizon": ("Errors by step ahead", True),
    "per_hour": ("Errors by hour of the day", True),
}


def report_content(
    folder: Path,
    setup: Setup | Reported,
    evaluation: Evaluation,
    verdict: Verdict,
) -> ReportContent:
    """Collect the content of the report; `with_gate` adds the items of the gate and the times later.

    Args:
        folder: the run folder, with log.jsonl and environment.json.
        setup: the assembled run, or what is known of a finished one.
        evaluation: the evaluation of the final split.
        verdict: comparison of the model with the baselines, on the same split.
    """
    recipe, task, data = setup.recipe, setup.task, setup.data
    metric, greater = setup.metric, setup.greater
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    groups = data.groups(task, evaluation.split)
    return ReportContent(
        name=recipe.name,
        task=task.name,
        verdict=verdict,
        metrics=_metrics({**task.greater_is_better, metric: greater}, evaluation, verdict, metric, task),
        summary=_summary(setup),
        interval_over="rows" if groups is None else "groups of rows that belong together",
        examples=choose_examples(task, data.rows[evaluation.split], evaluation, groups),
        tables=_tables(evaluation.metrics),
        curve=learning_curve_figure(log, metric, _best_step(log, metric, greater)),
        figures=task.figures(evaluation, data.rows[evaluation.split]),
        splits={
            split: (len(rows), str(data.info["splits"][split]["origin"])) for split, rows in data.rows.items()
        },
        warnings=[
            *recipe.warnings,
            *data.findings.warnings,
            *data.findings.decisions,
            *evaluation.metrics.get("notes", []),
        ],
        usage=[
            "from hf_ft import Predictor",
            f'predictor = Predictor.load("{folder}")',
            f"predictor({task.example_input!r})",
        ],
        recipe=_set_keys(recipe),
        recipe_text=recipe.to_yaml(),
        model_facts=_model_facts(setup),
        train_facts={subject: str(choice) for subject, choice in setup.decisions.items()},
        environment={
            **environment["packages"],
            "python": environment["python"],
            "device": environment["device"],
        },
    )


def with_gate(content: ReportContent, items: Sequence[Item], seconds: Mapping[str, float]) -> ReportContent:
    """Add the items of the gate and the times to the content of the report.

    Args:
        content: the content of the report.
        items: the items of the gate.
        seconds: stage -> seconds.
    """
    checks = [Check(item.name, item.passed, item.detail) for item in items]
    return replace(content, checks=checks, timing=dict(seconds))


def _summary(setup: Setup | Reported) -> str:
    """Describe which model was trained, on which data, and which share of its weights."""
    recipe, sizes = setup.recipe, {split: len(rows) for split, rows in setup.data.rows.items()}
    learning, total = _parameters(setup)
    source = recipe.data.source if isinstance(recipe.data.source, str) else plain(recipe.data.source)
    begun = "built from random weights" if recipe.model.from_scratch else "fine-tuned"
    how = "all weights trained"
    if learning != total:
        share = f"{100 * learning / total:.2g} %"
        how = f"{share} of its weights trained (freeze.strategy: {setup.frozen.strategy})"
    return f"{recipe.model.name}, {begun} on {sizes['train']:,} rows of {source}; {how}."


def _parameters(setup: Setup | Reported) -> tuple[int, int]:
    """Return the number of trainable parameters, and of all parameters."""
    counts = setup.frozen.counts()
    return sum(row[1] for row in counts), sum(row[2] for row in counts)


def _model_facts(setup: Setup | Reported) -> dict[str, str]:
    learning, total = _parameters(setup)
    facts = {"parameters": f"{total:,}", "trainable": f"{learning:,} ({learning / total:.1%})"}
    if setup.frozen.norms_in_eval:
        facts["batch norms in eval mode"] = str(setup.frozen.norms_in_eval)
    return facts


def _metrics(
    directions: Mapping[str, bool], evaluation: Evaluation, verdict: Verdict, metric: str, task: Task
) -> list[MetricRow]:
    """Return every metric: the main one, the headline metrics, then the others."""
    values = {name: value for name, value in evaluation.metrics.items() if isinstance(value, float)}
    shown = [
        name for name in dict.fromkeys([metric, verdict.metric, *task.headline_metrics]) if name in values
    ]
    return [
        MetricRow(
            name,
            values[name],
            evaluation.intervals.get(name),
            directions.get(name),
            unit_of(name, evaluation.metrics),
            headline=name in shown,
            baselines={one.name: one.metrics[name] for one in verdict.comparisons if name in one.metrics},
        )
        for name in dict.fromkeys([*shown, *values])
    ]


def _tables(metrics: Mapping[str, Any]) -> list[ReportTable]:
    """Return the tables among the metrics."""
    found = []
    for name, rows in metrics.items():
        if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
            continue
        if name == "per_target" and len(rows) == 1:
            continue  # the values are those of the metrics themselves
        title, drawn = _TITLES.get(name, (name.replace("_", " ").capitalize(), False))
        if name == "per_class" and "confusion" in metrics:
            rows = _with_mistakes(rows, np.asarray(metrics["confusion"]))
        found.append(ReportTable(title, rows, "f1" if "f1" in rows[0] else None, folded=drawn))
    return found


def _with_mistakes(rows: Sequence[Mapping[str, Any]], confusion: np.ndarray) -> list[dict[str, Any]]:
    """Add to each class the class that the model most often predicts for its rows by mistake.

    Args:
        rows: one dict for each of K classes.
        confusion: counts, int [K, K]; rows are the true classes.
    """
    wrong = confusion - np.diag(np.diag(confusion))
    found = []
    for row, counts in zip(rows, wrong, strict=True):
        most = int(counts.argmax())
        taken_for = f"{rows[most]['label']} ({counts[most]} of {row['support']})" if counts[most] else ""
        found.append({**row, "most often confused with": taken_for})
    return found


def _set_keys(recipe: Recipe) -> dict[str, str]:
    """Return the keys of the recipe whose value is not the default: path -> value."""

    def flat(section: Any, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, about in type(section).model_fields.items():
            value = getattr(section, name)
            if value == about.get_default(call_default_factory=True):
                continue
            inner = (
                flat(value, f"{path}{name}.")
                if hasattr(value, "model_fields_set")
                else {f"{path}{name}": plain(value)}
            )
            found |= inner
        return found

    return dict(sorted(flat(recipe, "").items()))


def _best_step(log: Sequence[Mapping[str, Any]], metric: str, greater: bool) -> int | None:
    measured = [(line[f"eval_{metric}"], line["step"]) for line in log if f"eval_{metric}" in line]
    if not measured:
        return None
    best = max if greater else min
    # Of equal values the first one is chosen, as by the Trainer.
    value = best(value for value, _ in measured)
    return next(step for found, step in measured if found == value)
