"""A forward pass that starts in the middle of a network, from cached activations of its frozen first part.

The frozen modules before the first trainable module compute the same activations in every epoch. A `Plan`
names the module where a pass can start (the *cut*), the tensors that are cached for it (the *slots*), and the
frozen modules before the cut. In a pass that starts at the cut, these modules are *stubs*: they compute
nothing and return NaN of the right shape, so a value that is needed but not cached turns the loss into NaN.
`cut_search.py` finds plans, `proof.py` proves them.
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
    """How the size of one axis depends on a batch of B rows whose longest row has T steps.

    Args:
        kind: `constant`: the size is `number`; `rows`: `number` * B; `length`: T + `number`.
        number: see `kind`.
    """

    kind: Literal["constant", "rows", "length"]
    number: int

    def size(self, rows: int, length: int) -> int:
        """Return the size of the axis for B = `rows` and T = `length`."""
        return {
            "constant": self.number,
            "rows": self.number * rows,
            "length": length + self.number,
        }[self.kind]


@dataclass(frozen=True)
class TensorSpec:
    """How the shape of a tensor depends on the batch.

    Args:
        axes: the axes of the tensor.
        dtype: type of the numbers.
        channels_last: whether a 4-d tensor has the memory format channels_last.
    """

    axes: tuple[Axis, ...]
    dtype: torch.dtype
    channels_last: bool = False

    def shape(self, rows: int, length: int) -> tuple[int, ...]:
        """Return the shape of the tensor for B = `rows` and T = `length`."""
        return tuple(axis.size(rows, length) for axis in self.axes)

    @property
    def by_row(self) -> bool:
        """Whether the tensor can be split into rows: only its first axis is B, or k blocks per row."""
        kinds = [axis.kind for axis in self.axes]
        return kinds[:1] == ["rows"] and kinds.count("rows") == 1 and kinds.count("length") <= 1

    def poison(self, rows: int, length: int, device: torch.device) -> torch.Tensor:
        """Return a tensor of this shape full of NaN (zeros if the type has no NaN).

        The tensor is one number that is expanded to the shape, so it takes no memory.

        Args:
            rows: B.
            length: T.
            device: where to create it.
        """
        value = float("nan") if self.dtype.is_floating_point else 0
        return torch.full((), value, dtype=self.dtype, device=device).expand(self.shape(rows, length))


@dataclass(frozen=True)
class Slot:
    """A tensor that is cached for every row.

    Args:
        module: name of the module whose input or output is cached.
        call: index of the module's call in a whole forward pass.
        side: `in`: an input of the cut; `out`: an output of a stub that is needed after the cut.
        position: index among the flattened inputs (positional, then keyword) or outputs.
        spec: shape and type of the tensor.
    """

    module: str
    call: int
    side: Literal["in", "out"]
    position: int
    spec: TensorSpec


@dataclass(frozen=True)
class StubCall:
    """One call of a frozen module that is skipped.

    Args:
        call: index of the module's call in a whole forward pass.
        leaves: flattened outputs of the call: a TensorSpec for each tensor, and every other value itself.
        structure: nesting of the outputs, as pytree gives it.
    """

    call: int
    leaves: tuple[Any, ...]
    structure: Any


@dataclass(frozen=True)
class Plan:
    """A forward pass that starts at the cut.

    Args:
        cut: name of the first module that computes.
        stubs: name of a frozen module before the cut -> its skipped calls, in order.
        slots: the tensors that are cached for every row.
        dropped: key -> spec of each floating-point input of the model that is no longer needed.
    """

    cut: str
    stubs: dict[str, tuple[StubCall, ...]]
    slots: tuple[Slot, ...]
    dropped: dict[str, TensorSpec]

    @property
    def signature(self) -> str:
        """Text that describes what is cached; it is the same in every process."""
        return repr((self.cut, self.slots, sorted(self.dropped.items())))


class UnknownOutput:
    """Replaces an output of a stub that is no tensor and depends on the batch: every use raises TypeError."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a frozen output that is no tensor and depends on the batch is used after the cut")

    __getattr__ = __getitem__ = __iter__ = __len__ = __bool__ = __call__ = _refuse
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __int__ = __index__ = __float__ = _refuse
    __hash__ = None  # type: ignore[assignment]


class ReachedCutError(Exception):
    """Ends a forward pass at the cut, because the modules after the cut are not needed."""


