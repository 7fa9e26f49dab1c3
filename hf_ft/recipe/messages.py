"""Turn pydantic's errors into messages: what was found, what was expected, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hf_ft.recipe.library_arguments import method_arguments, usable_methods
from hf_ft.recipe.reserved_keys import ALIASES, REMOVED, RESERVED
from hf_ft.recipe.schema import Recipe
from hf_ft.recipe.yaml_text import Path

# Pydantic's error types -> what was expected, filled in from the error's context.
EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping of keys and values",
    "model_attributes_type": "a mapping of keys and values",
    "none_required": "null",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
}


# Sections that people write as a single value -> the key that this value belongs to.
MAIN_KEYS: dict[str | int, str] = {
    "data": "source",
    "model": "name",
    "evaluate": "metric",
    "publish": "repo",
}


def explain(error: ValidationError, value: Any, model: type[Recipe], task: str) -> Iterator[tuple[Path, str]]:
    """Turn pydantic's errors into (path, message), one for each path.

    Args:
        error: the error that the validation raised.
        value: the recipe as plain values, after shorthands and overrides.
        model: the schema that the recipe was validated with.
        task: the task's name, for messages about its own sections.
    """
    grouped: dict[Path, list[Any]] = {}
    for item in error.errors(include_url=False, include_input=False):
        grouped.setdefault(real_path(item, value), []).append(item)
    for path, items in grouped.items():
        inside_union = any(len(item["loc"]) > len(path) for item in items)
        deeper = any(other[: len(path)] == path and len(other) > len(path) for other in grouped)
        # Where one member of a union fits up to a deeper key, only the message about that key is useful.
        if not (inside_union and deeper):
            yield path, explain_one(path, items, value, model, task)


def explain_one(path: Path, items: list[Any], value: Any, model: type[Recipe], task: str) -> str:
    """Write one message for all errors of one path."""
    kind, context = items[0]["type"], items[0].get("ctx", {})
    if kind == "extra_forbidden":
        return explain_unknown_key(path, value, model, task)
    if kind == "missing":
        return missing(path, model)
    if kind == "hf_ft":
        return str(context["message"])
    if kind in ("value_error", "assertion_error"):
        return str(context["error"])
    found = value_at(value, path)
    if all(item["type"] == "literal_error" for item in items):
        names = [name for item in items for name in literal_names(item)]
        return f"found {describe(found)}; expected {one_of(names, found)}"
    expected = list(dict.fromkeys(expectation(item) for item in items))
    return f"found {describe(found)}; expected {alternatives(expected)}{type_advice(path, found, expected)}"


def expectation(item: Any) -> str:
    """Say what one pydantic error expected."""
    if item["type"] == "literal_error":
        return one_of(literal_names(item), None)
    if item["type"] in EXPECTED:
        context = item.get("ctx", {})
        bounds = {key: f"{v:g}" if isinstance(v, float) and abs(v) < 1e6 else v for key, v in context.items()}
        return EXPECTED[item["type"]].format(**bounds)
    return str(item["msg"])


def real_path(item: Any, value: Any) -> Path:
    """Return the path in the recipe of an error: pydantic's location without the names of union members."""
    path: list[str | int] = []
    last = len(item["loc"]) - 1
    for index, part in enumerate(item["loc"]):
        inside = (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        )
        if inside:
            path.append(part)
            value = value[part]
        elif index == last and item["type"] == "missing":
            path.append(part)
    return tuple(path)


def value_at(value: Any, path: Path) -> Any:
    """Return the value at a path."""
    for part in path:
        value = value[part]
    return value


def describe(value: Any) -> str:
    """Describe a value together with its type: the text 'x', the number 5, true, null, a list."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value[:57] + '...' if len(value) > 60 else value!r}"
    if isinstance(value, (int, float)):
        return f"the number {str(value) if len(str(value)) <= 40 else str(value)[:37] + '...'}"
    if isinstance(value, (dict, list)):
        kind = "mapping" if isinstance(value, dict) else "list"
        return f"a {kind}" if value else f"an empty {kind}"
    return f"a Python {type(value).__name__}"


def type_advice(path: Path, found: Any, expected: list[str]) -> str:
    """Say how to correct a value of the wrong type, for the usual mistakes; "" for others."""
    wants = " ".join(expected)
    if isinstance(found, str):
        if "a mapping" in wants and path[-1] in MAIN_KEYS:
            return f"; write {path[-1]}: {{{MAIN_KEYS[path[-1]]}: {found}}}"
        if "a list" in wants:
            return f"; write [{found}]"
        if ("number" in wants or "at least" in wants) and re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", found):
            return "; remove the quotes"
        if "true or false" in wants and found.lower() in ("yes", "on", "no", "off", "true", "false"):
            return f"; write {'true' if found.lower() in ('yes', 'on', 'true') else 'false'} without quotes"
    if "text" in wants and "number" not in wants and isinstance(found, (int, float)):
        shown = str(found).lower() if isinstance(found, bool) else found
        return f"; for text, write '{shown}' in quotes"
    return ""


def alternatives(words: list[str]) -> str:
    """Join words with commas and `or`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def literal_names(item: Any) -> list[str]:
    """Take the allowed names out of a literal error."""
    return re.findall(r"'([^']*)'", item["ctx"]["expected"]) or [item["ctx"]["expected"]]


