"""Read YAML 1.2 as plain values, with the line of every key.

This module reads ruamel.yaml's nodes itself, because a recipe allows less than YAML and needs line numbers.
Every key is text; every scalar is null, a boolean, a number or text; there are no dates and no tags. Values
that YAML readers interpret differently (`010`, `2016-01-04`, a key that is written twice) are errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionStartEvent, ScalarEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hf_ft.errors import RecipeError

MAXIMUM_DEPTH = 20
MAXIMUM_VALUES = 20_000
MAXIMUM_DIGITS = 100

WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
WHOLE = re.compile(r"[-+]?[0-9]+")
REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
LEADING_ZERO = re.compile(r"[-+]?0[0-9][0-9_]*(\.[0-9]*)?")
DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")

# Problems that the parser finds at the end of the text, although the mistake is where the context begins.
NEVER_CLOSED = re.compile("quoted scalar|flow sequence|flow mapping|simple key")

Path = tuple[str | int, ...]


@dataclass
class Document:
    """The text of a recipe as plain values, with the places of its keys.

    Args:
        value: plain mappings, lists and scalars.
        label: name of the source in messages: the path of the file as the user wrote it.
        lines: path of a key or list entry -> line (from 1); empty where the recipe is not text.
        overrides: path -> the override `key=value` that set it.
        problems: (path, message) for each problem of the text itself.
    """

    value: Any
    label: str
    lines: dict[Path, int] = field(default_factory=dict)
    overrides: dict[Path, str] = field(default_factory=dict)
    problems: list[tuple[Path, str]] = field(default_factory=list)

    def place(self, path: Path) -> str:
        """Return file and line of a path, or the override that set it; else those of its nearest parent."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return f"override {self.overrides[path[:length]]}"
            if path[:length] in self.lines:
                return f"{self.label}:{self.lines[path[:length]]}"
        return self.label

    def line(self, path: Path) -> int:
        """Return the line of a path, to sort messages by; overrides come last."""
        ancestors = [path[:length] for length in range(len(path), 0, -1)]
        if any(part in self.overrides for part in ancestors):
            return len(self.lines) + 10**6
        return next((self.lines[part] for part in ancestors if part in self.lines), 0)


def read_yaml(text: str, label: str) -> Document:
    """Read one YAML document.

    Raises:
        RecipeError: the text is not YAML, or has tags, deep nesting, recursive aliases or too many values.
            Problems that can be reported together with other errors are in `Document.problems` instead.
    """
    try:
        bound_depth(text, label)
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        opened = error.context_mark is not None and NEVER_CLOSED.search(f"{error.context} {error.problem}")
        mark = error.context_mark if opened else error.problem_mark
        raise RecipeError(f"{label}:{mark.line + 1 if mark else 1}: {explain_syntax(error, text)}") from error
    except YAMLError as error:
        raise RecipeError(f"{label}: not YAML: {str(error).splitlines()[0]}") from error
    document = Document(None, label)
    if node is not None:
        document.value = Reader(document).read(node, ())
    return document


