"""Find where a forward pass can start: watch real passes, poison what lies before, see what is missed.

No table of model families: a cut is proposed from the order in which modules are called, and it stands only
if the loss and every gradient prove equal to those of the whole pass (`hf_ft/activations/proof.py`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from hf_ft.activations.partial_forward import (
    Axis,
    Forgotten,
    PartialForward,
    Plan,
    ReachedCutError,
    Slot,
    StubCall,
    TensorSpec,
)

if TYPE_CHECKING:
    from torch import nn

    from hf_ft.task import Batch

# From a batch to the loss, a single number that gradients come from.
Loss = Callable[["Batch"], torch.Tensor]


class NoCutError(Exception):
    """No cut can be used; the message says why."""


@dataclass
class Call:
    """One call of a module in a forward pass.

    Args:
        name: of the module.
        module: the module itself.
        number: which call of this module.
        parent: the call that it is a part of; None for the model itself.
        live: whether the module itself learns, or draws random numbers.
        inputs: flattened inputs, tensors by their shape alone.
        outputs: flattened outputs, tensors by their shape alone; None while it runs.
        structure: how the outputs are nested.
        done: how many calls had begun when it ended.
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
        """The calls around this one, the nearest first, without that of the model itself."""
        found, call = [], self.parent
        while call is not None and call.parent is not None:
            found.append(call)
            call = call.parent
        return found


@dataclass(frozen=True)
class _Seen:
    """A tensor of one pass, by its shape alone."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool


@dataclass
class _Watched:
    """All calls of one pass, in the order in which they began, and the batch it was run on."""

    batch: Batch
    calls: list[Call] = field(default_factory=list)


def candidate_plans(
    model: nn.Module, loss: Loss, batches: Sequence[Batch], targets: Sequence[str] = ()
) -> Iterator[Plan]:
    """Propose plans, the one with the longest frozen part first; each gives a loss that is a number.

    Args:
        model: in training mode, what is frozen kept in eval mode.
        loss: from a batch to the loss.
        batches: three batches. The second has fewer rows than the first and as long ones, the third has as
            many rows as the first and shorter ones, where rows have a length.
        targets: keys of a batch that the model is not called with.

    Raises:
        NoCutError: nothing that is frozen comes before what learns.
    """
    passes = [_watch(model, loss, batch) for batch in batches]
    if len({tuple(call.name for call in one.calls) for one in passes}) > 1:
        raise NoCutError("the order of its modules depends on the batch")
    first = next((index for index, call in enumerate(passes[0].calls) if call.live), None)
    if first is None:
        raise NoCutError("no module that learns was called")
    chain = [passes[0].calls[first], *passes[0].calls[first].ancestors]
    cuts = [passes[0].calls.index(call) for call in chain if call.parent is not None]
    sizes = _Sizes.of(batches)
    proposals = []
    for cut in cuts:
        with suppress(NoCutError), trial():
            plan = _propose(model, loss, passes, sizes, cut, targets)
            proposals += [] if plan is None else [plan]
    for plan in proposals:
        if _is_number(model, loss, plan, passes[0], sizes):
            yield plan
    for plan in proposals:
        fuller = None
        with suppress(NoCutError), trial():
            fuller = _with_leaks(model, loss, plan, passes, sizes)
        if fuller is not None and _is_number(model, loss, fuller, passes[0], sizes):
            yield fuller


@contextmanager
def trial() -> Iterator[None]:
    """Try whether a network can do without what lies before a cut.

    Raises:
        NoCutError: it cannot. Networks of any kind fail in any way on NaN, and train all the same.
    """
    try:
        yield
    except NoCutError:
        raise
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise NoCutError(f"{type(error).__name__}: {first_line}") from error


def is_live(module: Any) -> bool:
    """Tell whether a module itself learns, draws random numbers, or depends on the other rows of a batch."""
    learns = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    draws = isinstance(module, _DropoutNd) and module.training and module.p > 0
    mixes = isinstance(module, _NormBase) and module.training
    return bool(learns or draws or mixes)


def _watch(model: nn.Module, loss: Loss, batch: Batch) -> _Watched:
    """Run one pass and note every call."""
    watched, counts = _Watched(batch), Counter[str]()
    stack: list[Call] = []
    handles = []

    def enter(name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            inputs = [_seen(leaf) for leaf in pytree.tree_leaves((args, kwargs))]
            parent = stack[-1] if stack else None
            call = Call(name, module, counts[name], parent, is_live(module), inputs)
            counts[name] += 1
            watched.calls.append(call)
            stack.append(call)

        return hook

    def leave(module: Any, args: Any, outputs: Any) -> None:
        call = stack.pop()
        leaves, call.structure = pytree.tree_flatten(outputs)
        call.outputs, call.done = [_seen(leaf) for leaf in leaves], len(watched.calls)

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad():
            loss(dict(batch))
    finally:
        for handle in handles:
            handle.remove()
    return watched


def _seen(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    last = leaf.dim() == 4 and leaf.is_contiguous(memory_format=torch.channels_last)
    return _Seen(tuple(leaf.shape), leaf.dtype, last and not leaf.is_contiguous())


@dataclass(frozen=True)
class _Sizes:
    """Rows and length of the three batches; `ragged` is the key whose second axis is the length."""

    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    ragged: str | None

    @classmethod
    def of(cls, batches: Sequence[Batch]) -> _Sizes:
        tensors = [{key: v for key, v in b.items() if isinstance(v, torch.Tensor)} for b in batches]
        rows = tuple(len(batch["row"]) for batch in batches)
        for key, value in tensors[0].items():
            if value.dim() > 1 and value.shape[1] != tensors[2][key].shape[1]:
                return cls(rows, tuple(batch[key].shape[1] for batch in tensors), key)
        return cls(rows, (0, 0, 0), None)

    def spec(self, seen: Sequence[Any]) -> TensorSpec | None:
        """Give the rule behind three shapes of a tensor, or None where there is none that is known."""
        if not all(isinstance(one, _Seen) for one in seen) or len({len(one.shape) for one in seen}) > 1:
            return None
        axes = [self._axis(sizes) for sizes in zip(*(one.shape for one in seen), strict=True)]
        if None in axes:
            return None
        return TensorSpec(tuple(axis for axis in axes if axis), seen[0].dtype, seen[0].channels_last)

    def _axis(self, sizes: tuple[int, ...]) -> Axis | None:
        one, fewer, shorter = sizes
        if one == fewer == shorter:
            return Axis("constant", one)
        if one == shorter and one * self.rows[1] == fewer * self.rows[0] and one % self.rows[0] == 0:
            return Axis("rows", one // self.rows[0])
        if one == fewer and one - shorter == self.lengths[0] - self.lengths[2]:
            return Axis("length", one - self.lengths[0])
        return None


def ragged_key(batches: Sequence[Batch]) -> str | None:
    """Name the key whose second axis is the length of a batch's longest row; None where there is none."""
    return _Sizes.of(batches).ragged


