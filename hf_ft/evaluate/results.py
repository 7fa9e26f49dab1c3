"""The content of results.json: the headline, the verdict, and every metric of every evaluated split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_ft.errors import RecipeError

if TYPE_CHECKING:
    from hf_ft.data.prepare import Prepared
    from hf_ft.evaluate.verdict import Verdict
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Evaluation, Task


def main_metric(recipe: Recipe, task: Task) -> tuple[str, bool]:
    """Return the metric that decides which checkpoint is best, and whether a greater value is better.

    Raises:
        RecipeError: it is unknown whether a greater value is better, and `evaluate.mode` is not set.
    """
    name = recipe.evaluate.metric or task.main_metric
    if recipe.evaluate.mode is not None and (name in task.greater_is_better or recipe.evaluate.extra):
        return name, recipe.evaluate.mode == "max"
    if name not in task.greater_is_better:
        known = ", ".join(sorted(task.greater_is_better))
        raise RecipeError(
            f"evaluate.metric: {name!r} is not a metric of {task.name} ({known}); for one of "
            "evaluate.extra, write evaluate.mode: min or max beside it"
        )
    return name, task.greater_is_better[name]


def results_content(
    recipe: Recipe,
    task: Task,
    data: Prepared,
    evaluations: Mapping[str, Evaluation],
    verdict: Verdict,
    metric: str,
) -> dict[str, Any]:
    """Return the content of results.json.

    Args:
        recipe: the resolved recipe.
        task: the fitted task.
        data: the rows of the run.
        evaluations: split -> evaluation, with intervals and baselines.
        verdict: the comparison with the baselines on the final split.
        metric: the main metric.
    """
    final = evaluations[data.final_split]
    return {
        "headline": {
            "split": final.split,
            "rows": len(final.ids),
            "metric": metric,
            "value": final.metrics[metric],
            "interval": final.intervals.get(metric),
            "confidence": recipe.evaluate.confidence,
            "interval_over": "rows" if data.groups(task, final.split) is None else "groups of rows",
            "baseline": verdict.first.metrics.get(metric) if verdict.first else None,
            **verdict.without_duplicates(),
        },
        "verdict": verdict.to_json(),
        "splits": {
            split: {
                "rows": len(evaluation.ids),
                "metrics": evaluation.metrics,
                "intervals": evaluation.intervals,
                "baseline": evaluation.baseline,
            }
            for split, evaluation in evaluations.items()
        },
    }