def bound_depth(text: str, label: str) -> None:
    """Refuse tags and deep nesting before the recursive part of the parser runs."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        kind, line = type(event).__name__, event.start_mark.line + 1 if event.start_mark else 1
        depth += kind.endswith(("MappingStartEvent", "SequenceStartEvent"))
        depth -= kind.endswith(("MappingEndEvent", "SequenceEndEvent"))
        if depth > MAXIMUM_DEPTH:
            raise RecipeError(
                f"{label}:{line}: nested more than {MAXIMUM_DEPTH} levels deep; a recipe needs four levels"
            )
        if isinstance(event, (ScalarEvent, CollectionStartEvent)) and event.tag is not None:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            raise RecipeError(
                f"{label}:{line}: found the tag {tag}; tags are not allowed, write the plain value"
            )


def explain_syntax(error: MarkedYAMLError, text: str) -> str:
    """Explain a syntax error of the parser."""
    found = error.problem or ""
    mark = error.problem_mark
    rest = text.splitlines()[mark.line][mark.column :] if mark and mark.line < len(text.splitlines()) else ""
    if "'\\t'" in found:
        return "found a tab; indent with spaces"
    if "mapping values are not allowed" in found:
        return "found a second `:` or a wrong indentation; put text that holds `: ` in quotes"
    if "but found another document" in found:
        return "found a second document after `---`; a recipe is one document"
    if "undefined alias" in found:
        alias = rest.split()[0] if rest else "an alias"
        return f"found the alias {alias} without an anchor; put text that begins with * in quotes"
    if "cannot start any token" in found:
        return f"found {rest[:1]!r} at the start of a value; put the text in quotes"
    if "unexpected end of stream" in found:
        return "found a quote that is never closed"
    if "flow sequence" in (error.context or ""):
        return "found a `[` that is never closed, or an entry without a comma"
    if "flow mapping" in (error.context or ""):
        return "found a `{` that is never closed, or an entry without a comma"
    if "could not find expected ':'" in found:
        return "found a key without `:`"
    if "block mapping" in (error.context or "") or "<document start>" in found:
        return "this line does not continue the lines above; check its indentation, and the quotes before it"
    return f"not YAML: {'; '.join(part for part in (error.context, found) if part)}"


class Reader:
    """Turns nodes into plain values, and records lines and problems in the document."""

    def __init__(self, document: Document):
        self.document = document
        self.open: set[int] = set()
        self.values = 0

    def read(self, node: Node, path: Path) -> Any:
        """Read a node and everything below it."""
        label, line = self.document.label, node.start_mark.line + 1
        self.values += 1
        if self.values > MAXIMUM_VALUES:
            raise RecipeError(
                f"{label}:{line}: more than {MAXIMUM_VALUES} values, repeated aliases included; write fewer"
            )
        self.document.lines.setdefault(path, line)
        if isinstance(node, ScalarNode):
            return self.scalar(node, path)
        if id(node) in self.open:
            raise RecipeError(f"{label}:{line}: an alias contains itself; write the values out")
        self.open.add(id(node))
        if isinstance(node, SequenceNode):
            value: Any = [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, MappingNode):
            value = self.mapping(node, path)
        self.open.remove(id(node))
        return value

    def mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        """Read a mapping; keys are always text, so that `no: 1` and `010: 1` keep their names."""
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                raise RecipeError(
                    f"{self.document.label}:{line}: found a list or mapping as a key; a key must be text"
                )
            key = key_node.value
            if key in found:
                first = self.document.lines[(*path, key)]
                self.document.problems.append(
                    ((*path, key), f"given twice, on lines {first} and {line}; keep one")
                )
                continue
            self.document.lines[(*path, key)] = line
            found[key] = self.read(value_node, (*path, key))
        return found

    def scalar(self, node: ScalarNode, path: Path) -> Any:
        """Read a scalar by the core schema of YAML 1.2; anything in quotes is text."""
        text = node.value
        if node.style is not None:
            return text
        if DATE.fullmatch(text):
            self.document.problems.append(
                (path, f"found {text}, which some YAML readers read as a date; write '{text}'")
            )
        elif LEADING_ZERO.fullmatch(text):
            number = text.lstrip("+-0_") or "0"
            advice = f"write '{text}' for text, {number} for the number"
            self.document.problems.append((path, f"found {text}, a number with a leading zero; {advice}"))
        elif text in WORDS:
            return WORDS[text]
        elif len(text) > MAXIMUM_DIGITS:
            return text
        elif WHOLE.fullmatch(text):
            return int(text)
        elif BASED.fullmatch(text):
            return int(text, 0)
        elif REAL.fullmatch(text):
            return float(text)
        elif NOT_FINITE.fullmatch(text):
            return float(text.replace(".", ""))
        return text
