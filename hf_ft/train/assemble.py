"""Assemble a run up to its first training step: rows, task, model, decisions, trainer.

`check` and `finetune` both call `assemble`, so that a check announces exactly what a run does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from transformers import PrinterCallback, ProgressCallback, set_seed

from hf_ft.activations.cached_rows import CachedRows
from hf_ft.data.prepare import prepare
from hf_ft.evaluate.results import main_metric
from hf_ft.model.freeze import freeze
from hf_ft.model.parameter_groups import parameter_groups
from hf_ft.registry import new_task
from hf_ft.train.arguments import training_arguments
from hf_ft.train.callbacks import EpochLines, LogFile, SaveByTime
from hf_ft.train.choices import Choices, Undisturbed
from hf_ft.train.decisions import Decision, record_decisions, recorded_decisions
from hf_ft.train.disk_space import check_space, space_of
from hf_ft.train.distributed import start_processes
from hf_ft.train.identity import identity_of, require_same_identity
from hf_ft.train.profiler import Profile, ProfiledTrainer
from hf_ft.train.schedule import choose_schedule, with_choices
from hf_ft.train.trainer import FineTuner

if TYPE_CHECKING:
    from hf_ft.data.dataset import EncodedRows
    from hf_ft.data.prepare import Prepared
    from hf_ft.model.freeze import Frozen
    from hf_ft.model.passes import Passes
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Loaded, Task


class Output(Protocol):
    """Prints the progress of a run; implemented by `hf_ft/report/console.py`."""

    # Whether anything is printed.
    speaks: bool

    def room(self, name: str) -> None:
        """Start a stage of the run."""

    def lines(self, texts: Iterable[Any]) -> None:
        """Print texts, one per line."""

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Print `name  text` lines."""

    def table(self, table: Any) -> None:
        """Print a table of `rich`."""


@dataclass(frozen=True)
class Setup:
    """A run that is ready to train.

    Args:
        recipe: the resolved recipe, without any `auto`.
        task: the fitted task with its processor.
        data: raw rows, and the findings of the audit.
        loaded: the model as it was loaded, and its source.
        frozen: the model after freezing.
        frozen_fingerprint: hash of every frozen tensor, before training.
        rows: split -> encoded rows for training and evaluation, cached where possible.
        metric: name of the metric that decides which checkpoint is best.
        greater: whether a greater value of the metric is better.
        decisions: name -> what was decided for the user, and why.
        passes: runs the model outside of training, in full precision.
        trainer: built from all of these.
    """

    recipe: Recipe
    task: Task
    data: Prepared
    loaded: Loaded
    frozen: Frozen
    frozen_fingerprint: str
    rows: Mapping[str, EncodedRows]
    metric: str
    greater: bool
    decisions: Mapping[str, Decision]
    passes: Passes
    trainer: FineTuner

    @property
    def cached(self) -> bool:
        """Whether training starts from cached activations."""
        return isinstance(self.rows["train"], CachedRows)

    @property
    def profile(self) -> Profile | None:
        """The times of the phases of training; None if the user did not ask for them."""
        return self.trainer.profile if isinstance(self.trainer, ProfiledTrainer) else None


def assemble(
    recipe: Recipe,
    folder: Path,
    *,
    data: Any = None,
    checkpoint: Path | None = None,
    keep: bool = True,
    callbacks: Sequence[Any] = (),
    profile: bool = False,
    layers: bool = False,
    console: Output | None = None,
    undisturbed: Undisturbed = contextlib.nullcontext,
) -> Setup:
    """Assemble a run, up to but not including the first training step.

    Args:
        recipe: the resolved recipe.
        folder: the run folder.
        data: rows in memory in place of `data.source`.
        checkpoint: of that folder, from which training will resume; the decisions of the run are repeated.
        keep: whether to store decoded pictures and activations; if not, this is only decided.
        callbacks: further callbacks of the Trainer.
        profile: whether to time the phases of training.
        layers: whether to list every layer even if all of them are trained.
        console: prints findings and decisions.
        undisturbed: makes a context in which no process of this run disturbs a measurement of speed.

    Raises:
        AuditError: the audit found errors; its `findings` list all of them.
        RecipeError: the files of the run cannot fit on the disk.
        TrainError: the checkpoint was written with other rows, starting weights or another processor.
        HfFtError: data, model and recipe do not fit together.
    """
    processes = start_processes()
    _tell(console, "room", "data")
    task = new_task(recipe)
    with processes.main_process_first():
        prepared = prepare(recipe, task, data=data)
    _tell(console, "table", prepared.findings.table())
    prepared.findings.raise_for_errors()
    metric, greater = main_metric(recipe, task)

    _tell(console, "room", "model")
    # Before the model is built, because the weights of the new head are drawn from this seed (tf#11965).
    set_seed(recipe.seed)
    loaded = task.load(recipe.model)
    identity = identity_of(task, prepared, loaded)
    if checkpoint is not None:
        require_same_identity(checkpoint, identity)
    frozen = freeze(loaded.model, recipe.freeze, loaded.new)
    prepared.info["notes"] += task.notes(prepared.rows)
    _tell(console, "lines", [*loaded.notes, *prepared.info["notes"]])
    _tell(console, "table", frozen.table() if layers else frozen.overview())

    _tell(console, "room", "prepare")
    recorded = recorded_decisions(folder if checkpoint is not None else None)
    schedule = choose_schedule(recipe, len(prepared.rows["train"]), frozen.model, recorded)
    asked, recipe = recipe, with_choices(recipe, schedule)
    speaks = console is None or console.speaks
    space = space_of(
        recipe,
        frozen.model,
        len(prepared.rows["train"]),
        folder if keep else Path(recipe.output_dir),
        adapted=frozen.adapted,
    )
    _tell(console, "lines", check_space(space, processes))
    choices = Choices(recipe, schedule, recorded, processes, space, bars=speaks, undisturbed=undisturbed)
    fingerprint = frozen.frozen_fingerprint()
    rows = choices.compute(task, prepared, frozen, fingerprint, keep=keep)
    recipe = with_choices(recipe, choices.made)
    groups = parameter_groups(
        frozen.model,
        frozen,
        float(recipe.train.learning_rate),
        recipe.train.weight_decay,
        recipe.freeze.head_lr_multiplier,
        recipe.freeze.head_weight_decay,
    )
    choices.describe(frozen.model, len(prepared.rows["train"]), groups)
    record_decisions(folder, choices.made)
    _tell(console, "facts", choices.made)
    arguments = training_arguments(
        recipe, folder / "checkpoints", choices.plan, choices.made, metric, greater, bars=speaks
    )
    minutes = recipe.train.save_minutes
    saves = [] if minutes is None else [SaveByTime(minutes)]
    trainer = (ProfiledTrainer if profile else FineTuner)(
        task,
        frozen.model,
        arguments,
        choices.plan,
        recipe,
        rows,
        groups,
        asked=asked,
        identity=identity,
        eval_fp32=choices.made["evaluation"].value == "fp32",
        callbacks=[LogFile(folder / "log.jsonl"), *saves, *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if speaks:
        trainer.add_callback(EpochLines(metric, greater, bar=not arguments.disable_tqdm))
    return Setup(
        recipe,
        task,
        prepared,
        loaded,
        frozen,
        fingerprint,
        rows,
        metric,
        greater,
        choices.made,
        choices.full,
        trainer,
    )


def _tell(console: Output | None, what: str, content: Any) -> None:
    if console is not None:
        getattr(console, what)(content)
