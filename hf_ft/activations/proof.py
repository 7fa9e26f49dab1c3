"""Find cuts on a few rows, and prove that a step from cached activations equals a step from the inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_ft.activations.cached_rows import ActivationWriter, CachedRows, fields_of
from hf_ft.activations.cut_search import NoCutError, batch_specs, candidate_plans, ragged_key
from hf_ft.activations.partial_forward import PartialForward
from hf_ft.data.dataset import EncodedRows
from hf_ft.data.device import to_device
from hf_ft.task import ACTIVATIONS

if TYPE_CHECKING:
    from hf_ft.model.passes import Passes
    from hf_ft.task import Batch

# Largest relative difference of the loss and of a gradient from those of the whole pass. They are not equal
# bit for bit, because rounding depends on the other rows of a batch; mixed precision rounds more.
TOLERANCE = {"fp32": 1e-4}
MIXED_TOLERANCE = 2e-2
# Number of rows on which cuts are searched and proved.
PROBE_ROWS = 6


def candidates(passes: Passes, rows: EncodedRows) -> Iterator[ActivationWriter]:
    """Yield a writer for each possible cut, the longest frozen part first; none of them is proved yet.

    Args:
        passes: runs the model, which is in training mode.
        rows: training rows, encoded from their inputs.

    Raises:
        NoCutError: no module that learns was called, or a batch cannot be split into rows.
    """
    batches, paddings = _three_batches(passes, probe_rows(rows))
    specs, ragged = batch_specs(batches), ragged_key(batches)
    withheld = (*passes.task.targets, *passes.task.side_keys)
    for plan in candidate_plans(passes.model, passes.loss, batches, withheld):
        fields = fields_of(plan, specs, paddings)
        yield ActivationWriter(PartialForward(passes.model, plan), fields, ragged, passes)


def prove(writer: ActivationWriter, evaluated: ActivationWriter, rows: EncodedRows, seed: int) -> float:
    """Compare loss and gradients from cached activations with those of the whole pass, and count the work.

    Args:
        writer: writer of the rows that are trained on.
        evaluated: writer of the rows that are evaluated.
        rows: training rows, encoded from their inputs.
        seed: random seed of both passes.

    Returns:
        The share of a step's floating-point operations that the cache saves, 0 to 1.

    Raises:
        NoCutError: loss or gradients differ, or a wrong activation would change neither.
    """
    passes, probe = writer.passes, probe_rows(rows)
    tolerance = TOLERANCE.get(passes.precision, MIXED_TOLERANCE)
    with tempfile.TemporaryDirectory() as folder:
        cached = _cached_probe(writer, probe, Path(folder) / "trained")
        order = [3, 0, 5, 2, 4, 1]
        whole = passes.batch(probe, order)
        _check_batch(whole, passes.batch(cached, order))
        _check_deterministic(writer, whole)
        expected, all_work = _gradients(passes, whole, seed)
        found, work = _gradients(passes, passes.batch(cached, order), seed)
        if (wrong := _difference(expected, found, tolerance)) is not None:
            raise NoCutError(wrong)
        # Control: if wrong activations also gave an equal loss, the comparison would prove nothing.
        scaled = passes.batch(cached, order)
        scaled[ACTIVATIONS].values = [
            1.5 * value if value.is_floating_point() else value for value in scaled[ACTIVATIONS].values
        ]
        if _difference(expected, _gradients(passes, scaled, seed)[0], tolerance) is None:
            raise NoCutError("a wrong activation would not be noticed: it changes neither loss nor gradient")
        if evaluated is not writer:
            cached = _cached_probe(evaluated, probe, Path(folder) / "evaluated")
        _check_evaluation(evaluated.passes, cached, order)
    return 1 - work / all_work if all_work else 0.0


def _cached_probe(writer: ActivationWriter, probe: EncodedRows, folder: Path) -> CachedRows:
    """Store a few rows in other batches than they are read in, so that wrong splitting or padding shows."""
    views = range(probe.views or 1)
    parts = [[view * len(probe) + row for view in views for row in part] for part in ([5, 1, 3], [4, 0, 2])]
    return writer.write_some(probe, parts, folder)


def _check_batch(whole: Batch, read: Batch) -> None:
    """Check that a batch read from the store holds the same tensors as the encoded batch."""
    for key, value in read.items():
        if key != ACTIVATIONS and not torch.equal(value, whole[key]):
            raise NoCutError(f"{key!r} of a batch changes when it is stored and read")


def _check_deterministic(writer: ActivationWriter, whole: Batch) -> None:
    """Check that the frozen modules draw no random numbers and give the same activations twice."""
    passes = writer.passes
    before = _random_state(passes.device)
    again = [writer.partial.capture(lambda: passes.run(dict(whole))) for _ in range(2)]
    # Comparing two passes is not enough: stochastic depth may drop no layer in either of them.
    if not torch.equal(before, _random_state(passes.device)):
        raise NoCutError("the frozen part draws random numbers")
    if not all(torch.equal(one, other) for one, other in zip(*again, strict=True)):
        raise NoCutError("two passes of the same rows give different activations")


def _random_state(device: torch.device) -> torch.Tensor:
    """Return the states of the random generators of the CPU and of the device, uint8 [bytes]."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return torch.cat([state.flatten() for state in states])


