"""The gate: checks that must pass before a run may print "done".

(a) reload      the saved folder, loaded in a fresh process, gives the same outputs and the same metric
(b) frozen      no frozen parameter or buffer has changed
(c) counted     every evaluated row was counted exactly once
(d) loss        the loss does not depend on accumulation or the number of processes
(e) labels      config, task.json, data.json and metric agree on the label map
(f) contents    no file of the run holds a pickle, an archive, code or a secret
(g) provenance  recipe, versions and data hashes are stored
(h) pipeline    transformers' pipeline on raw inputs gives the scores of the Predictor, unusual inputs first
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_ft.errors import RecipeError, VerifyError
from hf_ft.storage.atomic import write_json, write_text
from hf_ft.storage.file_hash import checksums
from hf_ft.text_utils import listing
from hf_ft.unsafe_files import check_contents

if TYPE_CHECKING:
    from hf_ft.fresh_process import FreshProcess, PipelineCall
    from hf_ft.task import Evaluation, Row, Rows, Task
    from hf_ft.train.assemble import Setup
    from hf_ft.train.preflight import SelfTest

ITEMS = ("reload", "frozen", "counted", "loss", "labels", "contents", "provenance", "pipeline")
CHECKSUMS = "model.sha256"
TOLERANCE = 1e-4
# Rows for the fresh process: most of each trait, and most of those that are spread over the split.
TRAIT_ROWS, SPREAD_ROWS = 3, 64
# Most rows for transformers' pipeline, unusual ones first.
MOST_PIPELINE_ROWS = 16


@dataclass(frozen=True)
class Item:
    """One item of the gate.

    Args:
        name: short name, as in the module's list.
        passed: whether the check passed.
        detail: what was measured, or why the check failed.
    """

    name: str
    passed: bool
    detail: str


def ask(fresh: FreshProcess, folder: Path, setup: Setup) -> None:
    """Let the fresh process predict a sample of the raw rows of the final split with the saved folder."""
    from hf_ft.model.save import task_name

    rows = setup.data.rows[setup.data.final_split]
    inputs = _inputs(setup.task, rows, sample_of(setup))
    fresh.ask(
        folder / "model",
        inputs,
        setup.decisions["threads"].value,
        _pipeline_call(setup),
        trust_task=task_name(type(setup.task)),
    )


def _pipeline_call(setup: Setup) -> PipelineCall | None:
    """Choose rows for transformers' pipeline; None if it reads the inputs differently than the Predictor."""
    from hf_ft.fresh_process import PipelineCall

    task, found, split = setup.task, setup.data.findings.traits, setup.data.final_split
    options = task.pipeline_options_for({name for traits in found.values() for name in traits})
    labels = task.labels()
    if options is None or task.pipeline_tag is None or labels is None:
        return None
    rows, chosen = setup.data.rows[split], sample_of(setup)[:MOST_PIPELINE_ROWS]
    return PipelineCall(task.pipeline_tag, _inputs(task, rows, chosen), {**options, "top_k": len(labels)})


def _inputs(task: Task, rows: Rows, indices: Sequence[int]) -> list[Row]:
    """Return these rows without their target roles."""
    targets = {role for role, about in task.roles.items() if about.target}
    chosen = [rows[index] for index in indices]
    return [{key: value for key, value in row.items() if key not in targets} for row in chosen]


