"""The activation cache: compute frozen activations once, if training from them is proved to be the same."""

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

# If the frozen part is a smaller share of a step's work, reading activations is not faster than computing.
LEAST_SHARE = 0.1
COMPUTED_AGAIN = "the frozen part is computed again in each epoch"


@dataclass(frozen=True)
class ActivationCache:
    """The decision about a run's activation cache, and the rows to train on and to evaluate.

    Args:
        reason: the decision and its reason, as text.
        rows: split -> `CachedRows` if the cache is used, else the encoded rows of the request.
        writer: computes the activations of training rows; None if the cache is not used.
        computed: number of rows whose activations were computed in this run.
    """

    reason: str
    rows: Mapping[str, EncodedRows]
    writer: ActivationWriter | None = None
    computed: int = 0

    @property
    def is_used(self) -> bool:
        """Whether training steps start from cached activations."""
        return self.writer is not None

    def batch(self, passes: Passes, rows: EncodedRows, chosen: Sequence[int]) -> Batch:
        """Return a batch of training rows as the training loop sees it, for measurements.

        `check` stores no activations. It computes those of the chosen rows here, so that it measures on the
        same batches as a run that trains.

        Args:
            passes: runs the model.
            rows: training rows, encoded from their inputs.
            chosen: positions of the rows of the batch.
        """
        cached = self.rows["train"]
        if self.writer is None or isinstance(cached, CachedRows):
            return passes.batch(cached, chosen)
        subset = EncodedRows(
            rows.task,
            rows.rows.select([int(row) for row in chosen]),
            split=rows.split,
            seed=rows.seed,
            train=rows.train,
            views=rows.views,
        )
        with tempfile.TemporaryDirectory() as folder:
            return passes.batch(
                self.writer.write_some(subset, [range(len(subset))], Path(folder)), range(len(subset))
            )


@dataclass(frozen=True)
class _Decision:
    """The chosen candidate, and the folders of its activations.

    Args:
        number: index of the candidate.
        share: the share of a training step's work that the cache saves, 0 to 1.
        folders: split -> folder of the row store.
        size: bytes of all row stores.
        stale: whether stored activations of an earlier run were wrong and are computed again.
    """

    number: int
    share: float
    folders: dict[str, Path]
    size: int
    stale: bool


@dataclass
class _Candidates:
    """The candidates, each built when it is first asked for, because mostly the first one is chosen.

    A candidate is two writers: one for the rows that are trained on, one for the rows that are evaluated.
    """

    source: Iterator[ActivationWriter]
    built: list[tuple[ActivationWriter, ActivationWriter]] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[ActivationWriter, ActivationWriter]]:
        yield from self.built
        for writer in self.source:
            # Evaluation rows are computed in full precision, as for the saved model.
            self.built.append((writer, writer.in_full() if writer.passes.is_mixed else writer))
            yield self.built[-1]

    def __getitem__(self, number: int) -> tuple[ActivationWriter, ActivationWriter]:
        return next(one for place, one in enumerate(self) if place == number)


@dataclass(frozen=True)
class CacheRequest:
    """Everything that the decision about a run's activation cache depends on.

    Args:
        passes: runs the model.
        rows: split -> rows, encoded from their inputs.
        contents: split -> hash of the content of its raw rows.
        frozen: hash of every frozen tensor of the model.
        section: the section `cache` of the recipe.
        epochs: number of passes over the training rows.
        against: a reason why no model of this run can use the cache, or None.
        seed: the seed of the run.
        spared: bytes that the cache must leave free on its disk.
    """

    passes: Passes
    rows: Mapping[str, EncodedRows]
    contents: Mapping[str, str]
    frozen: str
    section: CacheSection
    epochs: float
    against: str | None
    seed: int
    spared: int = 0