def _check_evaluation(passes: Passes, cached: CachedRows, order: Sequence[int]) -> None:
    """Check that the loss in eval mode is the same from cached activations as from the inputs."""
    model: Any = passes.model
    model.eval()
    with torch.no_grad():
        whole, read = (float(passes.loss(passes.batch(rows, order))) for rows in (cached.encoded, cached))
    model.train()
    if abs(whole - read) > TOLERANCE.get(passes.precision, MIXED_TOLERANCE) * max(1.0, abs(whole)):
        raise NoCutError(f"in evaluation the loss is {read:.6f} instead of {whole:.6f}")


def probe_rows(rows: EncodedRows) -> EncodedRows:
    """Select PROBE_ROWS rows: the longest, one of medium length, and the shortest."""
    order = np.arange(len(rows)) if rows.lengths is None else np.argsort(rows.lengths, kind="stable")
    chosen = [order[-1], order[len(order) // 2], *order[: PROBE_ROWS - 2]]
    selected = rows.rows.select([int(row) for row in chosen])
    return EncodedRows(
        rows.task, selected, split=rows.split, seed=rows.seed, train=rows.train, views=rows.views
    )


def _three_batches(passes: Passes, probe: EncodedRows) -> tuple[list[Batch], dict[str, float]]:
    """Make the three batches of `candidate_plans`, and find the padding value of each key.

    If rows have a length, the third batch is the first batch with every row one step shorter. Otherwise rows
    that happen to have the same length would look like rows of a fixed shape.

    Returns:
        The batches, and batch key -> the value that shorter rows are padded with.
    """
    batches = [passes.batch(probe, rows) for rows in ([0, 1, 2], [0, 2], [3, 4, 5])]
    key = passes.task.length_key
    if key is None:
        first, other = batches[0], batches[2]
        ragged = [name for name, value in first.items() if _width(value) != _width(other[name])]
        return batches, {name: float(first[name][2].flatten()[-1]) for name in ragged}
    items = probe.items([(0, row, True) for row in range(3)])
    shorter = [{name: _shorten(value, len(item[key])) for name, value in item.items()} for item in items]
    batches[2] = to_device(passes.task, probe.collate(shorter), passes.device)
    longest = max(range(3), key=lambda row: len(items[row][key]))
    pair = probe.collate([items[longest], shorter[longest]])
    ragged = [name for name in pair if _width(batches[0][name]) != _width(batches[2][name])]
    return batches, {name: float(pair[name][1].flatten()[-1]) for name in ragged}


def _width(value: Any) -> int:
    return value.shape[1] if isinstance(value, torch.Tensor) and value.dim() > 1 else 0


def _shorten(value: Any, length: int) -> Any:
    """Remove the last step of a list or tensor of this length; return any other value as it is."""
    return value[:-1] if isinstance(value, (list, torch.Tensor)) and len(value) == length else value


def _gradients(passes: Passes, batch: Batch, seed: int) -> tuple[list[torch.Tensor | None], int]:
    """Compute the loss and the gradient of every trainable tensor after setting the random seed.

    Returns:
        The loss and the gradients, and the number of floating-point operations. Operations are counted and
        not seconds, because their number is the same in every process.
    """
    learning = [parameter for parameter in passes.model.parameters() if parameter.requires_grad]
    torch.manual_seed(seed)
    with FlopCounterMode(display=False) as counter:
        loss = passes.loss(batch)
        loss.backward()
    gradients = [parameter.grad for parameter in learning]
    passes.model.zero_grad(set_to_none=True)
    return [loss.detach(), *gradients], counter.get_total_flops()


def _difference(
    expected: Sequence[torch.Tensor | None], found: Sequence[torch.Tensor | None], tolerance: float
) -> str | None:
    """Return which of the loss and the gradients differs, or None if all are equal within the tolerance."""
    names = ["the loss", *["a gradient"] * (len(expected) - 1)]
    largest = max((float(one.norm()) for one in expected[1:] if one is not None), default=0.0)
    for name, one, other in zip(names, expected, found, strict=True):
        if (one is None) != (other is None):
            return "a trainable tensor before the cut gets no gradient"
        if one is None or other is None:
            continue
        scale = max(float(one.norm()), 1.0 if name == "the loss" else 0.01 * largest)
        if not float((one - other).norm()) <= tolerance * scale:
            return f"{name} differs from that of the whole pass"
    return None
