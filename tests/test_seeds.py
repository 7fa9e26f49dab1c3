"""Several seeds: the recipes of the single runs, and the interval over seeds and rows."""

import json

import numpy as np
import pytest
import tiny

from hf_ft import finetune, finetune_seeds
from hf_ft.errors import DataError, RecipeError, VerifyError
from hf_ft.evaluate.bootstrap import bootstrap_interval, seeds_interval
from hf_ft.evaluate.loop import measure
from hf_ft.evaluate.metrics import RegressionMetrics
from hf_ft.recipe.read import load_recipe
from hf_ft.report.run_folder import finished_run_of

COLOURS = ["red", "green", "blue"]


def recipe(folder, bert, **changes):
    rows = [{"text": f"{COLOURS[n % 3]} {n}", "label": COLOURS[n * n % 3]} for n in range(60)]
    (folder / "rows.json").write_text(json.dumps(rows))
    return {
        "task": "text-classification",
        "name": "texts",
        "output_dir": str(folder / "run"),
        "seeds": [1, 2],
        "data": {"source": str(folder / "rows.json"), "split": {"validation": 12, "test": 12}},
        "model": {"name": bert},
        "train": {
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
            "global_batch_size": 12,
            "disable_tqdm": True,
        },
        **changes,
    }


def test_each_seed_has_a_folder_and_all_have_one_split(tmp_path):
    whole = load_recipe(recipe(tmp_path, "bert", seed=5))
    one, two = (whole.with_seed(seed) for seed in whole.seeds)
    assert (one.seed, two.seed) == (1, 2) and one.seeds is two.seeds is None
    assert one.data.split.seed == two.data.split.seed == 5
    assert one.output_dir.endswith("run/seed-1") and two.output_dir.endswith("run/seed-2")
    given = recipe(tmp_path, "bert")
    given["data"]["split"]["seed"] = 9
    assert load_recipe(given).with_seed(1).data.split.seed == 9


@pytest.mark.parametrize(("seeds", "message"), [([3, 3], "expected different seeds"), ([3], "at least 2")])
def test_equal_seeds_and_a_single_one_are_refused(tmp_path, seeds, message):
    with pytest.raises(RecipeError, match=f"seeds.*{message}"):
        load_recipe(recipe(tmp_path, "bert", seeds=seeds))


def test_one_run_is_no_place_for_several_seeds(tmp_path):
    with pytest.raises(RecipeError, match="call finetune_seeds"):
        finetune(recipe(tmp_path, "bert"))
    with pytest.raises(RecipeError, match="expected the seeds of several runs"):
        finetune_seeds(recipe(tmp_path, "bert", seeds=None))


class Numbers:
    """A task whose results are numbers."""

    def metrics(self):
        return RegressionMetrics(["y"], [""])


def measured(errors):
    results = [{"value": np.array([error])} for error in errors]
    return measure(Numbers(), results, [np.array([0.0])] * len(errors))


def test_the_interval_holds_the_variation_over_seeds_and_over_rows():
    draw = np.random.default_rng(0)
    rows = draw.normal(1.0, 0.2, 400)
    settings = {"resamples": 400, "confidence": 0.95, "seed": 0}

    def width(shifts):
        low, high = seeds_interval([measured(rows + shift) for shift in shifts], "mae", 400, **settings)
        return high - low

    alone = bootstrap_interval(measured(rows), "mae", 400, **settings)
    # Equal runs leave the variation over rows; runs that differ add theirs.
    assert width([0, 0, 0]) == pytest.approx(alone[1] - alone[0], rel=0.2)
    assert width([-0.2, 0, 0.2]) > 4 * width([0, 0, 0])


def test_too_few_rows_for_an_interval_are_an_error():
    with pytest.raises(DataError, match="at least 2 rows"):
        seeds_interval([measured([1.0])] * 2, "mae", 1, resamples=10, confidence=0.9, seed=0)


@pytest.mark.slow
def test_several_seeds_from_the_recipe_to_their_mean(tmp_path, capsys):
    bert = tiny.saved(tiny.bert(), tmp_path / "bert", tiny.tokenizer())
    given = recipe(tmp_path, bert)
    runs = finetune_seeds(given)
    found = json.loads((tmp_path / "run/seeds.json").read_text())
    values = [run["value"] for run in found["runs"]]
    assert found == runs.content and [run["seed"] for run in found["runs"]] == [1, 2]
    assert found["mean"] == pytest.approx(np.mean(values)) and found["std"] == pytest.approx(
        np.std(values, ddof=1)
    )
    assert found["interval"][0] <= found["mean"] <= found["interval"][1]
    assert "interval over seeds and rows" in capsys.readouterr().out
    splits = [
        json.loads((tmp_path / f"run/seed-{seed}/data.json").read_text())["fingerprints"] for seed in (1, 2)
    ]
    assert splits[0] == splits[1]
    weights = [(tmp_path / f"run/seed-{seed}/model/model.safetensors").read_bytes() for seed in (1, 2)]
    assert weights[0] != weights[1]
    # Finished seeds are not trained again; another seed is added to them.
    before = (tmp_path / "run/seed-1/log.jsonl").stat().st_mtime_ns
    more = finetune_seeds({**given, "seeds": [1, 3]}, verbose=False)
    assert [run["seed"] for run in more.content["runs"]] == [1, 3]
    assert (tmp_path / "run/seed-1/log.jsonl").stat().st_mtime_ns == before
    assert not (tmp_path / "run/seed-1-2").exists()
    # Evaluated in another way, the runs are others; a run that was altered, or whose rows were, is refused.
    assert finished_run_of(load_recipe(given).with_seed(1)) == tmp_path / "run/seed-1"
    other = {**given, "evaluate": {"confidence": 0.5}}
    assert finished_run_of(load_recipe(other).with_seed(1)) is None
    rows = (tmp_path / "rows.json").read_text()
    (tmp_path / "rows.json").write_text(rows.replace('"label": "red"', '"label": "blue"', 5))
    with pytest.raises(VerifyError, match=r"seed-1: source: data\.json does not describe"):
        finetune_seeds(given, verbose=False)
    (tmp_path / "rows.json").write_text(rows)
    with (tmp_path / "run/seed-2/predictions.parquet").open("ab") as file:
        file.write(b"0")
    with pytest.raises(VerifyError, match=r"seed-2: unchanged: .*predictions\.parquet \(changed\)"):
        finetune_seeds(given, verbose=False)
