"""Record the module calls of a forward pass, and how the shapes of its tensors depend on the batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from hf_ft.activations.partial_forward import Axis, TensorSpec

if TYPE_CHECKING:
    from torch import nn

    from hf_ft.task import Batch

# Computes the loss of a batch: a tensor with one number, with a graph for the gradients.
Loss = Callable[["Batch"], torch.Tensor]


@dataclass
class Call:
    """One call of a module in a forward pass.

    Args:
        name: name of the module.
        module: the module itself.
        number: index of this call among the calls of the module.
        parent: the call that this call is made in; None for the model itself.
        live: whether the module's activations can change between epochs (`is_live`).
        inputs: flattened inputs; each tensor is replaced by its `TensorShape`.
        outputs: flattened outputs, as for `inputs`; None while the call runs.
        structure: nesting of the outputs, as pytree gives it.
        done: how many calls of any module had begun when this call ended.
    """

    name: str
    module: Any
    number: int
    parent: Call | None
    live: bool
    inputs: list[Any]
    outputs: list[Any] | None = None
    structure: Any = None
    done: int = 0

    @property
    def ancestors(self) -> list[Call]:
        """The calls that this call is nested in, innermost first, without the call of the model itself."""
        found, call = [], self.parent
        while call is not None and call.parent is not None:
            found.append(call)
            call = call.parent
        return found


@dataclass(frozen=True)
class TensorShape:
    """Shape, type and memory format of a tensor of one pass."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool


@dataclass
class Recording:
    """The calls of one pass, in the order in which they began, and the batch of the pass."""

    batch: Batch
    calls: list[Call] = field(default_factory=list)


def is_live(module: Any) -> bool:
    """Tell whether a module (without its children) learns, draws random numbers, or mixes rows of a batch."""
    learns = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    draws = isinstance(module, _DropoutNd) and module.training and module.p > 0
    mixes = isinstance(module, _NormBase) and module.training
    return bool(learns or draws or mixes)


def record_pass(model: nn.Module, loss: Loss, batch: Batch) -> Recording:
    """Run one pass and record every call of a module."""
    recording, counts = Recording(batch), Counter[str]()
    stack: list[Call] = []
    handles = []

    def enter(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            inputs = [shape_of(leaf) for leaf in pytree.tree_leaves((args, kwargs))]
            parent = stack[-1] if stack else None
            call = Call(name, module, counts[name], parent, is_live(module), inputs)
            counts[name] += 1
            recording.calls.append(call)
            stack.append(call)

        return hook

    def leave(module: Any, args: Any, outputs: Any) -> None:
        call = stack.pop()
        leaves, call.structure = pytree.tree_flatten(outputs)
        call.outputs, call.done = [shape_of(leaf) for leaf in leaves], len(recording.calls)

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad():
            loss(dict(batch))
    finally:
        for handle in handles:
            handle.remove()
    return recording


def shape_of(leaf: Any) -> Any:
    """Return the `TensorShape` of a tensor, and any other value as it is."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    last = leaf.dim() == 4 and leaf.is_contiguous(memory_format=torch.channels_last)
    return TensorShape(tuple(leaf.shape), leaf.dtype, last and not leaf.is_contiguous())


@dataclass(frozen=True)
class BatchSizes:
    """Number of rows and length of the three batches of `candidate_plans`.

    Args:
        rows: number of rows of each batch.
        lengths: steps of the longest row of each batch; 0 if rows have no length.
        ragged: the batch key whose second axis is the length; None if rows have no length.
    """

    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    ragged: str | None

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> BatchSizes:
        """Measure three batches."""
        tensors = [{key: v for key, v in b.items() if isinstance(v, torch.Tensor)} for b in batches]
        rows = tuple(len(batch["row"]) for batch in batches)
        for key, value in tensors[0].items():
            if value.dim() > 1 and value.shape[1] != tensors[2][key].shape[1]:
                return cls(rows, tuple(batch[key].shape[1] for batch in tensors), key)
        return cls(rows, (0, 0, 0), None)

    def spec(self, shapes: Sequence[Any]) -> TensorSpec | None:
        """Derive from its shapes in the three passes how a tensor depends on the batch; None if unknown."""
        if (
            not all(isinstance(one, TensorShape) for one in shapes)
            or len({len(one.shape) for one in shapes}) > 1
        ):
            return None
        axes = [self._axis(sizes) for sizes in zip(*(one.shape for one in shapes), strict=True)]
        if None in axes:
            return None
        return TensorSpec(tuple(axis for axis in axes if axis), shapes[0].dtype, shapes[0].channels_last)

    def _axis(self, sizes: tuple[int, ...]) -> Axis | None:
        one, fewer, shorter = sizes
        if one == fewer == shorter:
            return Axis("constant", one)
        if one == shorter and one * self.rows[1] == fewer * self.rows[0] and one % self.rows[0] == 0:
            return Axis("rows", one // self.rows[0])
        if one == fewer and one - shorter == self.lengths[0] - self.lengths[2]:
            return Axis("length", one - self.lengths[0])
        return None
