"""The gate, item by item, against sabotage."""

import json
import pickle

import pytest

from hf_ft.errors import VerifyError
from hf_ft.task import Evaluation
from hf_ft.verify import check_contents, check_counted, check_frozen, check_labels, check_loss, run_checks


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


def test_labels_that_agree_pass(folder):
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


@pytest.mark.parametrize(
    "name", ["training_args.bin", "optimizer.pt", "rng_state.pth", "innocent.safetensors"]
)
def test_a_pickle_is_caught_by_name_or_by_content(folder, name):
    """tf PR#43140 (CVE-2026-1839)."""
    (folder / "model" / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(VerifyError, match="pickle"):
        check_contents(folder)


def test_the_value_of_a_token_is_caught_wherever_it_stands(folder, monkeypatch):
    """autotrain#762: the token was written into the upload."""
    monkeypatch.setenv("CANARY_TOKEN", "canary-in-a-coal-mine")
    assert "no secret" in check_contents(folder)
    (folder / "model" / "README.md").write_text("login with canary-in-a-coal-mine")
    with pytest.raises(VerifyError, match=r"\$CANARY_TOKEN"):
        check_contents(folder)


def test_a_token_is_caught_by_its_shape(folder):
    (folder / "environment.json").write_text(json.dumps({"arguments": ["hf_" + "a" * 34]}))
    with pytest.raises(VerifyError, match="Hugging Face token"):
        check_contents(folder)


def test_moved_weights_and_a_dependent_loss_are_caught():
    with pytest.raises(VerifyError, match="frozen parameter or buffer"):
        check_frozen("a", "b", 3)
    with pytest.raises(VerifyError, match="how a batch is divided"):
        check_loss(False, "1.0 and 2.0")


def test_every_item_is_written_and_every_failure_is_named(tmp_path):
    def fails():
        raise VerifyError("broken")

    with pytest.raises(VerifyError, match="two: broken"):
        run_checks({"one": lambda: "fine", "two": fails, "three": lambda: "fine too"}, tmp_path)
    items = json.loads((tmp_path / "verify.json").read_text())
    assert [(item["name"], item["passed"]) for item in items] == [
        ("one", True),
        ("two", False),
        ("three", True),
    ]