def batch_specs(batches: Sequence[Batch]) -> dict[str, TensorSpec]:
    """Give the rule behind every tensor of a batch.

    Raises:
        NoCutError: something in a batch is no tensor, or does not follow rows and length.
    """
    sizes, specs = _Sizes.of(batches), {}
    for key in batches[0]:
        spec = sizes.spec([_seen(batch[key]) for batch in batches])
        if spec is None or not spec.by_row:
            raise NoCutError(f"{key!r} of a batch cannot be cut into rows")
        specs[key] = spec
    return specs


def _propose(
    model: nn.Module,
    loss: Loss,
    passes: Sequence[_Watched],
    sizes: _Sizes,
    cut: int,
    targets: Sequence[str],
) -> Plan | None:
    """Stub all that ends before the cut begins, and keep those inputs of the cut that turn NaN."""
    around = {id(call) for call in passes[0].calls[cut].ancestors} | {
        id(call) for call in passes[0].calls if call.parent is None
    }
    stubs: dict[str, list[StubCall]] = defaultdict(list)
    integers: list[Slot] = []
    for index, call in enumerate(passes[0].calls[:cut]):
        if call.outputs is None or call.done > cut or id(call.parent) not in around:
            continue
        seen = [one.calls[index].outputs for one in passes]
        if len({len(outputs or []) for outputs in seen}) > 1:
            return None
        leaves: list[Any] = []
        for leaf in zip(*(outputs or [] for outputs in seen), strict=True):
            spec = sizes.spec(leaf) if isinstance(leaf[0], _Seen) else _same(leaf)
            if spec is None and leaf[0] is not None:
                return None
            leaves.append(spec)
        tensors = [leaf for leaf in leaves if isinstance(leaf, TensorSpec)]
        # What is the same for all rows (rotary angles, relative places) is computed on: it costs little.
        if tensors and not any(spec.by_row for spec in tensors):
            continue
        stubs[call.name].append(StubCall(call.number, tuple(leaves), call.structure))
        for position, leaf in enumerate(leaves):
            if isinstance(leaf, TensorSpec) and not leaf.dtype.is_floating_point:
                # They have no NaN that would show where they are needed, so they are all kept.
                if not leaf.by_row:
                    return None
                integers.append(Slot(call.name, call.number, "out", position, leaf))
    if not stubs:
        return None
    inputs = {key for key in passes[0].batch if key not in targets}
    specs = {key: sizes.spec([_seen(one.batch[key]) for one in passes]) for key in inputs}
    floats = {key: spec for key, spec in specs.items() if spec is not None and spec.dtype.is_floating_point}
    plan = Plan(passes[0].calls[cut].name, {name: tuple(calls) for name, calls in stubs.items()}, (), floats)
    slots = []
    for position, leaf in enumerate(_poisoned_inputs(model, loss, plan, passes[0], sizes)):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and bool(leaf.isnan().any()):
            spec = sizes.spec([one.calls[cut].inputs[position] for one in passes])
            if spec is None or not spec.by_row:
                return None
            slots.append(Slot(plan.cut, 0, "in", position, spec))
    return replace(plan, slots=(*slots, *integers)) if slots else None


