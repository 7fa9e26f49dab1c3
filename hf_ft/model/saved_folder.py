"""Find a saved model folder by its name, and load its task and an adapter with its base model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from hf_ft.data.hub_lookup import did_you_mean, why_not_on_hub
from hf_ft.errors import ModelError
from hf_ft.model.head import check_report
from hf_ft.model.load import fingerprint_without, resolve
from hf_ft.model.pretrained import find_class, from_pretrained
from hf_ft.model.save import TASK_FILE
from hf_ft.registry import get_task
from hf_ft.task import Task


def load_task(folder: Path, trust_task: str | None = None) -> tuple[Task, dict[str, Any]]:
    """Restore a fitted task from task.json.

    Args:
        folder: a model or adapter folder.
        trust_task: `package.module:Class` of a task that is not built in. A folder may name any module, and
            importing a module runs its code, so only the one that is named here is imported.

    Returns:
        The task, without its processor, and `Loaded.source`, which names the pretrained checkpoint.

    Raises:
        ModelError: task.json names a task that is neither built in nor trusted.
    """
    content = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
    name = content["task"]
    if ":" in name and name != trust_task:
        raise ModelError(
            f"{folder / TASK_FILE}: the task is {name!r}, whose code is not part of hf_ft and would be run; "
            f"if you trust it, pass trust_task={name!r} (hf-ft predict: --trust-task {name})"
        )
    task_class = get_task(name)
    task = task_class(task_class.Options.model_validate_json(json.dumps(content["options"])))
    task.restore(content["state"])
    return task, content["source"] or {}


def id_column_of(run_folder: Path) -> str | None:
    """Return `data.id` of the recipe in a run folder, or None if there is no recipe or no such key."""
    from hf_ft.recipe.yaml_text import read_yaml

    file = run_folder / "recipe.yaml"
    if not file.is_file():
        return None
    # The recipe is not validated: it may need files or packages that are only needed for training.
    data = read_yaml(file.read_text(encoding="utf-8"), str(file)).value.get("data")
    found: str | None = data.get("id") if isinstance(data, dict) else None
    return found


def find_folder(name: str | Path) -> Path:
    """Find the folder with task.json.

    Args:
        name: a model folder, an adapter folder, a run folder, or the id of a Hub repository, which is
            downloaded.

    Raises:
        ModelError: there is no such folder or repository, or it has no task.json.
    """
    for folder in (Path(name).expanduser(), Path(name).expanduser() / "model"):
        if (folder / TASK_FILE).is_file():
            return folder
    place = Path(resolve(str(name)))
    if not place.is_dir():
        place = _download(str(name))
    if not (place / TASK_FILE).is_file():
        raise ModelError(
            f"{name}: there is no {TASK_FILE} in it, so hf_ft did not save it; load it with transformers"
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
            f"{name}: there is no folder with {TASK_FILE} (current folder: {Path.cwd()}), and {reason}"
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
    """Load the base model of an adapter, check that its weights have not changed, and put the adapter on it.

    Args:
        auto_class: class of the base model, as for `load_model`.
        folder: the adapter folder.
        source: `Loaded.source` of the run, from task.json.

    Raises:
        ModelError: the base model cannot be loaded, or has other weights than in training.
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
            f"{folder}: the adapter was trained on other weights than {source['name']!r} has now; load the "
            f"merged model in the folder `model` beside it"
        )
    with warnings.catch_warnings():
        # PEFT calls transformers in a way that transformers warns of; a user can do nothing about it.
        warnings.simplefilter("ignore", FutureWarning)
        return peft.PeftModel.from_pretrained(base, str(folder))
