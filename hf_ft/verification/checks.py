"""The checks of the gate, one for each item: each returns what it measured, or raises a VerifyError."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.errors import HfFtError, RecipeError, VerifyError
from hf_ft.evaluate.final import judge_splits
from hf_ft.evaluate.loop import measure
from hf_ft.evaluate.results import results_content
from hf_ft.evaluate.stored_predictions import PREDICTIONS, read_table
from hf_ft.model.freeze import freeze
from hf_ft.model.mixed_precision import full_precision
from hf_ft.storage.atomic import as_json
from hf_ft.text_utils import listing
from hf_ft.verification.items import read_record
from hf_ft.verification.unsafe_files import check_contents

if TYPE_CHECKING:
    from hf_ft.data.prepare import Prepared
    from hf_ft.model.predictor import Predictor
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Evaluation, Loaded, Row, Rows, Task
    from hf_ft.verification.verifier import RunsWord

__all__ = ["check_contents"]

# Largest difference between two predictions of one row, and between weights after merging an adapter.
TOLERANCE = 1e-4
# Largest difference between two losses of one row, absolute or relative.
LOSS_TOLERANCE = 1e-3
# Largest relative difference between two numbers of results.json: the order of a sum.
SAME = 1e-9
# Most rows for transformers' pipeline, unusual ones first.
MOST_PIPELINE_ROWS = 16


def check_source(folder: Path, data: Prepared, in_memory: bool) -> str:
    """Compare the rows of the source with what data.json says of them: counts, contents, labels, origin.

    Args:
        folder: the run folder.
        data: the rows, read again.
        in_memory: whether the rows came from memory.
    """
    written = _json(folder / "data.json")
    # Notes on tokens and the like need the model.
    differing = _differing(written, _plain(data.info), skip=("notes",))
    if differing:
        raise VerifyError(f"data.json does not describe the rows of the source: {listing(differing, 5)}")
    sizes = ", ".join(f"{len(rows)} of {split}" for split, rows in data.rows.items())
    how = "the rows came from memory; known by their fingerprints alone" if in_memory else "read again"
    return f"{sizes}: {how}, equal to data.json"


def check_labels(folder: Path, labels: list[str] | None) -> str:
    """Compare the label maps of config.json, task.json and data.json with the labels of the source."""
    if labels is None:
        return "the task has no classes"
    from transformers import AutoConfig

    model = folder / "model"
    # As transformers reads it: a TimmWrapper keeps its labels under other keys of config.json.
    config = AutoConfig.from_pretrained(model)
    found = {
        "model/config.json": [config.id2label.get(index) for index in range(len(config.id2label))],
        "model/task.json": _json(model / "task.json")["state"].get("labels"),
        "data.json": _json(folder / "data.json").get("labels"),
    }
    for place, names in found.items():
        if names != labels:
            raise VerifyError(f"{place} has the labels {names}, the training rows {labels}")
    inverse = {name: index for index, name in enumerate(labels)}
    written = _json(model / "config.json").get("label2id")
    if dict(config.label2id) != inverse or (written is not None and written != inverse):
        raise VerifyError(f"model/config.json has the map label2id {written}, the training rows {inverse}")
    return f"{len(labels)} labels agree in {', '.join(found)} and the training rows"


def check_counted(folder: Path, task: Task, saved: Task, data: Prepared) -> str:
    """Compare ids and true answers in predictions.parquet with the source, and answers with their results.

    Args:
        folder: the run folder.
        task: the fitted task.
        saved: the task of the saved model, with its thresholds.
        data: the rows of the source.
    """
    table, results = read_table(folder / PREDICTIONS)
    columns = {name: table.column(name).to_pylist() for name in ("split", "id", "truth")}
    _check_answers(table.to_pylist(), results, saved)
    expected = {split: list(rows.ids) for split, rows in data.rows.items() if split != "train"}
    counted = Counter(zip(columns["split"], columns["id"], strict=True))
    wanted = Counter((split, row_id) for split, ids in expected.items() for row_id in ids)
    if counted != wanted:
        wrong = sorted(set((counted - wanted) + (wanted - counted)))
        named = listing([f"{split} {row_id} x{counted[split, row_id]}" for split, row_id in wrong], 5)
        raise VerifyError(
            f"{PREDICTIONS} does not hold each row of the evaluated splits exactly once: {named}"
        )
    truth = dict(zip(zip(columns["split"], columns["id"], strict=True), columns["truth"], strict=True))
    for split, ids in expected.items():
        for row_id, reference in zip(ids, task.references(data.rows[split]), strict=True):
            answer = _plain(task.decode_reference(reference))
            if _differing(truth[split, row_id], answer):
                raise VerifyError(
                    f"{PREDICTIONS}: the true answer of {split} {row_id} is {answer!r}, found "
                    f"{truth[split, row_id]!r}"
                )
    return ", ".join(f"{split}: {len(ids)} rows once each" for split, ids in expected.items())


def _check_answers(rows: Sequence[Mapping[str, Any]], results: Sequence[Any], task: Task) -> None:
    """Compare the columns that a person reads, such as `label` and `score`, with the results beside them."""
    for row, result in zip(rows, results, strict=True):
        for name, value in task.decode(result).items():
            if name != "scores" and _differing(_plain(row.get(name)), _plain(value)):
                raise VerifyError(
                    f"{PREDICTIONS}: {name} of {row['split']} {row['id']} is {_short(row.get(name))}, its "
                    f"result says {_short(value)}"
                )


def check_reload(
    task: Task,
    data: Prepared,
    stored: Mapping[str, Evaluation],
    predicted: Mapping[str, tuple[Sequence[int], Sequence[Any]]],
    metric: tuple[str, bool],
) -> str:
    """Compare the answers of the saved model with predictions.parquet, row by row and in the main metric.

    Args:
        task: the fitted task.
        data: the rows of the source.
        stored: split -> evaluation with the answers of predictions.parquet.
        predicted: split -> positions of rows, and the results of the saved model for them.
        metric: the main metric, and whether a greater value is better.
    """
    # The saved model returns outputs, not losses.
    name = task.main_metric if metric[0] == "loss" else metric[0]
    return "; ".join(
        _compared(task, data.rows[split], stored[split], places, found, name)
        for split, (places, found) in sorted(predicted.items())  # test before validation
    )


def _compared(
    task: Task, rows: Rows, evaluation: Evaluation, places: Sequence[int], found: Sequence[Any], metric: str
) -> str:
    references = task.references(rows, places)
    saved, said = task.summarize(found, references), [evaluation.results[place] for place in places]
    # numpy's max returns NaN if any value is NaN; Python's max may ignore it.
    worst = np.max([task.difference(one, other) for one, other in zip(said, saved, strict=True)])
    if not worst <= TOLERANCE:
        raise VerifyError(
            f"the saved model gives other outputs than the trained model in {PREDICTIONS}: they differ by "
            f"{worst:.2e}"
        )
    share = f"{len(places)} of {len(evaluation.ids)} {evaluation.split} rows"
    same = f"{share}, predicted again: differ by {worst:.1e} at most"
    try:
        before = measure(task, said, references).value(metric)
    except RecipeError as error:  # a metric of the user may need a class that the sample does not have
        return f"{same}; {metric} cannot be computed on them ({error})"
    after = measure(task, saved, references).value(metric)
    if not (np.isclose(before, after, atol=TOLERANCE) or (np.isnan(before) and np.isnan(after))):
        raise VerifyError(
            f"the saved model gives {metric} {after:.6f} on {len(places)} rows, the trained model "
            f"{before:.6f}"
        )
    for key, place in _other_values(said, saved):
        raise VerifyError(
            f"{PREDICTIONS}: result.{key} of {evaluation.split} {evaluation.ids[places[place]]} is "
            f"{_short(said[place].get(key))}, the saved model gives {_short(saved[place].get(key))}"
        )
    return f"{same}, {metric} {after:.4f} on both"


def _other_values(said: Sequence[Any], saved: Sequence[Any]) -> Iterator[tuple[str, int]]:
    """Yield the key and the row of each value of a result that differs; `Task.difference` compares one key.

    Where a class is the largest of nearly equal scores, another order of sums may choose another class: one
    row in a hundred may differ in a value that is no fraction.
    """
    if not all(isinstance(one, dict) for one in (*said, *saved)):
        return
    for key in dict.fromkeys(key for one in (*said, *saved) for key in one):
        pairs = [(np.asarray(a.get(key)), np.asarray(b.get(key))) for a, b in zip(said, saved, strict=True)]
        fractions = all(one.dtype.kind == "f" for one, _ in pairs)
        largest = (
            max((float(np.abs(one).max(initial=0.0)) for one, _ in pairs), default=0.0) if fractions else 0.0
        )
        allowed = TOLERANCE * max(1.0, largest)
        wrong = [
            place for place, pair in enumerate(pairs) if not _alike(*pair, allowed if fractions else None)
        ]
        yield from [(key, place) for place in wrong][0 if fractions else len(said) // 100 :]


def _alike(one: np.ndarray, other: np.ndarray, allowed: float | None) -> bool:
    if one.shape != other.shape:
        return False
    if allowed is None:
        return bool((one == other).all())
    return bool(np.allclose(one, other, rtol=0, atol=allowed, equal_nan=True))


def check_losses(stored: Evaluation, places: Sequence[int], computed: Sequence[float] | None) -> str:
    """Compare the losses of rows in predictions.parquet with those of the saved model.

    Args:
        stored: the evaluation with the losses of predictions.parquet.
        places: positions of the rows.
        computed: losses of the saved model for these rows; None where the split has no loss.
    """
    if computed is None or stored.losses is None:
        return f"{stored.split} has no loss"
    for place, loss in zip(places, computed, strict=True):
        said = stored.losses[place]
        if not math.isclose(said, loss, rel_tol=LOSS_TOLERANCE, abs_tol=LOSS_TOLERANCE):
            raise VerifyError(
                f"{PREDICTIONS}: the loss of {stored.split} {stored.ids[place]} is {said:.6g}, that of the "
                f"saved model {loss:.6g}"
            )
    return f"{len(places)} losses of {stored.split} agree"


def check_results(
    folder: Path,
    recipe: Recipe,
    task: Task,
    data: Prepared,
    stored: Mapping[str, Evaluation],
    metric: tuple[str, bool],
) -> str:
    """Compute results.json again, and what the task learned of the rows; compare both with the files.

    Args:
        folder: the run folder.
        recipe: the resolved recipe.
        task: the task, fitted on the source and loaded; its thresholds were chosen again.
        data: the rows of the source.
        stored: split -> evaluation with the answers of predictions.parquet; intervals are added.
        metric: the main metric, and whether a greater value is better.
    """
    name, greater = metric
    verdict = judge_splits(stored, task, recipe.evaluate, metric=name, greater=greater, data=data)
    computed = _plain(results_content(recipe, task, data, stored, verdict, name))
    differing = _differing(_json(folder / "results.json"), computed)
    if differing:
        raise VerifyError(
            f"results.json is not what {PREDICTIONS} and the labels give: {listing(differing, 5)}"
        )
    saved = _json(folder / "model" / "task.json")
    learned = {
        "state": task.state(),
        "options": task.options.model_dump(mode="json", include=set(type(task).Options.model_fields)),
    }
    differing = _differing({key: saved.get(key) for key in learned}, _plain(learned))
    if differing:
        raise VerifyError(f"model/task.json is not what the training rows give: {listing(differing, 5)}")
    return (
        f"{len(_leaves(computed))} numbers and names computed again from {PREDICTIONS}, the labels, and the "
        "answers of the baselines, which are the run's own word"
    )


def check_frozen(folder: Path, recipe: Recipe, task: Task, loaded: Loaded, saved: Any) -> str:
    """Compare the frozen weights of the saved model with those of the base model.

    Args:
        folder: the run folder.
        recipe: the resolved recipe.
        task: the fitted task.
        loaded: the base model, loaded again; which of its parameters are trainable is changed.
        saved: the saved model; the same is changed.
    """
    if recipe.model.from_scratch:
        return "the model was built from random weights: no weight is frozen"
    if (folder / "adapter").is_dir():
        return _check_adapter(folder, task, saved)
    base = freeze(loaded.model, recipe.freeze, loaded.new)
    if not base.frozen:
        return "nothing is frozen"
    if base.frozen_fingerprint() != freeze(saved, recipe.freeze, loaded.new).frozen_fingerprint():
        raise VerifyError("a frozen parameter or buffer of the saved model is not that of the base model")
    return f"{len(base.frozen)} frozen tensors unchanged: equal to those of the base model, loaded again"


def _check_adapter(folder: Path, task: Task, saved: Any) -> str:
    """Merge the adapter into its base model, whose content is checked; compare with the saved model."""
    from hf_ft.model.adapters import merged
    from hf_ft.model.saved_folder import load_adapter

    source = _json(folder / "adapter" / "task.json")["source"]
    again, kept = (
        merged(load_adapter(task.auto_class, folder / "adapter", source)).state_dict(),
        saved.state_dict(),
    )
    different = sorted(again.keys() ^ kept.keys())
    if different:
        raise VerifyError(f"model and the merged adapter have not the same tensors: {listing(different, 5)}")
    for name, tensor in again.items():
        worst = (tensor.double() - kept[name].cpu().double()).abs().max().item() if tensor.numel() else 0.0
        if not worst <= TOLERANCE:
            raise VerifyError(
                f"{name}: the saved model and the adapter on its base model differ by {worst:.2e}"
            )
    return f"{len(again)} tensors: the base model is unchanged, and model is the adapter merged into it"


def check_loss(word: RunsWord | None, folder: Path) -> str:
    """Repeat what the run found before training; without the run, what verify.json says of it."""
    if word is None:
        record = read_record(folder)
        item = next((item for item in record.items if item.name == "loss"), None) if record else None
        if item is None:
            raise VerifyError(
                "verify.json is missing or damaged, and nothing else says how the loss was tested"
            )
        passed, detail = item.passed, item.detail.removeprefix(_OWN_WORD)
    else:
        passed, detail = word.loss_passed, word.loss
    if not passed:
        raise VerifyError(f"the loss depends on how a batch is divided: {detail}")
    return f"{_OWN_WORD}{detail}"


_OWN_WORD = "the run's own word: "


def check_provenance(folder: Path, word: RunsWord | None) -> str:
    """The resolved recipe loads and is that of the run; versions and data hashes are there."""
    from hf_ft.recipe.read import load_recipe

    try:
        load_recipe(folder / "recipe.yaml")
    except (HfFtError, OSError) as error:
        raise VerifyError(f"recipe.yaml cannot be run again: {error}") from error
    if word is not None and (folder / "recipe.yaml").read_text(encoding="utf-8") != word.recipe:
        raise VerifyError("recipe.yaml was changed while the run trained")
    for name, keys in {
        "environment.json": ("packages", "python"),
        "data.json": ("fingerprints", "sizes"),
    }.items():
        path = folder / name
        found = _json(path) if path.exists() else {}
        missing = [key for key in keys if not found.get(key)]
        if missing:
            raise VerifyError(f"{name} does not hold {', '.join(missing)}")
    return "recipe.yaml loads, versions and data hashes are stored"


def check_pipeline(
    folder: Path, task: Task, data: Prepared, predictor: Predictor, sample: Sequence[int]
) -> str:
    """Compare the scores of transformers' pipeline with those of the Predictor on raw inputs.

    Args:
        folder: the run folder.
        task: the fitted task.
        data: the rows of the source.
        predictor: of the saved model.
        sample: positions in the final split, unusual rows first.
    """
    from transformers import pipelines

    found = data.findings.traits
    options = task.pipeline_options_for({name for traits in found.values() for name in traits})
    labels = task.labels()
    if options is None or task.pipeline_tag is None or labels is None:
        return "no pipeline of transformers reads these inputs as hf_ft does; the card shows the Predictor"
    rows = without_targets(task, data.rows[data.final_split], sample[:MOST_PIPELINE_ROWS])
    make: Any = pipelines.pipeline
    classify = make(task.pipeline_tag, model=str(folder / "model"), device=predictor.device)
    with full_precision(classify.model):
        answers = classify([task.pipeline_input(row) for row in rows], **{**options, "top_k": len(labels)})
    results = predictor.results(rows)
    return compare_scores(
        [{entry["label"]: entry["score"] for entry in entries} for entries in answers],
        [predictor.task.decode(result)["scores"] for result in results],
    )


def compare_scores(pipeline: Sequence[Mapping[str, float]], predictor: Sequence[Mapping[str, float]]) -> str:
    """Compare scores by label of transformers' pipeline and of the Predictor, for the same rows."""
    differences = []
    for one, other in zip(pipeline, predictor, strict=True):
        if one.keys() != other.keys():
            raise VerifyError(
                f"transformers' pipeline names the labels {listing(one)}, the Predictor {listing(other)}"
            )
        differences += [abs(one[label] - score) for label, score in other.items()]
    worst = np.max(differences)
    if not worst <= TOLERANCE:
        raise VerifyError(
            f"transformers' pipeline and the Predictor differ by {worst:.2e} in the score of a label"
        )
    return f"{len(pipeline)} raw inputs, unusual ones first: scores differ by {worst:.1e} at most"


