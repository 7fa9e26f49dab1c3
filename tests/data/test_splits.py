import json
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from datasets import Dataset

from hf_ft.data.sources import read_source
from hf_ft.data.split_sampling import draw_distinct, draw_groups, draw_latest, draw_rows, draw_sample
from hf_ft.data.splits import make_splits
from hf_ft.errors import DataError
from hf_ft.recipe.schema import DataSection, SplitSection
from hf_ft.task import Role

ROLES = {"text": Role("the text"), "label": Role("its class", target=True)}


def rows(count, **columns):
    text = [f"t{index}" for index in range(count)]
    label = [f"c{index % 4}" for index in range(count)]
    return Dataset.from_dict({"text": text, "label": label, **columns})


def split(sources, *, seed=17, class_role="label", data=None, **keys):
    section = DataSection(source="x", split=SplitSection(**keys), **(data or {}))
    return make_splits(sources, section, ROLES, seed, class_role)


def sizes(splits):
    return {name: len(table) for name, table in splits.tables.items()}


def test_validation_and_test_are_drawn_from_train_once():
    splits = split({"train": rows(200)}, validation=0.1, test=0.2)
    assert list(sizes(splits).items()) == [("train", 140), ("validation", 20), ("test", 40)]
    ids = [row for table in splits.tables.values() for row in table.ids]
    assert len(set(ids)) == 200 and ids[0].startswith("train/")
    for table in splits.tables.values():
        assert set(Counter(table.column("label")).values()) == {len(table) // 4}
        assert [row["text"] for row in table] == [f"t{row.split('/')[1]}" for row in table.ids]
    assert json.loads(json.dumps(splits.info)) == splits.info
    assert (
        splits.info["splits"]["validation"]["origin"] == "drawn from train: 20 of 200 rows (asked for: 0.1)"
    )


def test_draws_depend_on_the_seed_alone():
    first, again, other = (split({"train": rows(200)}, seed=seed).info["splits"] for seed in (1, 1, 2))
    assert first == again
    assert first["validation"]["ids"] != other["validation"]["ids"]


def test_given_splits_are_used_as_they_are():
    given = {"train": rows(40), "val": rows(8), "test": rows(12), "extra": rows(4)}
    splits = split(given, validation=0.5, test=0.5)
    assert sizes(splits) == {"train": 40, "validation": 8, "test": 12}
    assert splits.info["splits"]["validation"]["origin"] == "given by the source as 'val'"
    assert splits.info["unused"] == ["extra"]
    assert splits.tables["validation"].ids[0] == "val/0"


def test_a_split_of_the_source_can_serve_as_another():
    given = {"train": rows(40), "validation": rows(8), "test": rows(12)}
    splits = split(given, validation=4, test="validation")
    assert sizes(splits) == {"train": 36, "validation": 4, "test": 8}
    assert splits.info["unused"] == ["test"]
    assert sizes(split(given, validation="test")) == {"train": 40, "validation": 12}
    with pytest.raises(DataError, match="no split 'tset'; did you mean 'test'"):
        split(given, test="tset")
    with pytest.raises(DataError, match="already used"):
        split(given, validation="test", test="test")


def test_no_test_split_unless_asked_for():
    assert sizes(split({"train": rows(40)}, validation=4)) == {"train": 36, "validation": 4}


@pytest.mark.parametrize(
    ("sources", "keys", "message"),
    [
        ({"all": rows(8)}, {}, "none is named train"),
        ({"train": rows(8)}, {"validation": None}, r"set data\.split\.validation: 0\.1"),
        ({"train": rows(8)}, {"validation": 8}, r"data\.split\.validation: 8 .* only 8"),
        ({"train": rows(40)}, {"validation": 2}, "cannot hold each of 4 classes"),
        ({"train": rows(8)}, {"by": "patients"}, "no column 'patients'"),
        ({"train": rows(8)}, {"by": "time"}, "data.columns.timestamp"),
    ],
)
def test_what_cannot_be_split_is_refused(sources, keys, message):
    with pytest.raises(DataError, match=message):
        split(sources, **keys)


def test_groups_stay_together():
    """PlantSeg#11: rows of one patient, track or video were on both sides of a split."""
    groups = [f"g{index // 8}" for index in range(400)]
    splits = split({"train": rows(400, track=groups)}, validation=0.1, test=0.2, by="track")
    seen = {name: set(table.column("track")) for name, table in splits.tables.items()}
    assert all(not seen[a] & seen[b] for a, b in combinations(seen, 2))
    assert sizes(splits) == {"train": 280, "validation": 40, "test": 80}


def test_groups_that_the_source_itself_divides_are_an_error():
    given = {"train": rows(40, track=["a", "b", "d", "e", "f"] * 8), "test": rows(4, track=["b", "c"] * 2)}
    with pytest.raises(DataError, match=r"train and test share 1 \(b\)"):
        split(given, by="track")


def test_time_splits_by_time():
    order = np.random.default_rng(0).permutation(100)
    days = [f"2020-01-01T{index // 60:02}:{index % 60:02}:00" for index in order]
    splits = split({"train": rows(100, timestamp=days)}, by="time", validation=0.1, test=0.2)
    times = {name: table.column("timestamp") for name, table in splits.tables.items()}
    assert sizes(splits) == {"train": 70, "validation": 10, "test": 20}
    assert sorted(times["train"]) == times["train"]
    assert max(times["train"]) < min(times["validation"]) and max(times["validation"]) < min(times["test"])
    limited = split({"train": rows(100, timestamp=days)}, by="time", validation=0.1, data={"limit": 5})
    assert limited.tables["train"].column("timestamp") == [f"2020-01-01T01:{m}:00" for m in range(25, 30)]


def test_rows_of_equal_time_are_in_one_split():
    kept, drawn = draw_latest(np.repeat(np.arange(10), 3), 4)
    assert len(drawn) == 6 and max(kept) < min(drawn)
    with pytest.raises(DataError, match="too few different timestamps"):
        draw_latest(np.zeros(5), 2)


def test_limit_samples_train_only_and_keeps_every_class():
    labels = ["common"] * 95 + ["rare"] * 3 + ["single"] * 2
    given = {"train": rows(100, label=labels), "validation": rows(8, label=["rare"] * 8)}
    splits = split(given, data={"limit": 10})
    assert Counter(splits.tables["train"].column("label")) == {"common": 8, "rare": 1, "single": 1}
    assert len(splits.tables["validation"]) == 8
    assert splits.info["notes"] == ["data.limit: a sample of 10 of 100 training rows"]
    assert len(split(given, data={"limit": 0.5}).tables["train"]) == 50
    assert len(split(given, data={"limit": 500}).tables["train"]) == 100
    with pytest.raises(DataError, match=r"data\.limit: 2 rows cannot hold each of 3 classes"):
        split(given, data={"limit": 2})


def test_limit_by_split_samples_each_of_them():
    given = {"train": rows(100), "validation": rows(40), "test": rows(30)}
    splits = split(given, data={"limit": {"train": 20, "validation": 0.5}})
    assert sizes(splits) == {"train": 20, "validation": 20, "test": 30}
    assert splits.info["notes"] == [
        "data.limit.train: a sample of 20 of 100 training rows",
        "data.limit.validation: a sample of 20 of 40 validation rows",
    ]
    assert set(splits.tables["validation"].column("label")) == {"c0", "c1", "c2", "c3"}
    with pytest.raises(DataError, match=r"data\.limit\.validation: 2 rows cannot hold each of 4 classes"):
        split(given, data={"limit": {"validation": 2}})
    with pytest.raises(DataError, match=r"data\.limit\.test: there is no test split .*train, validation"):
        split({"train": rows(100)}, data={"limit": {"test": 2}})
    with pytest.raises(ValueError, match="found the split 'val'; expected train, validation, test"):
        DataSection(source="a", limit={"val": 2})


def test_a_limit_that_leaves_gaps_in_validation_series_is_refused():
    given = {"train": rows(100), "validation": rows(40)}
    section = DataSection(source="unused", limit={"train": 10, "validation": 20})
    with pytest.raises(DataError, match=r"data\.limit\.validation: .* task\.eval_stride"):
        make_splits(given, section, ROLES, 17, None, lambda table: np.arange(len(table)))


def test_a_message_asks_whether_many_integer_classes_are_amounts():
    """Ratings of 0 to 100 are hardly a hundred classes, but all of them are integers."""
    scores = [f"{score}" for score in range(30)] * 2
    with pytest.raises(DataError, match=r"30 different whole numbers: .* task\.problem: regression"):
        split({"train": rows(60, label=scores)}, validation=6)
    with pytest.raises(DataError, match="each of the 40 classes has one row") as caught:
        split({"train": rows(40, label=[f"name {row}" for row in range(40)])}, validation=6)
    assert "task.problem" not in str(caught.value)


def test_labels_in_one_cell_are_split():
    tags = ["red;round", " red ; ", "", None] * 10
    splits = split({"train": rows(40, label=tags)}, data={"label_separator": ";"}, validation=4)
    found = {tuple(tags) for table in splits.tables.values() for tags in table.column("label")}
    assert found == {("red", "round"), ("red",), ()}
    with pytest.raises(DataError, match=r"data\.label_separator: train: column 'label' holds int"):
        split({"train": rows(4, label=[1, 2, 3, 4])}, data={"label_separator": ";"}, validation=1)


def test_a_class_with_one_row_stays_in_train_and_is_noted():
    labels = ["a"] * 20 + ["b"] * 19 + ["lonely"]
    splits = split({"train": rows(40, label=labels)}, validation=8)
    assert "lonely" in splits.tables["train"].column("label")
    assert splits.info["notes"] == ["data.split.validation: classes with one row stay in train: lonely"]


def test_rows_with_several_labels_are_drawn_without_classes():
    splits = split({"train": rows(40, label=[["a"], ["a", "b"]] * 20)}, validation=8)
    assert splits.info["notes"] == [
        "rows have several labels each: they are drawn without preserving class proportions"
    ]
    assert splits.info["splits"]["train"]["classes"]["a"] == 32


def test_ids_from_a_column_must_be_unique():
    names = [f"n{index}" for index in range(8)]
    splits = split({"train": rows(8, name=names)}, validation=4, data={"id": "name"})
    assert sorted(row for table in splits.tables.values() for row in table.ids) == names
    with pytest.raises(DataError, match=r"'name' do not name the rows uniquely: n0 \(2 times\)"):
        split({"train": rows(8, name=["n0", *names[:7]])}, validation=4, data={"id": "name"})
    with pytest.raises(DataError, match=r"data\.id: train has no column 'nme'; did you mean 'name'"):
        split({"train": rows(8, name=names)}, data={"id": "nme"})


def test_extra_columns_never_matter():
    """tf#22119, tf#17894: columns without a role are ignored."""
    splits = split({"train": rows(40, other=list(range(40)))}, validation=4)
    assert set(splits.tables["train"][0]) == {"text", "label", "id"}


# Draws


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.5, 0.8])
def test_group_draws_are_close_to_the_share_and_to_class_proportions(share):
    groups = [f"g{index // 5}" for index in range(1000)]
    classes = [f"c{index // 5 % 5}" for index in range(1000)]
    kept, drawn = draw_groups(round(share * 1000), groups, classes, 3, "key")
    assert abs(len(drawn) / 1000 - share) < 0.02
    assert sorted([*kept, *drawn]) == list(range(1000))
    assert len({classes[index] for index in drawn}) == 5


