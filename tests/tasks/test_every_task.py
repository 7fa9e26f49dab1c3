"""Properties that every built-in task must have."""

import json
import re

import pytest
import small_tasks

from hf_ft import Predictor, finetune
from hf_ft.data.prepare import prepare
from hf_ft.evaluate.loop import measure
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import get_task, list_tasks, new_task


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))


def prepare_task(name, folder, **sections):
    content, data = small_tasks.recipe_and_data(name, folder, **sections)
    recipe = load_recipe(content)
    task = new_task(recipe)
    return recipe, task, prepare(recipe, task, data=data, cache=folder / "audit")


def test_every_task_is_tested_here():
    assert set(small_tasks.SMALL) == set(list_tasks())


@pytest.mark.parametrize("name", list_tasks())
def test_notes_say_the_same_when_asked_twice_and_change_nothing(name, tmp_path):
    recipe, task, prepared = prepare_task(name, tmp_path)
    task.load(recipe.model)
    state = json.dumps(task.state())
    first = task.notes(prepared.rows)
    assert task.notes(prepared.rows) == first and json.dumps(task.state()) == state


@pytest.mark.parametrize("name", list_tasks())
def test_baselines_answer_in_the_form_of_the_model(name, tmp_path):
    _, task, prepared = prepare_task(name, tmp_path)
    rows = prepared.rows["validation"]
    references = task.references(rows)
    found = task.baselines(prepared.rows["train"], rows)
    assert found and all(len(results) == len(rows) for results in found.values())
    assert len(found) > 1 or name.startswith("image")
    for results in found.values():
        known = [index for index, result in enumerate(results) if result is not None]
        chosen = [results[index] for index in known]
        scores = measure(task, chosen, [references[index] for index in known]).compute()
        assert task.main_metric in scores
        assert all(task.describe(result) for result in chosen if "start" not in task.side_keys)


@pytest.mark.parametrize("name", list_tasks())
def test_a_row_can_be_shown(name, tmp_path):
    _, task, prepared = prepare_task(name, tmp_path)
    rows = prepared.rows["validation"]
    result = next(iter(task.baselines(prepared.rows["train"], rows).values()))[0]
    shown = task.preview(rows[0], result, task.references(rows, [0])[0])
    assert [shown.picture, shown.text, shown.curves].count(None) == 2
    assert shown.picture is None or re.match(r"data:image/png;base64,[\w+/]{100,}=*$", shown.picture)
    assert shown.text is None or rows[0]["text"] in shown.text
    assert shown.curves is None or all(len(values) > 1 for values in shown.curves.values())
    assert json.dumps(shown.curves)


@pytest.mark.parametrize("name", list_tasks())
def test_references_of_some_rows_are_those_of_all(name, tmp_path):
    _, task, prepared = prepare_task(name, tmp_path)
    rows = prepared.rows["train"]
    whole, some = task.references(rows), task.references(rows, [3, 1])
    assert repr([whole[3], whole[1]]) == repr(some) and len(whole) == len(rows)


@pytest.mark.parametrize("name", list_tasks())
def test_the_state_is_json_and_all_that_is_needed(name, tmp_path):
    _, task, prepared = prepare_task(name, tmp_path)
    again = get_task(name)(task.options)
    again.restore(json.loads(json.dumps(task.state(), allow_nan=False)))
    assert again.state() == task.state() and again.labels() == task.labels()
    assert again.greater_is_better == task.greater_is_better and again.main_metric == task.main_metric
    result = next(iter(task.baselines(prepared.rows["train"], prepared.rows["validation"]).values()))[0]
    decoded = {**result, "start": 0}
    assert again.decode(decoded) == task.decode(decoded)


@pytest.mark.parametrize("name", list_tasks())
def test_a_whole_run_and_the_folder_it_leaves(name, tmp_path):
    content, data = small_tasks.recipe_and_data(name, tmp_path, output_dir=str(tmp_path / "run"))
    content["train"] = {"num_train_epochs": 1, "global_batch_size": 8, "disable_tqdm": True}
    content["evaluate"] = {"resamples": 100}
    run = finetune(content, data=data, verbose=False)
    assert all(item["passed"] for item in run.verification)
    found = run.results["splits"]["validation"]
    assert len(found["baseline"]) >= 1 and all(len(scores) > 1 for scores in found["baseline"].values())
    assert run.results["headline"]["baseline"] is not None
    predictor = Predictor.load(run.folder / "model")
    rows = prepare(load_recipe(content), new_task(load_recipe(content)), data=data).rows["validation"]
    targets = {role for role, about in run.task.roles.items() if about.target}
    inputs = [{key: value for key, value in rows[index].items() if key not in targets} for index in (0, 1)]
    assert len(predictor(inputs)) == 2
