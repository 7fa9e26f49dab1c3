"""Save a plain Hugging Face folder that holds all that prediction needs, complete or not at all.

model/     config.json, model.safetensors, the processor, task.json; with an adapter: merged
adapter/   only for adapters, beside it: the adapter, the same task.json, and the base it belongs to, pinned
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import ModelError
from hf_ft.model.load import quiet, resolve
from hf_ft.storage.atomic import new_folder

if TYPE_CHECKING:
    from hf_ft.model.freeze import Frozen
    from hf_ft.task import Task

TASK_FILE = "task.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".msgpack")


def save_model(
    model: Frozen | Any, task: Task, folder: str | Path, source: Mapping[str, Any] | None = None
) -> Path:
    """Save a model with its processor and its task; an adapted one merged here, its adapter in `../adapter`.

    Args:
        model: what `freeze` returned, or a transformers model.
        task: the fitted task; its state and options are saved with the model.
        folder: where to; replaced as a whole if it is there.
        source: `Loaded.source`, needed for an adapter: the base that it belongs to.

    Returns:
        The folder.

    Raises:
        ModelError: the adapter cannot be merged, its base is not known, or not everything was written.
    """
    from hf_ft.model.adapters import merged
    from hf_ft.model.freeze import Frozen

    folder = Path(folder)
    adapted = isinstance(model, Frozen) and model.adapted
    network: Any = model.model if isinstance(model, Frozen) else model
    if adapted and source is None:
        raise ModelError("an adapter is saved with the base it belongs to; pass source=Loaded.source")
    plain = merged(network) if adapted else network
    with new_folder(folder) as fresh, quiet():
        plain.save_pretrained(fresh)
        _save_rest(task, fresh, source and _without_path(source))
        _check_complete(plain, fresh)
    if adapted and source is not None:
        with new_folder(folder.parent / "adapter") as fresh, quiet():
            _save_adapter(network, plain.config, fresh, source)
            _save_rest(task, fresh, {**source, "name": local_path(source["name"])})
    return folder


def _save_adapter(network: Any, config: Any, folder: Path, source: Mapping[str, Any]) -> None:
    settings = network.peft_config["default"]
    # PEFT and transformers know no `sample:` names, and look for a relative path from where they are called.
    settings.base_model_name_or_path = local_path(resolve(source["name"]))
    settings.revision = source["commit"] or source["revision"]
    network.save_pretrained(folder)
    (folder / "README.md").unlink(
        missing_ok=True
    )  # PEFT's empty card; hf_ft writes its own where it publishes
    config.save_pretrained(folder)


def local_path(name: str) -> str:
    """Give the absolute path of a local folder, and any other name as it is."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def _without_path(source: Mapping[str, Any]) -> dict[str, Any]:
    """A model folder is given away; of a local checkpoint it tells the name, and not where it lies."""
    name = str(source["name"])
    return {**source, "name": Path(name).name if Path(name).is_dir() else name}


def _save_rest(task: Task, folder: Path, source: Mapping[str, Any] | None) -> None:
    from transformers import TimmWrapperImageProcessor

    # A TimmWrapper's processor lives in the model's config.json.
    if task.processor is not None and not isinstance(task.processor, TimmWrapperImageProcessor):
        task.processor.save_pretrained(folder)
    content = {
        "task": task_name(task),
        # In a recipe the options stand beside the task's name, which is not one of them.
        "options": task.options.model_dump(mode="json", include=set(type(task).Options.model_fields)),
        "state": task.state(),
        "source": dict(source) if source else None,
        "hf_ft": version("hf-ft"),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / TASK_FILE).write_text(text + "\n", encoding="utf-8")
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in PICKLES]
    if found:
        raise ModelError(
            f"{folder}: {', '.join(found)} may hold a pickle, which hf_ft neither writes nor loads"
        )


def task_name(task: Task) -> str:
    """The name under which `get_task` finds a task's class again."""
    cls = type(task)
    return task.name if cls.__module__.startswith("hf_ft.tasks.") else f"{cls.__module__}:{cls.__qualname__}"


def _check_complete(model: Any, folder: Path) -> None:
    """The files must hold as many numbers as the model has weights (peft#2054 saved next to none)."""
    from safetensors import safe_open

    written = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        written += sum(_product(shape) for shape in shapes)
    expected = sum(parameter.numel() for parameter in model.parameters())
    if written < expected:
        raise ModelError(f"{folder}: {written:,} numbers were saved, the model has {expected:,} parameters")


def _product(shape: list[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result