def sample_of(setup: Setup) -> list[int]:
    """Return positions in the final split: unusual rows first, then rows spread over the split."""
    split = setup.data.final_split
    ids, traits = setup.data.rows[split].ids, setup.data.findings.traits.get(split, {})
    unusual = {row_id for found in traits.values() for row_id in found[:TRAIT_ROWS]}
    spread = range(0, len(ids), max(1, -(-len(ids) // SPREAD_ROWS)))
    return list(dict.fromkeys([*(place for place, row_id in enumerate(ids) if row_id in unusual), *spread]))


def gate(
    folder: Path,
    setup: Setup,
    evaluations: Mapping[str, Evaluation],
    self_test: SelfTest,
    fresh: FreshProcess,
) -> list[Item]:
    """Check every item of a finished run.

    Args:
        folder: the run folder, complete except for verify.json and the report.
        setup: the run after training.
        evaluations: split -> evaluation of the model in memory.
        self_test: result of the loss test in the preflight.
        fresh: the fresh process, after `ask`.

    Raises:
        VerifyError: names every item that failed.
    """
    task, data, frozen = setup.task, setup.data, setup.frozen
    write_checksums(folder)
    final, rows = evaluations[data.final_split], data.rows[data.final_split]
    checks = {
        "reload": lambda: check_reload(task, fresh, rows, sample_of(setup), final, setup.metric),
        "frozen": lambda: check_frozen(
            setup.frozen_fingerprint, frozen.frozen_fingerprint(), len(frozen.frozen)
        ),
        "counted": lambda: check_counted(
            evaluations.values(), {name: part.ids for name, part in data.rows.items()}
        ),
        "loss": lambda: check_loss(self_test.passed, str(self_test)),
        "labels": lambda: check_labels(task.labels(), folder),
        "contents": lambda: check_contents(folder),
        "provenance": lambda: check_provenance(folder),
        "pipeline": lambda: check_pipeline(fresh.answer().piped),
    }
    return run_checks(checks, folder)


def write_checksums(run_folder: Path) -> None:
    """Write down which files the gate is about to judge, as `sha256sum --check model.sha256` reads them."""
    lines = [f"{digest}  model/{name}\n" for name, digest in checksums(run_folder / "model").items()]
    write_text(run_folder / CHECKSUMS, "".join(lines))


def run_checks(checks: Mapping[str, Callable[[], str]], folder: Path) -> list[Item]:
    """Run every check, write verify.json, and refuse the run if one fails.

    Args:
        checks: name -> function that returns what it measured, or raises VerifyError.
        folder: the run folder.

    Raises:
        VerifyError: names every item that failed.
    """
    items = []
    for name, check in checks.items():
        try:
            items.append(Item(name, True, check()))
        except VerifyError as error:
            items.append(Item(name, False, str(error)))
        except Exception as error:  # whatever breaks inside of an item is that item's failure
            items.append(Item(name, False, f"the check itself failed: {type(error).__name__}: {error}"))
    write_json(folder / "verify.json", [asdict(item) for item in items], indent=2)
    failed = [f"\n  {item.name}: {item.detail}" for item in items if not item.passed]
    if failed:
        raise VerifyError(f"the run is not done, see {folder / 'verify.json'}:{''.join(failed)}")
    return items


def check_reload(
    task: Task, fresh: FreshProcess, rows: Rows, sample: Sequence[int], evaluation: Evaluation, metric: str
) -> str:
    """(a) Compare outputs and metric of the live model with those of the saved folder in a fresh process.

    The results of both are compared as `Task.summarize` leaves them, with references read again.

    Args:
        task: the fitted task.
        fresh: was asked for the sample.
        rows: the raw rows of the evaluated split.
        sample: positions of the rows to compare.
        evaluation: of the live model, on all rows.
        metric: name of the metric to compare.
    """
    import numpy as np

    from hf_ft.evaluate.loop import measure

    positions = {row_id: index for index, row_id in enumerate(evaluation.ids)}
    live = [evaluation.results[positions[rows.ids[index]]] for index in sample]
    references = task.references(rows, sample)
    saved = task.summarize(fresh.answer().results, references)
    # numpy's max returns NaN if any value is NaN; Python's max may ignore it.
    worst = np.max([task.difference(one, other) for one, other in zip(live, saved, strict=True)])
    if not worst <= TOLERANCE:
        raise VerifyError(
            f"the saved folder gives other outputs than the trained model: they differ by {worst:.2e}"
        )
    same = f"{len(sample)} rows, fresh process: differ by {worst:.1e} at most"
    # The fresh process returns outputs, not losses.
    metric = task.main_metric if metric == "loss" else metric
    try:
        before = measure(task, live, references).value(metric)
    except RecipeError as error:  # a metric of the user may need a class that the sample does not have
        return f"{same}; {metric} cannot be computed on them ({error})"
    after = measure(task, saved, references).value(metric)
    if not (np.isclose(before, after, atol=TOLERANCE) or (np.isnan(before) and np.isnan(after))):
        raise VerifyError(
            f"the saved folder gives {metric} {after:.6f} on {len(sample)} rows, the trained model "
            f"{before:.6f}"
        )
    return f"{same}, {metric} {after:.4f} on both"


def check_pipeline(piped: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> str:
    """(h) Compare the scores of transformers' pipeline with those of the Predictor.

    Args:
        piped: for each row, the scores of both by label; empty if no pipeline reads the inputs alike.
    """
    import numpy as np

    if not piped:
        return "no pipeline of transformers reads these inputs as hf_ft does; the card shows the Predictor"
    differences = []
    for pipeline, predictor in piped:
        if pipeline.keys() != predictor.keys():
            raise VerifyError(
                f"transformers' pipeline names the labels {listing(pipeline)}, the Predictor "
                f"{listing(predictor)}"
            )
        differences += [abs(pipeline[label] - score) for label, score in predictor.items()]
    worst = np.max(differences)
    if not worst <= TOLERANCE:
        raise VerifyError(
            f"transformers' pipeline and the Predictor differ by {worst:.2e} in the score of a label"
        )
    return f"{len(piped)} raw inputs, unusual ones first: scores differ by {worst:.1e} at most"


def check_frozen(before: str, after: str, tensors: int) -> str:
    """(b) Compare the hashes of everything frozen, before and after training."""
    if before != after:
        raise VerifyError("a frozen parameter or buffer has changed during training")
    return f"{tensors} frozen tensors unchanged" if tensors else "nothing is frozen"


def check_counted(evaluations: Iterable[Evaluation], expected: Mapping[str, Sequence[str]]) -> str:
    """(c) Compare the ids that were evaluated with the ids of the split."""
    counted = []
    for evaluation in evaluations:
        if Counter(evaluation.ids) != Counter(expected[evaluation.split]) or len(evaluation.results) != len(
            evaluation.ids
        ):
            raise VerifyError(
                f"{evaluation.split}: the evaluated rows are not the rows of the split, each once"
            )
        counted.append(f"{evaluation.split}: {len(evaluation.ids)} rows once each")
    return ", ".join(counted)


def check_loss(passed: bool, detail: str) -> str:
    """(d) Take the verdict of the self-test at the start."""
    if not passed:
        raise VerifyError(f"the loss depends on how a batch is divided: {detail}")
    return detail


def check_labels(labels: list[str] | None, run_folder: Path) -> str:
    """(e) Compare the label map of the metric with those in config.json, task.json and data.json."""
    if labels is None:
        return "the task has no classes"
    from transformers import AutoConfig

    model = run_folder / "model"
    # As transformers reads it: a TimmWrapper keeps its labels under other keys of config.json.
    by_id = AutoConfig.from_pretrained(model).id2label
    found = {
        "model/config.json": [by_id.get(index) for index in range(len(by_id))],
        "model/task.json": json.loads((model / "task.json").read_text())["state"].get("labels"),
        "data.json": json.loads((run_folder / "data.json").read_text()).get("labels"),
    }
    for place, names in found.items():
        if names != labels:
            raise VerifyError(f"{place} has the labels {names}, the metric {labels}")
    return f"{len(labels)} labels agree in {', '.join(found)} and metric"


def check_provenance(run_folder: Path) -> str:
    """(g) The resolved recipe loads again; versions and data hashes are there."""
    from hf_ft.errors import HfFtError
    from hf_ft.recipe.read import load_recipe

    try:
        load_recipe(run_folder / "recipe.yaml")
    except (HfFtError, OSError) as error:
        raise VerifyError(f"recipe.yaml cannot be run again: {error}") from error
    for name, keys in {
        "environment.json": ("packages", "python"),
        "data.json": ("fingerprints", "sizes"),
    }.items():
        path = run_folder / name
        found = json.loads(path.read_text()) if path.exists() else {}
        missing = [key for key in keys if not found.get(key)]
        if missing:
            raise VerifyError(f"{name} does not hold {', '.join(missing)}")
    return "recipe.yaml loads, versions and data hashes are stored"
