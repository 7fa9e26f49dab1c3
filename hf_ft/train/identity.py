"""Identity of a run: what its result depends on beside the recipe, compared before a checkpoint is resumed.

A checkpoint says how many rows it has learned, but does not hold them. Resumed with other rows, it would be
evaluated on rows that it has learned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from hf_ft.data.splits import hash_ids
from hf_ft.errors import TrainError
from hf_ft.model.load import processor_hash
from hf_ft.storage.atomic import read_json

if TYPE_CHECKING:
    from hf_ft.data.prepare import Prepared
    from hf_ft.task import Loaded, Task

FILE = "identity.json"


def identity_of(task: Task, prepared: Prepared, loaded: Loaded) -> dict[str, str]:
    """Describe rows, starting weights, configuration, processor and version, each with a hash of its content.

    Args:
        task: the fitted task, with its processor.
        prepared: the rows; their fingerprints cover ids, contents, targets and order.
        loaded: the model as it was loaded.
    """
    rows, left_out = prepared.info["fingerprints"], prepared.findings.left_out
    weights = loaded.source.get("content")
    return {
        **{f"rows of {split}": f"{prepared.info['sizes'][split]} rows, {rows[split]}" for split in rows},
        **{f"duplicates left out of {split}": hash_ids(list(gone)) for split, gone in left_out.items()},
        "starting weights": weights or "drawn at random",
        "model configuration": _config_hash(loaded.model),
        "processor": processor_hash(task.processor),
        "hf_ft": version("hf_ft"),
    }


def _config_hash(model: Any) -> str:
    """Hash the settings of a model that its weights do not show, such as dropout; `none` for no settings."""
    config = getattr(model, "config", None)
    if config is None:
        return "none"
    settings = json.loads(config.to_json_string(use_diff=False))
    # Where the model was read from, and with which version, is said elsewhere.
    for key in ("_name_or_path", "transformers_version"):
        settings.pop(key, None)
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16).hexdigest()


def require_same_identity(checkpoint: Path, now: Mapping[str, str]) -> None:
    """Refuse to resume from a checkpoint of other rows, weights, processor or version.

    Raises:
        TrainError: lists what differs, and the option that starts a new run.
    """
    found = [read_json(checkpoint / FILE, dict) if PartialState().is_main_process else None]
    broadcast_object_list(found)
    then = found[0]
    if then is None:
        raise TrainError(
            f"{checkpoint}: {FILE} is missing or damaged, so it is unknown which rows it learned"
        )
    differing = [
        f"  {what}: {then.get(what, 'absent')} then, {now.get(what, 'absent')} now"
        for what in [*now, *(what for what in then if what not in now)]
        if then.get(what) != now.get(what)
    ]
    if differing:
        raise TrainError(
            f"{checkpoint} was written with other data, weights or another version:\n"
            + "\n".join(differing)
            + "\nUndo the change, or start a new run with --resume never (in Python: resume='never')"
        )
