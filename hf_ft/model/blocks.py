"""Cut any network into its parts: stem, repeated blocks, what follows them, head.

Freezing the last blocks, the table of trainable parameters and the choice of what stays in eval mode all
speak of the same parts. No table of model families: the blocks are found in the module tree.
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
    """A stretch of the network.

    Args:
        name: path of the module.
        kind: `block` is one of the repeated blocks, `head` what the task added, `own` the parameters that a
            module above the parts holds itself (a class token), `other` the stem and what lies between and
            after the blocks.
    """

    name: str
    kind: Literal["own", "other", "block", "head"]

    def holds(self, parameter: str) -> bool:
        """Tell whether a parameter (or buffer, or module) of this name lies in the part."""
        if self.kind == "own":
            return parameter.rpartition(".")[0] == self.name
        return parameter == self.name or parameter.startswith(f"{self.name}.")


def find_parts(model: nn.Module, heads: Sequence[str]) -> list[Part]:
    """Give all parts in the order in which the model registers them, which is the order of the forward pass.

    Args:
        model: a model that no adapter wraps.
        heads: module names of the head.
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
    """Names of the repeated blocks of the body, first to last, across stages.

    Blocks are the members of module lists whose members are themselves made of layers (`encoder.layer.3`);
    where such lists are stages of different width, the blocks inside (`stages.2.layers.0`). A network without
    them has the weighted members of its longest plain list (VGG), or else the children of its trunk
    (Inception).
    """
    blocks = list(_stacks(model, "", heads))
    if blocks:
        return blocks
    plain = [
        _weighted(module, name) for name, module in model.named_modules() if isinstance(module, nn.Sequential)
    ]
    longest = max(plain, key=len, default=[])
    if len(longest) > 1:
        return [name for name, layer in longest if not _is_norm(layer) and not _beside(name, heads)]
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
    # Blocks repeat, stages grow: two equal neighbours mean that these are the blocks.
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
    """The last n blocks, what lies between and after them, and the head.

    Raises:
        ModelError: the model has fewer blocks.
    """
    blocks = [index for index, part in enumerate(parts) if part.kind == "block"]
    if not 1 <= n <= len(blocks):
        raise ModelError(
            f"freeze.n: {n} blocks wanted, this model has {len(blocks)}; write 1 to {len(blocks)}"
        )
    first = blocks[-n]
    return [
        part
        for index, part in enumerate(parts)
        if part.kind == "head" or (index >= first and part.kind != "own")
    ]


def _children(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    return [(f"{name}.{key}" if name else key, child) for key, child in module.named_children()]


def _weighted(module: nn.Module, name: str = "") -> list[tuple[str, nn.Module]]:
    return [(path, child) for path, child in _children(module, name) if any(True for _ in child.parameters())]


def _beside(name: str, heads: Sequence[str]) -> bool:
    return any(name == head or name.startswith(f"{head}.") or head.startswith(f"{name}.") for head in heads)


def _is_norm(layer: nn.Module) -> bool:
    return all(weight.ndim <= 1 for weight in layer.parameters())
