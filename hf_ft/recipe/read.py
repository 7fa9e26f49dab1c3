"""Read a recipe (file, mapping or Recipe) with overrides, and check it: a Recipe, or all of its errors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from hf_ft.errors import RecipeError
from hf_ft.recipe.library_arguments import peft_methods, unusable_method, usable_methods
from hf_ft.recipe.messages import describe, explain, one_of
from hf_ft.recipe.reserved_keys import REMOTE_CODE, REMOTE_CODE_ADVICE, SECRET_ADVICE, SECRETS
from hf_ft.recipe.schema import IN_MEMORY, Recipe
from hf_ft.recipe.task_schema import STRATEGIES, recipe_model
from hf_ft.recipe.yaml_text import MAXIMUM_DEPTH, Document, Path, read_yaml

if TYPE_CHECKING:
    from hf_ft.task import Task

# `augment: light` is short for `augment: {policy: light}`.
SHORTHANDS = {"task": "name", "freeze": "strategy", "augment": "policy"}
SECTIONS = ("task", "data", "model", "freeze", "augment", "loss", "train", "cache", "evaluate", "publish")
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
MAXIMUM_BYTES = 1_000_000


def load_recipe(
    source: str | FilePath | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    *,
    in_memory: bool = False,
) -> Recipe:
    """Read and check a recipe.

    Args:
        source: path of a YAML file, the recipe as a mapping, or a Recipe (to change it by overrides).
        overrides: `key.path=value`, the value in YAML; they are applied before the recipe is checked.
        in_memory: whether the rows are passed in Python (`data=`) instead of `data.source`.

    Returns:
        The recipe, with the task's own sections and every default filled in.

    Raises:
        RecipeError: the recipe is not valid; the message holds every error, one line each.

    Examples:
        >>> recipe = load_recipe(
        ...     {"task": "image-classification", "data": {"source": "photos"}, "model": {"name": "my-vit"}},
        ...     ["freeze.strategy=lora", "freeze.r=16"],
        ... )
        >>> recipe.freeze.method_options
        {'r': 16}
        >>> recipe.train.lr_scheduler_type
        'cosine'
    """
    document = read_document(source)
    if not isinstance(document.value, dict):
        what = "is empty" if document.value is None else "is not a mapping of keys and values"
        raise RecipeError(f"{document.label}: the recipe {what}; expected the sections {', '.join(SECTIONS)}")
    expand_shorthands(document)
    for override in overrides:
        apply_override(document, override)
    expand_shorthands(document)
    if in_memory:
        _take_rows_from_memory(document.value)
    return check_document(document)


def _take_rows_from_memory(value: dict[str, Any]) -> None:
    """Set `data.source` to the value for rows in Python; the section `data` may be missing."""
    if value.get("data") is None:
        value["data"] = {}
    if isinstance(value["data"], dict):
        value["data"]["source"] = IN_MEMORY


def check_document(document: Document) -> Recipe:
    """Validate a document, and raise one error with all problems."""
    value = document.value
    problems = [*document.problems, *forbidden(value, ())]
    task_class, name = find_task(value, problems)
    strategy = find_strategy(value, problems)
    fill_names(value, document.label, name)
    model = recipe_model(task_class, strategy)
    try:
        recipe = model.model_validate(value)
    except ValidationError as error:
        known = {path for path, text in problems if not text.startswith("given twice")}
        problems += [(path, text) for path, text in explain(error, value, model, name) if path not in known]
    task = None if task_class is None else make_task(value, task_class, problems)
    problems += () if task is None else wrong_metric(value, task)
    if problems:
        problems.sort(key=lambda item: document.line(item[0]))
        raise RecipeError("\n".join(message(document, path, text) for path, text in problems))
    return recipe


def message(document: Document, path: Path, text: str) -> str:
    """Write one line of the error: place, path, text."""
    key = ".".join(map(str, path))
    return printable(TOKEN.sub("hf_...", f"{document.place(path)}: {key}: {text}"))


def is_unicode(text: str) -> bool:
    """Tell whether text can be written as UTF-8; half of a pair of surrogates, from JSON, cannot."""
    return printable(text) == text


def printable(text: str) -> str:
    """Write what cannot be encoded as UTF-8 as an escape sequence."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read_document(source: str | FilePath | Mapping[str, Any] | Recipe) -> Document:
    """Read the source of a recipe as plain values."""
    if isinstance(source, Recipe):
        return Document(plain(source.resolved(), "recipe"), "recipe")
    if isinstance(source, Mapping):
        return Document(plain(source, "recipe"), "recipe")
    label = str(source)
    try:
        path = FilePath(source).expanduser()
    except RuntimeError as error:
        raise RecipeError(f"{printable(label)}: no such file ({error})") from error
    if not path.is_file():
        raise RecipeError(
            f"{label}: {'a folder, not a recipe file' if path.is_dir() else no_such_file(path)}"
        )
    data = path.read_bytes()
    if len(data) > MAXIMUM_BYTES:
        raise RecipeError(
            f"{label}: found {len(data):,} bytes; a recipe has at most {MAXIMUM_BYTES:,}. Is it a data file?"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise RecipeError(
            f"{label}:{line}: not UTF-8 (byte {data[error.start]:#04x}); save the file as UTF-8"
        ) from error
    document = read_yaml(text, label)
    if isinstance(document.value, dict) and isinstance(document.value.get("task"), (str, dict)):
        document.value.setdefault("name", re.sub(r"[^\w.-]+", "_", path.stem))
    return document


def no_such_file(path: FilePath) -> str:
    """Say that a file does not exist, and name the nearest file in the same folder."""
    beside = [item.name for item in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    return f"no such file; did you mean {path.parent / near[0]}?" if near else "no such file"


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """Convert a Python value to mappings, lists and scalars, so that it can be checked like YAML."""
    if depth > MAXIMUM_DEPTH:
        raise RecipeError(
            f"{where}: nested more than {MAXIMUM_DEPTH} levels deep; a recipe needs four levels"
        )
    if isinstance(value, Mapping):
        wrong = [key for key in value if not isinstance(key, str)]
        if wrong:
            raise RecipeError(f"{where}: found the key {wrong[0]!r}; a key is text")
        return {key: plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}.{index}", depth + 1) for index, item in enumerate(value)]
    return str(value) if isinstance(value, FilePath) else value


def expand_shorthands(document: Document) -> None:
    """Expand `task: name`, `freeze: strategy` and `augment: policy`; make an empty section a mapping."""
    value = document.value
    for section, key in SHORTHANDS.items():
        if isinstance(value.get(section), str):
            value[section] = {key: value[section]}
    for section in SECTIONS:
        if section in value and value[section] is None and section not in ("task", "data", "model"):
            value[section] = {}


def apply_override(document: Document, override: str) -> None:
    """Apply one override `key.path=value`; the value is read as YAML."""
    if not is_unicode(override):
        raise RecipeError(f"override {printable(override)}: not UTF-8; expected UTF-8 text")
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise RecipeError(
            f"override {override[:200]}: expected key.path=value, for instance train.learning_rate=1e-4"
        )
    shown = key if path[-1].lower() in SECRETS else TOKEN.sub("hf_...", override)
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    try:
        parsed = read_yaml(text, "")
    except RecipeError as error:
        raise RecipeError(f"override {shown}: {str(error).lstrip(':0123456789 ')}") from error
    target = document.value
    for depth, part in enumerate(path[:-1], start=1):
        if target.get(part) is None:
            target[part] = {}
            document.overrides.setdefault(path[:depth], shown)
        if not isinstance(target[part], dict):
            parent = ".".join(path[:depth])
            raise RecipeError(f"override {shown}: {parent} is not a mapping, so nothing can be set inside it")
        target = target[part]
    target[path[-1]] = parsed.value
    document.overrides[path] = shown
    # Problems of the value that the override replaces are dropped; problems of its own text are added.
    document.problems = [item for item in document.problems if item[0][: len(path)] != path]
    document.problems += [((*path, *inner), text) for inner, text in parsed.problems]


def find_task(value: dict[str, Any], problems: list[tuple[Path, str]]) -> tuple[type[Task] | None, str]:
    """Find the task's class; add a problem and return None if there is none."""
    from hf_ft.registry import get_task, list_tasks

    section = value.get("task")
    name = section.get("name") if isinstance(section, dict) else None
    if isinstance(name, str):
        try:
            return get_task(name), name
        except RecipeError as error:
            problems.append((("task",), str(error).removeprefix("task: ")))
    elif section is None or (isinstance(section, dict) and name is None):
        problems.append((("task",), f"missing; expected the name of a task: {', '.join(list_tasks())}"))
        value.setdefault("task", {})
    else:
        shape = "expected the name of a task, or {name: ..., <options of the task>}"
        problems.append((("task",), f"found {describe(section if name is None else name)}; {shape}"))
    return None, "task"


def find_strategy(value: dict[str, Any], problems: list[tuple[Path, str]]) -> str | None:
    """Find the freezing strategy; add a problem and return None if it does not exist."""
    section = value.get("freeze", {})
    strategy = section.get("strategy", "full") if isinstance(section, dict) else "full"
    path, known = ("freeze", "strategy"), (*STRATEGIES, *usable_methods())
    if not isinstance(strategy, str):
        expected = f"expected the name of a strategy: {', '.join(STRATEGIES)}, or a PEFT method"
        problems.append((path, f"found {describe(strategy)}; {expected}"))
        return None
    if strategy in known:
        return strategy
    if strategy in peft_methods():
        advice = "use lora, dora, ia3, vera, oft, ..."
        problems.append((path, f"{strategy} {unusable_method(strategy)}; {advice}"))
        return None
    near = difflib.get_close_matches(strategy.lower(), (*known, *peft_methods()), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
    problems.append((path, f"there is no strategy {strategy!r}; {hint}"))
    return None


def make_task(value: dict[str, Any], task_class: type[Task], problems: list[tuple[Path, str]]) -> Task | None:
    """Make the task from its sections; add a problem and return None where they contradict each other.

    A section that is not valid by itself is replaced by its defaults: its errors are reported elsewhere.
    """
    sections: list[Any] = []
    for name, schema in (
        ("task", task_class.Options),
        ("augment", task_class.Augment),
        ("loss", task_class.Loss),
    ):
        given = value.get(name)
        keys = {key: item for key, item in given.items() if key != "name"} if isinstance(given, dict) else {}
        try:
            sections.append(schema.model_validate(keys))
        except ValidationError:
            sections.append(None)
    try:
        return task_class(*sections)
    except ValidationError:
        return None  # an option without a default is missing
    except RecipeError as error:
        key, _, text = str(error).partition(": ")
        problems.append((tuple(key.split(".")), text))
        return None


def wrong_metric(value: dict[str, Any], task: Task) -> Iterator[tuple[Path, str]]:
    """Find a main metric whose direction is unknown, or contradicts `evaluate.mode` (tf#31142)."""
    section = value.get("evaluate")
    if not isinstance(section, dict):
        return
    directions, mode = task.greater_is_better, section.get("mode")
    metric = section.get("metric") or task.main_metric
    if not isinstance(metric, str):
        return
    if metric not in directions and mode is None:
        advice = "for one of evaluate.extra, write evaluate.mode: min or max"
        yield (
            ("evaluate", "metric"),
            f"found the metric {metric!r}; expected {one_of(directions, metric)}; {advice}",
        )
    if metric in directions and mode in ("min", "max") and directions[metric] != (mode == "max"):
        better = "higher" if directions[metric] else "lower"
        yield ("evaluate", "mode"), f"found {mode}, but {better} {metric} is better; remove the key"


def fill_names(value: dict[str, Any], label: str, task: str) -> None:
    """Fill in `name` and `output_dir` where they are missing."""
    if value.get("name") is None:
        value["name"] = re.sub(r"\W+", "_", task.rpartition(":")[2])
    if value.get("output_dir") is None:
        value["output_dir"] = f"runs/{value['name']}"


def forbidden(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Find secrets and keys that allow remote code, at any depth; messages never contain the secret."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not is_unicode(key):
                yield (*path, key), "the key holds half of a pair of surrogates and cannot be stored"
            elif key.lower() in SECRETS:
                yield (*path, key), f"not allowed: {SECRET_ADVICE}"
            elif key.lower() in REMOTE_CODE:
                yield (*path, key), f"not allowed: {REMOTE_CODE_ADVICE}"
            else:
                yield from forbidden(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from forbidden(item, (*path, index))
    elif isinstance(value, str) and TOKEN.search(value):
        yield path, f"found text that looks like a token of the Hub; {SECRET_ADVICE}"
    elif isinstance(value, str) and not is_unicode(value):
        yield path, f"found {value[:60]!r}, which holds half of a pair of surrogates and cannot be stored"
