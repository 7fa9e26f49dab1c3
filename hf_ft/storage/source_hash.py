"""Hash of the source code that a cached value depends on, so that edited code computes it again (ds#3297).

The modules of hf_ft to hash are found by following import statements, also those inside functions. They are
not listed by hand: a file that moves would drop out of such a list without an error.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import inspect
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_ft.task import Task

PACKAGE = Path(__file__).parents[1]
# Modules that make items and batches of rows for every task.
ENCODING = ("hf_ft.data.dataset", "hf_ft.inputs.decoded_rows", "hf_ft.data.device")
# Packages that read rows; a new version may read them differently.
READERS = ("datasets", "numpy", "pillow")
# Packages that decode media and compute activations.
COMPUTING = ("torch", "torchvision", "transformers", "timm", "peft", "tokenizers", "pillow", "numpy")


def task_source_hash(task: Task) -> str:
    """Hash everything except the row itself that a task's encoding of a row depends on.

    This is the task's class, its options, the versions of the packages that read rows, and the source of all
    modules that the task and the encoding import.
    """
    kind = type(task)
    foreign = {module for module in _task_modules(task) if not in_package(module.__name__)}
    return hash_of(
        [
            f"{kind.__module__}:{kind.__qualname__}",
            repr(task.options),
            *versions(READERS),
            package_source_hash(task_modules(task)),
            *_read_texts(_files(foreign)),
        ]
    )


def task_modules(task: Task) -> list[str]:
    """List the modules of hf_ft that read and encode the rows of a task, without the modules they import."""
    # `auto_class` names a model class as text (`package.module:Class`), without an import statement.
    built_by = getattr(task, "auto_class", "").partition(":")[0]
    names = [*(module.__name__ for module in _task_modules(task)), built_by]
    return [*(name for name in names if in_package(name)), *ENCODING]


def package_source_hash(roots: Sequence[str], package: Path = PACKAGE) -> str:
    """Hash the source of modules of hf_ft and of every module of hf_ft that they import, at any depth.

    Args:
        roots: module names, such as `hf_ft.data.dataset`.
        package: folder of the package.

    Raises:
        FileNotFoundError: there is no module of one of these names.
    """
    return hash_of(_read_texts(package_sources(roots, package)))


def package_sources(roots: Sequence[str], package: Path = PACKAGE) -> list[Path]:
    """List the files of modules of hf_ft and of every module of hf_ft that they import, at any depth.

    Args:
        roots: module names, such as `hf_ft.data.dataset`.
        package: folder of the package.

    Returns:
        The files, sorted.

    Raises:
        FileNotFoundError: there is no module of one of these names.
    """
    found: set[Path] = set()
    waiting = [_file_of(root, package) for root in roots]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        waiting += [_file_of(name, package) for name in _imported_names(file.read_text(encoding="utf-8"))]
    return sorted(found)


def user_source_hash(kinds: Iterable[type]) -> str:
    """Hash the source of classes that belong to no installed package: the user's own, or from the Hub."""
    kinds = set(kinds)
    modules = {module for kind in kinds if (module := inspect.getmodule(kind)) and _is_user_module(module)}
    # The main script or a notebook has no module file to follow: only the class itself is hashed.
    started = sorted(_class_source(kind) for kind in kinds if kind.__module__ == "__main__")
    return hash_of([*_read_texts(_files(modules)), *started])


def versions(packages: Iterable[str]) -> list[str]:
    """Return `name version` for each package, or `name absent` if it is not installed."""
    return [f"{name} {_version(name)}" for name in packages]


def hash_of(parts: Sequence[str]) -> str:
    """Hash a sequence of texts to 24 hexadecimal digits."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=12).hexdigest()


def in_package(module: str) -> bool:
    """Tell whether a module belongs to hf_ft, by its name."""
    return module == PACKAGE.name or module.startswith(f"{PACKAGE.name}.")


def _task_modules(task: Task) -> list[ModuleType]:
    """List the modules of a task's class, of its input and targets, and of their base classes."""
    return [module for part in (task, *task.parts()) for module in _modules_of(type(part))]


def _modules_of(kind: type) -> list[ModuleType]:
    return [module for base in kind.__mro__ if base is not object and (module := inspect.getmodule(base))]


def _file_of(module: str, package: Path) -> Path:
    """Return the file of a module of hf_ft; `hf_ft.errors.DataError` gives the file of `hf_ft.errors`."""
    path = package.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py", path.parent.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    if (path.parent / "__init__.py").is_file():
        return path.parent / "__init__.py"
    raise FileNotFoundError(f"{module}: no such module below {package}")


@functools.lru_cache(maxsize=512)
def _imported_names(source: str) -> tuple[str, ...]:
    """List what a source text imports from hf_ft: names of modules, or of objects in modules."""
    found: list[str] = []
    for node in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # The imported name may be a module (`from hf_ft.train import checkpoints`) or an object in it
            # (`from hf_ft.errors import DataError`); `_file_of` finds the file of either.
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in found if in_package(name))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """List the statements below a node, at any depth, and their `except` and `case` parts; no expressions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield child
            yield from _statements(child)


def _read_texts(files: Iterable[Path]) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(set(files))]


def _files(modules: set[ModuleType]) -> list[Path]:
    """Return the files of modules, and of the user's own modules that they import something from."""
    found: set[ModuleType] = set()
    waiting = [module for module in modules if module.__name__ != "__main__"]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        for value in list(vars(module).values()):
            origin = value if isinstance(value, ModuleType) else sys.modules.get(_module_name(value))
            if origin is not None and _is_user_module(origin):
                waiting.append(origin)
    return [Path(str(module.__file__)) for module in found if getattr(module, "__file__", None)]


def _is_user_module(module: ModuleType) -> bool:
    """Tell whether a module belongs neither to the standard library, an installed package nor hf_ft."""
    installed = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    file = str(getattr(module, "__file__", None) or "")
    known = tuple(f"{folder}{os.sep}" for folder in (*installed, str(PACKAGE)))
    return file.endswith(".py") and not file.startswith(known)


def _module_name(value: Any) -> str:
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) and name != "__main__" else ""


def _class_source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return kind.__qualname__


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
