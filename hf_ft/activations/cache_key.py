"""The key of stored activations: a hash of all that they are known to depend on."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from hf_ft.storage.source_hash import (
    COMPUTING,
    hash_of,
    package_source_hash,
    task_source_hash,
    user_source_hash,
    versions,
)

if TYPE_CHECKING:
    from hf_ft.activations.partial_forward import Plan
    from hf_ft.data.dataset import EncodedRows
    from hf_ft.model.passes import Passes
    from hf_ft.task import Task

# What decides how a frozen part computes, beside the task's own code.
FORWARD = (
    "hf_ft.activations.cached_rows",
    "hf_ft.model.forward",
    "hf_ft.model.freeze",
    "hf_ft.model.memory_format",
    "hf_ft.model.mixed_precision",
    "hf_ft.model.passes",
)


def network_key(passes: Passes, plan: Plan, frozen: str) -> str:
    """Hash all but the rows that stored activations depend on.

    Args:
        passes: how the model is run.
        plan: what is stored.
        frozen: hash of every frozen tensor of the model.
    """
    task, model = passes.task, cast(Any, passes.model)
    return hash_of(
        [
            task_source_hash(task),
            repr(task.loss_options),
            json.dumps(task.state(), sort_keys=True, default=str),
            _processor(task),
            plan.signature,
            frozen,
            model.config.to_json_string() + _attention(model),
            passes.precision + _arithmetic(passes.device),
            user_source_hash(type(module) for module in model.modules()),
            *versions(COMPUTING),
            package_source_hash(FORWARD),
        ]
    )


def store_key(network: str, rows: EncodedRows, content: str) -> str:
    """Hash all that the stored activations of a split depend on.

    Args:
        network: from `network_key`.
        rows: encoded from their inputs.
        content: hash of what the raw rows hold.
    """
    random = repr((rows.task.augment, rows.seed, rows.views)) if rows.chance else "not random"
    return hash_of([network, content, random, *rows.ids])


def _attention(model: Any) -> str:
    """Name the attention of every part: parts may have configurations of their own."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    return repr(sorted({str(getattr(config, "_attn_implementation", None)) for config in configs}))


def _arithmetic(device: torch.device) -> str:
    """Name where a model computes, and whether products are rounded there."""
    return f" on {device.type}, {torch.get_float32_matmul_precision()}, {torch.backends.cudnn.allow_tf32}"


def _processor(task: Task) -> str:
    """Hash the files that the processor saves: all that decides how inputs are made."""
    if task.processor is None:
        return "none"
    with tempfile.TemporaryDirectory() as folder:
        task.processor.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        state = hashlib.blake2b(digest_size=16)
        for file in files:
            state.update(file.name.encode() + file.read_bytes())
    return state.hexdigest()