def _same(leaves: Sequence[Any]) -> Any:
    """Give an output that is no tensor, where it is the same in all passes, and so for any batch."""
    try:
        same = all(type(leaf) is type(leaves[0]) and bool(leaf == leaves[0]) for leaf in leaves)
    except (TypeError, ValueError, RuntimeError):  # arrays, for one, have no single answer
        same = False
    return leaves[0] if same else Forgotten()


def poisoned(plan: Plan, batch: Batch, rows: int, length: int) -> Batch:
    """Give a batch whose dropped inputs are NaN."""
    device = batch["row"].device
    return {**batch, **{key: spec.poison(rows, length, device) for key, spec in plan.dropped.items()}}


def _poisoned_inputs(model: nn.Module, loss: Loss, plan: Plan, first: _Watched, sizes: _Sizes) -> list[Any]:
    partial = PartialForward(model, plan)
    try:
        with torch.no_grad(), partial.feed(None, sizes.rows[0], sizes.lengths[0]) as feed:
            loss(poisoned(plan, first.batch, sizes.rows[0], sizes.lengths[0]))
    except ReachedCutError:
        pass
    return feed.inputs


def _is_number(model: nn.Module, loss: Loss, plan: Plan, first: _Watched, sizes: _Sizes) -> bool:
    with suppress(NoCutError), trial():
        return not _turns_nan(model, loss, plan, first, sizes, None)
    return False


def _turns_nan(
    model: nn.Module,
    loss: Loss,
    plan: Plan,
    first: _Watched,
    sizes: _Sizes,
    only: Any,
    values: Sequence[torch.Tensor] | None = None,
) -> bool:
    """Tell whether the loss turns NaN although the slots are filled, with `values` if they are known."""
    rows, length = sizes.rows[0], sizes.lengths[0]
    partial = PartialForward(model, plan)
    if values is None:
        values = partial.capture(lambda: loss(dict(first.batch)))
    batch = poisoned(plan, first.batch, rows, length)
    with torch.no_grad(), partial.feed(values, rows, length, only):
        return not bool(torch.isfinite(loss(batch)))


def _with_leaks(
    model: nn.Module, loss: Loss, plan: Plan, passes: Sequence[_Watched], sizes: _Sizes
) -> Plan | None:
    """Keep also what reaches the loss past the cut: skips, the scale of a series, inputs used directly."""
    nothing = replace(plan, dropped={})
    slots = list(plan.slots)
    values = PartialForward(model, plan).capture(lambda: loss(dict(passes[0].batch)))
    for name, calls in plan.stubs.items():
        for stub in calls:
            for position, leaf in enumerate(stub.leaves):
                if not isinstance(leaf, TensorSpec) or not leaf.dtype.is_floating_point:
                    continue
                only = (name, stub.call, position)
                if _turns_nan(model, loss, nothing, passes[0], sizes, only, values):
                    if not leaf.by_row:
                        return None
                    slots.append(Slot(name, stub.call, "out", position, leaf))
    dropped = {
        key: spec
        for key, spec in plan.dropped.items()
        if not _turns_nan(
            model, loss, replace(plan, dropped={key: spec}), passes[0], sizes, ("", 0, 0), values
        )
    }
    return replace(plan, slots=tuple(slots), dropped=dropped)
