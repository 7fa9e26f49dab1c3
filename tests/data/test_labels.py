import json

import pytest

from hf_ft.data.labels import LabelMap, count_classes, name_of
from hf_ft.errors import DataError


def fit(values):
    return LabelMap.fit(values, [f"r{index}" for index in range(len(values))])


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["10", "2", "1"], ["1", "2", "10"]),
        ([10, 2, 1], ["1", "2", "10"]),
        (["-1", "0.5", "0"], ["-1", "0", "0.5"]),
        (["sign10", "sign2", "a"], ["a", "sign2", "sign10"]),
        ([True, False], ["False", "True"]),
        ([1.0, 0.0], ["0", "1"]),
        ([["b", "a"], [], ["a"]], ["a", "b"]),
        (["停", "走", "stop"], ["stop", "停", "走"]),
    ],
)
def test_names_in_natural_order(values, names):
    """pytorch/vision#714: classes were sorted as '1', '10', '2'."""
    assert list(fit(values).names) == names


def test_ids_are_looked_up_by_name_also_after_json():
    labels = fit(["b", "a", "c", "a"])
    again = LabelMap.from_json(json.loads(json.dumps(labels.to_json())))
    assert again == labels
    assert [again.id(name) for name in ("a", "b", "c")] == [0, 1, 2]
    assert labels.config == {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    assert fit([3, 10]).id(10) == 1
    with pytest.raises(DataError, match="no class 'bb'; did you mean 'b'"):
        labels.id("bb")


@pytest.mark.parametrize("twin", ["stop", "Stop ", "S\uff54op", "STOP", " sToP\t", "Stop\u200b"])
def test_two_spellings_of_a_class_are_an_error_that_names_rows(twin):
    """autotrain#71: one class in two spellings."""
    with pytest.raises(DataError, match=r"r0.*r2"):
        fit(["Stop", "go", twin])


@pytest.mark.parametrize("missing", [None, "", "  ", float("nan")])
def test_missing_labels_are_an_error_that_names_rows(missing):
    with pytest.raises(DataError, match="train: 1 rows have no label: r1"):
        fit(["a", missing, "b"])


def test_one_class_is_refused():
    with pytest.raises(DataError, match="all 2 labels are 'a'"):
        fit(["a", "a"])


def test_unknown_labels_of_another_split_are_named_with_the_nearest_class():
    labels = fit(["Stop", "Yield", "Go"])
    labels.check("test", ["Go", "Stop"], ["x0", "x1"])
    with pytest.raises(DataError) as caught:
        labels.check("test", ["Go", "stop ", "Yeld", "Yeld", "zzz"], [f"x{index}" for index in range(5)])
    text = str(caught.value)
    assert "'stop ' in 1 rows (first: x1), which train spells 'Stop'" in text
    assert "'Yeld' in 2 rows (first: x2); did you mean 'Yield'?" in text
    assert "'zzz' in 1 rows (first: x4)." in text
    with pytest.raises(DataError, match="test: 1 rows have no label: x0"):
        labels.check("test", [None, "Go"], ["x0", "x1"])


def test_counts_and_names():
    assert count_classes([["a", "b"], ["a"], []]) == {"a": 2, "b": 1}
    assert count_classes([["a", "a"], ["b", "a"]]) == {"a": 2, "b": 1}
    assert count_classes([1, True, None]) == {"1": 1, "True": 1, "None": 1}
    assert name_of(2.5) == "2.5"
