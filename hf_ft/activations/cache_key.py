"""The key of cached activations: a hash of everything that they are known to depend on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import torch

from hf_ft.model.load import processor_hash
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

# Modules of hf_ft, beside the task's own code, that decide what the frozen modules compute.
FORWARD = (
    "hf_ft.activations.cached_rows",
    "hf_ft.model.forward",
    "hf_ft.model.freeze",
    "hf_ft.model.memory_format",
    "hf_ft.model.mixed_precision",
    "hf_ft.model.passes",
)


def network_key(passes: Passes, plan: Plan, frozen: str) -> str:
    """Hash everything except the rows that cached activations depend on.

    Args:
        passes: runs the model.
        plan: the plan whose slots are cached.
        frozen: hash of every frozen tensor of the model.
    """
    task, model = passes.task, cast(Any, passes.model)
    return hash_of(
        [
            task_source_hash(task),
            repr(task.loss_options),
            json.dumps(task.state(), sort_keys=True, default=str),
            processor_hash(task.processor),
            plan.signature,
            frozen,
            model.config.to_json_string() + _attention_names(model),
            passes.precision + _device_settings(passes.device),
            user_source_hash(type(module) for module in model.modules()),
            *versions(COMPUTING),
            package_source_hash(FORWARD),
        ]
    )


def store_key(network: str, rows: EncodedRows, content: str) -> str:
    """Hash everything that the cached activations of a split depend on.

    Args:
        network: result of `network_key`.
        rows: encoded from their inputs.
        content: hash of the content of the raw rows.
    """
    random = repr((rows.task.augment, rows.seed, rows.views)) if rows.is_random else "not random"
    return hash_of([network, content, random, *rows.ids])


def _attention_names(model: Any) -> str:
    """List the attention implementations of the model; its submodels may have configurations of their own."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    return repr(sorted({str(getattr(config, "_attn_implementation", None)) for config in configs}))


def _device_settings(device: torch.device) -> str:
    """Name the device and its settings for the precision of matrix products."""
    backends: Any = torch.backends
    parts = (backends, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    return f" on {device.type}, {[part.fp32_precision for part in parts]}"