def one_of(names: Iterable[str], found: Any) -> str:
    """List names; of a long list, only the names that are similar to what was found."""
    names = list(dict.fromkeys(names))
    begins = [name for name in names if isinstance(found, str) and found and name.startswith(found)]
    near = (begins or difflib.get_close_matches(str(found), names, n=3, cutoff=0.6))[:3]
    hint = f"; did you mean {near[0]}?" if near else ""
    if len(names) == 1:
        return names[0]
    if len(names) > 14 and near:
        return f"one of {len(names)} names; the nearest are {alternatives(near)}"
    return f"one of {', '.join(names)}{hint}"


def explain_unknown_key(path: Path, value: Any, model: type[Recipe], task: str) -> str:
    """Say to which section an unknown key belongs, or which valid key is nearest."""
    key, section = str(path[-1]), ".".join(map(str, path[:-1]))
    parent = section_model(model, path[:-1])
    known = list(parent.model_fields)
    if section == "train" or not section:
        refused = RESERVED.get(key) or REMOVED.get(key)
        if refused:
            return f"not a recipe key: {refused}"
    if section == "freeze" and (explained := explain_freeze_key(key, value, known)):
        return explained
    elsewhere = [place for place in key_paths(key, model) if place != ".".join(map(str, path))]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if len(elsewhere) == 1 and not near:
        home = elsewhere[0].rpartition(".")[0] or "the top level"
        return f"unknown key here; it belongs to {home}: {elsewhere[0]}"
    if near:
        return f"unknown key; did you mean {near[0]}?"
    if key in ALIASES:
        return f"unknown key; write {ALIASES[key]}"
    if key in RESERVED or key in REMOVED:
        return f"not a recipe key: {RESERVED.get(key) or REMOVED[key]}"
    if elsewhere:
        return f"unknown key here; it belongs to {alternatives(elsewhere)}"
    if not known:
        return f"unknown key; the task {task} has no options in this section"
    return explain_distant_key(key, known, model)


def explain_distant_key(key: str, known: list[str], model: type[Recipe]) -> str:
    """Name the nearest key of the whole recipe, or list all keys of the section."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    everywhere = {place.rpartition(".")[2]: place for place in all_key_paths(model)}
    near = difflib.get_close_matches(key, everywhere, n=1, cutoff=0.8)
    if near:
        return f"unknown key; did you mean {everywhere[near[0]]}?"
    listed = (
        ", ".join(known)
        if len(known) <= 20
        else f"{', '.join(known[:12])}, ... (`hf-ft schema` lists them all)"
    )
    return f"unknown key; the keys here are {listed}"


def explain_freeze_key(key: str, value: Any, known: list[str]) -> str | None:
    """Explain a key of `freeze` that belongs to another strategy."""
    strategy = value["freeze"].get("strategy", "full") if isinstance(value["freeze"], dict) else "full"
    if strategy not in usable_methods():
        if key in method_arguments("lora"):
            return f"only PEFT methods (lora, dora, ia3, ...) have this key; freeze.strategy is {strategy}"
        return None
    if strategy == "dora" and key == "use_dora":
        return "dora is LoRA with use_dora: true; remove the key"
    if key in method_arguments("lora") and not difflib.get_close_matches(key, known, n=1, cutoff=0.75):
        return f"the strategy {strategy} does not have this key; its keys are {', '.join(known)}"
    return None


def key_paths(key: str, model: type[Recipe]) -> list[str]:
    """Find the paths of all keys with this name."""
    places = [place for place in all_key_paths(model) if place.rpartition(".")[2] == key]
    if not places and key in method_arguments("lora"):
        places = [f"freeze.{key}"]
    return places


def all_key_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Return the path of every key of a schema."""
    for name in model.model_fields:
        yield f"{prefix}{name}"
        inner = inner_model(model, name)
        if inner:
            yield from all_key_paths(inner, f"{prefix}{name}.")


def inner_model(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    """Return the section that a field holds, or None where it holds a plain value."""
    annotation = model.model_fields[name].annotation
    candidates = (annotation, *get_args(annotation))
    return next((item for item in candidates if isinstance(item, type) and issubclass(item, BaseModel)), None)


def section_model(model: type[BaseModel], path: Path) -> type[BaseModel]:
    """Return the section at a path."""
    for part in path:
        inner = inner_model(model, str(part)) if str(part) in model.model_fields else None
        model = inner or model
    return model


def missing(path: Path, model: type[Recipe]) -> str:
    """Describe a missing key or section with its docstring in the schema."""
    parent, name = section_model(model, path[:-1]), str(path[-1])
    section, description = inner_model(parent, name), parent.model_fields[name].description
    if section is not None and not description:
        text = (section.__doc__ or name).partition("\n")[0].rstrip(".")
        return f"missing section ({text[0].lower()}{text[1:]})"
    return f"missing; expected: {description.rstrip('.')}" if description else "missing"
