"""The gate: each item detects the fault that it is for."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import masks
import pytest
from datasets import Dataset

from hf_ft import finetune
from hf_ft.data.table import Table
from hf_ft.errors import RecipeError, VerifyError
from hf_ft.fresh_process import Answer
from hf_ft.task import Evaluation
from hf_ft.verify import (
    SPREAD_ROWS,
    check_counted,
    check_frozen,
    check_labels,
    check_loss,
    check_pipeline,
    check_reload,
    run_checks,
    sample_of,
)


@pytest.fixture
def folder(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(
        json.dumps({"model_type": "vit", "id2label": {"0": "cat", "1": "dog"}})
    )
    (model / "task.json").write_text(json.dumps({"state": {"labels": ["cat", "dog"]}}))
    (tmp_path / "data.json").write_text(json.dumps({"labels": ["cat", "dog"]}))
    return tmp_path


def evaluation(ids):
    return Evaluation("test", list(ids), [0] * len(ids), [0] * len(ids), None, {})


def test_equal_labels_pass(folder):
    assert "2 labels agree" in check_labels(["cat", "dog"], folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model/config.json", {"model_type": "vit", "id2label": {"0": "dog", "1": "cat"}}),
        ("model/task.json", {"state": {"labels": ["dog", "cat"]}}),
        ("data.json", {"labels": ["cat"]}),
    ],
)
def test_swapped_labels_are_caught(folder, file, content):
    """optimum PR#197: MNLI's ids were swapped between model and metric."""
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(VerifyError, match=file.replace(".", r"\.")):
        check_labels(["cat", "dog"], folder)


@pytest.mark.parametrize("ids", ["ab", "abb", "abcc", "abd"])
def test_rows_missed_or_counted_twice_are_caught(ids):
    """tf#25939: images were missing from the metric."""
    with pytest.raises(VerifyError, match="each once"):
        check_counted([evaluation(ids)], {"test": list("abc")})
    assert "3 rows" in check_counted([evaluation("abc")], {"test": list("abc")})


def test_changed_weights_and_a_batch_dependent_loss_are_caught():
    with pytest.raises(VerifyError, match="frozen parameter or buffer"):
        check_frozen("a", "b", 3)
    with pytest.raises(VerifyError, match="how a batch is divided"):
        check_loss(False, "1.0 and 2.0")


def test_every_item_is_written_and_every_failure_is_named(tmp_path):
    def fails():
        raise VerifyError("broken")

    def breaks():
        raise KeyError("train/7")

    checks = {"one": lambda: "fine", "two": fails, "three": lambda: "fine too", "four": breaks}
    with pytest.raises(
        VerifyError, match=r"two: broken\n  four: the check itself failed: KeyError: 'train/7'"
    ):
        run_checks(checks, tmp_path)
    items = json.loads((tmp_path / "verify.json").read_text())
    assert [(item["name"], item["passed"]) for item in items] == [
        ("one", True),
        ("two", False),
        ("three", True),
        ("four", False),
    ]


@pytest.fixture(scope="module")
def segmented(tmp_path_factory):
    """A finished run of a task whose results are compared with masks."""
    folder = tmp_path_factory.mktemp("masks")
    with pytest.MonkeyPatch.context() as patch:
        # The fresh process of the gate must find the task's module.
        patch.setenv("PYTHONPATH", str(Path(masks.__file__).parent))
        yield finetune(
            {
                "task": "masks:Masks",
                "output_dir": str(folder / "run"),
                "data": {"source": "py:masks:rows", "split": {"validation": 8, "test": 8}},
                "model": {"name": masks.saved(folder / "pretrained")},
                "train": {"learning_rate": 0.05, "num_train_epochs": 4, "global_batch_size": 4},
            },
            verbose=False,
        )


def test_results_that_need_their_references_go_through_the_gate(segmented):
    """The gate compares the confusion counts of the live model and of the fresh process."""
    (reload,) = (item for item in segmented.verification if item["name"] == "reload")
    assert reload["passed"] and reload["detail"].startswith("8 rows, fresh process")
    head = segmented.results["headline"]
    assert head["metric"] == "iou" and f"iou {head['value']:.4f} on both" in reload["detail"]
    assert head["interval"][0] < head["value"] < head["interval"][1]


