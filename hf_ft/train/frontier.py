"""Never compute a frozen activation twice: find the frontier, prove it, keep it, and train from there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, send_to_device
from torch.utils.flop_counter import FlopCounterMode

from hf_ft.data.cache import cache_folder
from hf_ft.data.examples import EncodedRows
from hf_ft.data.stamps import read_whole, write_whole
from hf_ft.data.store import Field, RowStore, bytes_of, make_room
from hf_ft.errors import TrainError
from hf_ft.model.cuts import NoFrontierError, batch_specs, candidate_plans, ragged_key
from hf_ft.model.frontier import PREFIX, Frontier, Plan, forward
from hf_ft.train.cached import (
    CachedRows,
    agrees,
    cached,
    fields_of,
    fill,
    network_key,
    row_lengths,
    store_key,
)

if TYPE_CHECKING:
    from hf_ft.data.prepare import Prepared
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Batch
    from hf_ft.train.trainer import FineTuner

# How far the loss and a gradient may be from those of the whole pass: rounding depends on how rows share a
# batch, and mixed precision rounds more.
TOLERANCE = {"fp32": 1e-4}
ROUGH_TOLERANCE = 2e-2
# Below this share of a step's work, reading would cost what computing does.
LEAST_SHARE = 0.1
# Rows that a frontier is looked for and proved on.
PROBE_ROWS = 6


@dataclass
class Kept:
    """The frontier of a run, and its rows.

    Args:
        tuner: the trainer.
        frontier: where its passes start.
        fields: what is kept of a row.
        ragged: key whose second axis is a batch's length, or None.
        folders: split -> folder of its rows.
        share: the part of a training step's work that is no longer done, 0 to 1.
        rows: (split, whether they are trained on) -> rows, once they are kept.
        computed: rows that had to be computed.
        failure: why no more rows can be kept, or None.
    """

    tuner: FineTuner
    frontier: Frontier
    fields: list[Field]
    ragged: str | None
    folders: dict[str, Path]
    share: float
    rows: dict[tuple[str, bool], CachedRows] = field(default_factory=dict)
    computed: int = 0
    failure: str | None = None

    def __call__(self, rows: EncodedRows) -> EncodedRows:
        """Give the kept rows of a split; computed first where they are not there yet."""
        if isinstance(rows, CachedRows) or rows.chance != (rows.views is not None):
            return rows
        which = rows.split, rows.train
        if which not in self.rows and self.failure is None:
            self._keep(rows)
        return self.rows.get(which, rows)

    def _keep(self, rows: EncodedRows) -> None:
        tuner = self.tuner
        try:
            found, computed = cached(
                rows,
                self.frontier,
                self.folders[rows.split],
                self.fields,
                self.ragged,
                partial(_run, tuner),
                processes=tuner.accelerator,
                device=tuner.args.device,
                progress=not tuner.args.disable_tqdm,
            )
        except OSError as error:
            # Without a disk a run only takes longer; but one process of several must not go on alone.
            if tuner.accelerator.num_processes > 1:
                raise TrainError(
                    f"{self.folders[rows.split]}: {error}; write cache: {{frontier: off}}"
                ) from error
            self.failure = str(error)
        else:
            self.rows[rows.split, rows.train] = found
            self.computed += computed


def use_frontier(
    tuner: FineTuner, recipe: Recipe, data: Prepared, frozen_fingerprint: str, *, keep: bool = True
) -> str:
    """Let a trainer start its passes at the frontier, where there is one.

    Args:
        tuner: the trainer, before training.
        recipe: the resolved recipe.
        data: the rows.
        frozen_fingerprint: hash of every frozen tensor of the model.
        keep: whether to compute and keep activations; otherwise it is only said what would be kept.

    Returns:
        What was decided, and why.
    """
    reason = why_not(tuner, recipe)
    if reason is not None:
        return reason
    found: list[Any] = [None]
    if tuner.accelerator.is_main_process:
        found = [_decide(tuner, recipe, data, frozen_fingerprint)]
    # One process decides for all: none may train from kept rows alone.
    broadcast_object_list(found)
    if isinstance(found[0], str):
        return found[0]
    plan, fields, ragged, folders, share, total, stale = found[0]
    kept = Kept(tuner, Frontier(tuner.model, plan), fields, ragged, folders, share)
    if keep:
        tuner.train_dataset, tuner.eval_dataset = kept(tuner.train_dataset), kept(tuner.eval_dataset)
        tuner.kept = kept
        if kept.failure is not None:
            return f"not used: {kept.failure}; the frozen part is computed again in each epoch"
    count = sum(len(rows.store) for rows in kept.rows.values())
    new = f", {kept.computed} of {count} rows computed now" if kept.computed else ", all found"
    new += ", because those that were there were of another model or other code" if stale else ""
    return (
        f"starts at {plan.cut}: {share:.1%} of a step's work is done once and kept "
        f"({total / 1e6:,.1f} MB{new if keep else ''})"
    )


def why_not(tuner: FineTuner, recipe: Recipe) -> str | None:
    """Say why nothing can be kept, as far as the recipe decides it; None where nothing is against it."""
    rows = tuner.train_dataset
    epochs = tuner.args.num_train_epochs
    cost = f"the frozen part is computed again in each of {epochs:g} epochs"
    if recipe.cache.frontier == "off":
        return "off (cache.frontier)"
    if recipe.freeze.strategy == "full":
        return "none, every weight learns"
    if tuner.args.torch_compile or tuner.args.activation_checkpointing:
        key = "compile" if tuner.args.torch_compile else "activation_checkpointing"
        return f"not used with train.{key}"
    if rows.train and rows.task.mixes:
        return f"not used: mixup and cutmix mix rows before the network; {cost}"
    if rows.chance and not rows.views:
        return f"not used: augmentation makes other rows in each epoch; {cost}. cache: {{views: 4}} keeps 4"
    if len(rows) < PROBE_ROWS:
        return f"not used: fewer than {PROBE_ROWS} training rows"
    return None


def _decide(tuner: FineTuner, recipe: Recipe, data: Prepared, fingerprint: str) -> Any:
    """Find, prove and measure a plan; give it with what is kept and where, or the reason against it."""
    precision = next((name for name in ("bf16", "fp16", "tf32") if getattr(tuner.args, name)), "fp32")
    root = cache_folder() / "frontier"
    parts = {split: data.encoded(tuner.task, split) for split in data.rows}
    parts["train"] = tuner.train_dataset

    def folders_of(plan: Plan) -> dict[str, Path]:
        network = network_key(tuner.task, plan, fingerprint, tuner.model, precision)
        contents = data.findings.contents
        return {split: root / store_key(network, part, contents[split]) for split, part in parts.items()}

    with _given_back(tuner):
        try:
            found = _search(tuner, parts, folders_of, TOLERANCE.get(precision, ROUGH_TOLERANCE))
        except NoFrontierError as error:
            return f"not used: {error}"
    plan, fields, ragged, share, folders, stale = found
    if share < LEAST_SHARE:
        return f"not used: only {share:.1%} of a step's work lies before {plan.cut}"
    sizes = {split: bytes_of(fields, _guessed_lengths(part, ragged)) for split, part in parts.items()}
    full = make_room(root, sum(sizes.values()), int(recipe.cache.max_gb * 1e9), list(folders.values()))
    if full is not None:
        return f"not used: {full}; the frozen part is computed again in each epoch"
    return plan, fields, ragged, folders, share, sum(sizes.values()), stale


def _guessed_lengths(rows: EncodedRows, ragged: str | None) -> np.ndarray:
    count = (rows.views or 1) * len(rows)
    if ragged is None or rows.lengths is None:
        return np.zeros(count, np.int64)
    return np.tile(np.asarray(rows.lengths), rows.views or 1)


def _probe_rows(rows: EncodedRows) -> EncodedRows:
    """Choose a few rows: the longest, one of the middle, and the shortest."""
    order = np.arange(len(rows)) if rows.lengths is None else np.argsort(rows.lengths, kind="stable")
    chosen = [order[-1], order[len(order) // 2], *order[: PROBE_ROWS - 2]]
    few = rows.rows.select([int(row) for row in chosen])
    return EncodedRows(rows.task, few, split=rows.split, seed=rows.seed, train=rows.train, views=rows.views)


@contextmanager
def _given_back(tuner: FineTuner) -> Iterator[None]:
    """Give back the mode, the statistics of batch norms and the random state that a search moves."""
    model = tuner.model
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    with torch.random.fork_rng():
        model.train()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])
            model.train(was_training)


def _run(tuner: FineTuner, batch: Batch) -> Any:
    with tuner.accelerator.autocast():
        return forward(tuner.task, tuner.model, batch)


def _loss(tuner: FineTuner, batch: Batch) -> torch.Tensor:
    outputs = _run(tuner, batch)
    rows = tuner.task.loss(tuner.model, outputs, batch)
    return rows.sum() / tuner.task.count(batch).sum()


def _search(
    tuner: FineTuner,
    parts: Mapping[str, EncodedRows],
    folders_of: Callable[[Plan], dict[str, Path]],
    tolerance: float,
) -> tuple[Plan, list[Field], str | None, float, dict[str, Path], bool]:
    """Try the candidates, the longest prefix first, until one is proved, now or by a run before.

    What a run before kept is thrown away, all of it, where a few rows of it are not what they should be.

    Raises:
        NoFrontierError: no candidate passes.
    """
    probe = _probe_rows(tuner.train_dataset)
    batches, paddings = _three_batches(tuner, probe)
    specs, ragged = batch_specs(batches), ragged_key(batches)
    reasons = []
    plans = candidate_plans(tuner.model, lambda batch: _loss(tuner, batch), batches, tuner.task.targets)
    for plan in plans:
        fields, folders = fields_of(plan, specs, paddings), folders_of(plan)
        frontier, proof = Frontier(tuner.model, plan), folders["train"] / "proof.json"
        run = partial(_run, tuner)
        stale = not all(
            agrees(part, frontier, folders[split], fields, ragged, run, tuner.args.device)
            for split, part in parts.items()
        )
        for folder in folders.values() if stale else ():
            shutil.rmtree(folder, ignore_errors=True)
        if read_whole(proof) is None:
            try:
                share = _prove(tuner, probe, plan, fields, ragged, tolerance)
            except NoFrontierError as error:
                reasons.append(f"{plan.cut}: {error}")
                continue
            write_whole(proof, share)
        return plan, fields, ragged, float(read_whole(proof)), folders, stale
    raise NoFrontierError("; ".join(reasons) or "what learns depends on all that comes before it")


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
    batches[2] = send_to_device(probe.collate(shorter), tuner.args.device)
    longest = max(range(3), key=lambda row: len(items[row][key]))
    pair = probe.collate([items[longest], shorter[longest]])
    ragged = [name for name in pair if _width(batches[0][name]) != _width(batches[2][name])]
    return batches, {name: float(pair[name][1].flatten()[-1]) for name in ragged}


def _width(value: Any) -> int:
    return value.shape[1] if isinstance(value, torch.Tensor) and value.dim() > 1 else 0


def _cut(value: Any, length: int) -> Any:
    return value[:-1] if isinstance(value, (list, torch.Tensor)) and len(value) == length else value


def _batch(tuner: FineTuner, rows: EncodedRows, chosen: Sequence[int], epoch: int = 0) -> Batch:
    batch = rows.collate(rows.__getitems__([(epoch, row, True) for row in chosen]))
    device = tuner.args.device
    prefix = batch.pop(PREFIX, None)
    moved: Batch = send_to_device(batch, device)
    return moved if prefix is None else {**moved, PREFIX: prefix}


def _prove(
    tuner: FineTuner,
    probe: EncodedRows,
    plan: Plan,
    fields: list[Field],
    ragged: str | None,
    tolerance: float,
) -> float:
    """Compare loss and gradients from kept activations with those of the whole pass; count the work.

    Returns:
        The share of a step's work that need not be done again.

    Raises:
        NoFrontierError: they are not equal, or a wrong cache would not be noticed.
    """
    frontier = Frontier(tuner.model, plan)
    lengths = row_lengths(probe, ragged)
    with tempfile.TemporaryDirectory() as folder:
        store = RowStore(Path(folder), fields, lengths)
        # In other batches than they are read in, so that a wrong cut into rows or padding shows.
        for part in ([5, 1, 3], [4, 0, 2]):
            places = np.asarray([view * len(probe) + row for view in range(probe.views or 1) for row in part])
            fill(probe, frontier, store, places, lambda batch: _run(tuner, batch), tuner.args.device)
        kept = CachedRows(probe, frontier, store)
        order = [3, 0, 5, 2, 4, 1]
        whole, read = _batch(tuner, probe, order), _batch(tuner, kept, order)
        for key, value in read.items():
            if key != PREFIX and not torch.equal(value, whole[key]):
                raise NoFrontierError(f"{key!r} of a batch is not the same when it is read again")
        again = [frontier.capture(lambda: _run(tuner, dict(whole))) for _ in range(2)]
        if not all(torch.equal(one, other) for one, other in zip(*again, strict=True)):
            raise NoFrontierError("two passes give other activations")
        expected, all_work = _gradients(tuner, whole)
        found, work = _gradients(tuner, _batch(tuner, kept, order))
        _equal(expected, found, tolerance)
        wrong = _batch(tuner, kept, order)
        wrong[PREFIX].values = [1.5 * value for value in wrong[PREFIX].values]
        try:
            _equal(expected, _gradients(tuner, wrong)[0], tolerance)
        except NoFrontierError:
            pass
        else:
            raise NoFrontierError(
                "a wrong activation would not be noticed: it moves neither loss nor gradient"
            )
        tuner.model.eval()
        with torch.no_grad():
            pair = [float(_loss(tuner, _batch(tuner, rows, order))) for rows in (probe, kept)]
        tuner.model.train()
        if abs(pair[0] - pair[1]) > tolerance * max(1.0, abs(pair[0])):
            raise NoFrontierError(f"in evaluation the loss is {pair[1]:.6f} in place of {pair[0]:.6f}")
    return 1 - work / all_work if all_work else 0.0


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


def _equal(
    expected: Sequence[torch.Tensor | None], found: Sequence[torch.Tensor | None], tolerance: float
) -> None:
    names = ["the loss", *["a gradient"] * (len(expected) - 1)]
    largest = max((float(one.norm()) for one in expected[1:] if one is not None), default=0.0)
    for name, one, other in zip(names, expected, found, strict=True):
        if (one is None) != (other is None):
            raise NoFrontierError("something that learns before the cut gets no gradient")
        if one is None or other is None:
            continue
        scale = max(float(one.norm()), 1.0 if name == "the loss" else 0.01 * largest)
        if not float((one - other).norm()) <= tolerance * scale:
            raise NoFrontierError(f"{name} is another one than in the whole pass")
