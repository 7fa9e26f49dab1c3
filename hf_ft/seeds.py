"""Several runs of a recipe that differ in their seed alone: the mean of the metric, and how it varies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import DataError, VerifyError

if TYPE_CHECKING:
    from rich.table import Table

    from hf_ft.recipe.schema import Recipe

FILE = "seeds.json"


@dataclass(frozen=True)
class SeedRuns:
    """Finished and verified runs that differ in their seed.

    Args:
        content: what seeds.json holds: metric, split, rows, mean, std (of one run), interval of the mean over
            seeds and rows, and `runs`: seed, value, interval over rows, verdict and folder of each; empty on
            all processes but the main one.
        folder: holds seeds.json, and the run folders.
    """

    content: dict[str, Any]
    folder: Path

    def table(self) -> Table:
        """Return the runs and their mean as a table for `rich` to print."""
        from rich.table import Table

        from hf_ft.evaluate.metric_format import show_interval, show_metric, show_name

        found = self.content
        name, unit = found["metric"], found["unit"]

        def cells(value: float, interval: list[float] | None) -> list[str]:
            shown = "" if interval is None else show_interval(name, interval, unit)
            return [show_metric(name, value, interval, unit), shown]

        table = Table(
            title=f"{found['name']}: {found['split']}, {found['rows']:,} rows", title_justify="left"
        )
        for title in ("seed", show_name(name), f"{found['confidence']:.0%} interval", "verdict"):
            table.add_column(title)
        for run in found["runs"]:
            table.add_row(str(run["seed"]), *cells(run["value"], run["interval"]), run["outcome"])
        table.add_section()
        table.add_row("mean", *cells(found["mean"], found["interval"]), "interval over seeds and rows")
        table.add_row("deviation", show_metric(name, found["std"], found["interval"], unit), "", "of one run")
        return table


def summarize_seeds(
    recipe: Recipe, folders: Mapping[int, Path], *, data: Any = None, verbose: bool = True
) -> SeedRuns:
    """Compute the mean over the runs with its interval, and write seeds.json.

    The answers are those of each predictions.parquet, the labels are read from the source again.

    Args:
        recipe: the recipe with `seeds`.
        folders: seed -> finished run folder.
        data: the rows, if they are in memory.
        verbose: whether to print the table.

    Raises:
        VerifyError: a run was made on other rows than those of the source, or its files have changed.
        DataError: there are too few rows for an interval.
    """
    from hf_ft.train.distributed import start_processes

    output = Path(recipe.output_dir)
    processes = start_processes()
    content: dict[str, Any] = {}
    if processes.is_main_process:
        from rich.console import Console

        from hf_ft.storage.atomic import write_json

        content = _content(recipe, folders, data)
        write_json(output / FILE, content, indent=2)
        if verbose:
            Console(highlight=False, soft_wrap=True).print(SeedRuns(content, output).table())
    processes.wait_for_everyone()
    return SeedRuns(content, output)


def _content(recipe: Recipe, folders: Mapping[int, Path], data: Any) -> dict[str, Any]:
    from hf_ft.evaluate.bootstrap import seeds_interval
    from hf_ft.evaluate.loop import measure
    from hf_ft.evaluate.metric_format import unit_of
    from hf_ft.model.save import task_name
    from hf_ft.registry import get_task
    from hf_ft.verification.checks import check_source
    from hf_ft.verification.items import run_checks
    from hf_ft.verification.seal import check_unchanged
    from hf_ft.verification.verifier import Request, Verifier

    trusted = task_name(get_task(recipe.task.name))
    verifiers = [Verifier(Request(folder, data=data, trust_task=trusted)) for folder in folders.values()]
    first = verifiers[0]
    split, metric = first.data.final_split, first.metric[0]
    for verifier in verifiers:
        # A seed may have finished long ago: neither its files nor its rows may have changed since.
        judged = run_checks(
            {
                "unchanged": partial(check_unchanged, verifier.folder),
                "source": partial(check_source, verifier.folder, verifier.data, verifier.in_memory),
            }
        )
        for item in judged:
            if not item.passed:
                raise VerifyError(
                    f"{verifier.folder}: {item.name}: {item.detail}\n"
                    "Undo the change, or write another output_dir"
                )
    evaluations = [verifier.stored[split] for verifier in verifiers]
    results = [
        json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in folders.values()
    ]
    values = [evaluation.metrics[metric] for evaluation in evaluations]
    interval, settings = None, recipe.evaluate
    if settings.intervals == "bootstrap" and metric != "loss":
        measured = [
            measure(verifier.task, one.results, one.references)
            for verifier, one in zip(verifiers, evaluations, strict=True)
        ]
        try:
            interval = seeds_interval(
                measured,
                metric,
                len(evaluations[0].ids),
                resamples=settings.resamples,
                confidence=settings.confidence,
                seed=recipe.seed,
                groups=first.data.groups(first.task, split),
            )
        except DataError:  # the values themselves are right
            interval = None
    return {
        "name": recipe.name,
        "metric": metric,
        "unit": unit_of(metric, evaluations[0].metrics),
        "split": split,
        "rows": len(evaluations[0].ids),
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)),
        "interval": interval and list(interval),
        "confidence": settings.confidence,
        "runs": [
            {
                "seed": seed,
                "value": value,
                "interval": result["headline"]["interval"],
                "outcome": result["verdict"]["outcome"],
                "folder": str(folder),
            }
            for (seed, folder), value, result in zip(folders.items(), values, results, strict=True)
        ],
    }
