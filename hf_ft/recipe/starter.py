"""Write the commented recipe of `hf-ft init` from the docstrings of the schema."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic.fields import FieldInfo

from hf_ft.recipe.schema import (
    CacheSection,
    DataSection,
    EvaluateSection,
    FreezeSection,
    ModelSection,
    PublishSection,
    Recipe,
    Section,
    TrainSection,
)

if TYPE_CHECKING:
    from hf_ft.task import Task

# The values that the user must fill in.
PLACEHOLDERS = {"source": "path/to/data", "name": "path/or/hub-id"}
# section -> keys that a new recipe sets. Without a test split, the final metric would be measured on the rows
# that chose the checkpoint.
SUGGESTED = {"split": {"test": "0.2  # drawn from train where the source has no test split"}}
WIDTH = 100


def starter(task: type[Task], name: str) -> str:
    """Write a recipe in which every key of the schema has an explanation and its default.

    Args:
        task: the task.
        name: the name of the task in the recipe: `image-classification`, or `package.module:Class`.
    """
    sections: dict[str, type[Section]] = {
        "data": DataSection,
        "model": ModelSection,
        "freeze": FreezeSection,
        "augment": task.Augment,
        "loss": task.Loss,
        "train": TrainSection,
        "cache": CacheSection,
        "evaluate": EvaluateSection,
        "publish": PublishSection,
    }
    roles = "; ".join(f"{role}: {about.help}" for role, about in task.roles.items())
    lines = [
        f"# {name}: {task.summary.rstrip('.')}.",
        "# Check: hf-ft check THIS_FILE    Run: hf-ft run THIS_FILE [key=value ...]",
        "# A key behind a # has the default that is shown; remove the # to change it.",
        "",
    ]
    if task.Options.model_fields:
        lines += ["task:", f"  name: {name}", *fields(task.Options, "  ")]
    else:
        lines += [f"task: {name}"]
    for key in ("name", "output_dir", "seed", "seeds"):
        lines += ["", *one_field(key, Recipe.model_fields[key], "")]
    for key, section in sections.items():
        if section.model_fields:
            lines += ["", *comment((section.__doc__ or "").partition("\n")[0], ""), f"{key}:"]
            lines += comment(f"Roles of this task: {roles}.", "  ") if key == "data" else []
            lines += fields(section, "  ")
    return "\n".join(lines) + "\n"


def fields(
    section: type[Section], indent: str, live: bool = True, suggested: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Write the fields of a section; suggested ones are set, the others are behind a #."""
    for name, field in section.model_fields.items():
        if suggested and name in suggested:
            yield from comment(field.description or "", indent)
            yield f"{indent}{name}: {suggested[name]}"
        else:
            yield from one_field(name, field, indent, live)


def one_field(name: str, field: FieldInfo, indent: str, live: bool = True) -> Iterator[str]:
    """Write the docstring of a field, and the field itself: behind a #, unless it must be filled in."""
    yield from comment(field.description or "", indent)
    default = field.get_default(call_default_factory=True)
    if name in SUGGESTED and live:
        yield f"{indent}{name}:"
        yield from fields(type(default), f"{indent}  ", suggested=SUGGESTED[name])
    elif isinstance(default, Section):
        yield f"{indent}# {name}:"
        yield from fields(type(default), f"{indent}#   ", live=False)
    elif not field.is_required():
        yield f"{indent}{'' if not live else '# '}{name}: {yaml_value(default)}".rstrip()
    elif name in PLACEHOLDERS and indent:
        yield f"{indent}{name}: {PLACEHOLDERS[name]}  # fill in"
    else:
        yield f"{indent}# {name}:"


def comment(text: str, indent: str) -> list[str]:
    """Wrap a text as comment lines."""
    return [f"{indent}# {line}" for line in textwrap.wrap(text, WIDTH)]


def yaml_value(value: Any) -> str:
    """Write a default value as YAML on one line."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value):
        return value
    return json.dumps(value, ensure_ascii=False)
