"""The activation cache: no frozen activation is computed twice where that proves to be the same training."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate.utils import broadcast_object_list
from filelock import FileLock

from hf_ft.activations.cache_key import network_key, store_key
from hf_ft.activations.cached_rows import ActivationWriter, CachedRows
from hf_ft.activations.cut_search import NoCutError, trial
from hf_ft.activations.proof import PROBE_ROWS, candidates, prove
from hf_ft.data.dataset import EncodedRows
from hf_ft.errors import TrainError
from hf_ft.model.preserved_state import preserved_state
from hf_ft.storage.atomic import read_json, write_json
from hf_ft.storage.cache_folder import cache_folder
from hf_ft.storage.eviction import make_room
from hf_ft.storage.row_store import bytes_of

if TYPE_CHECKING:
    from hf_ft.model.passes import Passes
    from hf_ft.recipe.schema import CacheSection
    from hf_ft.task import Batch

# Below this share of a step's work, reading would cost what computing does.
LEAST_SHARE = 0.1
AGAIN = "the frozen part is computed again in each epoch"


@dataclass(frozen=True)
class ActivationCache:
    """What is cached of a run's rows.

    Args:
        reason: what was decided, and why.
        rows: split -> rows to train on or to evaluate; cached where they are cached, else as they were given.
        writer: computes activations of training rows; None where the cache is not used.
        computed: rows that had to be computed now.
    """

    reason: str
    rows: Mapping[str, EncodedRows]
    writer: ActivationWriter | None = None
    computed: int = 0

    @property
    def is_used(self) -> bool:
        """Whether training starts at a cut."""
        return self.writer is not None

    def batch(self, passes: Passes, rows: EncodedRows, chosen: Sequence[int]) -> Batch:
        """Give a batch of training rows in the form in which they are trained on, for measurements.

        A check has nothing cached: it computes the activations of these rows alone, and so measures on the
        same batches as a run that trains.

        Args:
            passes: how the model is run in training.
            rows: training rows, encoded from their inputs.
            chosen: which of them.
        """
        cached = self.rows["train"]
        if self.writer is None or isinstance(cached, CachedRows):
            return passes.batch(cached, chosen)
        few = EncodedRows(
            rows.task,
            rows.rows.select([int(row) for row in chosen]),
            split=rows.split,
            seed=rows.seed,
            train=rows.train,
            views=rows.views,
        )
        with tempfile.TemporaryDirectory() as folder:
            return passes.batch(self.writer.few(few, [range(len(few))], Path(folder)), range(len(few)))


@dataclass(frozen=True)
class _Decision:
    """Which candidate is taken, and where its activations are stored.

    Args:
        number: which of the candidates.
        share: the part of a training step's work that is no longer done, 0 to 1.
        folders: split -> folder of its rows.
        size: bytes of all of them.
        stale: whether something was stored there that did not fit.
    """

    number: int
    share: float
    folders: dict[str, Path]
    size: int
    stale: bool


@dataclass
class _Candidates:
    """Candidates in their order, each tried when it is first asked for: mostly the first is taken.

    A candidate is the writer of training rows and that of the rows that are evaluated.
    """

    source: Iterator[ActivationWriter]
    seen: list[tuple[ActivationWriter, ActivationWriter]] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[ActivationWriter, ActivationWriter]]:
        yield from self.seen
        for writer in self.source:
            # What is evaluated is computed in full precision, as the saved model is measured.
            self.seen.append((writer, writer.in_full() if writer.passes.is_mixed else writer))
            yield self.seen[-1]

    def __getitem__(self, number: int) -> tuple[ActivationWriter, ActivationWriter]:
        return next(one for place, one in enumerate(self) if place == number)


@dataclass(frozen=True)
class CacheRequest:
    """All that the decision about a run's activation cache depends on.

    Args:
        passes: how the model is run in training.
        rows: split -> rows, encoded from their inputs; `train` as it is trained on.
        contents: split -> hash of what its raw rows hold.
        frozen: hash of every frozen tensor of the model.
        section: the recipe's `cache:`.
        epochs: passes over the training rows.
        against: why the cache cannot be used whatever the model is, or None.
        seed: of the run.
    """

    passes: Passes
    rows: Mapping[str, EncodedRows]
    contents: Mapping[str, str]
    frozen: str
    section: CacheSection
    epochs: float
    against: str | None
    seed: int


def cache_activations(
    request: CacheRequest, processes: Any, *, keep: bool, progress: bool = False
) -> ActivationCache:
    """Decide whether a run's passes start at a cut, and store the activations of its rows.

    Args:
        request: the run's model and rows.
        processes: the Accelerator, or PartialState.
        keep: whether to compute and store activations; otherwise it is only decided.
        progress: whether to show bars.

    Raises:
        TrainError: the disk failed on one of several processes, which cannot go on differently.
    """
    reason = reason_against(request)
    if reason is not None:
        return ActivationCache(reason, request.rows)
    found: list[Any] = [None]
    model: Any = request.passes.model
    with preserved_state(model):
        model.train()
        tried = _Candidates(candidates(request.passes, request.rows["train"]))
        # One process decides for all: none may train from cached rows alone.
        if processes.is_main_process:
            try:
                # Whatever happens here, the other processes wait for an answer.
                with trial():
                    found = [_decide(request, tried, keep=keep)]
            except NoCutError as error:
                found = [f"not used: {error}; {AGAIN}"]
        broadcast_object_list(found)
        if isinstance(found[0], str):
            return ActivationCache(found[0], request.rows)
        decision: _Decision = found[0]
        writer, evaluated = tried[decision.number]
        if not keep:
            return ActivationCache(_described(decision, writer, None), request.rows, writer)
        cached: dict[str, CachedRows] = {}
        computed = 0
        for split, rows in request.rows.items():
            folder = decision.folders[split]
            try:
                own = writer if rows.train else evaluated
                cached[split], new = own.write(rows, folder, processes, progress=progress)
            except OSError as error:
                # Without a disk a run only takes longer; but one process of several must not go on alone.
                if processes.num_processes > 1:
                    raise TrainError(f"{folder}: {error}; write cache: {{activations: off}}") from error
                return ActivationCache(f"not used: {error}; {AGAIN}", request.rows)
            computed += new
    total = sum(len(rows.store) for rows in cached.values())
    return ActivationCache(_described(decision, writer, (computed, total)), cached, writer, computed)


def _described(decision: _Decision, writer: ActivationWriter, computed: tuple[int, int] | None) -> str:
    new = ""
    if computed is not None:
        new = f", {computed[0]} of {computed[1]} rows computed now" if computed[0] else ", all found"
        if decision.stale:
            new += ", because those that were there were of another model, other code or files as they were"
    share, size = f"{decision.share:.1%}", f"{decision.size / 1e6:,.1f} MB{new}"
    return f"starts at {writer.partial.plan.cut}: {share} of a step's work is done once and cached ({size})"


def reason_against(request: CacheRequest) -> str | None:
    """Say why nothing can be cached, as far as recipe and rows decide it; None where neither does."""
    rows = request.rows["train"]
    cost = f"the frozen part is computed again in each of {request.epochs:g} epochs"
    if request.section.activations == "off":
        return "off (cache.activations)"
    if all(parameter.requires_grad for parameter in request.passes.model.parameters()):
        return "none, every weight learns"
    if request.against is not None:
        return f"not used {request.against}"
    if rows.train and rows.task.mixes:
        return f"not used: mixup and cutmix mix rows before the network; {cost}"
    if rows.chance and not rows.views:
        return f"not used: augmentation makes other rows in each epoch; {cost}. cache: {{views: 4}} keeps 4"
    if len(rows) < PROBE_ROWS:
        return f"not used: fewer than {PROBE_ROWS} training rows"
    return None


def _decide(
    request: CacheRequest, tried: Iterable[tuple[ActivationWriter, ActivationWriter]], *, keep: bool
) -> _Decision | str:
    """Take the first candidate that is proved, now or by a run before; or give the reason against it."""
    reasons = []
    for number, (writer, evaluated) in enumerate(tried):
        folders = _folders(request, writer, evaluated)
        writers = {split: writer if rows.train else evaluated for split, rows in request.rows.items()}
        stale = not all(writers[split].agrees(rows, folders[split]) for split, rows in request.rows.items())
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
                    share = prove(writer, evaluated, request.rows["train"], request.seed)
            except NoCutError as error:
                reasons.append(f"{writer.partial.plan.cut}: {error}")
                continue
        if share < LEAST_SHARE:
            return f"not used: only {share:.1%} of a step's work lies before {writer.partial.plan.cut}"
        size = sum(
            bytes_of(writers[split].fields, _guessed_lengths(rows, writers[split]))
            for split, rows in request.rows.items()
        )
        most = int(request.section.max_gb * 1e9)
        full = make_room(_root(), size, most, list(folders.values()), delete=keep)
        if full is not None:
            return f"not used: {full}; {AGAIN}"
        if keep:
            write_json(proof, share)
        return _Decision(number, share, folders, size, stale)
    # The first has the longest frozen part; the others mostly fail as it does.
    others = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    because = reasons[0] if reasons else "what learns depends on all that comes before it"
    return f"not used: {because}{others}"


def _folders(request: CacheRequest, writer: ActivationWriter, evaluated: ActivationWriter) -> dict[str, Path]:
    """Name the folder of each split after all that its activations depend on."""
    keys = {
        one.passes.precision: network_key(one.passes, one.partial.plan, request.frozen)
        for one in (writer, evaluated)
    }
    return {
        split: _root()
        / store_key(
            keys[(writer if rows.train else evaluated).passes.precision], rows, request.contents[split]
        )
        for split, rows in request.rows.items()
    }


def _root() -> Path:
    return cache_folder() / "activations"


def _guessed_lengths(rows: EncodedRows, writer: ActivationWriter) -> np.ndarray:
    count = (rows.views or 1) * len(rows)
    if writer.ragged is None or rows.lengths is None:
        return np.zeros(count, np.int64)
    return np.tile(np.asarray(rows.lengths), rows.views or 1)
