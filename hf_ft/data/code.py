"""The code that something was computed with, as text: what is kept of it belongs to that code (ds#3297)."""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_ft.task import Task

HF_FT = Path(__file__).parents[1]


def code_of(task: Task) -> str:
    """Name all that a task makes of a row depends on besides the row: versions, options, and the code."""
    kind = type(task)
    modules = {module for base in kind.__mro__ if (module := inspect.getmodule(base)) and base is not object}
    sources = [*(HF_FT / "data").glob("*.py"), *(HF_FT / "tasks").glob("_*.py")]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("datasets", "numpy", "pillow")]
    code = _texts([*sources, *_files(modules)])
    return "\n".join([kind.__module__, kind.__qualname__, repr(task.options), *versions, *code])


def own_code_of(kinds: Iterable[type]) -> list[str]:
    """Give the source of classes that are not installed: a user's own, or of a repository on the Hub."""
    kinds = set(kinds)
    modules = {module for kind in kinds if (module := inspect.getmodule(kind)) and _is_own(module)}
    # Of a script that runs, or a notebook, there is only the class itself.
    started = sorted(_source(kind) for kind in kinds if kind.__module__ == "__main__")
    return [*_texts(_files(modules)), *started]


def _texts(files: Iterable[Path]) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(set(files))]


def _files(modules: set[ModuleType]) -> list[Path]:
    """Give the files of modules, and of those of a user's own that they take something from."""
    found: set[ModuleType] = set()
    waiting = [module for module in modules if module.__name__ != "__main__"]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        for value in list(vars(module).values()):
            origin = value if isinstance(value, ModuleType) else sys.modules.get(_home(value))
            if origin is not None and _is_own(origin):
                waiting.append(origin)
    return [Path(str(module.__file__)) for module in found]


def _is_own(module: ModuleType) -> bool:
    """Tell whether a module is a file of a user's own; installed ones, and hf_ft, have versions."""
    installed = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    file = str(getattr(module, "__file__", None) or "")
    return file.endswith(".py") and not file.startswith((*installed, str(HF_FT)))


def _home(value: Any) -> str:
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) and name != "__main__" else ""


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return kind.__qualname__
