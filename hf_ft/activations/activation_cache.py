"""Never compute a frozen activation twice: decide whether to start at the frontier, and from which."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import broadcast_object_list
from filelock import FileLock

from hf_ft.activations.cache_key import network_key, store_key
from hf_ft.activations.cached_rows import CachedRows, Keeper
from hf_ft.activations.cut_search import NoFrontierError, trial
from hf_ft.activations.proof import PROBE_ROWS, candidates, for_evaluation, prove
from hf_ft.errors import TrainError
from hf_ft.model.preserved_state import left_as_it_was
from hf_ft.storage.atomic import read_json, write_json
from hf_ft.storage.cache_folder import cache_folder
from hf_ft.storage.row_store import bytes_of, make_room

if TYPE_CHECKING:
    from hf_ft.data.dataset import EncodedRows
    from hf_ft.data.prepare import Prepared
    from hf_ft.recipe.schema import Recipe
    from hf_ft.train.trainer import FineTuner

# Below this share of a step's work, reading would cost what computing does.
LEAST_SHARE = 0.1


@dataclass
class Kept:
    """The rows of a run whose frozen activations are kept.

    Args:
        keepers: whether rows are trained on -> what computes and keeps them.
        tables: split -> its raw rows, whole.
        folders: split -> folder of its rows.
        processes: the Accelerator.
        progress: whether to show bars.
        rows: (split, whether they are trained on) -> rows, once they are kept.
        computed: rows that had to be computed.
        failure: why no more rows can be kept, or None.
    """

    keepers: dict[bool, Keeper]
    tables: Mapping[str, Any]
    folders: dict[str, Path]
    processes: Any
    progress: bool
    rows: dict[tuple[str, bool], CachedRows] = field(default_factory=dict)
    computed: int = 0
    failure: str | None = None

    def __call__(self, rows: EncodedRows) -> EncodedRows:
        """Give the kept rows of a split; computed first where they are not there yet."""
        if isinstance(rows, CachedRows) or rows.chance != (rows.views is not None):
            return rows
        # A few rows of a split are not the split.
        if rows.rows is not self.tables.get(rows.split):
            return rows
        which = rows.split, rows.train
        if which not in self.rows and self.failure is None:
            self._keep(rows)
        return self.rows.get(which, rows)

    def _keep(self, rows: EncodedRows) -> None:
        folder = self.folders[rows.split]
        try:
            keeper = self.keepers[rows.train]
            found, computed = keeper.keep(rows, folder, self.processes, progress=self.progress)
        except OSError as error:
            # Without a disk a run only takes longer; but one process of several must not go on alone.
            if self.processes.num_processes > 1:
                raise TrainError(f"{folder}: {error}; write cache: {{frontier: off}}") from error
            self.failure = str(error)
        else:
            self.rows[rows.split, rows.train] = found
            self.computed += computed


@dataclass(frozen=True)
class Decision:
    """What is kept of a run's rows.

    Args:
        number: which of the candidates.
        share: the part of a training step's work that is no longer done, 0 to 1.
        folders: split -> folder of its rows.
        size: bytes of all of them.
        stale: whether something was there that did not fit.
    """

    number: int
    share: float
    folders: dict[str, Path]
    size: int
    stale: bool


class _Found:
    """Candidates in their order, each tried when it is first asked for: the first is mostly taken."""

    def __init__(self, candidates: Iterator[tuple[Keeper, Keeper]]):
        self._candidates, self._seen = candidates, list[tuple[Keeper, Keeper]]()

    def __iter__(self) -> Iterator[tuple[Keeper, Keeper]]:
        yield from self._seen
        for one in self._candidates:
            self._seen.append(one)
            yield one

    def __getitem__(self, number: int) -> tuple[Keeper, Keeper]:
        return next(one for place, one in enumerate(self) if place == number)


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
    with left_as_it_was(tuner.model):
        tuner.model.train()
        keepers = _Found((keeper, for_evaluation(tuner, keeper)) for keeper in candidates(tuner))
        # One process decides for all: none may train from kept rows alone.
        if tuner.accelerator.is_main_process:
            try:
                # Whatever happens here, the other processes wait for an answer.
                with trial():
                    found = [_decide(tuner, keepers, recipe, data, frozen_fingerprint, keep=keep)]
            except NoFrontierError as error:
                found = [f"not used: {error}; the frozen part is computed again in each epoch"]
        broadcast_object_list(found)
        if isinstance(found[0], str):
            return found[0]
        decision: Decision = found[0]
        keeper, evaluated = keepers[decision.number]
    both = {True: keeper, False: evaluated}
    tables = {split: data.encoded(tuner.task, split).rows for split in data.rows}
    kept = Kept(both, tables, decision.folders, tuner.accelerator, not tuner.args.disable_tqdm)
    if keep:
        both_kept = kept(tuner.train_dataset), kept(tuner.eval_dataset)
        if kept.failure is not None:
            return f"not used: {kept.failure}; the frozen part is computed again in each epoch"
        tuner.train_dataset, tuner.eval_dataset = both_kept
        tuner.kept, tuner.exact = kept, True
    count = sum(len(rows.store) for rows in kept.rows.values())
    new = f", {kept.computed} of {count} rows computed now" if kept.computed else ", all found"
    if decision.stale:
        new += (
            ", because those that were there were of another model, other code or files as they were before"
        )
    return (
        f"starts at {keeper.frontier.plan.cut}: {decision.share:.1%} of a step's work is done once and kept "
        f"({decision.size / 1e6:,.1f} MB{new if keep else ''})"
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


def _decide(
    tuner: FineTuner,
    keepers: Iterable[tuple[Keeper, Keeper]],
    recipe: Recipe,
    data: Prepared,
    fingerprint: str,
    *,
    keep: bool,
) -> Decision | str:
    """Take the first candidate that is proved, now or by a run before; or give the reason against it."""
    root = cache_folder() / "frontier"
    parts = {split: data.encoded(tuner.task, split) for split in data.rows}
    parts["train"] = tuner.train_dataset
    reasons = []
    for number, (keeper, evaluated) in enumerate(keepers):
        plan = keeper.frontier.plan
        keeper_of = {split: keeper if rows.train else evaluated for split, rows in parts.items()}
        network = {
            one.precision: network_key(tuner.task, plan, fingerprint, tuner.model, one.precision)
            for one in (keeper, evaluated)
        }
        folders = {
            split: root / store_key(network[one.precision], parts[split], data.findings.contents[split])
            for split, one in keeper_of.items()
        }
        stale = not all(one.agrees(parts[split], folders[split]) for split, one in keeper_of.items())
        # Where a few rows are not what they should be, none of that network can be trusted.
        for folder in folders.values() if stale and keep else ():
            # Another run may be filling it.
            with FileLock(f"{folder}.lock"):
                shutil.rmtree(folder, ignore_errors=True)
        proof = folders["train"] / "proof.json"
        share = read_json(proof, float)
        if share is None or not 0 <= share <= 1:
            try:
                with trial():
                    share = prove(tuner, keeper, evaluated)
            except NoFrontierError as error:
                reasons.append(f"{plan.cut}: {error}")
                continue
        if share < LEAST_SHARE:
            return f"not used: only {share:.1%} of a step's work lies before {plan.cut}"
        size = sum(
            bytes_of(one.fields, _guessed_lengths(parts[split], one)) for split, one in keeper_of.items()
        )
        full = make_room(root, size, int(recipe.cache.max_gb * 1e9), list(folders.values()), delete=keep)
        if full is not None:
            return f"not used: {full}; the frozen part is computed again in each epoch"
        if keep:
            write_json(proof, share)
        return Decision(number, share, folders, size, stale)
    # The first is the longest prefix; the others mostly fail as it does.
    others = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    because = reasons[0] if reasons else "what learns depends on all that comes before it"
    return f"not used: {because}{others}"


def _guessed_lengths(rows: EncodedRows, keeper: Keeper) -> np.ndarray:
    count = (rows.views or 1) * len(rows)
    if keeper.ragged is None or rows.lengths is None:
        return np.zeros(count, np.int64)
    return np.tile(np.asarray(rows.lengths), rows.views or 1)
