"""Look for the frontier on a few rows, and take a plan only if it proves to be the same training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_ft.activations.cached_rows import CachedRows, Keeper, fields_of
from hf_ft.activations.cut_search import NoFrontierError, batch_specs, candidate_plans, ragged_key
from hf_ft.activations.partial_forward import Frontier
from hf_ft.data.dataset import EncodedRows
from hf_ft.data.device import to_device
from hf_ft.model.forward import forward
from hf_ft.model.mixed_precision import full_precision
from hf_ft.storage.row_store import RowStore
from hf_ft.task import PREFIX

if TYPE_CHECKING:
    from hf_ft.task import Batch
    from hf_ft.train.trainer import FineTuner

# How far the loss and a gradient may be from those of the whole pass: rounding depends on how rows share a
# batch, and mixed precision rounds more.
TOLERANCE = {"fp32": 1e-4}
ROUGH_TOLERANCE = 2e-2
# Rows that a frontier is looked for and proved on.
PROBE_ROWS = 6


def precision_of(tuner: FineTuner) -> str:
    """Name the number format that a trainer's passes run in."""
    return next((name for name in ("bf16", "fp16", "tf32") if getattr(tuner.args, name)), "fp32")


def candidates(tuner: FineTuner) -> Iterator[Keeper]:
    """Give what could keep the rows of a run, the longest prefix first; not proved yet.

    Raises:
        NoFrontierError: nothing that is frozen comes before what learns, or a batch cannot be cut into rows.
    """
    batches, paddings = _three_batches(tuner, probe_rows(tuner.train_dataset))
    specs, ragged = batch_specs(batches), ragged_key(batches)
    run, precision = partial(_run, tuner), precision_of(tuner)
    for plan in candidate_plans(tuner.model, partial(_loss, tuner), batches, tuner.task.targets):
        fields = fields_of(plan, specs, paddings)
        yield Keeper(Frontier(tuner.model, plan), fields, ragged, run, tuner.args.device, precision)


def for_evaluation(tuner: FineTuner, keeper: Keeper) -> Keeper:
    """Give what keeps the rows that are evaluated: in full precision, as the saved model is measured."""
    return keeper.in_full(partial(_run_in_full, tuner)) if tuner.mixed else keeper


def prove(tuner: FineTuner, keeper: Keeper, evaluated: Keeper) -> float:
    """Compare loss and gradients from kept activations with those of the whole pass; count the work.

    Args:
        tuner: the trainer.
        keeper: of the rows that are trained on.
        evaluated: of those that are evaluated.

    Returns:
        The share of a step's work that need not be done again, 0 to 1.

    Raises:
        NoFrontierError: they are not equal, or a wrong cache would not be noticed.
    """
    tolerance = TOLERANCE.get(precision_of(tuner), ROUGH_TOLERANCE)
    probe = probe_rows(tuner.train_dataset)
    with tempfile.TemporaryDirectory() as folder:
        kept = _kept_probe(keeper, probe, Path(folder) / "trained")
        order = [3, 0, 5, 2, 4, 1]
        whole = _batch(tuner, probe, order)
        _read_again(whole, _batch(tuner, kept, order))
        _repeatable(tuner, keeper.frontier, whole)
        expected, all_work = _gradients(tuner, whole)
        found, work = _gradients(tuner, _batch(tuner, kept, order))
        if (wrong := _difference(expected, found, tolerance)) is not None:
            raise NoFrontierError(wrong)
        # The control: an equality that a wrong activation would pass proves nothing.
        scaled = _batch(tuner, kept, order)
        scaled[PREFIX].values = [
            1.5 * value if value.is_floating_point() else value for value in scaled[PREFIX].values
        ]
        if _difference(expected, _gradients(tuner, scaled)[0], tolerance) is None:
            raise NoFrontierError(
                "a wrong activation would not be noticed: it moves neither loss nor gradient"
            )
        if evaluated is not keeper:
            kept = _kept_probe(evaluated, probe, Path(folder) / "evaluated")
        _same_evaluation(tuner, evaluated, kept, order)
    return 1 - work / all_work if all_work else 0.0


def _kept_probe(keeper: Keeper, probe: EncodedRows, folder: Path) -> CachedRows:
    """Keep a few rows, in other batches than they are read in: a wrong cut into rows or padding shows."""
    store = RowStore(folder, keeper.fields, keeper.lengths(probe))
    views = range(probe.views or 1)
    for part in ([5, 1, 3], [4, 0, 2]):
        keeper.fill(probe, store, np.asarray([view * len(probe) + row for view in views for row in part]))
    return CachedRows(probe, keeper.frontier, store)


def _read_again(whole: Batch, read: Batch) -> None:
    for key, value in read.items():
        if key != PREFIX and not torch.equal(value, whole[key]):
            raise NoFrontierError(f"{key!r} of a batch is not the same when it is read again")


def _repeatable(tuner: FineTuner, frontier: Frontier, whole: Batch) -> None:
    before = _random_state(tuner.args.device)
    again = [frontier.capture(lambda: _run(tuner, dict(whole))) for _ in range(2)]
    # A layer that is rarely dropped may be there in both passes.
    if not torch.equal(before, _random_state(tuner.args.device)):
        raise NoFrontierError("it draws random numbers")
    if not all(torch.equal(one, other) for one, other in zip(*again, strict=True)):
        raise NoFrontierError("two passes give other activations")


