"""The name of what is kept: a hash of all that frozen activations are known to depend on."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from hf_ft.task import Task

# What decides how a frozen part computes, beside the task's own code.
FORWARD = (
    "hf_ft.activations.cached_rows",
    "hf_ft.model.forward",
    "hf_ft.model.freeze",
    "hf_ft.model.memory_format",
    "hf_ft.model.mixed_precision",
)


def network_key(task: Task, plan: Plan, frozen_fingerprint: str, model: Any, precision: str) -> str:
    """Name all but the rows that kept activations depend on, as one hash.

    Args:
        task: fitted, and loaded.
        plan: what is kept.
        frozen_fingerprint: hash of every frozen tensor of the model.
        model: for its configuration.
        precision: name of the number format that the model runs in.
    """
    return hash_of(
        [
            task_source_hash(task),
            repr(task.loss_options),
            json.dumps(task.state(), sort_keys=True, default=str),
            _processor(task),
            plan.signature,
            frozen_fingerprint,
            model.config.to_json_string() + _attention(model),
            precision + _arithmetic(model),
            user_source_hash(type(module) for module in model.modules()),
            *versions(COMPUTING),
            package_source_hash(FORWARD),
        ]
    )


def store_key(network: str, rows: EncodedRows, content: str) -> str:
    """Name all that the kept activations of a split depend on, as one hash.

    Args:
        network: from `network_key`.
        rows: encoded on the fly.
        content: hash of what the raw rows hold.
    """
    random = repr((rows.task.augment, rows.seed, rows.views)) if rows.chance else "not random"
    return hash_of([network, content, random, *rows.ids])


def _attention(model: Any) -> str:
    """Name the attention of every part: parts may have configurations of their own."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    return repr(sorted({str(getattr(config, "_attn_implementation", None)) for config in configs}))


def _arithmetic(model: Any) -> str:
    """Name where a model computes, and whether products are rounded there."""
    device = next(model.parameters()).device.type
    return f" on {device}, {torch.get_float32_matmul_precision()}, {torch.backends.cudnn.allow_tf32}"


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
