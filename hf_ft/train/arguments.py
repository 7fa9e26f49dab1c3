"""TrainingArguments from the section `train:` of a recipe, and the division of a global batch."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_ft.data.samplers import GlobalBatchSampler, balanced_weights
from hf_ft.errors import TrainError
from hf_ft.processor_cores import usable_cores
from hf_ft.train.decisions import Decision
from hf_ft.train.precision import precision_flags

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_ft.data.dataset import EncodedRows
    from hf_ft.recipe.schema import Recipe

# Most rows per process and micro-batch where the recipe sets no bound: larger ones rarely make a step faster.
LARGEST_MICRO_BATCH = 64
# The folder of shared memory on Linux, and the bytes that one worker may use there: four batches of 64
# pictures of 512 x 512 pixels.
SHARED_MEMORY = Path("/dev/shm")
WORKER_BYTES = 2**29
MOST_WORKERS = 8


@dataclass(frozen=True)
class BatchPlan:
    """Division of a global batch: processes x accumulation x micro-batch >= global batch.

    Args:
        global_batch: rows per optimizer step.
        micro_batch: most rows per process and forward pass.
        accumulation: forward passes per process and optimizer step.
        processes: number of processes.
    """

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
    """Build the TrainingArguments: those of the recipe, and those that hf_ft must set itself.

    Args:
        recipe: the resolved recipe.
        folder: where checkpoints go.
        plan: the division of the global batch.
        decisions: subject -> choice; `precision`, `workers` and `compile` are used.
        metric: name of the metric that decides which checkpoint is best.
        greater: whether a greater value of it is better.
        bars: whether progress is shown on a terminal.
    """
    from transformers import TrainingArguments

    own: dict[str, Any] = dict(recipe.train.arguments)
    # The Trainer does not know the exponential schedule; `FineTuner.create_scheduler` makes it.
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
        # The best checkpoint must be an evaluated one: save after every evaluation and at no other time.
        "save_strategy": strategy if strategy != "no" else "epoch",
        "save_steps": own.get("eval_steps", own.get("logging_steps", 10)),
        "remove_unused_columns": False,
        "label_names": [],
        # A NaN must stop the run; the Trainer's filter would hide it in the log (trl#6702).
        "logging_nan_inf_filter": False,
        "average_tokens_across_devices": True,
        # Otherwise early stopping counts its patience from the beginning again after a resume.
        "restore_callback_states_from_checkpoint": True,
        "ddp_find_unused_parameters": False,
        "torch_compile": decisions["compile"].value == "on",
        # Without an accelerator, accelerate assumes a single process unless it is told to use the CPU.
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
        # The Trainer's own default depends on the log level of transformers.
        "disable_tqdm": not bars,
    }
    arguments = TrainingArguments(**{**defaults, **own, **ours})
    # One device per process: with several, the Trainer would choose DataParallel, which changes the loss
    # (tf#24345).
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def train_sampler(
    rows: EncodedRows, recipe: Recipe, plan: BatchPlan, *, processes: int, rank: int
) -> GlobalBatchSampler:
    """Build the sampler that divides the training rows into global batches and micro-batches.

    Args:
        rows: encoded training rows.
        recipe: the resolved recipe.
        plan: the division of the global batch.
        processes: number of processes.
        rank: number of this process.

    Raises:
        TrainError: `data.sampler` is `balanced`, and the task has no classes.
    """
    weights = None
    if recipe.data.sampler == "balanced":
        if rows.task.class_role is None:
            raise TrainError(
                f"data.sampler: balanced draws classes equally often, and {rows.task.name} has no classes "
                "here; write shuffle"
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
    )


def choose_workers(asked: int | None, processes: int, *, use_cpu: bool = False) -> Decision:
    """Choose the number of worker processes that encode rows.

    The number is 0 where the CPU trains, since a worker would only take a core away from training. Elsewhere
    free cores and free shared memory limit it: workers hand batches over in shared memory, a container often
    has only 64 MB of it, and a worker that finds none left dies with "Bus error".

    Args:
        asked: `train.dataloader_num_workers`, or None.
        processes: number of training processes on this machine.
        use_cpu: whether training runs on the CPU even if there is an accelerator.
    """
    if asked is not None:
        return Decision(asked, "asked for by train.dataloader_num_workers")
    if use_cpu or not torch.accelerator.is_available():
        return Decision(0, "the CPU trains, and a worker would only take a core away")
    usable = usable_cores()
    cores = usable // processes - 1
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None
    by_memory = cores if free is None else free // processes // WORKER_BYTES
    workers = max(0, min(MOST_WORKERS, cores, by_memory))
    shared = "" if free is None else f" and {free / 1e9:.1f} GB of free shared memory"
    return Decision(workers, f"{usable} cores{shared} for {processes} process(es)")