class PartialForward:
    """A model whose forward pass can start at the cut of a plan.

    The model is changed inside `feed` only; afterwards it is as before.

    Args:
        model: the model itself, not wrapped by DistributedDataParallel.
        plan: the cut, its stubs and its slots.
    """

    def __init__(self, model: nn.Module, plan: Plan):
        self.model, self.plan = model, plan

    @contextmanager
    def feed(
        self, values: Sequence[torch.Tensor] | None, rows: int, length: int, only: Any = None
    ) -> Iterator[_Feed]:
        """Make forward passes inside the block start at the cut.

        Args:
            values: one tensor for each slot of the plan. None: the pass runs with stubs, ends at the cut, and
                leaves the inputs of the cut in `inputs` of the yielded object.
            rows: number of rows, B.
            length: steps of the longest row, T; 0 if rows have no length.
            only: (module, call, position): replace only this output by NaN, and compute all others.
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
        """Run the task's forward pass from the cut on.

        Args:
            task: its `forward` is called.
            model: the model, which may be wrapped by DistributedDataParallel.
            batch: without the inputs that are no longer needed.
            cached: the slots of the batch.
        """
        device = next(self.model.parameters()).device
        rows, length = cached.rows, cached.length
        for key, spec in self.plan.dropped.items():
            batch[key] = spec.poison(rows, length, device)
        values = [value.to(device, non_blocking=True) for value in cached.values]
        if not (torch.is_autocast_enabled(device.type) or is_mixed(self.model)):
            # Slots computed in mixed precision are bf16 or fp16; this pass computes in fp32.
            values = [value.float() if value.is_floating_point() else value for value in values]
        with self.feed(values, rows, length):
            return task.forward(model, batch)

    def capture(self, run: Callable[[], Any]) -> list[torch.Tensor]:
        """Run the modules before the cut and return the slots of the whole batch.

        Args:
            run: calls the model on a batch; the call ends at the cut.
        """
        found: dict[tuple[str, int, str, int], torch.Tensor] = {}
        calls: Counter[str] = Counter()

        def record_outputs(name: str) -> Any:
            def hook(module: Any, args: Any, outputs: Any) -> None:
                for position, leaf in enumerate(pytree.tree_leaves(outputs)):
                    found[name, calls[name], "out", position] = leaf
                calls[name] += 1

            return hook

        def record_inputs(module: Any, args: Any, kwargs: Any) -> None:
            for position, leaf in enumerate(pytree.tree_leaves((args, kwargs))):
                found[self.plan.cut, 0, "in", position] = leaf
            raise ReachedCutError

        recorded = sorted({slot.module for slot in self.plan.slots if slot.side == "out"})
        handles = [
            self.model.get_submodule(name).register_forward_hook(record_outputs(name)) for name in recorded
        ]
        cut = self.model.get_submodule(self.plan.cut)
        handles.append(cut.register_forward_pre_hook(record_inputs, with_kwargs=True))
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
                outputs = pytree.tree_leaves(original(*args, **kwargs))
                if feed.only[:2] == (name, stub.call):
                    outputs[feed.only[2]] = torch.full_like(outputs[feed.only[2]], float("nan"))
            else:
                device = next(self.model.parameters()).device
                outputs = [
                    leaf.poison(feed.rows, feed.length, device) if isinstance(leaf, TensorSpec) else leaf
                    for leaf in stub.leaves
                ]
            for slot, value in zip(self.plan.slots, feed.values or (), strict=feed.values is not None):
                if (slot.side, slot.module, slot.call) == ("out", name, stub.call):
                    outputs[slot.position] = value
            return pytree.tree_unflatten(outputs, stub.structure)

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
    """State of one block of `PartialForward.feed`: the values to feed in, and what the pass recorded."""

    def __init__(self, values: Sequence[torch.Tensor] | None, rows: int, length: int, only: Any):
        self.values, self.rows, self.length, self.only = values, rows, length, only
        self.calls: Counter[str] = Counter()
        self.reached = False
        self.inputs: list[Any] = []


@dataclass
class CachedActivations:
    """The cached activations of the rows of a batch.

    Args:
        partial: the forward pass that starts from these activations.
        values: one tensor for each slot of the plan.
        rows: number of rows, B.
        length: steps of the longest row, T; 0 if rows have no length.
    """

    partial: PartialForward
    values: list[torch.Tensor]
    rows: int
    length: int

    def forward(self, task: Task, model: Any, batch: Batch) -> Any:
        """Run the task's forward pass from the cut on."""
        return self.partial.forward(task, model, batch, self)

    def pin_memory(self) -> CachedActivations:
        """Pin the memory of the values; the data loader calls this for every object in a batch."""
        self.values = [value.pin_memory() for value in self.values]
        return self