def measured(run, count):
    """Return task, rows, results and evaluation of the model of a run on so many rows."""
    table = Table(
        Dataset.from_list(masks.rows(count)),
        {"number": "number", "mask": "mask"},
        [f"row {number}" for number in range(count)],
    )
    results = run.predictor().results([{"id": str(number), "number": number} for number in range(count)])
    references = run.task.references(table)
    live = run.task.summarize(results, references)
    return run.task, table, results, Evaluation("test", table.ids, live, references, None, {})


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda mask: mask, None),
        (lambda mask: ~mask, "other outputs than the trained model: they differ by"),
        (lambda mask: mask[::-1], "other outputs than the trained model: they differ by"),
    ],
    ids=["honest", "inverted", "upside down"],
)
def test_counts_of_other_masks_are_refused(segmented, monkeypatch, break_it, message):
    """A mask upside down has as many pixels; only the comparison with its reference shows it."""
    task, table, honest, evaluation = measured(segmented, 12)
    answer = [{"mask": break_it(result["mask"])} for result in honest[::3]]
    fresh, sample = SimpleNamespace(answer=lambda: Answer(answer, [])), range(0, 12, 3)
    if message is None:
        assert "differ by 0.0e+00" in check_reload(task, fresh, table, sample, evaluation, "iou")
        return
    with pytest.raises(VerifyError, match=message):
        check_reload(task, fresh, table, sample, evaluation, "iou")
    # If `Task.difference` does not see that two results differ, their metric does.
    monkeypatch.setattr(masks.Masks, "difference", lambda *given: 0.0)
    with pytest.raises(VerifyError, match=r"gives iou 0\.\d+ on 4 rows, the trained model 0\.\d+"):
        check_reload(task, fresh, table, sample, evaluation, "loss")


def test_a_metric_that_the_sample_does_not_allow_is_not_a_failure(segmented, monkeypatch):
    """An AUC of the user needs every class; 64 rows of many may lack one."""
    task, table, honest, evaluation = measured(segmented, 2)
    fresh = SimpleNamespace(answer=lambda: Answer(honest, []))

    def fails(*given):
        raise RecipeError("evaluate.extra: 'strictauc' cannot be computed here: one class")

    monkeypatch.setattr("hf_ft.evaluate.loop.measure", fails)
    found = check_reload(task, fresh, table, range(2), evaluation, "strictauc")
    assert "differ by 0.0e+00" in found and "strictauc cannot be computed on them" in found


def test_one_nan_among_equal_results_is_no_agreement(segmented, monkeypatch):
    """Python's own `max` passes over a NaN that is not the first."""
    task, table, honest, evaluation = measured(segmented, 2)
    differences = iter([0.0, float("nan")])
    monkeypatch.setattr(masks.Masks, "difference", lambda *given: next(differences))
    fresh = SimpleNamespace(answer=lambda: Answer(honest, []))
    with pytest.raises(VerifyError, match="differ by nan"):
        check_reload(task, fresh, table, range(2), evaluation, "iou")


def test_the_sample_holds_unusual_rows_and_is_spread_over_the_split():
    ids = [str(number) for number in range(1000)]
    traits = {"test": {"grey": ["999", "5", "7", "8"], "wide": ["7"]}, "train": {"grey": ["1"]}}
    data = SimpleNamespace(
        final_split="test",
        rows={"test": SimpleNamespace(ids=ids)},
        findings=SimpleNamespace(traits=traits),
    )
    sample = sample_of(SimpleNamespace(data=data))
    assert sample[:3] == [5, 7, 999] and len(sample) == len(set(sample)) <= 3 + SPREAD_ROWS
    spread = sorted(sample[3:])
    assert spread[0] == 0 and spread[-1] > 980 and max(b - a for a, b in itertools.pairwise(spread)) == 16
    data.findings.traits, data.rows["test"].ids = {}, ids[:10]
    assert sample_of(SimpleNamespace(data=data)) == list(range(10))


def test_a_pipeline_that_answers_otherwise_is_refused():
    alike = ({"a": 0.25, "b": 0.75}, {"b": 0.75, "a": 0.25})
    assert "2 raw inputs" in check_pipeline([alike, alike])
    assert "the card shows the Predictor" in check_pipeline([])
    for other, message in [
        ({"a": 0.2502, "b": 0.7498}, r"differ by 2\.00e-04"),
        ({"a": 0.25, "b": float("nan")}, "differ by nan"),
        ({"LABEL_0": 0.25, "LABEL_1": 0.75}, "the labels LABEL_0, LABEL_1, the Predictor a, b"),
    ]:
        with pytest.raises(VerifyError, match=message):
            check_pipeline([alike, (other, {"a": 0.25, "b": 0.75}), alike])
