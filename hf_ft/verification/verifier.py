"""The verifier: judges a run by its files and by the source of its rows, without the process that wrote it.

It reads the rows and labels from the source again, predicts raw rows with the saved model, and computes
results.json again from predictions.parquet. What only the run itself can know is marked as its own word.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_ft.errors import VerifyError
from hf_ft.recipe.schema import IN_MEMORY
from hf_ft.verification import checks
from hf_ft.verification.items import Judgement, judged_files, run_checks
from hf_ft.verification.seal import check_unchanged

if TYPE_CHECKING:
    from hf_ft.data.prepare import Prepared
    from hf_ft.model.predictor import Predictor
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Evaluation, Loaded, Task

# Rows that are predicted again: most of each trait, and most of those that are spread over the split.
TRAIT_ROWS, SPREAD_ROWS = 3, 64
HowMany = int | Literal["sample", "all"]


@dataclass(frozen=True)
class RunsWord:
    """What a verifier has to take from the process that trained, because no file shows it.

    Args:
        recipe: the text of the resolved recipe.
        loss_passed: whether the loss of a batch was the same whole and in parts.
        loss: the two losses, in words.
    """

    recipe: str
    loss_passed: bool
    loss: str


@dataclass(frozen=True)
class Request:
    """What to judge.

    Args:
        folder: the run folder.
        rows: which rows of validation and test to predict again: a sample, a sample with so many rows, or
            all.
        threads: number of CPU threads; None: torch's default.
        trust_task: as for `Predictor.load`.
        data: the rows of a run on rows in memory, as for `finetune`.
        word: the run's own word, where it is there to ask.
        cache: folder of inspections of rows that may be used again; None: the user's cache folder.
    """

    folder: Path
    rows: HowMany = "sample"
    threads: int | None = None
    trust_task: str | None = None
    data: Any = None
    word: RunsWord | None = None
    cache: Path | None = None


class Verifier:
    """Judges a run folder. What several items need is computed once, when the first of them asks for it.

    Args:
        request: what to judge.
    """

    def __init__(self, request: Request):
        self.request, self.folder = request, request.folder

    def judge(self) -> Judgement:
        """Check every item; the run folder must be complete except for verify.json and the report."""
        files = judged_files(self.folder)
        found = run_checks(
            {
                "source": lambda: checks.check_source(self.folder, self.data, self.in_memory),
                "labels": lambda: checks.check_labels(self.folder, self.task.labels()),
                "counted": lambda: checks.check_counted(
                    self.folder, self.task, self.predictor.task, self.data
                ),
                "reload": self._check_reload,
                "results": lambda: checks.check_results(
                    self.folder, self.recipe, self.loaded_task, self.data, self.stored, self.metric
                ),
                "frozen": lambda: checks.check_frozen(
                    self.folder, self.recipe, self.task, self.base, self.predictor.model
                ),
                "loss": lambda: checks.check_loss(self.request.word, self.folder),
                "contents": lambda: checks.check_contents(self.folder),
                "provenance": lambda: checks.check_provenance(self.folder, self.request.word),
                "pipeline": lambda: checks.check_pipeline(
                    self.folder, self.task, self.data, self.predictor, self.sample
                ),
            }
        )
        return Judgement(found, files)

    def predict(self) -> None:
        """Do what needs the model and the source only; what fails here fails again in its item."""
        run_checks(
            {
                "predict": lambda: f"{len(self.predicted)} splits",
                "load": lambda: self.base.source.get("name", ""),
            }
        )

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe in the run folder."""
        from hf_ft.recipe.read import load_recipe

        return load_recipe(self.folder / "recipe.yaml")

    @property
    def in_memory(self) -> bool:
        """Whether the rows came from memory, so that no source can be read."""
        return self.recipe.data.source == IN_MEMORY

    @cached_property
    def data(self) -> Prepared:
        """The rows, read again from their source, and split, audited and fitted again."""
        from hf_ft.data.prepare import prepare

        if self.in_memory and self.request.data is None:
            raise VerifyError(
                "the rows of this run came from memory, where they cannot be read again; in Python, pass the "
                "same rows: hf_ft.verify(folder, data=...)"
            )
        found = prepare(self.recipe, self._task, data=self.request.data, cache=self.request.cache)
        found.findings.raise_for_errors()
        return found

    @cached_property
    def _task(self) -> Task:
        from hf_ft.registry import new_task

        return new_task(self.recipe)

    @property
    def task(self) -> Task:
        """The task, fitted on the training rows of the source."""
        assert self.data
        return self._task

    @cached_property
    def base(self) -> Loaded:
        """The base model, loaded again, with a new head."""
        return self.task.load(self.recipe.model)

    @property
    def loaded_task(self) -> Task:
        """The task, after it has loaded a model: it then knows the longest text and the like."""
        assert self.base
        return self.task

    @property
    def metric(self) -> tuple[str, bool]:
        """The main metric, and whether a greater value of it is better."""
        from hf_ft.evaluate.results import main_metric

        return main_metric(self.recipe, self.task)

    @cached_property
    def predictor(self) -> Predictor:
        """The saved model."""
        from hf_ft.model.predictor import Predictor

        found = Predictor.load(self.folder / "model", trust_task=self.request.trust_task)
        # The processor's own call decides, not a shortcut that was once tested against it.
        found.task.shortcuts = False
        return found

    @cached_property
    def stored(self) -> dict[str, Evaluation]:
        """The evaluations of the run: answers of predictions.parquet, references of the source."""
        from hf_ft.verification.stored_run import stored_evaluations

        return stored_evaluations(self.folder, self.task, self.data)

    @property
    def sample(self) -> list[int]:
        """Positions in the final split: unusual rows first, then rows spread over the split."""
        return self._sample_of(self.data.final_split)

    def _sample_of(self, split: str) -> list[int]:
        ids, traits = self.data.rows[split].ids, self.data.findings.traits.get(split, {})
        if self.request.rows == "all":
            return list(range(len(ids)))
        most = SPREAD_ROWS if self.request.rows == "sample" else self.request.rows
        unusual = {row_id for found in traits.values() for row_id in found[:TRAIT_ROWS]}
        spread = range(0, len(ids), max(1, -(-len(ids) // most)))
        return list(
            dict.fromkeys([*(place for place, row_id in enumerate(ids) if row_id in unusual), *spread])
        )

    def _check_reload(self) -> str:
        same = checks.check_reload(self.task, self.data, self.stored, self.predicted, self.metric)
        losses = [
            checks.check_losses(self.stored[split], places, self._losses(split, places))
            for split, (places, _) in self.predicted.items()
        ]
        return "; ".join([same, *losses])

    def _losses(self, split: str, places: list[int]) -> list[float] | None:
        """Return the loss of the saved model for rows of a split, in the order of `places`."""
        from hf_ft.data.dataset import EncodedRows
        from hf_ft.evaluate.loop import evaluate_rows
        from hf_ft.model.mixed_precision import full_precision

        ordered = sorted(places)
        chosen = self.data.rows[split].select(ordered)
        rows = EncodedRows(self.loaded_task, chosen, split=split, seed=self.recipe.seed, train=False)
        model = self.predictor.model
        with full_precision(model):
            losses = evaluate_rows(self.loaded_task, model, rows).losses
        if losses is None:
            return None
        by_place = dict(zip(ordered, losses, strict=True))
        return [by_place[place] for place in places]

    @cached_property
    def predicted(self) -> Mapping[str, tuple[list[int], list[Any]]]:
        """Split -> positions of rows, and the results of the saved model for these raw rows."""
        found: dict[str, tuple[list[int], list[Any]]] = {}
        for split in ("validation", "test"):
            if split in self.data.rows:
                chosen = self._sample_of(split)
                inputs = checks.without_targets(self.task, self.data.rows[split], chosen)
                found[split] = (chosen, self.predictor.results(inputs))
        return found


def verify(
    run: str | Path, *, rows: HowMany = "sample", data: Any = None, trust_task: str | None = None
) -> Judgement:
    """Judge a finished run: by its files, and by its rows, which are read again from their source.

    Nothing is written. Decoded rows and inspections that earlier runs stored are not used.

    Args:
        run: the run folder.
        rows: which rows to predict again: `sample`, a number, or `all` rows of every evaluated split.
        data: the rows, if the run trained on rows in memory; as for `finetune`.
        trust_task: `package.module:Class` of your own task, if the run is of one; its code is run.

    Returns:
        The items; `judgement.passed` tells whether all of them have passed.

    Raises:
        VerifyError: the folder holds no run.

    >>> hf_ft.verify(run_folder).passed
    True
    """
    folder = Path(run)
    if not (folder / "recipe.yaml").is_file() or not (folder / "model").is_dir():
        raise VerifyError(
            f"{folder}: no recipe.yaml and model; expected a finished run, such as runs/my_recipe"
        )
    with tempfile.TemporaryDirectory() as cache:
        request = Request(folder, rows, trust_task=trust_task, data=data, cache=Path(cache))
        found = Verifier(request).judge()
    unchanged = run_checks({"unchanged": lambda: check_unchanged(folder)})
    return Judgement([*unchanged, *found.items], found.files)