def _random_state(device: torch.device) -> torch.Tensor:
    """Give the state of all generators that a pass may draw from."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return torch.cat([state.flatten() for state in states])


def _same_evaluation(tuner: FineTuner, keeper: Keeper, kept: CachedRows, order: Sequence[int]) -> None:
    tuner.model.eval()
    with torch.no_grad():
        batches = [_batch(tuner, rows, order) for rows in (kept.encoded, kept)]
        whole, read = (float(_loss(tuner, batch, keeper.run)) for batch in batches)
    tuner.model.train()
    if abs(whole - read) > TOLERANCE.get(keeper.precision, ROUGH_TOLERANCE) * max(1.0, abs(whole)):
        raise NoFrontierError(f"in evaluation the loss is {read:.6f} in place of {whole:.6f}")


def probe_rows(rows: EncodedRows) -> EncodedRows:
    """Choose a few rows: the longest, one of the middle, and the shortest."""
    order = np.arange(len(rows)) if rows.lengths is None else np.argsort(rows.lengths, kind="stable")
    chosen = [order[-1], order[len(order) // 2], *order[: PROBE_ROWS - 2]]
    few = rows.rows.select([int(row) for row in chosen])
    return EncodedRows(rows.task, few, split=rows.split, seed=rows.seed, train=rows.train, views=rows.views)


def _three_batches(tuner: FineTuner, probe: EncodedRows) -> tuple[list[Batch], dict[str, float]]:
    """Make the batches of `candidate_plans`, and say what shorter rows are padded with, by key.

    Where rows have a length, the third batch is the first one with every row a step shorter, so that rows
    which happen to be of one length do not pass for rows of a fixed shape.
    """
    batches = [_batch(tuner, probe, rows) for rows in ([0, 1, 2], [0, 2], [3, 4, 5])]
    key = tuner.task.length_key
    if key is None:
        first, other = batches[0], batches[2]
        ragged = [name for name, value in first.items() if _width(value) != _width(other[name])]
        return batches, {name: float(first[name][2].flatten()[-1]) for name in ragged}
    items = probe.items([(0, row, True) for row in range(3)])
    shorter = [{name: _cut(value, len(item[key])) for name, value in item.items()} for item in items]
    batches[2] = to_device(tuner.task, probe.collate(shorter), tuner.args.device)
    longest = max(range(3), key=lambda row: len(items[row][key]))
    pair = probe.collate([items[longest], shorter[longest]])
    ragged = [name for name in pair if _width(batches[0][name]) != _width(batches[2][name])]
    return batches, {name: float(pair[name][1].flatten()[-1]) for name in ragged}


def _width(value: Any) -> int:
    return value.shape[1] if isinstance(value, torch.Tensor) and value.dim() > 1 else 0


def _cut(value: Any, length: int) -> Any:
    return value[:-1] if isinstance(value, (list, torch.Tensor)) and len(value) == length else value


def _batch(tuner: FineTuner, rows: EncodedRows, chosen: Sequence[int]) -> Batch:
    batch = rows.collate(rows.__getitems__([(0, row, True) for row in chosen]))
    prefix = {PREFIX: batch.pop(PREFIX)} if PREFIX in batch else {}
    return {**to_device(tuner.task, batch, tuner.args.device), **prefix}


def _run(tuner: FineTuner, batch: Batch) -> Any:
    with tuner.accelerator.autocast():
        return forward(tuner.task, tuner.model, batch)


def _run_in_full(tuner: FineTuner, batch: Batch) -> Any:
    with full_precision(tuner.model):
        return forward(tuner.task, tuner.model, batch)


def _loss(tuner: FineTuner, batch: Batch, run: Callable[[Batch], Any] | None = None) -> torch.Tensor:
    outputs = (run or partial(_run, tuner))(batch)
    rows = tuner.task.loss(tuner.model, outputs, batch)
    return rows.sum() / tuner.task.count(batch).sum()


def _gradients(tuner: FineTuner, batch: Batch) -> tuple[list[torch.Tensor | None], int]:
    """Give the loss and the gradient of every trainable tensor, from the same random state, and their work.

    Work is counted in floating-point operations and not in seconds: it is the same in every process.
    """
    learning = [parameter for parameter in tuner.model.parameters() if parameter.requires_grad]
    torch.manual_seed(tuner.args.seed)
    with FlopCounterMode(display=False) as counter:
        loss = _loss(tuner, batch)
        loss.backward()
    gradients = [parameter.grad for parameter in learning]
    tuner.model.zero_grad(set_to_none=True)
    return [loss.detach(), *gradients], counter.get_total_flops()


def _difference(
    expected: Sequence[torch.Tensor | None], found: Sequence[torch.Tensor | None], tolerance: float
) -> str | None:
    """Say what differs of a loss and its gradients, or None where they are equal."""
    names = ["the loss", *["a gradient"] * (len(expected) - 1)]
    largest = max((float(one.norm()) for one in expected[1:] if one is not None), default=0.0)
    for name, one, other in zip(names, expected, found, strict=True):
        if (one is None) != (other is None):
            return "something that learns before the cut gets no gradient"
        if one is None or other is None:
            continue
        scale = max(float(one.norm()), 1.0 if name == "the loss" else 0.01 * largest)
        if not float((one - other).norm()) <= tolerance * scale:
            return f"{name} is another one than in the whole pass"
    return None