def without_targets(task: Task, rows: Rows, indices: Sequence[int]) -> list[Row]:
    """Return these rows without their target roles."""
    targets = {role for role, about in task.roles.items() if about.target}
    chosen = [rows[index] for index in indices]
    return [{key: value for key, value in row.items() if key not in targets} for row in chosen]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    """Return a value as it is read back after it was written as JSON."""
    return json.loads(as_json(_native(value)))


def _native(value: Any) -> Any:
    """Replace numpy's numbers and arrays by those of Python."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _native(inner) for key, inner in value.items()}
    return [_native(inner) for inner in value] if isinstance(value, list | tuple) else value


def _differing(found: Any, expected: Any, path: str = "", skip: Sequence[str] = ()) -> list[str]:
    """List the paths at which two JSON values differ; numbers may differ by the order of a sum."""
    if isinstance(found, dict) and isinstance(expected, dict):
        return [
            line
            for key in dict.fromkeys([*expected, *found])
            if key not in skip
            for line in _differing(
                found.get(key), expected.get(key), f"{path}.{key}" if path else str(key), skip
            )
        ]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return [line for index, (a, b) in pairs for line in _differing(a, b, f"{path}[{index}]", skip)]
    if _is_number(found) and _is_number(expected):
        same = math.isclose(found, expected, rel_tol=SAME)
    else:
        same = found == expected
    return [] if same else [f"{path or 'value'}: found {_short(found)}, expected {_short(expected)}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _leaves(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [leaf for one in inner for leaf in _leaves(one)]
