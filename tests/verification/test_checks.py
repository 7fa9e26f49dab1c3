"""The checks of the gate by themselves: samples, masks, NaN, metrics that a sample does not allow."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import masks
import pytest
from datasets import Dataset

from hf_ft import finetune
from hf_ft.data.table import Table
from hf_ft.errors import RecipeError, VerifyError
from hf_ft.task import Evaluation
from hf_ft.verification.checks import check_loss, check_reload, compare_scores
from hf_ft.verification.items import ITEMS, Item, Judgement, read_record, run_checks, write_record
from hf_ft.verification.verifier import SPREAD_ROWS, Request, RunsWord, Verifier


def test_a_batch_dependent_loss_is_caught(tmp_path):
    with pytest.raises(VerifyError, match=r"how a batch is divided: 1\.0 and 2\.0"):
        check_loss(RunsWord("", False, "1.0 and 2.0"), tmp_path)
    with pytest.raises(VerifyError, match=r"verify\.json is missing"):
        check_loss(None, tmp_path)


def test_every_failure_is_named_and_no_item_may_be_missing(tmp_path):
    def fails():
        raise VerifyError("broken")

    def breaks():
        raise KeyError("train/7")

    checks = {"one": lambda: "fine", "two": fails, "three": lambda: "fine too", "four": breaks}
    items = run_checks(checks)
    assert [(item.name, item.passed) for item in items] == [
        ("one", True),
        ("two", False),
        ("three", True),
        ("four", False),
    ]
    judgement = Judgement(items, {"model/config.json": "0" * 64})
    write_record(tmp_path, judgement)
    assert read_record(tmp_path) == judgement and not judgement.passed
    with pytest.raises(
        VerifyError, match=r"two: broken\n  four: the check itself failed: KeyError: 'train/7'"
    ):
        judgement.require(tmp_path / "verify.json")
    every = [Item(name, True, "") for name in ITEMS]
    assert Judgement(every, {}).passed and not Judgement(every[1:], {}).passed


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
    assert reload["passed"] and reload["detail"].startswith("8 of 8 test rows, predicted again")
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


def reload(task, table, evaluation, predicted, metric):
    data = SimpleNamespace(rows={"test": table})
    return check_reload(task, data, {"test": evaluation}, predicted, (metric, True))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda mask: mask, None),
        (lambda mask: ~mask, "other outputs than the trained model in .*: they differ by"),
        (
            lambda mask: mask[::-1],
            "other outputs than the trained model in .*: they differ by",
        ),
    ],
    ids=["honest", "inverted", "upside down"],
)
def test_counts_of_other_masks_are_refused(segmented, monkeypatch, break_it, message):
    """A mask upside down has as many pixels; only the comparison with its reference shows it."""
    task, table, honest, evaluation = measured(segmented, 12)
    answer = [{"mask": break_it(result["mask"])} for result in honest[::3]]
    predicted = {"test": (range(0, 12, 3), answer)}
    if message is None:
        assert "differ by 0.0e+00" in reload(task, table, evaluation, predicted, "iou")
        return
    with pytest.raises(VerifyError, match=message):
        reload(task, table, evaluation, predicted, "iou")
    # If `Task.difference` does not see that two results differ, their metric does.
    monkeypatch.setattr(masks.Masks, "difference", lambda *given: 0.0)
    with pytest.raises(VerifyError, match=r"gives iou 0\.\d+ on 4 rows, the trained model 0\.\d+"):
        reload(task, table, evaluation, predicted, "loss")


def test_a_metric_that_the_sample_does_not_allow_is_not_a_failure(segmented, monkeypatch):
    """An AUC of the user needs every class; 64 rows of many may lack one."""
    task, table, honest, evaluation = measured(segmented, 2)

    def fails(*given):
        raise RecipeError("evaluate.extra: 'strictauc' cannot be computed here: one class")

    monkeypatch.setattr("hf_ft.verification.checks.measure", fails)
    found = reload(task, table, evaluation, {"test": (range(2), honest)}, "strictauc")
    assert "differ by 0.0e+00" in found and "strictauc cannot be computed on them" in found


def test_one_nan_among_equal_results_is_no_agreement(segmented, monkeypatch):
    """Python's own `max` passes over a NaN that is not the first."""
    task, table, honest, evaluation = measured(segmented, 2)
    differences = iter([0.0, float("nan")])
    monkeypatch.setattr(masks.Masks, "difference", lambda *given: next(differences))
    with pytest.raises(VerifyError, match="differ by nan"):
        reload(task, table, evaluation, {"test": (range(2), honest)}, "iou")


def test_the_sample_holds_unusual_rows_and_is_spread_over_the_split():
    ids = [str(number) for number in range(1000)]
    traits = {"test": {"grey": ["999", "5", "7", "8"], "wide": ["7"]}, "train": {"grey": ["1"]}}
    data = SimpleNamespace(
        final_split="test",
        rows={"test": SimpleNamespace(ids=ids)},
        findings=SimpleNamespace(traits=traits),
    )

    def sample_of(rows="sample"):
        verifier = Verifier(Request(Path("run"), rows=rows))
        verifier.data = data
        return verifier.sample

    sample = sample_of()
    assert sample[:3] == [5, 7, 999] and len(sample) == len(set(sample)) <= 3 + SPREAD_ROWS
    spread = sorted(sample[3:])
    assert spread[0] == 0 and spread[-1] > 980 and max(b - a for a, b in itertools.pairwise(spread)) == 16
    assert len(sample_of(10)) == 13 and sample_of("all") == list(range(1000))
    data.findings.traits, data.rows["test"].ids = {}, ids[:10]
    assert sample_of() == list(range(10))


def test_a_pipeline_that_answers_otherwise_is_refused():
    alike = ({"a": 0.25, "b": 0.75}, {"b": 0.75, "a": 0.25})
    assert "2 raw inputs" in compare_scores(*zip(alike, alike, strict=True))
    for other, message in [
        ({"a": 0.2502, "b": 0.7498}, r"differ by 2\.00e-04"),
        ({"a": 0.25, "b": float("nan")}, "differ by nan"),
        ({"LABEL_0": 0.25, "LABEL_1": 0.75}, "the labels LABEL_0, LABEL_1, the Predictor a, b"),
    ]:
        with pytest.raises(VerifyError, match=message):
            compare_scores(*zip(alike, (other, {"a": 0.25, "b": 0.75}), alike, strict=True))
