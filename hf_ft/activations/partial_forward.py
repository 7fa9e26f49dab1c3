"""A forward pass that starts in the middle of a network, from cached activations of its frozen first part.

What lies before the first module that learns gives the same activations in every epoch. A `Plan` names the
module where a pass may start (the *cut*), the tensors that it needs there (the *slots*), and the frozen
modules before it. While a pass starts at the cut, these modules are *stubs*: they cost nothing and return NaN
of the right shape, so that a value which is needed and was not cached turns the loss into NaN. How a plan is
found is in `cut_search.py`, how it is proved in `proof.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils import _pytree as pytree

from hf_ft.model.mixed_precision import is_mixed

if TYPE_CHECKING:
    from torch import nn

    from hf_ft.task import Batch, Task


@dataclass(frozen=True)
class Axis:
    """How the size of one axis follows a batch of B rows, the longest of which has T steps.

    Args:
        kind: `constant`: `number`; `rows`: `number` * B; `length`: T + `number`.
        number: see `kind`.
    """

    kind: Literal["constant", "rows", "length"]
    number: int

    def size(self, rows: int, length: int) -> int:
        """Give the size for a batch."""
        return {
            "constant": self.number,
            "rows": self.number * rows,
            "length": length + self.number,
        }[self.kind]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that depends on the batch.

    Args:
        axes: its shape.
        dtype: its type.
        channels_last: whether a 4-dimensional tensor is stored with its channels last.
    """

    axes: tuple[Axis, ...]
    dtype: torch.dtype
    channels_last: bool = False

    def shape(self, rows: int, length: int) -> tuple[int, ...]:
        """Give the shape for a batch."""
        return tuple(axis.size(rows, length) for axis in self.axes)

    @property
    def by_row(self) -> bool:
        """Whether it can be cut into rows: the first axis is B, or k blocks a row, and no other is."""
        kinds = [axis.kind for axis in self.axes]
        return kinds[:1] == ["rows"] and kinds.count("rows") == 1 and kinds.count("length") <= 1

    def poison(self, rows: int, length: int, device: torch.device) -> torch.Tensor:
        """Give NaN of this shape (zeros of a type that has none), in the memory of a single number."""
        value = float("nan") if self.dtype.is_floating_point else 0
        return torch.full((), value, dtype=self.dtype, device=device).expand(self.shape(rows, length))


@dataclass(frozen=True)
class Slot:
    """A tensor that is cached of every row.

    Args:
        module: name of the module whose input or output it is.
        call: which call of this module in a whole forward pass.
        side: `in`: an input of the cut; `out`: an output of a stub that is needed behind the cut.
        position: its place among the flattened inputs (positional, then named) or outputs.
        spec: its shape and type.
    """

    module: str
    call: int
    side: Literal["in", "out"]
    position: int
    spec: TensorSpec


@dataclass(frozen=True)
class StubCall:
    """One call of a frozen module that is left out.

    Args:
        call: which call of the module in a whole forward pass.
        leaves: its flattened outputs: a spec where there was a tensor, else the value itself.
        structure: how the outputs are nested.
    """

    call: int
    leaves: tuple[Any, ...]
    structure: Any


@dataclass(frozen=True)
class Plan:
    """A forward pass that starts at the cut.

    Args:
        cut: name of the module that is the first to run.
        stubs: name of a frozen module before the cut -> its calls that are left out, in order.
        slots: what is cached of every row.
        dropped: floating inputs of the model that are no longer needed.
    """

    cut: str
    stubs: dict[str, tuple[StubCall, ...]]
    slots: tuple[Slot, ...]
    dropped: dict[str, TensorSpec]

    @property
    def signature(self) -> str:
        """Say what is cached, in a form that is equal in every process."""
        return repr((self.cut, self.slots, sorted(self.dropped.items())))


