"""Saved folders: which one a name means, the task in it, and the model behind an adapter."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from hf_ft.data.hub_lookup import did_you_mean, why_not_on_hub
from hf_ft.errors import ModelError
from hf_ft.model.head import check_report
from hf_ft.model.load import find_class, fingerprint_without, from_pretrained, resolve
from hf_ft.model.save import TASK_FILE
from hf_ft.registry import get_task
from hf_ft.task import Task


def load_task(folder: Path) -> tuple[Task, dict[str, Any]]:
    """Restore a fitted task from task.json, and say which checkpoint its model started from.

    Args:
        folder: a model or adapter folder.

    Returns:
        The task, without its processor, and `Loaded.source`.
    """
    content = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
    task_class = get_task(content["task"])
    task = task_class(task_class.Options.model_validate_json(json.dumps(content["options"])))
    task.restore(content["state"])
    return task, content["source"] or {}


def id_column_of(run_folder: Path) -> str | None:
    """Give `data.id` of the recipe that a model folder lies beside, where there is one."""
    from hf_ft.recipe.yaml_text import read_yaml

    file = run_folder / "recipe.yaml"
    if not file.is_file():
        return None
    # Not checked as a recipe: what is needed for training is not needed here.
    data = read_yaml(file.read_text(encoding="utf-8"), str(file)).value.get("data")
    found: str | None = data.get("id") if isinstance(data, dict) else None
    return found


def find_folder(name: str | Path) -> Path:
    """Find the folder with task.json: a model or adapter folder, a run's model, or a Hub repository.

    Raises:
        ModelError: there is none.
    """
    for folder in (Path(name).expanduser(), Path(name).expanduser() / "model"):
        if (folder / TASK_FILE).is_file():
            return folder
    place = Path(resolve(str(name)))
    if not place.is_dir():
        place = _download(str(name))
    if not (place / TASK_FILE).is_file():
        raise ModelError(
            f"{name}: no {TASK_FILE} in it, so it is no model that hf_ft saved; transformers can load it"
        )
    return place


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    reason = why_not_on_hub(name, "model", file=TASK_FILE)
    if reason is not None:
        saved = [file.parent for depth in ("*/", "*/*/", "*/*/*/") for file in Path().glob(depth + TASK_FILE)]
        runs = [str(folder.parent if folder.name == "model" else folder) for folder in saved]
        raise ModelError(
            f"{name}: there is no folder with {TASK_FILE} here (seen from {Path.cwd()}), and {reason}"
            f"{did_you_mean(name, {'{}': runs})}"
        )
    try:
        return Path(
            snapshot_download(name, ignore_patterns=["*.bin", "*.pt", "*.pth", "*.h5", "*.onnx", "*.msgpack"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{name}: neither a folder with {TASK_FILE} nor a model on the Hub: {reason}"
        ) from error


def load_adapter(auto_class: str, folder: Path, source: dict[str, Any]) -> Any:
    """Load the base that an adapter was trained on, check that it is the same, and put the adapter on it.

    Args:
        auto_class: class of the base.
        folder: of the adapter.
        source: `Loaded.source` of the run, from task.json.

    Raises:
        ModelError: the base is not there, or holds other weights than those of training.
    """
    import peft
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    name, revision = resolve(source["name"]), source["commit"] or source["revision"]
    base, report = from_pretrained(
        find_class(auto_class), name, source["name"], config=config, revision=revision
    )
    new, _ = check_report(base, report, source["name"])
    content = fingerprint_without(base, new)
    if content != source["content"]:
        raise ModelError(
            f"{folder}: the adapter was trained on other weights than {source['name']!r} holds now; "
            f"load the merged model beside it"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # between PEFT and transformers; no user can act on it
        return peft.PeftModel.from_pretrained(base, str(folder))
