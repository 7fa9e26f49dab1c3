"""Put a FineTuner together from a recipe: batch plan, precision, learning rate, parameter groups."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PrinterCallback, ProgressCallback

from hf_ft.errors import RecipeError
from hf_ft.model.batch_norm_statistics import learning_batch_norms
from hf_ft.model.memory_format import choose_layout
from hf_ft.model.parameter_groups import default_learning_rate, parameter_groups
from hf_ft.train.arguments import choose_workers, plan_batches, training_arguments
from hf_ft.train.callbacks import EpochLines, LogFile
from hf_ft.train.distributed import unused_devices, world_size
from hf_ft.train.precision import choose_compile, measured_gain, settle_precision
from hf_ft.train.profiler import ProfiledTuner
from hf_ft.train.trainer import FineTuner

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments

    from hf_ft.data.prepare import Prepared
    from hf_ft.model.freeze import Frozen
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Task


def main_metric(recipe: Recipe, task: Task) -> tuple[str, bool]:
    """Give the metric that decides which checkpoint is best, and whether a greater value is better.

    Raises:
        RecipeError: the direction of the metric is unknown and `evaluate.mode` does not say it.
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


def build_tuner(
    recipe: Recipe,
    task: Task,
    frozen: Frozen,
    data: Prepared,
    folder: Path,
    callbacks: Sequence[Any] = (),
    *,
    profile: bool = False,
) -> tuple[FineTuner, dict[str, str]]:
    """Build the trainer of a run.

    Args:
        recipe: the resolved recipe.
        task: the fitted task.
        frozen: the model, with what learns and what does not.
        data: the rows.
        folder: the run folder.
        callbacks: further callbacks.
        profile: whether to time the phases of training.

    Returns:
        The trainer, and what was decided for the user, by subject.
    """
    section = recipe.train
    metric, greater = main_metric(recipe, task)
    plan = plan_batches(section.global_batch_size, world_size(), section.per_device_train_batch_size)
    train_rows = data.encoded(task, "train", train=True, views=recipe.cache.views)
    layout = choose_layout(frozen.model, section.memory_format)
    gain = partial(measured_gain, task, frozen.model, train_rows)
    use_cpu = bool(section.arguments.get("use_cpu"))
    precision = settle_precision(section.precision, gain, folder, use_cpu=use_cpu)
    compiled, why = choose_compile(section.compile, use_cpu=use_cpu)
    rate, optimizer = _learning_rate(recipe)
    arguments = training_arguments(
        recipe, folder / "checkpoints", plan, precision, rate, metric, greater, compiled
    )
    groups = parameter_groups(
        frozen.model,
        frozen,
        rate,
        section.weight_decay,
        recipe.freeze.head_lr_multiplier,
        recipe.freeze.head_weight_decay,
    )
    tuner = (ProfiledTuner if profile else FineTuner)(
        task,
        frozen.model,
        arguments,
        plan,
        recipe,
        train_rows,
        data.encoded(task, "validation"),
        groups,
        [LogFile(folder / "log.jsonl"), *callbacks],
    )
    tuner.remove_callback(PrinterCallback)
    tuner.remove_callback(ProgressCallback)
    if not arguments.disable_tqdm:
        tuner.add_callback(EpochLines(metric, greater))
    notes = {
        "batch": str(plan),
        "precision": f"{precision.name}: {precision.reason}",
        "compile": f"{'on' if compiled else 'off'}: {why}",
        "attention": _attention(recipe, frozen.model),
        "devices": unused_devices(),
        "workers": _workers(arguments, section, plan.processes, use_cpu=use_cpu),
        "layout": layout,
        **_batch_norms(frozen.model, min(section.batch_norm_rows, len(data.rows["train"])), plan.processes),
        "optimizer": optimizer,
    }
    for group in groups:
        notes[group["name"]] = (
            f"{len(group['params'])} tensors, rate {group['lr']:.2g}, decay {group['weight_decay']:g}"
        )
    return tuner, {subject: text for subject, text in notes.items() if text}


def _learning_rate(recipe: Recipe) -> tuple[float, str]:
    """Give the learning rate, and what to say of it and of the optimizer."""
    optimizer = recipe.train.arguments.get("optim", "adamw_torch")
    rate, reason = recipe.train.learning_rate, "as written in the recipe"
    if rate is None:
        rate, reason = default_learning_rate(recipe.freeze.strategy, optimizer, recipe.model.from_scratch)
    return rate, f"{optimizer}, learning rate {rate:.2g}: {reason}"


def _attention(recipe: Recipe, model: Any) -> str | None:
    """Say which attention the network computes with, by transformers' name for it."""
    asked, attention = recipe.model.attn_implementation, model.config._attn_implementation
    # A network without attention names one all the same.
    there = any("attention" in type(module).__name__.lower() for module in model.modules())
    if asked == "auto" and (attention is None or not there):
        return None
    because = "transformers' default for it" if asked == "auto" else "asked for by the recipe"
    return f"{attention}: {because}"


def _workers(arguments: TrainingArguments, section: Any, processes: int, *, use_cpu: bool) -> str:
    """Say how many processes encode rows."""
    if "dataloader_num_workers" in section.arguments:
        return f"{arguments.dataloader_num_workers}: asked for by train.dataloader_num_workers"
    return choose_workers(processes, use_cpu=use_cpu)[1]


def _batch_norms(model: nn.Module, rows: int, processes: int) -> dict[str, str]:
    """Say what batch norms that learn are measured on.

    Args:
        model: with what learns and what does not.
        rows: training rows that they are measured on before an evaluation.
        processes: how many train.
    """
    norms = len(learning_batch_norms(model))
    notes = {}
    if norms and rows:
        notes["batch norms"] = f"{norms} measured on {rows} training rows before each evaluation"
    if norms and processes > 1:
        warning = f"{norms} learn from the rows of one process, so {processes} give another result than one"
        notes["processes"] = f"batch norms: {warning}"
    return notes