def cache_activations(
    request: CacheRequest, processes: Any, *, keep: bool, progress: bool = False
) -> ActivationCache:
    """Decide whether a run uses the activation cache, and store the activations of its rows.

    Args:
        request: the run's model and rows.
        processes: the Accelerator, or PartialState.
        keep: whether to compute and store activations; False: only decide.
        progress: whether to show progress bars.

    Raises:
        TrainError: the disk failed on one of several processes; all must train from the same kind of rows.
    """
    reason = reason_against(request)
    if reason is not None:
        return ActivationCache(reason, request.rows)
    found: list[Any] = [None]
    model: Any = request.passes.model
    with preserved_state(model):
        model.train()
        tried = _Candidates(candidates(request.passes, request.rows["train"]))
        # The main process decides for all, so that all processes train from the same kind of rows.
        if processes.is_main_process:
            try:
                # The other processes wait for the decision, so no error may leave this block.
                with trial():
                    found = [_decide(request, tried, keep=keep)]
            except NoCutError as error:
                found = [f"not used: {error}; {COMPUTED_AGAIN}"]
        broadcast_object_list(found)
        if isinstance(found[0], str):
            return ActivationCache(found[0], request.rows)
        decision: _Decision = found[0]
        writer, evaluated = tried[decision.number]
        if not keep:
            return ActivationCache(_describe(decision, writer, None), request.rows, writer)
        cached: dict[str, CachedRows] = {}
        computed = 0
        for split, rows in request.rows.items():
            folder = decision.folders[split]
            try:
                own = writer if rows.train else evaluated
                cached[split], new = own.write(rows, folder, processes, progress=progress)
            except OSError as error:
                # A single process can train without the cache. One of several processes cannot, because the
                # others train with it.
                if processes.num_processes > 1:
                    raise TrainError(f"{folder}: {error}; write cache: {{activations: off}}") from error
                return ActivationCache(f"not used: {error}; {COMPUTED_AGAIN}", request.rows)
            computed += new
    total = sum(len(rows.store) for rows in cached.values())
    return ActivationCache(_describe(decision, writer, (computed, total)), cached, writer, computed)


def _describe(decision: _Decision, writer: ActivationWriter, computed: tuple[int, int] | None) -> str:
    new = ""
    if computed is not None:
        new = f", {computed[0]} of {computed[1]} rows computed now" if computed[0] else ", all found"
        if decision.stale:
            new += ", because stored activations differed from those that the model gives now"
    share, size = f"{decision.share:.1%}", f"{decision.size / 1e6:,.1f} MB{new}"
    return f"starts at {writer.partial.plan.cut}: {share} of a step's work is done once and cached ({size})"


def reason_against(request: CacheRequest) -> str | None:
    """Return a reason against the cache that follows from the recipe or the rows, or None."""
    rows = request.rows["train"]
    cost = f"the frozen part is computed again in each of {request.epochs:g} epochs"
    if request.section.activations == "off":
        return "off (cache.activations)"
    if all(parameter.requires_grad for parameter in request.passes.model.parameters()):
        return "not used: every weight is trained"
    if request.against is not None:
        return f"not used {request.against}"
    if rows.train and rows.task.mixes:
        return f"not used: mixup and cutmix mix the inputs of rows; {cost}"
    if rows.is_random and not rows.views:
        return (
            f"not used: augmentation is random in each epoch; {cost}. "
            "cache: {views: 4} caches 4 random views of each row"
        )
    if len(rows) < PROBE_ROWS:
        return f"not used: fewer than {PROBE_ROWS} training rows"
    return None


def _decide(
    request: CacheRequest, tried: Iterable[tuple[ActivationWriter, ActivationWriter]], *, keep: bool
) -> _Decision | str:
    """Choose the first candidate that is proved, now or by an earlier run; or return the reason for none."""
    reasons = []
    for number, (writer, evaluated) in enumerate(tried):
        folders = _folders(request, writer, evaluated)
        writers = {split: writer if rows.train else evaluated for split, rows in request.rows.items()}
        stale = not all(writers[split].agrees(rows, folders[split]) for split, rows in request.rows.items())
        # If a few stored rows are wrong, no stored row of this network can be trusted.
        for folder in folders.values() if stale and keep else ():
            # Another run that fills the store holds this lock.
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
            bytes_of(writers[split].fields, _estimated_lengths(rows, writers[split]))
            for split, rows in request.rows.items()
        )
        most = int(request.section.max_gb * 1e9)
        full = make_room(_root(), size, most, list(folders.values()), delete=keep, spared=request.spared)
        if full is not None:
            return f"not used: {full}; {COMPUTED_AGAIN}"
        if keep:
            write_json(proof, share)
        return _Decision(number, share, folders, size, stale)
    # The first candidate has the longest frozen part; the others mostly fail for the same reason.
    others = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    first = reasons[0] if reasons else "no module can be found where a pass could start"
    return f"not used: {first}{others}"


def _folders(request: CacheRequest, writer: ActivationWriter, evaluated: ActivationWriter) -> dict[str, Path]:
    """Return split -> folder of its activations, which is named after a hash of all that they depend on."""
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


def _estimated_lengths(rows: EncodedRows, writer: ActivationWriter) -> np.ndarray:
    count = (rows.views or 1) * len(rows)
    if writer.ragged is None or rows.lengths is None:
        return np.zeros(count, np.int64)
    return np.tile(np.asarray(rows.lengths), rows.views or 1)
