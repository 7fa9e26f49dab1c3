"""The verifier: whatever is changed in a run folder, or in its source, fails the item that is for it."""

import csv
import json
import random
import re
import shutil

import numpy as np
import pandas
import pyarrow
import pytest
import tiny
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hf_ft import finetune, verify
from hf_ft.cli import app
from hf_ft.errors import VerifyError
from hf_ft.targets.classes import SingleLabel
from hf_ft.verification.items import ITEMS
from hf_ft.verification.verifier import Request, RunsWord, Verifier

COLOURS = ["red", "green", "blue"]


def write_rows(file, change=lambda rows: rows):
    draw = random.Random(0)
    rows = [
        {
            "text": f"{COLOURS[number % 3]} {draw.choice(['light', 'road', 'sign'])} {number}",
            "label": COLOURS[number % 3],
        }
        for number in range(60)
    ]
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, ["text", "label"])
        writer.writeheader()
        writer.writerows(change(rows))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run of a text classifier whose body is frozen, beside the file of its rows."""
    folder = tmp_path_factory.mktemp("verified")
    write_rows(folder / "rows.csv")
    finetune(
        {
            "task": "text-classification",
            "name": "texts",
            "output_dir": str(folder / "run"),
            "data": {"source": str(folder / "rows.csv"), "split": {"validation": 12, "test": 12}},
            "model": {"name": tiny.saved(tiny.bert(), folder / "bert", tiny.tokenizer())},
            "freeze": {"strategy": "head"},
            "train": {
                "num_train_epochs": 4,
                "learning_rate": 3e-2,
                "global_batch_size": 6,
                "disable_tqdm": True,
            },
        },
        verbose=False,
    )
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run folder, which the test may damage; the rows stay where they are."""
    return shutil.copytree(made / "run", tmp_path / "run")


def failed(judgement):
    return {item.name: item.detail for item in judgement.items if not item.passed}


