"""Divide a network into parts: stem, repeated blocks, layers after them, and head.

Freezing of the last blocks, the table of trainable parameters and eval mode of frozen modules all use these
parts. Blocks are found in the module tree; there is no table of model families.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from hf_ft.errors import ModelError

CONTAINERS = (nn.ModuleList, nn.Sequential)


@dataclass(frozen=True)
class Part:
    """A part of the network.

    Args:
        name: name of the module.
        kind: `block`: one of the repeated blocks; `head`: a module of the head; `own`: only the parameters
            that a module holds itself, while its children are parts (a class token); `other`: the stem, and
            modules between and after the blocks.
    """

    name: str
    kind: Literal["own", "other", "block", "head"]

    def holds(self, parameter: str) -> bool:
        """Tell whether a parameter, buffer or module of this name belongs to the part."""
        if self.kind == "own":
            return parameter.rpartition(".")[0] == self.name
        return parameter == self.name or parameter.startswith(f"{self.name}.")


def find_parts(model: nn.Module, heads: Sequence[str]) -> list[Part]:
    """Return the parts in the order in which the model registers them, which is that of the forward pass.

    Args:
        model: the model, not wrapped by an adapter.
        heads: names of the head's modules.
    """
    blocks = set(find_blocks(model, heads))

    def walk(module: nn.Module, name: str) -> Iterator[Part]:
        if any(True for _ in module.parameters(recurse=False)):
            yield Part(name, "own")
        for path, child in _children(module, name):
            if path in heads:
                yield Part(path, "head")
            elif path in blocks:
                yield Part(path, "block")
            elif any(inner.startswith(f"{path}.") for inner in (*blocks, *heads)):
                yield from walk(child, path)
            else:
                yield Part(path, "other")

    return list(walk(model, ""))


def find_blocks(model: nn.Module, heads: Sequence[str]) -> list[str]:
    """List the names of the repeated blocks of the body, first to last, over all stages.

    Blocks are the members of a module list whose members have layers inside (`encoder.layer.3`). If the
    members of the list are stages of different width, the blocks are inside them (`stages.2.layers.0`). In a
    network without such lists, the blocks are the members with weights of its longest nn.Sequential (VGG), or
    else the children of its trunk (Inception).

    Args:
        model: the model, not wrapped by an adapter.
        heads: names of the head's modules.
    """
    blocks = list(_stacks(model, "", heads))
    if blocks:
        return blocks
    plain = [
        _weighted(module, name) for name, module in model.named_modules() if isinstance(module, nn.Sequential)
    ]
    longest = max(plain, key=len, default=[])
    if len(longest) > 1:
        return [name for name, layer in longest if not _is_norm(layer) and not _overlaps(name, heads)]
    trunk, name = model, ""
    while len(inner := [pair for pair in _weighted(trunk, name) if pair[0] not in heads]) == 1 and any(
        inner[0][1].children()
    ):
        name, trunk = inner[0]
    return [path for path, _ in inner if not any(head.startswith(f"{path}.") for head in heads)]


def _stacks(module: nn.Module, name: str, heads: Sequence[str]) -> Iterator[str]:
    for path, child in _weighted(module, name):
        if path in heads:
            continue
        if isinstance(child, CONTAINERS) and any(_weighted(member) for _, member in _weighted(child)):
            yield from _unroll(child, path)
        else:
            yield from _stacks(child, path, heads)


def _unroll(container: nn.Module, name: str) -> Iterator[str]:
    members = _weighted(container, name)
    shapes = [[tuple(weight.shape) for weight in member.parameters()] for _, member in members]
    # Blocks have equal shapes, stages grow in width: two equal neighbours mean that the members are blocks.
    if any(one == other for one, other in itertools.pairwise(shapes)):
        yield from (path for path, _ in members)
        return
    for path, member in members:
        yield from _inner_blocks(member, path) or [path]


def _inner_blocks(member: nn.Module, path: str) -> list[str]:
    lists = [(path, member)] if isinstance(member, CONTAINERS) else _weighted(member, path)
    return [
        inner
        for name, child in lists
        if isinstance(child, CONTAINERS) and any(_weighted(one) for _, one in _weighted(child))
        for inner, _ in _weighted(child, name)
    ]


def last_parts(parts: Sequence[Part], n: int) -> list[Part]:
    """List the last n blocks, the parts between and after them, and the head.

    Args:
        parts: all parts of the model.
        n: number of blocks.

    Raises:
        ModelError: `n` is less than 1 or more than the number of blocks.
    """
    blocks = [index for index, part in enumerate(parts) if part.kind == "block"]
    if not 1 <= n <= len(blocks):
        raise ModelError(
            f"freeze.n: found {n}, but this model has {len(blocks)} blocks; write 1 to {len(blocks)}"
        )
    first = blocks[-n]
    return [
        part
        for index, part in enumerate(parts)
        if part.kind == "head" or (index >= first and part.kind != "own")
    ]


def part_of(name: str, parts: Sequence[Part]) -> Part | None:
    """Return the part that a parameter, buffer or module belongs to, or None."""
    # A part of kind `own` is tried last, because its name is a prefix of the names of other parts.
    return next(
        (part for part in sorted(parts, key=lambda part: part.kind == "own") if part.holds(name)), None
    )


def _children(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    return [(f"{name}.{key}" if name else key, child) for key, child in module.named_children()]


def _weighted(module: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    """List (name, child) for the children that have parameters."""
    return [(path, child) for path, child in _children(module, name) if any(True for _ in child.parameters())]


def _overlaps(name: str, heads: Sequence[str]) -> bool:
    """Tell whether a module is, holds, or lies in one of the head's modules."""
    return any(name == head or name.startswith(f"{head}.") or head.startswith(f"{name}.") for head in heads)


def _is_norm(layer: nn.Module) -> bool:
    return all(weight.ndim <= 1 for weight in layer.parameters())
