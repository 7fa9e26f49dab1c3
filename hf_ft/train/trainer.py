"""`FineTuner`: the Hugging Face Trainer, with those parts replaced that can give silently wrong results.

Replaced are the loss (one definition for any accumulation and any number of processes, tf#47688), the order
of the rows (tf#39215), evaluation (every row once), checkpoints (every tensor, tf#43701), and the handling of
NaN (trl#6702). The loop, the optimizers, the schedules, Accelerate, the callbacks and the trackers are the
Trainer's own.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_ft.causes import naming
from hf_ft.errors import TrainError
from hf_ft.evaluate.loop import evaluate_rows
from hf_ft.model.batch_norm_statistics import settle_batch_norms
from hf_ft.model.forward import forward
from hf_ft.model.load import fingerprint
from hf_ft.model.mixed_precision import full_precision
from hf_ft.storage.atomic import write_json, write_text
from hf_ft.text_utils import listing
from hf_ft.train import checkpoints
from hf_ft.train.arguments import train_sampler
from hf_ft.train.callbacks import EarlyStopping, LogFile, is_new_best
from hf_ft.train.identity import FILE as IDENTITY
from hf_ft.train.signals import as_worker

if TYPE_CHECKING:
    from hf_ft.data.dataset import EncodedRows
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Batch, Evaluation, Task
    from hf_ft.train.arguments import BatchPlan


class FineTuner(Trainer):
    """Trainer of one task on one model; built by `assemble`, and not changed from outside afterwards.

    Args:
        task: the fitted task.
        model: frozen and adapted, on its device.
        arguments: from `training_arguments`.
        plan: the division of the global batch.
        recipe: the resolved recipe, every `auto` replaced by what was chosen.
        rows: split -> encoded rows, with cached activations where the cache is used; `train` is trained on,
            `validation` is evaluated.
        groups: parameter groups for the optimizer.
        asked: the recipe as the user wrote it, `auto` included; written into every checkpoint.
        identity: what the run depends on beside the recipe; likewise.
        eval_fp32: whether evaluations compute in full precision even if training is in mixed precision.
        callbacks: further callbacks.
    """

    # The Trainer declares these attributes with wider types (a model or None, data sets of many kinds).
    model: Any
    train_dataset: Any
    eval_dataset: Any
    callback_handler: Any
    state: Any
    args: Any

    def __init__(
        self,
        task: Task,
        model: torch.nn.Module,
        arguments: TrainingArguments,
        plan: BatchPlan,
        recipe: Recipe,
        rows: Mapping[str, EncodedRows],
        groups: list[dict[str, Any]],
        *,
        asked: Recipe,
        identity: Mapping[str, str],
        eval_fp32: bool,
        callbacks: Sequence[TrainerCallback] = (),
    ):
        self.task, self.plan, self.recipe, self.groups = task, plan, recipe, groups
        self.last_evaluation: Evaluation | None = None
        self.rows, self.eval_fp32 = rows, eval_fp32
        # Hash of the weights of the best checkpoint, and the evaluation that was measured with them.
        self.best: tuple[str, Evaluation] | None = None
        self.loaded_best = False
        # The last checkpoint that this process wrote.
        self.last_checkpoint: Path | None = None
        self.recipe_text, self.identity = asked.to_yaml(), identity
        patience = recipe.train.early_stopping_patience
        if patience is not None:
            stopping = EarlyStopping(int(patience), recipe.train.early_stopping_threshold)
            callbacks = [*callbacks, stopping]
        super().__init__(
            model=model,
            args=arguments,
            data_collator=rows["train"].collate,
            train_dataset=rows["train"],
            eval_dataset=rows["validation"],
            callbacks=list(callbacks),
        )
        # `compute_loss` divides by the count of the global batch; the Trainer must not divide once more.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = False

    def fit(self, checkpoint: Path | None = None) -> None:
        """Train, from a checkpoint if there is one; the model is then the best one that was measured.

        A checkpoint that was written when the training had ended, after its last evaluation, is not trained
        on: the Trainer would take one more step before it sees that an early stop was meant.
        """
        if checkpoint is None:
            self.train()
            return
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        control = state.stateful_callbacks.get("TrainerControl", {}).get("args", {})
        steps = [entry["step"] for entry in state.log_history if self.args.metric_for_best_model in entry]
        if not control.get("should_training_stop") or steps[-1:] != [state.global_step]:
            self.train(resume_from_checkpoint=str(checkpoint))
            return
        self.state = state
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, LogFile) and self.is_world_process_zero():
                callback.rewrite(state)
        if state.best_global_step:
            self._load_best_model()
        else:
            checkpoints.load_weights(self.model, checkpoint)

    # Rows

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of this process's share of each global batch, not sharded again by Accelerate."""
        rows = self.train_dataset
        self.sampler = train_sampler(
            rows,
            self.recipe,
            self.plan,
            processes=self.accelerator.num_processes,
            rank=self.accelerator.process_index,
        )
        workers = self.args.dataloader_num_workers if rows.takes_workers else 0
        return DataLoader(
            rows,
            batch_sampler=self.sampler,
            collate_fn=rows.collate,
            num_workers=workers,
            worker_init_fn=as_worker,
            persistent_workers=workers > 0,
            pin_memory=self.args.dataloader_pin_memory and torch.accelerator.is_available(),
            # A generator of its own: the loader must not change the random state that dropout uses.
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    @contextlib.contextmanager
    def accumulating(self, steps: int) -> Iterator[None]:
        """Set the number of micro-batches per step that `training_step` sees, as the training loop does."""
        self.current_gradient_accumulation_steps = steps
        try:
            yield
        finally:
            del self.current_gradient_accumulation_steps

    def num_examples(self, dataloader: DataLoader) -> int:
        """Count the rows of an epoch over all processes."""
        return len(self.train_dataset)

    def _run_epoch(self, **kwargs: Any) -> None:  # type: ignore[override]
        self.sampler.epoch = kwargs["epoch"]
        super()._run_epoch(**kwargs)

    # Loss

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor:
        """Sum the counts of the rows over the accumulated batch and all processes."""
        self.step_rows = [(batch["row"], batch["real"]) for batch in batch_samples]
        counts = [
            (self.task.count(batch).float() * batch["real"]).sum().to(device) for batch in batch_samples
        ]
        return self.accelerator.reduce(torch.stack(counts).sum(), "sum")

    def _prepare_inputs(self, inputs: Batch) -> Batch:
        """Send a batch to the device, and finish it there (`Task.finish`)."""
        return self.task.finish(super()._prepare_inputs(inputs))

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Divide the sum of row losses by the count of the whole global batch.

        The result is multiplied by the number of processes, because DDP averages gradients over them.
        """
        if not bool(inputs["real"].any()):
            # This batch only fills up the step of this process; batch norms must not learn from it.
            model.eval()
        outputs = self._forward(model, inputs)
        # `self.model` and not `unwrap_model(model)`, which walks through all modules at each step.
        rows = self.task.loss(self.model, outputs, inputs)
        rows = torch.where(inputs["real"], rows, torch.zeros_like(rows))
        self._stop_on_nan(rows, inputs)
        loss = rows.sum() / num_items_in_batch * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _forward(self, model: torch.nn.Module, inputs: Batch) -> Any:
        try:
            return forward(self.task, model, inputs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise TrainError(
                f"a micro-batch of {len(inputs['row'])} row(s) is too small for the model's batch norms "
                f"({self.plan}); choose another train.global_batch_size, or freeze them (freeze: head)"
            ) from error

    def _stop_on_nan(self, losses: torch.Tensor, batch: Batch) -> None:
        bad = ~torch.isfinite(losses.detach())
        if not bad.any():
            return
        raise TrainError(
            f"the loss is {losses[bad][0].item()} at step {self.state.global_step + 1} (learning rate "
            f"{self._get_learning_rate():.3g}, dtype {losses.dtype}) for the row(s) "
            f"{self._ids_of(batch['row'][bad])}; nothing was saved from this step. Check these rows, lower "
            "train.learning_rate, or write train.precision: fp32"
        )

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        # Only over trainable parameters: walking through a frozen body takes longer than a step of its head.
        learning = [parameter for group in self.groups for parameter in group["params"]]
        norm = self.accelerator.clip_grad_norm_(learning, self.args.max_grad_norm)
        # With fp16 an overflow is a normal part of loss scaling; else the step would make the weights NaN.
        if not self.args.fp16 and not math.isfinite(float(norm)):
            ids = self._ids_of(torch.cat([row[real] for row, real in self.step_rows]))
            raise TrainError(
                f"the gradient is {float(norm)} at step {self.state.global_step + 1} (learning rate "
                f"{self._get_learning_rate():.3g}) for the rows {ids}; the step was not taken. "
                "Check these rows, or lower train.learning_rate"
            )
        return norm

    def _ids_of(self, rows: torch.Tensor) -> str:
        return listing([self.train_dataset.ids[row] for row in rows.tolist()], 8)

    # Optimizer and schedule

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer over the recipe's parameter groups."""
        if self.optimizer is None:
            cls, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = cls([dict(group) for group in self.groups], **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build a schedule of the Trainer, or `exponential`, which falls to `final` times the rate."""
        asked = self.recipe.train.arguments
        if asked.get("lr_scheduler_type") != "exponential" or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        final = float((asked.get("lr_scheduler_kwargs") or {}).get("final", 0.01))
        warmup = self.args.get_warmup_steps(num_training_steps)

        def factor(step: int) -> float:
            if step < warmup:
                return step / max(1, warmup)
            return final ** ((step - warmup) / max(1, num_training_steps - warmup))

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)  # type: ignore[arg-type]
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # Evaluation

    def evaluate(  # type: ignore[override]
        self,
        eval_dataset: EncodedRows | None = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate every row once, and log the metrics as `eval_NAME`."""
        rows = eval_dataset or self.eval_dataset
        self._settle_batch_norms()
        evaluation = self.evaluate_rows(rows)
        self.last_evaluation = evaluation
        numbers = {
            f"{metric_key_prefix}_{k}": v for k, v in evaluation.metrics.items() if isinstance(v, float)
        }
        if self.args.metric_for_best_model not in numbers:
            raise TrainError(
                f"evaluate.metric: {self.args.metric_for_best_model.removeprefix('eval_')!r} is not measured "
                f"by {self.task.name}; measured are {sorted(name.removeprefix('eval_') for name in numbers)}"
            )
        self.log(numbers)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, numbers)
        return numbers

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any = None) -> bool:
        """Among evaluations with the same metric, take the one with the lowest loss, not the first."""
        args, state = self.args, self.state
        name = args.metric_for_best_model.removeprefix("eval_")
        best = is_new_best(state, metrics, name, args.greater_is_better)
        if best:
            state.best_metric, state.best_global_step = metrics[f"eval_{name}"], state.global_step
        return best

    def _settle_batch_norms(self) -> None:
        count = self.recipe.train.batch_norm_rows
        # In the precision in which the model is evaluated.
        with full_precision(self.model) if self.eval_fp32 else contextlib.nullcontext():
            settle_batch_norms(self.model, self.task, self.train_dataset.plain(), count, self.args.seed)

    def evaluate_rows(self, rows: EncodedRows, *, fp32: bool = False) -> Evaluation:
        """Evaluate the model as it is on encoded rows.

        Args:
            rows: of one split.
            fp32: whether to compute in full precision, as the saved model does, even if the run's other
                evaluations are in mixed precision.
        """
        with full_precision(self.model) if fp32 or self.eval_fp32 else contextlib.nullcontext():
            return evaluate_rows(
                self.task,
                self.model,
                rows,
                batch_size=self.recipe.train.arguments.get("per_device_eval_batch_size"),
                workers=self.args.dataloader_num_workers,
                device=self.args.device,
                progress=None if self.args.disable_tqdm else f"evaluate {rows.split}",
            )

    def evaluate_finished(self, split: str) -> Evaluation:
        """Evaluate the finished model in fp32, as it is saved, unless the last evaluation was just that."""
        last = self.last_evaluation
        if last is not None and last.split == split and self.loaded_best and self.eval_fp32:
            return last
        if not self.loaded_best:
            self._settle_batch_norms()
        return self.evaluate_rows(self.rows[split], fp32=True)

    def finished_model(self) -> torch.nn.Module:
        """Return the trained model without what the Trainer wrapped around it, autocast included."""
        return self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint, complete or absent; delete all others but the best."""
        root = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        temporary = root / f".writing-{name}"
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        checkpoints.save_random_state(temporary, self.accelerator.process_index)
        if self.last_evaluation is not None and self.state.best_global_step == self.state.global_step:
            self.best = self._fingerprint(), self.last_evaluation
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(root / f"checkpoint-{self.state.best_global_step}")
        if self.accelerator.is_main_process:
            checkpoints.save_weights(self.model, temporary, self.last_checkpoint)
            checkpoints.save_optimizer(self.optimizer, self.lr_scheduler, temporary)
            self._save_state(temporary)
            write_text(temporary / "recipe.yaml", self.recipe_text)
            write_json(temporary / IDENTITY, self.identity, indent=2)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            checkpoints.complete(temporary, root / name, self.last_checkpoint)
            self.last_checkpoint = root / name
            checkpoints.prune(root, {name, f"checkpoint-{self.state.best_global_step}"})
        self.accelerator.wait_for_everyone()

    def _save_state(self, folder: Path) -> None:
        """Write trainer_state.json with the states of callbacks and control, as the Trainer does."""
        for part in [*self.callback_handler.callbacks, self.control]:
            if isinstance(part, ExportableState):
                self.state.stateful_callbacks[type(part).__name__] = part.state()
        with naming(folder / "trainer_state.json"):
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoints.load_weights(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Load the best checkpoint, and check that it is the model that was measured (tf#48805).

        The hash of its weights is compared. If the checkpoint was measured before this run was resumed, the
        hash is not known, and the model is measured again.
        """
        # The path in the state may be that of another machine.
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        damage = checkpoints.find_damage(folder)
        if damage is not None:
            raise TrainError(checkpoints.lost_best(folder, damage))
        checkpoints.load_weights(self.model, folder)
        self.loaded_best = True
        if self.best is not None:
            written, self.last_evaluation = self.best
            if self._fingerprint() != written:
                raise TrainError(f"{folder}: its weights are not those that were measured and saved")
            return
        name = self.args.metric_for_best_model.removeprefix("eval_")
        self.last_evaluation = self.evaluate_rows(self.eval_dataset)
        again = self.last_evaluation.metrics[name]
        if abs(again - self.state.best_metric) > 1e-4 * max(1.0, abs(self.state.best_metric)):
            raise TrainError(
                f"{folder}: {name} was {self.state.best_metric:.6f} when it was saved and is {again:.6f} "
                "when it is loaded again; the checkpoint is not the model that was measured"
            )

    def _fingerprint(self) -> str:
        """Hash all tensors that training may change, on the main process; the gate hashes the frozen ones."""
        found = [fingerprint(checkpoints.changing_tensors(self.model).items())]
        broadcast_object_list(found)
        return found[0]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_optimizer(self.optimizer, self.lr_scheduler, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            checkpoints.load_random_state(Path(checkpoint), self.accelerator.process_index)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Do not restore the scale of fp16 losses: the scaler finds it again within a few steps."""
