"""Decide how a run computes: division, decoded pictures, precision, cached activations, threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from hf_ft.activations.activation_cache import ActivationCache, CacheRequest, cache_activations
from hf_ft.data.dataset import EncodedRows
from hf_ft.inputs.decoded_cache import cache_decoded
from hf_ft.model.allocator import keep_freed_memory
from hf_ft.model.batch_norm_statistics import learning_batch_norms
from hf_ft.model.memory_format import choose_memory_format
from hf_ft.model.passes import Passes
from hf_ft.storage.cache_folder import cache_folder
from hf_ft.train.arguments import choose_workers, plan_batches, train_sampler
from hf_ft.train.decisions import Decision
from hf_ft.train.distributed import unused_devices
from hf_ft.train.precision import choose_compile, choose_precision, measure_bf16
from hf_ft.train.schedule import epochs_in
from hf_ft.train.threads import choose_threads

if TYPE_CHECKING:
    from accelerate import PartialState

    from hf_ft.data.prepare import Prepared
    from hf_ft.model.freeze import Frozen
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Task
    from hf_ft.train.arguments import BatchPlan
    from hf_ft.train.disk_space import Space


Undisturbed = Callable[[], contextlib.AbstractContextManager[None]]


class Choices:
    """Makes the decisions of a run in order; each is measured with the earlier ones in effect.

    Args:
        recipe: the resolved recipe.
        schedule: the decisions of `choose_schedule`.
        recorded: the decisions of the interrupted run, if this run resumes it.
        processes: the training processes.
        space: the disk space of the run's own files, which the caches leave free.
        bars: whether to show progress bars on a terminal.
        undisturbed: makes a context in which no process of this run disturbs a measurement of speed.
    """

    def __init__(
        self,
        recipe: Recipe,
        schedule: Mapping[str, Decision],
        recorded: Mapping[str, Decision],
        processes: PartialState,
        space: Space,
        *,
        bars: bool = True,
        undisturbed: Undisturbed = contextlib.nullcontext,
    ):
        self.recipe, self.recorded, self.processes, self.bars = recipe, recorded, processes, bars
        self.made = dict(schedule)
        self.space, self.undisturbed = space, undisturbed
        # Set by `compute`.
        self.full: Passes
        section = recipe.train
        self.use_cpu = bool(section.arguments.get("use_cpu"))
        self.plan: BatchPlan = plan_batches(
            int(section.global_batch_size), processes.num_processes, section.per_device_train_batch_size
        )

    def compute(
        self, task: Task, data: Prepared, frozen: Frozen, fingerprint: str, *, keep: bool
    ) -> dict[str, EncodedRows]:
        """Decide how the model computes; return the rows of every split, cached where possible."""
        section, made = self.recipe.train, self.made
        device = torch.device("cpu") if self.use_cpu else self.processes.device
        made["division"] = Decision(str(self.plan))
        made["allocator"] = Decision(keep_freed_memory(section.allocator, device.type))
        spared = self.space.needed_on(cache_folder())
        raw, decoded = cache_decoded(data, task, self.recipe.cache, self.processes, keep=keep, spared=spared)
        made |= {} if decoded is None else {"decoded": Decision(decoded)}
        rows = self._encoded(task, raw)
        model: Any = frozen.model.to(device)
        layout = choose_memory_format(model, section.memory_format)
        made |= {} if layout is None else {"layout": Decision(layout)}
        full = self.full = Passes(task, model, device, "fp32")
        with self.undisturbed():
            made["precision"] = choose_precision(
                section.precision,
                lambda: measure_bf16(full, rows["train"]),
                use_cpu=self.use_cpu,
                recorded=self.recorded.get("precision"),
            )
        passes = replace(full, precision=made["precision"].value)
        made["compile"] = choose_compile(section.compile, use_cpu=self.use_cpu)
        made["workers"] = choose_workers(
            section.arguments.get("dataloader_num_workers"), self.plan.processes, use_cpu=self.use_cpu
        )
        cache = cache_activations(
            CacheRequest(
                passes,
                rows,
                data.findings.contents,
                fingerprint,
                self.recipe.cache,
                epochs_in(self.recipe, len(rows["train"])),
                self._against_cache(),
                self.recipe.seed,
                spared,
            ),
            self.processes,
            keep=keep,
            progress=self.bars and not section.arguments.get("disable_tqdm"),
        )
        made["activations"] = Decision(cache.reason)
        made["evaluation"] = self._evaluation(passes, cache)
        self._set_threads(passes, cache, rows["train"])
        # A resumed run that evaluated in mixed precision continues so, and without cached activations.
        if made["evaluation"].value == "fp32":
            return dict(cache.rows)
        return {**rows, "train": cache.rows["train"]}

    def describe(self, model: Any, train_rows: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """Add facts about model and recipe that a user should know."""
        self.made["optimizer"] = Decision(self.recipe.train.arguments.get("optim", "adamw_torch"))
        asked = self.recipe.model.attn_implementation
        attention = model.config._attn_implementation
        # The configuration names an attention implementation even for networks without attention.
        there = any("attention" in type(module).__name__.lower() for module in model.modules())
        if asked != "auto" or (attention is not None and there):
            because = "transformers' default for it" if asked == "auto" else "asked for by the recipe"
            self.made["attention"] = Decision(attention, because)
        if (unused := unused_devices()) is not None:
            self.made["devices"] = Decision(unused)
        norms = len(learning_batch_norms(model))
        measured = min(self.recipe.train.batch_norm_rows, train_rows)
        if norms and measured:
            text = f"{norms} measured on {measured} training rows before each evaluation"
            self.made["batch norms"] = Decision(text)
        if norms and self.plan.processes > 1:
            text = f"{norms} learn from the rows of one process, so {self.plan.processes} give another result"
            self.made["processes"] = Decision(f"batch norms: {text} than one")
        for group in groups:
            text = f"{len(group['params'])} tensors, rate {group['lr']:.2g}, decay {group['weight_decay']:g}"
            self.made[group["name"]] = Decision(text)

    def _encoded(self, task: Task, raw: Mapping[str, Any]) -> dict[str, EncodedRows]:
        """Encode every split; only training rows are augmented."""
        views = {"train": self.recipe.cache.views}
        return {
            split: EncodedRows(
                task,
                rows,
                split=split,
                seed=self.recipe.seed,
                train=split == "train",
                views=views.get(split),
            )
            for split, rows in raw.items()
        }

    def _against_cache(self) -> str | None:
        if self.made["compile"].value == "on":
            return "with train.compile"
        if self.recipe.train.arguments.get("activation_checkpointing"):
            return "with train.activation_checkpointing"
        return None

    def _evaluation(self, passes: Passes, cache: ActivationCache) -> Decision:
        """Decide the precision of evaluations; in a resumed run it must stay the same, to compare metrics."""
        if "evaluation" in self.recorded:
            return Decision(self.recorded["evaluation"].value, "as the run began")
        if not passes.is_mixed:
            return Decision("fp32", "as the saved model computes")
        if cache.is_used:
            return Decision("fp32", "as the saved model computes; cached activations make it cheap")
        return Decision(passes.precision, "in training; the finished model is measured in fp32")

    def _set_threads(self, passes: Passes, cache: ActivationCache, rows: EncodedRows) -> None:
        """Decide and set the number of CPU threads of this process."""
        sampler = train_sampler(
            rows,
            self.recipe,
            self.plan,
            processes=self.processes.num_processes,
            rank=self.processes.process_index,
        )
        first = [row for _, row, _ in next(iter(sampler))]
        with self.undisturbed():
            self.made["threads"] = choose_threads(
                self.recipe.train.threads,
                passes,
                lambda most: cache.batch(passes, rows, first[:most]),
                processes=self.processes.num_processes,
                recorded=self.recorded.get("threads"),
            )
        torch.set_num_threads(self.made["threads"].value)
