"""Find the modules where a forward pass can start (the cuts), by recording passes and poisoning with NaN.

There is no table of model families. A cut is proposed from the order in which modules are called, and it is
used only if the loss and every gradient are equal to those of the whole pass (`proof.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from hf_ft.activations.partial_forward import (
    PartialForward,
    Plan,
    ReachedCutError,
    Slot,
    StubCall,
    TensorSpec,
    UnknownOutput,
)
from hf_ft.activations.pass_recording import (
    BatchSizes,
    Loss,
    Recording,
    TensorShape,
    record_pass,
    shape_of,
)

if TYPE_CHECKING:
    from torch import nn

    from hf_ft.task import Batch


class NoCutError(Exception):
    """A cut cannot be used, or no cut exists; the message says why."""


def candidate_plans(
    model: nn.Module, loss: Loss, batches: Sequence[Batch], targets: Sequence[str] = ()
) -> Iterator[Plan]:
    """Propose plans with which the loss is finite, the plan with the longest frozen part first.

    Args:
        model: in training mode, its frozen modules in eval mode.
        loss: computes the loss of a batch.
        batches: three batches. The second has fewer rows than the first, of the same length. The third has
            as many rows as the first, and shorter ones if rows have a length.
        targets: keys of a batch that the model is not called with.

    Raises:
        NoCutError: no module that learns was called, or the order of modules depends on the batch.
    """
    passes = [record_pass(model, loss, batch) for batch in batches]
    if len({tuple(call.name for call in one.calls) for one in passes}) > 1:
        raise NoCutError("the order of its modules depends on the batch")
    first = next((index for index, call in enumerate(passes[0].calls) if call.live), None)
    if first is None:
        raise NoCutError("no module that learns was called")
    chain = [passes[0].calls[first], *passes[0].calls[first].ancestors]
    cuts = [passes[0].calls.index(call) for call in chain if call.parent is not None]
    sizes = BatchSizes.of(batches)
    proposals = []
    for cut in cuts:
        with suppress(NoCutError), trial():
            plan = _propose(model, loss, passes, sizes, cut, targets)
            proposals += [] if plan is None else [plan]
    for plan in proposals:
        if _loss_is_finite(model, loss, plan, passes[0], sizes):
            yield plan
    for plan in proposals:
        extended = None
        with suppress(NoCutError), trial():
            extended = _with_leaks(model, loss, plan, passes, sizes)
        if extended is not None and _loss_is_finite(model, loss, extended, passes[0], sizes):
            yield extended


@contextmanager
def trial() -> Iterator[None]:
    """Turn every exception inside the block into a NoCutError.

    A network of any kind may raise any exception when it is run on NaN; it can still be trained without a
    cut.

    Raises:
        NoCutError: the block raised an exception.
    """
    try:
        yield
    except NoCutError:
        raise
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise NoCutError(f"{type(error).__name__}: {first_line}") from error


def ragged_key(batches: Sequence[Batch]) -> str | None:
    """Return the batch key whose second axis is the length of the longest row, or None if there is none."""
    return BatchSizes.of(batches).ragged


def batch_specs(batches: Sequence[Batch]) -> dict[str, TensorSpec]:
    """Return key -> how the shape of this tensor depends on the batch.

    Args:
        batches: the three batches of `candidate_plans`.

    Raises:
        NoCutError: a value of a batch is no tensor, or its shape does not depend on rows and length alone.
    """
    sizes, specs = BatchSizes.of(batches), {}
    for key in batches[0]:
        spec = sizes.spec([shape_of(batch[key]) for batch in batches])
        if spec is None or not spec.by_row:
            raise NoCutError(f"{key!r} of a batch cannot be split into rows")
        specs[key] = spec
    return specs


def _propose(
    model: nn.Module,
    loss: Loss,
    passes: Sequence[Recording],
    sizes: BatchSizes,
    cut: int,
    targets: Sequence[str],
) -> Plan | None:
    """Build a plan: stub every call that ends before the cut, and cache each input of the cut that turns NaN.

    Returns:
        The plan, or None if a tensor that is needed cannot be cached row by row.
    """
    around = {id(call) for call in passes[0].calls[cut].ancestors} | {
        id(call) for call in passes[0].calls if call.parent is None
    }
    stubs: dict[str, list[StubCall]] = defaultdict(list)
    integers: list[Slot] = []
    for index, call in enumerate(passes[0].calls[:cut]):
        if call.outputs is None or call.done > cut or id(call.parent) not in around:
            continue
        per_pass = [one.calls[index].outputs for one in passes]
        if len({len(outputs or []) for outputs in per_pass}) > 1:
            return None
        leaves: list[Any] = []
        for leaf in zip(*(outputs or [] for outputs in per_pass), strict=True):
            spec = sizes.spec(leaf) if isinstance(leaf[0], TensorShape) else _constant_output(leaf)
            if spec is None and leaf[0] is not None:
                return None
            leaves.append(spec)
        tensors = [leaf for leaf in leaves if isinstance(leaf, TensorSpec)]
        # Modules whose output is the same for all rows (rotary angles, relative positions) stay: they are
        # cheap to compute.
        if tensors and not any(spec.by_row for spec in tensors):
            continue
        stubs[call.name].append(StubCall(call.number, tuple(leaves), call.structure))
        for position, leaf in enumerate(leaves):
            if isinstance(leaf, TensorSpec) and not leaf.dtype.is_floating_point:
                # Integers have no NaN that would show whether they are needed, so all of them are cached.
                if not leaf.by_row:
                    return None
                integers.append(Slot(call.name, call.number, "out", position, leaf))
    if not stubs:
        return None
    inputs = {key for key in passes[0].batch if key not in targets}
    specs = {key: sizes.spec([shape_of(one.batch[key]) for one in passes]) for key in inputs}
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


def _constant_output(leaves: Sequence[Any]) -> Any:
    """Return an output that is no tensor if it is equal in all passes, else an UnknownOutput."""
    try:
        same = all(type(leaf) is type(leaves[0]) and bool(leaf == leaves[0]) for leaf in leaves)
    except (TypeError, ValueError, RuntimeError):  # `==` of arrays gives an array and not one bool
        same = False
    return leaves[0] if same else UnknownOutput()


def _poison_batch(plan: Plan, batch: Batch, rows: int, length: int) -> Batch:
    """Return a copy of the batch in which the dropped inputs of the plan are NaN."""
    device = batch["row"].device
    return {**batch, **{key: spec.poison(rows, length, device) for key, spec in plan.dropped.items()}}


def _poisoned_inputs(
    model: nn.Module, loss: Loss, plan: Plan, first: Recording, sizes: BatchSizes
) -> list[Any]:
    """Return the inputs of the cut when the dropped inputs of the model and all stubs are NaN."""
    partial = PartialForward(model, plan)
    try:
        with torch.no_grad(), partial.feed(None, sizes.rows[0], sizes.lengths[0]) as feed:
            loss(_poison_batch(plan, first.batch, sizes.rows[0], sizes.lengths[0]))
    except ReachedCutError:
        pass
    return feed.inputs


def _loss_is_finite(model: nn.Module, loss: Loss, plan: Plan, first: Recording, sizes: BatchSizes) -> bool:
    with suppress(NoCutError), trial():
        return not _turns_nan(model, loss, plan, first, sizes, None)
    return False


def _turns_nan(
    model: nn.Module,
    loss: Loss,
    plan: Plan,
    first: Recording,
    sizes: BatchSizes,
    only: Any,
    values: Sequence[torch.Tensor] | None = None,
) -> bool:
    """Tell whether the loss is not finite although the slots are fed in.

    Args:
        model: the model.
        loss: computes the loss of a batch.
        plan: the plan to try.
        first: the recording of the first batch.
        sizes: of the three batches.
        only: as for `PartialForward.feed`.
        values: one tensor for each slot; None: they are computed here.
    """
    rows, length = sizes.rows[0], sizes.lengths[0]
    partial = PartialForward(model, plan)
    if values is None:
        values = partial.capture(lambda: loss(dict(first.batch)))
    batch = _poison_batch(plan, first.batch, rows, length)
    with torch.no_grad(), partial.feed(values, rows, length, only):
        return not bool(torch.isfinite(loss(batch)))


def _with_leaks(
    model: nn.Module, loss: Loss, plan: Plan, passes: Sequence[Recording], sizes: BatchSizes
) -> Plan | None:
    """Extend a plan by every tensor that reaches the loss around the cut.

    Such tensors are skip connections, the scale of a series, or inputs of the model that a later module uses.
    """
    without_dropped = replace(plan, dropped={})
    slots = list(plan.slots)
    values = PartialForward(model, plan).capture(lambda: loss(dict(passes[0].batch)))
    for name, calls in plan.stubs.items():
        for stub in calls:
            for position, leaf in enumerate(stub.leaves):
                if not isinstance(leaf, TensorSpec) or not leaf.dtype.is_floating_point:
                    continue
                only = (name, stub.call, position)
                if _turns_nan(model, loss, without_dropped, passes[0], sizes, only, values):
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