class Forgotten:
    """Stands where a stub's output depends on the batch and is no tensor: whatever uses it fails."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("an output of a frozen part, which is no tensor and depends on the batch, is needed")

    __getattr__ = __getitem__ = __iter__ = __len__ = __bool__ = __call__ = _refuse
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __int__ = __index__ = __float__ = _refuse
    __hash__ = None  # type: ignore[assignment]


class ReachedCutError(Exception):
    """Ends a forward pass at the cut: what lies behind it is not needed."""


class PartialForward:
    """A model whose forward pass can start at the cut of a plan.

    Only inside `feed` is the model another one; outside of it nothing of it is changed.

    Args:
        model: the model, without what distributes it.
        plan: where a pass starts, and from what.
    """

    def __init__(self, model: nn.Module, plan: Plan):
        self.model, self.plan = model, plan

    @contextmanager
    def feed(
        self, values: Sequence[torch.Tensor] | None, rows: int, length: int, only: Any = None
    ) -> Iterator[_Feed]:
        """Let the passes inside start at the cut.

        Args:
            values: one tensor for each slot of the plan; None: nothing is swapped, and the pass ends at the
                cut with its inputs in `inputs` of what is given.
            rows: number of rows, B.
            length: steps of the longest row, T; 0 where rows have no length.
            only: (module, call, position): poison this output alone and compute all others.
        """
        feed = _Feed(values, rows, length, only)
        cut = self.model.get_submodule(self.plan.cut)
        handle = cut.register_forward_pre_hook(partial(self._swap, feed), with_kwargs=True)
        stubbed: list[tuple[Any, Any]] = []
        try:
            for name, calls in self.plan.stubs.items():
                module: Any = self.model.get_submodule(name)
                stubbed.append((module, vars(module).get("forward")))
                module.forward = self._stub(feed, name, calls, module.forward)
            yield feed
        finally:
            handle.remove()
            for module, own in stubbed:
                del module.forward
                if own is not None:
                    module.forward = own

    def forward(self, task: Task, model: Any, batch: Batch, cached: CachedActivations) -> Any:
        """Run the task's own forward pass from the cut on; `model` may be wrapped (DDP)."""
        device = next(self.model.parameters()).device
        rows, length = cached.rows, cached.length
        for key, spec in self.plan.dropped.items():
            batch[key] = spec.poison(rows, length, device)
        values = [value.to(device, non_blocking=True) for value in cached.values]
        if not (torch.is_autocast_enabled(device.type) or is_mixed(self.model)):
            # What mixed precision left in half the bits meets weights of full precision here.
            values = [value.float() if value.is_floating_point() else value for value in values]
        with self.feed(values, rows, length):
            return task.forward(model, batch)

    def capture(self, run: Callable[[], Any]) -> list[torch.Tensor]:
        """Run the part before the cut, and give the tensors of the slots for the whole batch.

        Args:
            run: calls the model on a batch; ended at the cut.
        """
        found: dict[tuple[str, int, str, int], torch.Tensor] = {}
        calls: Counter[str] = Counter()

        def keep_outputs(name: str) -> Any:
            def hook(module: Any, args: Any, outputs: Any) -> None:
                for position, leaf in enumerate(pytree.tree_leaves(outputs)):
                    found[name, calls[name], "out", position] = leaf
                calls[name] += 1

            return hook

        def keep_inputs(module: Any, args: Any, kwargs: Any) -> None:
            for position, leaf in enumerate(pytree.tree_leaves((args, kwargs))):
                found[self.plan.cut, 0, "in", position] = leaf
            raise ReachedCutError

        kept = {slot.module for slot in self.plan.slots if slot.side == "out"}
        handles = [
            self.model.get_submodule(name).register_forward_hook(keep_outputs(name)) for name in sorted(kept)
        ]
        cut = self.model.get_submodule(self.plan.cut)
        handles.append(cut.register_forward_pre_hook(keep_inputs, with_kwargs=True))
        try:
            with torch.no_grad():
                run()
        except ReachedCutError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return [found[slot.module, slot.call, slot.side, slot.position] for slot in self.plan.slots]

    def _stub(
        self, feed: _Feed, name: str, calls: Sequence[StubCall], original: Callable[..., Any]
    ) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            number = feed.calls[name]
            if number >= len(calls):
                return original(*args, **kwargs)
            feed.calls[name] += 1
            stub = calls[number]
            if feed.only is not None:
                made = pytree.tree_leaves(original(*args, **kwargs))
                if feed.only[:2] == (name, stub.call):
                    made[feed.only[2]] = torch.full_like(made[feed.only[2]], float("nan"))
            else:
                device = next(self.model.parameters()).device
                made = [
                    leaf.poison(feed.rows, feed.length, device) if isinstance(leaf, TensorSpec) else leaf
                    for leaf in stub.leaves
                ]
            for slot, value in zip(self.plan.slots, feed.values or (), strict=feed.values is not None):
                if (slot.side, slot.module, slot.call) == ("out", name, stub.call):
                    made[slot.position] = value
            return pytree.tree_unflatten(made, stub.structure)

        return forward

    def _swap(self, feed: _Feed, module: Any, args: Any, kwargs: Any) -> Any:
        if feed.reached:
            return None
        feed.reached = True
        leaves, structure = pytree.tree_flatten((args, kwargs))
        if feed.values is None:
            feed.inputs = leaves
            if feed.only is None:
                raise ReachedCutError
            return None
        for slot, value in zip(self.plan.slots, feed.values, strict=True):
            if slot.side == "in":
                leaves[slot.position] = value
        return pytree.tree_unflatten(leaves, structure)


class _Feed:
    """What the passes inside `PartialForward.feed` use, and what they leave."""

    def __init__(self, values: Sequence[torch.Tensor] | None, rows: int, length: int, only: Any):
        self.values, self.rows, self.length, self.only = values, rows, length, only
        self.calls: Counter[str] = Counter()
        self.reached = False
        self.inputs: list[Any] = []


@dataclass
class CachedActivations:
    """The slots of a batch's rows.

    Args:
        partial: the pass that they are for.
        values: one tensor for each slot.
        rows: number of rows, B.
        length: steps of the longest row, T; 0 where rows have no length.
    """

    partial: PartialForward
    values: list[torch.Tensor]
    rows: int
    length: int

    def forward(self, task: Task, model: Any, batch: Batch) -> Any:
        """Run the task's forward pass from the cut on."""
        return self.partial.forward(task, model, batch, self)

    def pin_memory(self) -> CachedActivations:
        """Pin the values, as the loader does with the tensors of a batch."""
        self.values = [value.pin_memory() for value in self.values]
        return self
