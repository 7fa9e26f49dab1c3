"""Windows: which windows are cut, what their rows contain, and that they need no copy of the series."""

from __future__ import annotations

import pickle

import numpy as np
import pandas
import pytest
from series_tables import frame, split_tables, table

from hf_ft.errors import DataError
from hf_ft.inputs.series.options import SeriesOptions
from hf_ft.inputs.series.series_table import read_series
from hf_ft.inputs.series.windows import Shape, cut_windows


def cut(tables, context=8, horizon=4, strides=(1, 1), reach_back=True, **options):
    chosen = SeriesOptions(**options)
    return cut_windows(
        read_series(tables, chosen), Shape(context, horizon, reach_back), strides, chosen.missing
    )


def test_windows_hold_what_slices_hold():
    data = frame(100)
    windows = cut({"train": table(data)}, calendar=["hour_of_day"])
    rows = windows["train"]
    assert len(rows) == 100 - 12 + 1
    row = rows[7]
    assert np.allclose(row["history"][:, 0], data["target"][7:15])
    assert np.allclose(row["target"][:, 0], data["target"][15:19])
    assert row["ahead"].shape == (12, 2)
    assert row["id"] == rows.ids[7] == "train/15"
    assert row["hour"].tolist() == [15, 16, 17, 18]
    assert pandas.Timestamp(row["start"]) == pandas.Timestamp(data["timestamp"][15])


def test_gathering_a_batch_equals_row_by_row():
    rows = cut({"train": table(frame(80))}, calendar=["day_of_week"])["train"]
    chosen = np.array([5, 0, 33])
    for name, gathered in (("history", rows.histories), ("ahead", rows.aheads), ("target", rows.targets)):
        assert np.array_equal(gathered(chosen), np.stack([rows[index][name] for index in chosen]))
    assert np.array_equal(rows.last()[chosen], np.stack([rows[index]["history"][-1] for index in chosen]))


def test_rows_are_views_and_windows_cost_no_copy_of_the_series():
    rows = cut({"train": table(frame(500))}, context=200, horizon=50)["train"]
    assert np.shares_memory(rows[3]["history"], rows.series.values)
    assert rows.starts.nbytes + rows.series.nbytes < 1.2 * (rows.series.nbytes + 8 * len(rows))
    assert len(pickle.dumps(rows.series.ids)) < 200, "500 names that count on"


def test_histories_reach_back_but_targets_stay_in_their_split():
    """The standard protocol of long horizons: 2,880 rows give 2,880 - 96 + 1 windows."""
    windows = cut(split_tables(frame(100), 60, 80))
    assert {split: len(rows) for split, rows in windows.items()} == {
        "train": 49,
        "validation": 17,
        "test": 17,
    }
    assert windows["validation"].ids[0] == "train/60" and windows["test"].ids[0] == "train/80"
    assert windows["validation"].ids[-1] == "train/76"


def test_without_reaching_back_a_split_stands_alone():
    windows = cut(split_tables(frame(100), 60, 80), reach_back=False)
    assert {split: len(rows) for split, rows in windows.items()} == {"train": 49, "validation": 9, "test": 9}
    assert windows["test"].ids[0] == "train/88"


def test_training_windows_never_touch_a_later_split():
    windows = cut(split_tables(frame(100), 60, 80), strides=(5, 3))
    ends = windows["train"].starts + 12
    assert ends.max() <= 60
    assert np.unique(np.diff(windows["train"].starts)).tolist() == [5]
    assert np.unique(np.diff(windows["test"].starts)).tolist() == [3]


def test_a_train_history_does_not_reach_back_into_an_older_test_file():
    data = frame(100)
    tables = {"train": table(data[50:].reset_index(drop=True)), "test": table(data[:50], "test")}
    windows = cut(tables)
    assert windows["train"].ids[0] == "train/8"


def test_no_window_spans_a_gap_or_two_series():
    data = frame(60).drop(index=[30]).reset_index(drop=True)
    assert len(cut({"train": table(data)}, gaps="split")["train"]) == 19 + 18
    assert len(cut({"train": table(data)}, gaps="ignore")["train"]) == 59 - 11
    both = pandas.concat([frame(20, site="a"), frame(20, site="b")], ignore_index=True)
    rows = cut({"train": table(both, series_id="site")})["train"]
    assert len(rows) == 2 * 9
    assert {row["series"] for row in rows} == {"a", "b"}


def test_windows_with_missing_values_are_left_out_and_counted():
    data = frame(60)
    data.loc[30, "target"] = np.nan
    windows = cut({"train": table(data)}, missing="drop_windows")
    assert len(windows["train"]) == 49 - 12
    assert (windows["train"].left_out, len(windows["train"])) == (12, 37)
    assert not any(
        np.isnan(row["history"]).any() or np.isnan(row["target"]).any() for row in windows["train"]
    )


def test_interpolation_fills_histories_and_never_targets():
    data = frame(60)
    data.loc[[30, 31], "target"] = np.nan
    windows = cut({"train": table(data)}, missing="interpolate")
    rows = windows["train"]
    assert windows["train"].left_out == 5, "four steps of horizon over two missing rows"
    present = rows.ids.index("train/32")
    history = rows[present]["history"][:, 0]
    # The two last values are missing: they are filled with the last known value, not interpolated to the
    # next.
    assert history[-2:].tolist() == [data["target"][29]] * 2
    assert np.array_equal(rows.histories(np.array([present]))[0, :, 0], history)
    assert rows.last()[present, 0] == data["target"][29]
    assert not np.isnan(rows.targets()).any()


def test_a_split_without_a_window_is_an_error():
    with pytest.raises(DataError, match=r"validation: 3 rows give no window of 8 \+ 4 steps"):
        cut(split_tables(frame(63), 60))


def test_selection_fingerprint_and_column():
    rows = cut({"train": table(frame(60))})["train"]
    part = rows.select([4, 2])
    assert part.ids == [rows.ids[4], rows.ids[2]]
    assert rows.fingerprint != part.fingerprint
    assert rows.fingerprint == cut({"train": table(frame(60))})["train"].fingerprint
    assert np.array_equal(np.stack(rows.column("target")), rows.targets())
    with pytest.raises(DataError, match="no column 'label'"):
        rows.column("label")


def test_rows_can_be_sent_to_another_process():
    row = cut({"train": table(frame(60))})["train"][5]
    again = pickle.loads(pickle.dumps(row))
    assert np.array_equal(again["history"], row["history"])
    assert len(pickle.dumps(row)) < 4000, "a window must not drag the whole series along"