def change_json(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def change_table(file, change):
    table = parquet.read_table(file)
    parquet.write_table(change(table), file)


def test_an_honest_run_passes_every_item_with_every_row(made, run):
    found = verify(run, rows="all")
    assert found.passed and [item.name for item in found.items] == ["unchanged", *ITEMS]
    details = {item.name: item.detail for item in found.items}
    assert "12 of 12 validation rows" in details["reload"] and "12 of 12 test rows" in details["reload"]
    assert "the run's own word" in details["loss"] and "equal to those of the base model" in details["frozen"]
    assert "read again" in details["source"] and "12 raw inputs" in details["pipeline"]


def rename(ids):
    return {str(index): COLOURS[place] for index, place in enumerate(ids)}


def scale(name, factor):
    def change(run):
        weights = load_file(run / "model/model.safetensors")
        weights[name] = weights[name] * factor
        save_file(weights, run / "model/model.safetensors", {"format": "pt"})

    return change


def swap_answers(table):
    """Exchange the answers of a red and a green row that are both right: the accuracy falls."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    one, other = (columns["truth"].index(colour) for colour in ("red", "green"))
    for name in columns:
        if name not in ("split", "id", "truth"):
            columns[name][one], columns[name][other] = columns[name][other], columns[name][one]
    return pyarrow.table(columns, schema=table.schema)


def with_truth_of_the_model(table):
    place = table.column_names.index("truth")
    return table.set_column(place, "truth", table.column("label"))


def with_labels_of_truth(table):
    labels = table.column("truth").to_pylist()
    labels[0] = next(colour for colour in COLOURS if colour != table.column("label")[0].as_py())
    return table.set_column(table.column_names.index("label"), "label", pyarrow.array(labels))


def perfect_scores(table):
    names = sorted(COLOURS)
    scores = [[float(name == truth) for name in names] for truth in table.column("truth").to_pylist()]
    kind = table.schema.field("result.scores").type
    place = table.column_names.index("result.scores")
    return table.set_column(place, "result.scores", pyarrow.array(scores, kind))


def small_losses(table):
    losses = [loss / 100 for loss in table.column("loss").to_pylist()]
    return table.set_column(table.column_names.index("loss"), "loss", pyarrow.array(losses))


def first_loss(table):
    values = table.column("loss").to_pylist()
    return table.set_column(table.column_names.index("loss"), "loss", pyarrow.array([0.0, *values[1:]]))


ATTACKS = {
    "label2id permuted": (
        lambda run: change_json(
            run / "model/config.json", lambda c: c.update(label2id={"blue": 1, "green": 0, "red": 2})
        ),
        {"labels": "label2id"},
    ),
    "id2label permuted": (
        lambda run: change_json(run / "model/config.json", lambda c: c.update(id2label=rename([0, 1, 2]))),
        {"labels": r"model/config\.json has the labels"},
    ),
    "a row of predictions.parquet dropped": (
        lambda run: change_table(run / "predictions.parquet", lambda table: table.slice(1)),
        {"counted": "not hold each row .* exactly once: validation train/[0-9]+ x0"},
    ),
    "a row of predictions.parquet doubled": (
        lambda run: change_table(
            run / "predictions.parquet", lambda table: pyarrow.concat_tables([table, table.slice(0, 1)])
        ),
        {"counted": "x2"},
    ),
    "answers of predictions.parquet exchanged": (
        lambda run: change_table(run / "predictions.parquet", swap_answers),
        {"results": "results.json is not what"},
    ),
    "the truth in predictions.parquet replaced": (
        lambda run: change_table(run / "predictions.parquet", with_truth_of_the_model),
        {"counted": "the true answer of"},
    ),
    "a loss in predictions.parquet changed": (
        lambda run: change_table(run / "predictions.parquet", first_loss),
        {"results": r"splits\.validation\.metrics\.loss"},
    ),
    "scores of all rows made perfect": (
        lambda run: change_table(run / "predictions.parquet", perfect_scores),
        {"reload": r"result\.scores of test"},
    ),
    "a column of answers changed": (
        lambda run: change_table(run / "predictions.parquet", with_labels_of_truth),
        {"counted": r"label of \w+ train/[0-9]+ is .*, its result says"},
    ),
    "all losses a hundredth": (
        lambda run: change_table(run / "predictions.parquet", small_losses),
        {"reload": "the loss of validation .* is"},
    ),
    "an answer of a baseline removed": (
        lambda run: change_table(run / "baselines.parquet", lambda table: table.slice(20)),
        {"results": "results.json is not what"},
    ),
    "a figure of results.json raised": (
        lambda run: change_json(run / "results.json", lambda c: c["headline"].update(value=0.999)),
        {"results": r"headline\.value: found 0\.999"},
    ),
    "another metric in the headline": (
        lambda run: change_json(run / "results.json", lambda c: c["headline"].update(metric="macro_f1")),
        {"results": r"headline\.metric: found 'macro_f1', expected 'accuracy'"},
    ),
    "the verdict reworded": (
        lambda run: change_json(run / "results.json", lambda c: c["verdict"].update(text="Better than all.")),
        {"results": r"verdict\.text"},
    ),
    "a size of data.json changed": (
        lambda run: change_json(run / "data.json", lambda c: c["sizes"].update(test=120)),
        {"source": r"sizes\.test: found 120, expected 12"},
    ),
    "a fingerprint of data.json changed": (
        lambda run: change_json(run / "data.json", lambda c: c["fingerprints"].update(train="0" * 32)),
        {"source": r"fingerprints\.train"},
    ),
    "another seed in recipe.yaml": (
        lambda run: (run / "recipe.yaml").write_text(
            re.sub(r"(?m)^seed: .*", "seed: 1234", (run / "recipe.yaml").read_text())
        ),
        {"source": "data.json does not describe", "provenance": "recipe.yaml was changed"},
    ),
    "recipe.yaml is no YAML": (
        lambda run: (run / "recipe.yaml").write_text("a: [b"),
        {"provenance": "recipe.yaml cannot be run again"},
    ),
    "versions removed": (
        lambda run: (run / "environment.json").unlink(),
        {"provenance": "environment.json does not hold"},
    ),
    "a head that learned something else": (scale("classifier.weight", -1.0), {"reload": "they differ by"}),
    "a frozen weight changed a little": (
        scale("bert.embeddings.word_embeddings.weight", 1.0 + 1e-6),
        {"frozen": "is not that of the base model"},
    ),
    "other options in task.json": (
        lambda run: change_json(run / "model/task.json", lambda c: c["options"].update(max_length=7)),
        {"results": r"options\.max_length: found 7"},
    ),
    "a damaged predictions.parquet": (
        lambda run: (run / "predictions.parquet").write_bytes(b"PAR1 and nothing else"),
        {"counted": "the check itself failed", "results": "the check itself failed"},
    ),
    "a pickle beside the model": (
        lambda run: (run / "model/extra.bin").write_bytes(b"\x80\x04N."),
        {"contents": "pickle"},
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_the_item_that_is_for_it_fails(run, name):
    """The gate at the end of a run has no record yet: the content itself must show what is wrong."""
    change, expected = ATTACKS[name]
    word = RunsWord((run / "recipe.yaml").read_text(), True, "1.0 and 1.0")
    change(run)
    found = failed(Verifier(Request(run, word=word)).judge())
    for item, message in expected.items():
        assert item in found, found
        assert pandas.Series([found[item]]).str.contains(message).all(), found[item]


@pytest.mark.parametrize("name", ["a figure of results.json raised", "a frozen weight changed a little"])
def test_a_file_that_was_changed_after_the_run_is_named(run, name):
    ATTACKS[name][0](run)
    found = failed(verify(run))
    file = "results.json" if "results" in name else "model/model.safetensors"
    assert found["unchanged"] == f"not as when the run ended: {file} (changed)"


@pytest.mark.parametrize("file", ["verify.json", "seal.json"])
def test_a_run_without_its_records_is_not_verified(run, file):
    (run / file).unlink()
    assert f"{file} is missing or damaged" in failed(verify(run))["unchanged"]


def relabel(rows):
    return [{**row, "label": COLOURS[(COLOURS.index(row["label"]) + 1) % 3]} for row in rows]


@pytest.mark.parametrize(
    ("change", "items"),
    [
        (relabel, {"source", "counted", "results"}),
        (lambda rows: rows[::-1], {"source", "counted"}),
        (lambda rows: rows[:-1], {"source"}),
    ],
    ids=["other labels", "another order", "a row less"],
)
def test_a_source_that_was_changed_after_the_run_fails(made, run, change, items):
    try:
        write_rows(made / "rows.csv", change)
        assert items <= failed(verify(run)).keys()
    finally:
        write_rows(made / "rows.csv")
    assert verify(run).passed


def test_a_source_that_is_gone_fails_with_its_name(made, run):
    (made / "rows.csv").rename(made / "moved.csv")
    try:
        found = failed(verify(run))
        assert "there is no file or folder" in found["source"] and "rows.csv" in found["source"]
        assert "unchanged" not in found and "contents" not in found
    finally:
        (made / "moved.csv").rename(made / "rows.csv")


@pytest.mark.fresh_process
def test_references_that_are_exchanged_in_memory_do_not_pass(made, tmp_path, monkeypatch):
    """The process that trains measures with wrong labels; the fresh process reads them from the source."""
    honest = SingleLabel.references

    def rotated(self, rows, indices=None):
        return [(label + 1) % 3 for label in honest(self, rows, indices)]

    monkeypatch.setattr(SingleLabel, "references", rotated)
    recipe = (made / "run/recipe.yaml").read_text().replace(str(made / "run"), str(tmp_path / "run"))
    (tmp_path / "again.yaml").write_text(recipe)
    with pytest.raises(VerifyError, match=r"the run is not done[\s\S]*counted: [\s\S]*results: "):
        finetune(tmp_path / "again.yaml", verbose=False)


def test_rows_in_memory_are_given_again_and_known_by_their_fingerprints(tmp_path):
    rows = [{"text": f"{colour} {number}", "label": colour} for number in range(12) for colour in COLOURS]
    folder = tmp_path / "run"
    done = finetune(
        {
            "task": "text-classification",
            "output_dir": str(folder),
            "data": {"source": "memory", "split": {"validation": 9}},
            "model": {"name": tiny.saved(tiny.bert(), tmp_path / "bert", tiny.tokenizer())},
            "train": {
                "num_train_epochs": 1,
                "learning_rate": 1e-3,
                "global_batch_size": 6,
                "disable_tqdm": True,
            },
        },
        data=rows,
        verbose=False,
    )
    source = next(item for item in done.verification if item["name"] == "source")
    assert source["passed"] and "came from memory; known by their fingerprints" in source["detail"]
    assert verify(folder, data=rows).passed
    assert "pass the same rows" in failed(verify(folder))["source"]
    assert "fingerprints.train" in failed(verify(folder, data=relabel(rows)))["source"]


def test_the_command_names_what_failed_and_its_exit_code_says_so(run, tmp_path):
    cli = CliRunner()
    done = cli.invoke(app, ["verify", str(run), "--rows", "5"])
    assert done.exit_code == 0 and "passed  reload       4 of 12 test rows" in done.output
    assert "4 losses of validation agree" in done.output
    ATTACKS["a figure of results.json raised"][0](run)
    done = cli.invoke(app, ["verify", str(run)])
    assert done.exit_code == 1 and "FAILED  results" in done.output and "passed  frozen" in done.output
    with pytest.raises(VerifyError, match="expected a finished run"):
        verify(tmp_path)


def test_weights_of_the_saved_adapter_and_model_agree(made, tmp_path):
    folder = tmp_path / "run"
    finetune(
        {
            "task": "text-classification",
            "output_dir": str(folder),
            "data": {"source": str(made / "rows.csv"), "split": {"validation": 12, "test": 12}},
            "model": {"name": str(made / "bert")},
            "freeze": {"strategy": "lora", "r": 2},
            "train": {
                "num_train_epochs": 1,
                "learning_rate": 1e-2,
                "global_batch_size": 6,
                "disable_tqdm": True,
            },
        },
        verbose=False,
    )
    found = verify(folder)
    assert found.passed and "the adapter merged into it" in next(
        i.detail for i in found.items if i.name == "frozen"
    )
    name = "bert.embeddings.word_embeddings.weight"
    weights = load_file(folder / "model/model.safetensors")
    weights[name][0] += np.float32(1e-3)
    save_file(weights, folder / "model/model.safetensors", {"format": "pt"})
    assert f"{name}: the saved model and the adapter" in failed(verify(folder))["frozen"]