def test_group_draws_never_remove_a_class_from_train():
    groups = ["only", "only", *[f"g{index // 2}" for index in range(18)]]
    classes = ["rare", "rare", *["common"] * 18]
    for seed in range(10):
        kept, _ = draw_groups(4, groups, classes, seed, "key")
        assert {classes[index] for index in kept} == {"rare", "common"}
    with pytest.raises(DataError, match="every row of"):
        draw_groups(4, ["a"] * 5 + ["b"] * 5, ["x"] * 5 + ["y"] * 5, 0, "key")
    with pytest.raises(DataError, match="all rows are of one group"):
        draw_groups(4, ["a"] * 5, None, 0, "key")


def test_plain_draws_and_samples_are_exact():
    kept, drawn = draw_rows(50, 7, None, 0, "key")
    assert len(drawn) == 7 and sorted([*kept, *drawn]) == list(range(50))
    taken = draw_sample(50, 13, ["a"] * 45 + ["b"] * 5, 0, "key")
    assert len(taken) == 13 == len(set(taken))


@pytest.mark.real
def test_real_tracks_stay_together(real_data):
    source = {"train": str(real_data / "gtsrb" / "balanced" / "train.parquet")}
    section = DataSection(source=source, split=SplitSection(validation=0.1, by="track_id"))
    roles = {"image": Role("the picture"), "label": Role("its class", target=True)}
    splits = make_splits(read_source(section), section, roles, 17, "label")
    train, validation = (set(splits.tables[name].column("track_id")) for name in ("train", "validation"))
    assert not train & validation
    assert len(set(splits.tables["train"].column("label"))) == 43
    assert 380 < len(splits.tables["validation"]) < 480


def test_equal_texts_stay_in_one_split():
    """PlantSeg#11: data sets of texts hold many equal rows; a drawn split must not hold rows of train."""
    texts = [f"text {number // 3 if number < 90 else number}" for number in range(300)]
    texts[1] = " TEXT  0"
    repeated = Dataset.from_dict({"text": texts, "label": ["a", "b", "c"] * 100})
    found = split({"train": repeated}, seed=5, validation=0.2, test=0.1)
    parts = {
        name: {" ".join(text.casefold().split()) for text in table.column("text")}
        for name, table in found.tables.items()
    }
    assert not parts["train"] & parts["validation"] and not parts["train"] & parts["test"]
    assert not parts["validation"] & parts["test"]
    assert sum(len(table) for table in found.tables.values()) == 300
    assert 50 <= len(found.tables["validation"]) <= 70
    assert any("60 of 300 training rows are equal to an earlier row" in note for note in found.info["notes"])


def test_without_equal_rows_draw_distinct_equals_draw_rows():
    classes = ["a", "b"] * 30
    plain = draw_rows(60, 12, classes, 3, "key")
    distinct = draw_distinct(np.arange(60), 12, classes, 3, "key")
    assert all((one == other).all() for one, other in zip(plain, distinct, strict=True))
