"""Labels and targets that are odd or contradict each other: what is said about them, and of which rows."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pytest

from hf_ft.data.prepare import prepare
from hf_ft.errors import DataError
from hf_ft.recipe.read import load_recipe
from hf_ft.train.assemble import new_task

NAMES = ["a", "b"] * 20
NUMBERS = [round(float(number), 3) for number in np.random.default_rng(0).normal(size=40)]


def rows(labels, word="text"):
    return [{"text": f"{word} {number}", "label": label} for number, label in enumerate(labels)]


def changed(labels, *values):
    """Replace the first labels, in the middle of the list, where validation does not draw them."""
    return [*labels[:7], *values, *labels[7 + len(values) :]]


def found(data, problem=None):
    """Return what the audit says: the errors of the findings, or of the exception; and the warnings."""
    task = {"name": "text-classification", **({"problem": problem} if problem else {})}
    split = {"validation": 0.1}
    recipe = {"task": task, "data": {"source": "in memory", "split": split}, "model": {"name": "none"}}
    recipe = load_recipe(recipe)
    given = data if isinstance(data, dict) else {"train": data}
    try:
        findings = prepare(recipe, new_task(recipe), data=given).findings
    except DataError as error:
        return [str(error)], []
    return findings.errors, findings.warnings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path))


@pytest.mark.parametrize("problem", [None, "regression"])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), None], ids=str)
def test_one_value_that_is_no_number_names_its_row_and_no_other(value, problem):
    (error,), _ = found(rows(changed(NUMBERS, value)), problem)
    assert f"train: 1 of 36 rows cannot be used (train/7: the label is {value}; expected" in error
    assert error.count("train/") == 1


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (changed(NUMBERS, 1e308), "train/7: the label is 1e+308, which is too large to be squared"),
        ([1.7e308 - 1e306 * n for n in range(40)], "36 of 36 rows cannot be used"),
        ([1e-200 * number for number in NUMBERS], "double precision cannot hold their squares"),
        ([0.1] * 40, "every row has the same label, 0.1"),
        ([f"{number}".replace(".", ",") for number in NUMBERS], "expected a number, with a decimal point"),
        ([True, False] * 20, "the label is True; expected a finite number"),
        (changed([[1.0, float(n)] for n in range(40)], [1.0]), "most rows have 2 numbers"),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_numbers_that_cannot_be_learned(labels, said):
    errors, _ = found(rows(labels), "regression")
    assert said in errors[0]


def test_a_test_split_in_another_unit_is_an_error():
    data = {"train": rows(NUMBERS), "test": rows([1e30 * number for number in NUMBERS], "other")}
    (error,), _ = found(data, "regression")
    assert "test: 40 rows have a label that is too far from those of train" in error and "row test/0" in error


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([b"a", b"b"] * 20, "the column 'label' holds bytes"),
        ([[b"a"], [b"b"]] * 20, "the column 'label' holds bytes"),
        ([{"x": 0}, {"x": 1}] * 20, "the column 'label' holds lists or objects"),
        ([[["a"]], [["b"]]] * 20, "the column 'label' holds lists or objects"),
        (["1,5", "2,5"] * 20, "the labels are numbers written as text ('1,5', '2,5')"),
        ([f"{number}".replace(".", ",") for number in NUMBERS], "different numbers written as text"),
        ([f"class {number}" for number in range(40)], "each of the 40 classes has one row"),
        (["a"] * 40, "all 36 labels are 'a'; a classifier needs at least two classes"),
        (changed(NAMES, "a\u200b"), "invisible characters"),
        (changed(NAMES, ""), "train/7: there is no label"),
        ([1.0, 2.0] * 20, "whole numbers written as decimals"),
        (changed(NAMES, None), "train: 1 of 36 rows cannot be used (train/7: there is no label)"),
        (
            [["a", None], ["b"]] * 20,
            "18 of 36 training rows cannot be used, such as train/0: a label of the list",
        ),
    ],
)
def test_labels_that_cannot_be_learned(labels, said):
    """Bytes became the classes b'a' and b'b'; amounts such as 1,5 became classes of one row each."""
    errors, _ = found(rows(labels))
    assert said in errors[0]


def test_equal_texts_with_different_labels_are_counted_once():
    """40 rows with one text were said to be one class with one row."""
    (error,), _ = found([{"text": "the same", "label": label} for label in NAMES])
    assert "of 40 rows 1 are different" in error


@pytest.mark.parametrize("name", ["nan", "None", "N/A"])
def test_a_class_that_may_be_a_missing_label_is_a_warning(name):
    errors, warnings = found(rows(changed(NAMES, name, name, name)))
    assert errors == [] and any(f"there is a class '{name}' (" in line for line in warnings)


def test_a_test_split_without_labels_names_the_key_to_change():
    (error,), _ = found({"train": rows(NAMES), "test": rows([None] * 40, "other")}, "single-label")
    assert "test: 40 of 40 rows cannot be used" in error and "data.split.test" in error


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ([np.int64(number % 2) for number in range(40)], None),
        ([np.str_(name) for name in NAMES], None),
        ([True, False] * 20, None),
        ([datetime.date(2020, 1, 1 + number % 2) for number in range(40)], None),
        ([Decimal(number) / 3 for number in range(40)], None),
        ([np.float32(number) for number in NUMBERS], None),
        (["1,5", "2,5"] * 20, "single-label"),
        ([1e16 + 2 * number for number in range(40)], "regression"),
    ],
    ids=str,
)
def test_labels_that_can_be_learned(labels, problem):
    assert found(rows(labels), problem)[0] == []
