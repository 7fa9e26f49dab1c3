"""Write the model card: how to use a published model, its metrics, and its limits.

The card is written from the files of the run folder only, so that a run can be published at any time after it
ended. The metadata at its top have the format of huggingface_hub and hold only facts of the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from hf_ft.errors import PublishError
from hf_ft.evaluate.metric_format import show_interval, show_metric, show_name, unit_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Task

# The files of the run folder that the card is written from, beside the model.
FILES = ("recipe.yaml", "data.json", "results.json", "environment.json", "verify.json")
# A table with more classes is folded.
FEW_CLASSES = 12


@dataclass(frozen=True)
class Result:
    """A metric of the final split.

    Args:
        name: name of the metric.
        value: the value of the model.
        interval: (low, high), or None.
        unit: unit of the value, "" for none.
        baselines: the value of each baseline on the same rows, None where it has none.
    """

    name: str
    value: float
    interval: Sequence[float] | None
    unit: str
    baselines: Sequence[float | None]

    @property
    def cells(self) -> list[str]:
        """The formatted name, value, interval and values of the baselines: one row of the table."""
        interval = show_interval(self.name, self.interval, self.unit) if self.interval else ""
        values = [
            "" if value is None else show_metric(self.name, value, self.interval, self.unit)
            for value in (self.value, *self.baselines)
        ]
        return [show_name(self.name), values[0], interval, *values[1:]]


def model_card(run_folder: Path, repo: str, kept: Mapping[str, Any] | None = None) -> ModelCard:
    """Write the card of a finished run.

    Args:
        run_folder: the folder of the run.
        repo: namespace/name of the repository, for the lines of code.
        kept: metadata that the owner has set on the Hub, such as `license`; they are copied.

    Raises:
        PublishError: the folder does not hold a finished run.
    """
    from huggingface_hub import ModelCard, ModelCardData
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from hf_ft.model.save import task_name
    from hf_ft.model.saved_folder import load_task
    from hf_ft.recipe.read import load_recipe
    from hf_ft.registry import get_task

    missing = [name for name in FILES if not (run_folder / name).is_file()]
    if missing:
        raise PublishError(f"{run_folder}: no {', '.join(missing)}; expected the folder of a finished run")
    recipe = load_recipe(run_folder / "recipe.yaml")
    data, results, environment, verified = (
        json.loads((run_folder / name).read_text(encoding="utf-8")) for name in FILES[1:]
    )
    task, source = load_task(run_folder / "model", trust_task=task_name(get_task(recipe.task.name)))
    options = task.pipeline_options_for(name for split in data["traits"].values() for name in split)
    head, measured = results["headline"], _measured(results, task)
    base = None if recipe.model.from_scratch or not source.get("commit") else source["name"]
    metadata = ModelCardData(
        model_name=recipe.name,
        library_name=_library(run_folder / "model"),
        pipeline_tag=task.pipeline_tag,
        base_model=base,
        datasets=data["hub"] or None,
        tags=["hf_ft", *([] if task.pipeline_tag else [task.name])],
        eval_results=[_eval_result(one, recipe, task, data["hub"], head["split"]) for one in measured],
        **(kept or {}),
    )
    template = Environment(
        loader=PackageLoader("hf_ft.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("model_card.md.j2")
    content = template.render(
        card_data=metadata.to_yaml(),
        repo=repo,
        recipe=recipe,
        recipe_text=_without_paths(recipe),
        task=task,
        pipeline_arguments=None if options is None else _arguments(task.example_input, options),
        summary=task.summary.partition(" (")[0],
        start=base or _last_part(recipe.model.name),
        start_on_hub=base is not None,
        merged=(run_folder / "adapter").is_dir(),
        data=data,
        head=head,
        results=measured,
        verdict=results["verdict"],
        per_class=results["splits"][head["split"]]["metrics"].get("per_class", []),
        notes=results["splits"][head["split"]]["metrics"].get("notes", []),
        few_classes=FEW_CLASSES,
        environment=environment,
        checks=verified["items"],
        show_name=show_name,
        cell=cell,
        fence=fence,
        code=code,
    )
    return ModelCard(content)


def cell(text: Any) -> str:
    """Escape untrusted text (a label, a column name), so that it cannot end a table cell or become markup."""
    return re.sub(r"([\\`*{}\[\]<>()#+!|~$&])", r"\\\1", " ".join(str(text).split()))


def fence(text: str) -> str:
    """Return a code fence that is longer than every sequence of backticks in the text."""
    return "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))


def code(text: str) -> str:
    """Return untrusted text (the name of a folder) as inline code, which no backtick in it can end."""
    line = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall(r"`+", line)), default=0))
    space = " " if len(ticks) > 1 else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def _arguments(example: Any, options: Mapping[str, Any]) -> str:
    """Write the arguments of a call of transformers' pipeline as code."""
    return ", ".join([repr(example), *(f"{name}={value!r}" for name, value in options.items())])


def _measured(results: Mapping[str, Any], task: Task) -> list[Result]:
    head = results["headline"]
    split = results["splits"][head["split"]]
    metrics, baselines = split["metrics"], results["verdict"]["baselines"]
    return [
        Result(
            name,
            metrics[name],
            split["intervals"].get(name),
            unit_of(name, metrics),
            [one["metrics"].get(name) for one in baselines],
        )
        for name in dict.fromkeys([head["metric"], *task.headline_metrics])
        if metrics.get(name) is not None
    ]


def _eval_result(result: Result, recipe: Recipe, task: Task, hub: Sequence[str], split: str) -> EvalResult:
    from huggingface_hub import EvalResult

    one = hub[0] if len(hub) == 1 else None
    return EvalResult(
        task_type=task.pipeline_tag or task.name,
        dataset_type=one or "custom",
        dataset_name=one or recipe.name,
        dataset_config=recipe.data.config if one else None,
        dataset_revision=recipe.data.revision if one else None,
        dataset_split=split,
        metric_type=result.name,
        metric_name=show_name(result.name),
        metric_value=result.value,
    )


def _library(model_folder: Path) -> str | None:
    """Return `transformers` if the class of the model is one of transformers, else None."""
    import transformers

    config = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    names = config.get("architectures") or []
    return "transformers" if any(hasattr(transformers, name) for name in names) else None


def _without_paths(recipe: Recipe) -> str:
    """Return the recipe as YAML without `output_dir` and without the folders of local paths."""
    from hf_ft.recipe.read import load_recipe

    values = _shortened({key: v for key, v in recipe.resolved().items() if key != "output_dir"})
    return load_recipe(values).to_yaml()


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shortened(inner) for inner in value]
    return _last_part(value) if isinstance(value, str) else value


def _last_part(name: str) -> str:
    """Return the last part of a local path, and any other text unchanged."""
    local = Path(name).is_absolute() or PureWindowsPath(name).is_absolute() or name.startswith(("~", ".."))
    return PureWindowsPath(name).name if local else name
