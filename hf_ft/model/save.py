"""Save a model as a Hugging Face folder with everything that prediction needs; it is written atomically.

model/     config.json, model.safetensors, the processor, task.json; an adapter is merged
adapter/   only if there is an adapter: the adapter, the same task.json, name and revision of the base model
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.causes import naming
from hf_ft.errors import ModelError
from hf_ft.model.load import resolve
from hf_ft.model.pretrained import quiet
from hf_ft.storage.atomic import new_folder, read_json, write_json

if TYPE_CHECKING:
    from hf_ft.model.freeze import Frozen
    from hf_ft.task import Task

TASK_FILE = "task.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".msgpack")


def save_model(
    model: Frozen | Any, task: Task, folder: str | Path, source: Mapping[str, Any] | None = None
) -> Path:
    """Save a model with its processor and its task; an adapter is merged, and also saved in `../adapter`.

    Args:
        model: the result of `freeze`, or a transformers model.
        task: the fitted task; its state and options are saved with the model.
        folder: the model folder; an existing folder is replaced as a whole.
        source: `Loaded.source`, which names the base model; required for an adapter.

    Returns:
        The folder.

    Raises:
        ModelError: the adapter cannot be merged, `source` is missing, or not all weights were written.
    """
    from hf_ft.model.adapters import merged
    from hf_ft.model.freeze import Frozen

    folder = Path(folder)
    adapted = isinstance(model, Frozen) and model.adapted
    network: Any = model.model if isinstance(model, Frozen) else model
    if adapted and source is None:
        raise ModelError("an adapter is saved with the name of its base model; pass source=Loaded.source")
    plain = merged(network) if adapted else network
    size = sum(tensor.nbytes for tensor in plain.state_dict().values())
    with new_folder(folder) as fresh, naming(folder, size), quiet():
        plain.save_pretrained(fresh)
        _save_task(task, fresh, source and _without_path(source))
        _remove_code(fresh)
        _check_complete(plain, fresh)
    if adapted and source is not None:
        with new_folder(folder.parent / "adapter") as fresh, quiet():
            _save_adapter(network, plain.config, fresh, source)
            _save_task(task, fresh, {**source, "name": local_path(source["name"])})
            _remove_code(fresh)
    return folder


def _remove_code(folder: Path) -> None:
    """Remove Python files and `auto_map`, which transformers copies from a base model with code of its own.

    hf_ft loads models without such code (`trust_remote_code=False`), so the saved folder works without it.
    """
    for path in folder.glob("*.py"):
        path.unlink()
    for path in folder.glob("*.json"):
        content = read_json(path, dict)
        if content is not None and content.pop("auto_map", None) is not None:
            write_json(path, content, indent=2)


def _save_adapter(network: Any, config: Any, folder: Path, source: Mapping[str, Any]) -> None:
    settings = network.peft_config["default"]
    # PEFT and transformers know no `sample:` names, and resolve relative paths against the current folder.
    settings.base_model_name_or_path = local_path(resolve(source["name"]))
    settings.revision = source["commit"] or source["revision"]
    network.save_pretrained(folder)
    # PEFT writes an empty model card; hf_ft writes its own when the model is published.
    (folder / "README.md").unlink(missing_ok=True)
    config.save_pretrained(folder)


def local_path(name: str) -> str:
    """Return the absolute path if a name is a local folder, else the name itself."""
    return str(Path(name).absolute()) if Path(name).is_dir() else name


def _without_path(source: Mapping[str, Any]) -> dict[str, Any]:
    """Shorten the path of a local checkpoint to its last part, because model folders are published."""
    name = str(source["name"])
    return {**source, "name": Path(name).name if Path(name).is_dir() else name}


def _save_task(task: Task, folder: Path, source: Mapping[str, Any] | None) -> None:
    """Save the processor and task.json, and check that no file may hold a pickle."""
    # The settings of a TimmWrapper's processor are in the model's config.json. Its class is compared by name,
    # because importing it imports timm.
    if task.processor is not None and type(task.processor).__name__ != "TimmWrapperImageProcessor":
        task.processor.save_pretrained(folder)
    content = {
        "task": task_name(type(task)),
        # In a recipe, the name of the task stands among its options, but it is not one of them.
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


def task_name(kind: type[Task]) -> str:
    """Return the name with which `get_task` finds the class of a task, as it stands in task.json."""
    if kind.__module__.startswith("hf_ft.tasks."):
        return kind.name
    return f"{kind.__module__}:{kind.__qualname__}"


def _check_complete(model: Any, folder: Path) -> None:
    """Check that the files hold as many numbers as the model has parameters (peft#2054 saved almost none)."""
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
