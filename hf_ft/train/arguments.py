"""From the recipe's `train:` to TrainingArguments, and how a global batch is divided."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_ft.data.samplers import GlobalBatchSampler, balanced_weights
from hf_ft.errors import TrainError
from hf_ft.train.decisions import Decision
from hf_ft.train.precision import precision_flags

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_ft.data.dataset import EncodedRows
    from hf_ft.recipe.schema import Recipe

# Rows per process and micro-batch where the recipe sets no bound: more rarely makes a step faster.
LARGEST_MICRO_BATCH = 64
# Where Linux keeps what processes share, and what a worker may hold there: two batches of 64 pictures of
# 512 x 512, twice over.
SHARED_MEMORY = Path("/dev/shm")
WORKER_BYTES = 2**29
MOST_WORKERS = 8


@dataclass(frozen=True)
class BatchPlan:
    """How a global batch is divided: processes x accumulation x micro-batch >= global batch."""

    global_batch: int
    micro_batch: int
    accumulation: int
    processes: int

    def __str__(self) -> str:
        parts = f"{self.processes} process(es) x {self.accumulation} x at most {self.micro_batch} rows"
        return f"global batch {self.global_batch} = {parts}"


def plan_batches(global_batch: int, processes: int, largest: int | None = None) -> BatchPlan:
    """Divide a global batch among the processes with as little accumulation as memory allows.

    Args:
        global_batch: rows per optimizer step.
        processes: number of processes.
        largest: most rows per process and micro-batch.
    """
    share = math.ceil(global_batch / processes)
    accumulation = math.ceil(share / (largest or LARGEST_MICRO_BATCH))
    return BatchPlan(global_batch, math.ceil(share / accumulation), accumulation, processes)


def training_arguments(
    recipe: Recipe,
    folder: Path,
    plan: BatchPlan,
    decisions: Mapping[str, Decision],
    metric: str,
    greater: bool,
    *,
    bars: bool = True,
) -> TrainingArguments:
    """Build the Trainer's arguments: the recipe's own, and those that hf_ft sets for a result to trust.

    Args:
        recipe: the resolved recipe.
        folder: where checkpoints go.
        plan: the division of the global batch.
        decisions: `precision`, `workers` and `compile` as they were chosen.
        metric: name of the metric that decides which checkpoint is best.
        greater: whether a greater value of it is better.
        bars: whether progress is shown on a terminal.
    """
    from transformers import TrainingArguments

    own: dict[str, Any] = dict(recipe.train.arguments)
    # The exponential schedule is hf_ft's; the Trainer never sees its name.
    if own.get("lr_scheduler_type") == "exponential":
        own.pop("lr_scheduler_type")
        own.pop("lr_scheduler_kwargs", None)
    strategy = own.get("eval_strategy", "epoch")
    ours: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "learning_rate": recipe.train.learning_rate,
        "per_device_train_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "metric_for_best_model": f"eval_{metric}",
        "greater_is_better": greater,
        "load_best_model_at_end": strategy != "no",
        # Best is only ever a checkpoint that was measured: save whenever, and only when, there is an
        # evaluation.
        "save_strategy": strategy if strategy != "no" else "epoch",
        "save_steps": own.get("eval_steps", own.get("logging_steps", 10)),
        "remove_unused_columns": False,
        "label_names": [],
        # A NaN must stop the run, not be averaged away (trl#6702).
        "logging_nan_inf_filter": False,
        "average_tokens_across_devices": True,
        # Otherwise early stopping forgets its patience on resume.
        "restore_callback_states_from_checkpoint": True,
        "ddp_find_unused_parameters": False,
        "torch_compile": decisions["compile"].value == "on",
        # Without an accelerator, accelerate believes in one process unless it is told to stay on the CPU.
        "use_cpu": bool(own.get("use_cpu")) or not torch.accelerator.is_available(),
        **precision_flags(decisions["precision"].value),
    }
    defaults: dict[str, Any] = {
        "eval_strategy": strategy,
        "report_to": "none",
        "logging_steps": 10,
        "logging_first_step": True,
        "dataloader_num_workers": decisions["workers"].value,
        "log_level": "error",
        # Left out, it follows the log level of transformers.
        "disable_tqdm": not bars,
    }
    arguments = TrainingArguments(**{**defaults, **own, **ours})
    # One process drives one device: DataParallel, which the Trainer would choose, changes the loss
    # (tf#24345).
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def train_sampler(
    rows: EncodedRows, recipe: Recipe, plan: BatchPlan, *, processes: int, rank: int
) -> GlobalBatchSampler:
    """Say which rows make each global batch, and which of them a process takes in which micro-batch.

    Raises:
        TrainError: classes should be drawn equally often, and there are none.
    """
    weights = None
    if recipe.data.sampler == "balanced":
        if rows.task.class_role is None:
            raise TrainError(
                "data.sampler: balanced needs classes, and the target is a number; write shuffle"
            )
        weights = balanced_weights(rows.rows.column(rows.task.class_role))
    return GlobalBatchSampler(
        len(rows),
        global_batch_size=plan.global_batch,
        accumulation=plan.accumulation,
        processes=processes,
        rank=rank,
        seed=recipe.seed,
        weights=weights,
        lengths=rows.lengths,
        drop_last=bool(recipe.train.arguments.get("dataloader_drop_last")),
    )


def choose_workers(asked: int | None, processes: int, *, use_cpu: bool = False) -> Decision:
    """Choose the number of worker processes that encode rows.

    Zero where the CPU trains: its cores are busy, and a worker only takes them away. Workers hand batches
    over in shared memory, of which a container often has 64 MB: a worker that finds none left dies with
    "Bus error".

    Args:
        asked: `train.dataloader_num_workers`, or None.
        processes: that train on this machine.
        use_cpu: whether the CPU trains even where there is an accelerator.
    """
    if asked is not None:
        return Decision(asked, "asked for by train.dataloader_num_workers")
    if use_cpu or not torch.accelerator.is_available():
        return Decision(0, "the CPU trains, and a worker would only take a core away")
    cores = (os.cpu_count() or 1) // processes - 1
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None
    room = cores if free is None else free // processes // WORKER_BYTES
    workers = max(0, min(MOST_WORKERS, cores, room))
    shared = "" if free is None else f" and {free / 1e9:.1f} GB of free shared memory"
    return Decision(workers, f"{os.cpu_count()} cores{shared} for {processes} process(es)")
