"""Model cards: their content, and that their code runs."""

import ast
import json
import os
import re
from types import SimpleNamespace

import points
import pytest
import series_tables
import tiny
from huggingface_hub import ModelCard

from hf_ft.data.prepare import prepare
from hf_ft.data.sources import on_hub
from hf_ft.errors import PublishError
from hf_ft.evaluate.verdict import Comparison, Verdict
from hf_ft.model.freeze import freeze
from hf_ft.model.save import save_model
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import new_task
from hf_ft.report.card import cell, fence, model_card
from hf_ft.report.run_folder import write_origin, write_run
from hf_ft.task import Evaluation
from hf_ft.verification.items import Item, Judgement, write_record

TEXTS = ["red road", "green light", "blue sign", "stop the red light", "go left", "slow green road"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny.saved(tiny.bert(), tmp_path_factory.mktemp("bert"), tiny.tokenizer())


def written(folder, content, data, measured, interval=None, split="validation"):
    """Write a run folder of an untrained model, with metrics that the test chooses."""
    recipe = load_recipe({"name": "made", "output_dir": str(folder / "run"), **content})
    task = new_task(recipe)
    ready = prepare(recipe, task, data=data, cache=folder / "cache")
    loaded = task.load(recipe.model)
    save_model(freeze(loaded.model, recipe.freeze, loaded.new), task, folder / "run" / "model", loaded.source)
    metric = next(iter(measured))
    evaluation = Evaluation(split, [], [], [], None, measured, {metric: interval} if interval else {})
    setup = SimpleNamespace(recipe=recipe, task=task, data=ready, metric=metric)
    write_origin(folder / "run", setup)
    baselines = [
        Comparison(name, "better", 0.25, measured[metric], (0.1, 0.4), 6, {metric: 0.25})
        for name in ("the usual answer", "trees | bushes")
    ]
    verdict = Verdict(
        metric=metric,
        greater=True,
        unit="",
        split=split,
        rows=6,
        selected=split == "validation",
        value=measured[metric],
        interval=interval,
        confidence=0.95,
        comparisons=baselines,
    )
    write_run(folder / "run", setup, {split: evaluation}, verdict)
    write_record(folder / "run", Judgement([Item("reload", True, "9 rows, fresh process")], {}))
    return folder / "run"


def text_run(folder, bert, rows, measured, interval=None, **sections):
    content = {
        "task": "text-classification",
        "data": {"source": "memory", "split": {"validation": 6}},
        "model": {"name": bert},
        **sections,
    }
    return written(folder, content, rows, measured, interval)


def lines_of(run_folder):
    """The code blocks of a card whose repository is the folder itself."""
    model = str(run_folder / "model")
    text = model_card(run_folder, model).text
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def printed(block, folder, capsys):
    assert len(block.splitlines()) == 3
    before = os.getcwd()
    os.chdir(folder)
    try:
        exec(compile(block, "README.md", "exec"), {})
    finally:
        os.chdir(before)
    return capsys.readouterr().out


def test_one_label_of_a_text(bert, tmp_path, capsys):
    rows = [{"text": f"{text} {n}", "label": "ab"[n % 2]} for n, text in enumerate(TEXTS * 4)]
    run = text_run(tmp_path, bert, rows, {"accuracy": 0.75, "macro_f1": 0.7}, (0.5, 1.0))
    card = model_card(run, "me/texts")
    assert card.data.pipeline_tag == "text-classification" and card.data.library_name == "transformers"
    # Unknown facts are left out; rows from memory and a local model have no ids on the Hub.
    header = card.data.to_dict()
    assert set(header) == {"library_name", "pipeline_tag", "tags", "model-index"} and header["tags"] == [
        "hf_ft"
    ]
    first = card.data.eval_results[0]
    assert (first.metric_type, first.metric_value, first.dataset_split) == ("accuracy", 0.75, "validation")
    assert (first.dataset_type, first.dataset_name, first.task_type) == (
        "custom",
        "made",
        "text-classification",
    )
    head = r"| metric | this model | 95 % interval | the usual answer | trees \| bushes |"
    assert f"{head}\n| --- | --- | --- | --- | --- |\n" in card.text and "| train | 18 |" in card.text
    assert "| accuracy | 75 % | 50 to 100 % | 25 % | 25 % |\n| macro F1 | 70.0 % |  |  |  |\n" in card.text
    assert r"**Better than the usual answer: accuracy 75 % against 25 %, 50 points higher" in card.text
    assert r"- Better than trees \| bushes: accuracy 75 % against 25 %" in card.text
    assert "which also chose the checkpoint: expect less on new rows" in card.text
    assert "It can only answer with the 2 classes" in card.text and "| None" not in card.text
    with_pipeline, with_hf_ft = lines_of(run)
    assert "from transformers import pipeline" in with_pipeline
    piped = ast.literal_eval(printed(with_pipeline, tmp_path, capsys))
    answer = ast.literal_eval(printed(with_hf_ft, tmp_path, capsys))[0]
    assert len(piped) == 2 and piped[0]["label"] == answer["label"]
    assert piped[0]["score"] == pytest.approx(answer["score"], abs=1e-5)


def test_several_labels_of_a_text(bert, tmp_path, capsys):
    rows = [{"text": f"{text} {n}", "labels": ["a", "b"][: n % 3]} for n, text in enumerate(TEXTS * 4)]
    run = text_run(tmp_path, bert, rows, {"macro_f1": 0.5, "notes": ["thresholds chosen on 6 rows"]})
    assert "thresholds chosen on 6 rows." in model_card(run, "me/texts").text
    with_pipeline, with_hf_ft = lines_of(run)
    assert printed(with_pipeline, tmp_path, capsys).count("'score'") == 2
    assert "'labels':" in printed(with_hf_ft, tmp_path, capsys)


@pytest.mark.parametrize("pair", [True, False])
def test_a_pipeline_that_answers_differently_is_not_shown(bert, tmp_path, capsys, pair):
    """A pipeline cannot unscale a number, and cannot read the second text of a pair."""
    rows = [
        {"text": f"{text} {n}", **({"pair": text, "label": "ab"[n % 2]} if pair else {"score": n / 7})}
        for n, text in enumerate(TEXTS * 4)
    ]
    run = text_run(tmp_path, bert, rows, {"accuracy": 0.5} if pair else {"rmse": 1.5})
    (block,) = lines_of(run)
    assert ("'label':" if pair else "'value':") in printed(block, tmp_path, capsys)


def test_a_forecast(tmp_path, capsys):
    data = series_tables.frame(300)
    sizes = {"d_model": 8, "num_attention_heads": 2, "ffn_dim": 8, "num_hidden_layers": 1}
    content = {
        "task": {"name": "time-series-forecasting", "context_length": 24, "horizon": 4, "trees": False},
        "data": {"source": "memory", "split": {"validation": 0.2, "test": 0.2}},
        "model": {"name": "patchtst", "from_scratch": True, "config": sizes},
    }
    run = written(tmp_path, content, data, {"rmse": 1.25, "mae": 1.0}, (1.0, 1.5), split="test")
    card = model_card(run, "me/series")
    assert card.data.pipeline_tag == "time-series-forecasting" and card.data.base_model is None
    assert "Trained from random weights on" in card.text
    assert "bootstrap over the groups of rows" in card.text
    assert "used neither for training nor to choose the checkpoint" in card.text
    (block,) = lines_of(run)
    data.to_csv(tmp_path / "history.csv", index=False)
    assert "'forecast':" in printed(block, tmp_path, capsys)


def test_a_task_without_a_pipeline_tag(tmp_path):
    rows = [{"series": [float(n), n + 1.0, n + 2.0, n + 4.0] * 4, "target": float(n)} for n in range(30)]
    content = {
        "task": "time-series-regression",
        "data": {"source": "memory"},
        "model": {
            "name": "patchtst",
            "from_scratch": True,
            "config": {"d_model": 8, "num_attention_heads": 2},
        },
    }
    run = written(tmp_path, content, rows, {"rmse": 1.0})
    card = model_card(run, "me/series")
    assert card.data.pipeline_tag is None and "time-series-regression" in card.data.tags


def test_a_task_and_a_model_of_ones_own(tmp_path):
    content = {
        "task": "points:Points",
        "data": {"source": "py:points:rows", "split": {"validation": 20}},
        "model": {"name": points.saved(tmp_path / "pretrained")},
    }
    per_class = [{"label": "above", "support": 20, "hits": 0.25}]
    run = written(tmp_path, content, None, {"accuracy": 0.5, "per_class": per_class})
    card = model_card(run, "me/points")
    assert card.data.library_name is None and card.data.pipeline_tag is None
    assert card.data.tags == ["hf_ft", "points"]
    assert "| class | rows | hits |\n| --- | --- | --- |\n| above | 20 | 0.250 |\n" in card.text


def test_an_adapter_is_published_merged(bert, tmp_path):
    rows = [{"text": f"{text} {n}", "label": "ab"[n % 2]} for n, text in enumerate(TEXTS * 4)]
    run = text_run(tmp_path, bert, rows, {"accuracy": 0.5}, freeze={"strategy": "lora", "r": 2})
    card = model_card(run, "me/texts")
    assert card.data.library_name == "transformers"
    assert "The lora adapter is merged into these weights" in card.text


def test_the_card_has_no_local_paths(bert, tmp_path):
    rows = [{"text": f"{text} {n}", "label": "ab"[n % 2]} for n, text in enumerate(TEXTS * 4)]
    run = text_run(tmp_path, bert, rows, {"accuracy": 0.5})
    recipe = (run / "recipe.yaml").read_text()
    assert bert in recipe
    (run / "recipe.yaml").write_text(
        recipe.replace("source: memory", f"source: {tmp_path}/secret place/rows.csv")
    )
    text = model_card(run, "me/texts").content
    assert "source: rows.csv" in text and str(tmp_path) not in text and os.path.dirname(bert) not in text
    for file in (run / "model").iterdir():
        assert os.path.dirname(bert).encode() not in file.read_bytes(), file.name


def test_untrusted_names_are_escaped(bert, tmp_path):
    label = "a | b\n# <script> `x` [y](z) ---"
    rows = [{"text": f"{text} {n}", "label": [label, "b"][n % 2]} for n, text in enumerate(TEXTS * 4)]
    per_class = [{"label": label, "support": 3, "precision": 1.0, "recall": 1.0, "f1": 1.0}] * 13
    run = text_run(tmp_path, bert, rows, {"accuracy": 0.5, "per_class": per_class})
    card = model_card(run, "me/texts")
    assert card.text.count("<details><summary>13 classes</summary>") == 1
    row = r"| a \| b \# \<script\> \`x\` \[y\]\(z\) --- | 3 | 1.000 | 1.000 | 1.000 |"
    assert card.text.count(row) == 13
    assert ModelCard(card.content).data.to_dict() == card.data.to_dict()


def test_cells_and_fences():
    assert cell("plain text, 1.5 hf_ft") == "plain text, 1.5 hf_ft"
    assert cell(" a\r\n|b ") == r"a \|b"
    assert (fence("plain"), fence("a ``` b ```` c")) == ("```", "`````")


def test_metadata_of_the_owner_are_copied(bert, tmp_path):
    rows = [{"text": f"{text} {n}", "label": "ab"[n % 2]} for n, text in enumerate(TEXTS * 4)]
    run = text_run(tmp_path, bert, rows, {"accuracy": 0.5})
    assert model_card(run, "me/texts", {"license": "mit", "language": ["en"]}).data.license == "mit"


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(
        PublishError, match=r"no recipe\.yaml, data\.json, .*; expected the folder of a finished run"
    ):
        model_card(tmp_path, "me/x")


def test_only_ids_of_the_hub_are_data_sets(bert, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "signs").mkdir()
    asked = [
        "me/signs",
        "imdb",
        "signs",
        "./signs",
        "signs.csv",
        "sample:digits",
        "py:a:b",
        "https://a.org/b",
    ]
    assert [name for name in asked if on_hub(name)] == ["me/signs", "imdb"]
    rows = [{"text": f"{text} {n}", "label": "ab"[n % 2]} for n, text in enumerate(TEXTS * 4)]
    run = text_run(tmp_path, bert, rows, {"accuracy": 0.5})
    data = json.loads((run / "data.json").read_text())
    assert data["hub"] == []  # `memory` is an id by its form, and the rows were given in memory
    (run / "data.json").write_text(json.dumps({**data, "hub": ["me/signs"]}))
    card = model_card(run, "me/texts")
    assert card.data.datasets == ["me/signs"] and card.data.eval_results[0].dataset_type == "me/signs"


def test_the_card_gives_the_figure_without_duplicates_and_the_rows_that_are_left_out(bert, tmp_path):
    rows = [{"text": f"{word} {n}", "label": word} for n in range(12) for word in ("stop", "yield")]
    run = text_run(tmp_path, bert, rows, {"accuracy": 0.5})
    assert "left out" not in model_card(run, "me/texts").text
    results, data = (json.loads((run / name).read_text()) for name in ("results.json", "data.json"))
    results["headline"]["without_duplicates"] = {"rows": 5, "text": "Without them: accuracy 40 %."}
    data["left_out"] = {"train": {"train/0": "validation/3", "train/1": "validation/3"}}
    (run / "results.json").write_text(json.dumps(results))
    (run / "data.json").write_text(json.dumps(data))
    text = model_card(run, "me/texts").text
    assert "Without them: accuracy 40 %." in text
    assert "2 rows of train are left out, because a later split has an equal row" in text
