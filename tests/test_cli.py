from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import points
import pytest

import hf_ft
from hf_ft import cli
from hf_ft.errors import DataError
from hf_ft.model.prediction_files import Written
from hf_ft.model.prediction_inputs import BadRow

GOOD = "task: toy:ToyTask\ndata: {source: a.csv}\nmodel: {name: m}\n"


@pytest.fixture
def hf_ft_command(monkeypatch, tmp_path, capsys):
    """Return a function that calls the command line: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hf-ft", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def test_help_lists_the_verbs(hf_ft_command):
    code, out, _ = hf_ft_command("--help")
    assert code == 0
    for verb in ("run", "check", "schema", "recipes", "tasks", "samples", "init", "predict", "push"):
        assert f" {verb} " in out


def test_check_schema_only(hf_ft_command, tmp_path):
    (tmp_path / "r.yaml").write_text(GOOD)
    assert hf_ft_command("check", "r.yaml", "--schema-only") == (0, "r.yaml: the recipe is valid\n", "")
    code, _, err = hf_ft_command("check", "r.yaml", "train.learning_rate=0.5", "--schema-only")
    assert code == 0
    assert err.startswith("warning: train.learning_rate: 0.5 is very high")


def test_a_bad_recipe_exits_with_two_and_no_traceback(hf_ft_command, tmp_path):
    (tmp_path / "r.yaml").write_text(GOOD + "seed: x\nlr: 3\n")
    code, out, err = hf_ft_command("run", "r.yaml", "train.optim=adm")
    assert (code, out) == (2, "")
    assert err.splitlines()[:2] == [
        "r.yaml:4: seed: found the text 'x'; expected a whole number",
        "r.yaml:5: lr: unknown key; write train.learning_rate",
    ]
    assert err.splitlines()[2].startswith("override train.optim=adm: train.optim: found the text 'adm'")


def test_another_error_exits_with_one(hf_ft_command, monkeypatch, tmp_path):
    def broken(recipe, overrides):
        raise DataError("a.csv: no such file")

    monkeypatch.setattr(hf_ft.run, "load_recipe", broken)
    assert hf_ft_command("run", "r.yaml") == (1, "", "a.csv: no such file\n")


def test_run_passes_recipe_and_options_to_finetune(hf_ft_command, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(hf_ft.run, "finetune", lambda recipe, **options: seen.append((recipe, options)))
    (tmp_path / "r.yaml").write_text(GOOD)
    code, _, _ = hf_ft_command("run", "r.yaml", "seed=3", "train.max_steps=2", "--profile", "--quiet")
    ((recipe, options),) = seen
    assert code == 0
    assert options == {"resume": "auto", "profile": True, "layers": False, "verbose": False}
    assert (recipe.name, recipe.seed, recipe.train.arguments["max_steps"]) == ("r", 3, 2)


@pytest.mark.parametrize(("errors", "code"), [([], 0), (["twins"], 1)])
def test_check_prints_its_table_and_fails_on_errors(hf_ft_command, monkeypatch, tmp_path, errors, code):
    class Findings:
        def __init__(self):
            self.errors = errors

        def table(self):
            return "the table"

    monkeypatch.setattr(hf_ft.run, "check", lambda recipe: Findings())
    (tmp_path / "r.yaml").write_text(GOOD)
    assert hf_ft_command("check", "r.yaml") == (code, "the table\n", "")


def test_init_writes_a_recipe_and_never_overwrites(hf_ft_command, tmp_path):
    code, out, _ = hf_ft_command("init", "toy:ToyTask")
    assert code == 0
    assert "fill in data.source and model.name" in out
    before = (tmp_path / "toy.yaml").read_text()
    assert hf_ft_command("check", "toy.yaml", "--schema-only")[0] == 0
    assert hf_ft_command("init", "toy:PlainTask", "-o", "toy.yaml") == (
        2,
        "",
        "toy.yaml exists, and init does not overwrite it; choose another file with -o\n",
    )
    assert (tmp_path / "toy.yaml").read_text() == before


@pytest.mark.parametrize("command", [["init", "toy:ToyTask"], ["schema", "toy:ToyTask"]])
def test_a_file_that_cannot_be_written_is_named(hf_ft_command, command):
    code, _, err = hf_ft_command(*command, "-o", "nowhere/x.txt")
    assert code == 2 and "nowhere/x.txt cannot be written" in err and "-o" in err


def test_init_of_an_unknown_task(hf_ft_command, tmp_path):
    code, _, err = hf_ft_command("init", "image-clasification")
    assert code == 2
    assert "did you mean 'image-classification'?" in err
    assert list(tmp_path.iterdir()) == []


def test_schema_is_json(hf_ft_command, tmp_path):
    code, out, _ = hf_ft_command("schema", "toy:ToyTask")
    assert code == 0
    assert json.loads(out)["title"] == "hf_ft recipe"
    assert hf_ft_command("schema", "-o", "schema.json") == (0, "schema.json\n", "")
    assert json.loads((tmp_path / "schema.json").read_text())["required"] == ["task", "data", "model"]


def test_recipes_lists_each_example_with_its_first_line(hf_ft_command, monkeypatch, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "b.yaml").write_text("# What b does\n# more\ntask: x\n")
    (tmp_path / "recipes" / "a.yaml").write_text("# What a does\n")
    (tmp_path / "recipes" / "notes.txt").write_text("not a recipe")
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "hf_ft" / "cli.py"))
    (tmp_path / "recipes" / "longer.yaml").write_text("task: x\n")
    assert hf_ft_command("recipes")[:2] == (0, "a       What a does\nb       What b does\nlonger  task: x\n")


def test_an_example_is_printed_or_copied(hf_ft_command, tmp_path):
    """A user cannot work with a path inside an installed package."""
    text = next(file for file in cli.example_recipes() if file.stem == "sentiment").read_text()
    assert hf_ft_command("recipes", "sentiment") == (0, text, "")
    assert hf_ft_command("recipes", "recipes/sentiment.yaml")[1] == text
    code, _, err = hf_ft_command("recipes", "sentimant")
    assert code == 2 and "no example 'sentimant'; did you mean 'sentiment'?" in err
    assert hf_ft_command("init", "--from", "sentiment") == (
        0,
        "sentiment.yaml: hf-ft check sentiment.yaml\n",
        "",
    )
    assert (tmp_path / "sentiment.yaml").read_text() == text
    assert "does not overwrite" in hf_ft_command("init", "--from", "sentiment")[2]
    assert hf_ft_command("init", "--from", "sentiment", "-o", "mine.yaml")[0] == 0
    assert hf_ft_command("check", "mine.yaml", "--schema-only")[0] == 0


@pytest.mark.parametrize("arguments", [["init"], ["init", "text-classification", "--from", "sentiment"]])
def test_init_takes_a_task_or_an_example(hf_ft_command, arguments):
    code, _, err = hf_ft_command(*arguments)
    assert code == 2 and "image-classification" in err and "--from" in err


def test_tasks_and_samples_are_listed(hf_ft_command):
    from hf_ft.data.samples import sample_names
    from hf_ft.registry import get_task, list_tasks

    _, out, _ = hf_ft_command("tasks")
    assert [line.split()[0] for line in out.splitlines()] == list_tasks()
    assert all(get_task(name).summary in out for name in list_tasks())
    _, out, _ = hf_ft_command("samples")
    assert [line.split()[0] for line in out.splitlines()] == [f"sample:{name}" for name in sample_names()]


def test_the_version_and_completion(hf_ft_command, monkeypatch):
    assert hf_ft_command("--version") == (0, f"hf-ft {hf_ft.__version__}\n", "")
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, out, _ = hf_ft_command("--show-completion", "bash")
    assert code == 0 and "complete" in out
    assert cli._complete_recipe("traffic_") == ["traffic_flow", "traffic_signs"]
    assert cli._complete_task("image-c") == ["image-classification"]


def test_every_example_is_a_valid_recipe():
    from hf_ft.recipe.read import load_recipe

    for file in cli.example_recipes():
        assert file.read_text(encoding="utf-8").startswith("# "), file.name
        load_recipe(file)


class FakePredictor:
    """A Predictor that stores what it was called with."""

    calls: list = []  # noqa: RUF012
    trusted = None

    def __init__(self, bad=(), trusted=None):
        FakePredictor.trusted = trusted
        self.task = SimpleNamespace(labels=lambda: ["a", "b"], input_note=lambda: "needs tomorrow's weather")
        self.bad = list(bad)

    def to_file(self, inputs, path, **options):
        FakePredictor.calls.append((inputs, str(path), options))
        return Written(path, 3, self.bad, 1.0)


def test_predict_passes_its_options_on(hf_ft_command, monkeypatch, tmp_path):
    FakePredictor.calls.clear()
    monkeypatch.setattr(
        hf_ft.Predictor,
        "load",
        lambda folder, trust_task: FakePredictor([BadRow("b.csv, row 2", "empty")], trust_task),
    )
    options = ["--trust-task", "mine:Task", "--on-bad", "skip", "--top-k", "2", "--threshold", "0.5"]
    code, out, err = hf_ft_command("predict", "runs/x", "a.png", "b.csv", "-o", "out.csv", *options)
    assert (code, out) == (0, "out.csv\n")
    # The note on what inputs need comes before anything is computed.
    assert err == "needs tomorrow's weather\nleft out 1 of 4 inputs:\n  b.csv, row 2: empty\n"
    expected = {"on_bad": "skip", "top_k": 2, "threshold": 0.5, "id_column": None}
    assert FakePredictor.trusted == "mine:Task"
    assert FakePredictor.calls == [(["a.png", "b.csv"], "out.csv", expected)]


def test_predict_refuses_a_format_before_it_loads_a_model(hf_ft_command, monkeypatch):
    monkeypatch.setattr(hf_ft.Predictor, "load", lambda folder: pytest.fail("loaded"))
    code, _, err = hf_ft_command("predict", "runs/x", "a.png", "-o", "out.xlsx")
    assert code == 2 and ".csv, .parquet, .jsonl" in err


def test_an_interrupted_run_names_the_command_that_resumes_it(hf_ft_command, monkeypatch, tmp_path):
    """Ctrl-C after the first checkpoint; the command resumes from it."""
    from transformers import TrainerCallback

    class Interrupted(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 10:
                raise KeyboardInterrupt

    # The gate's fresh process must be able to import the task.
    here = Path(points.__file__).parent
    monkeypatch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parent}")
    (tmp_path / "r.yaml").write_text(
        "task: points:Points\noutput_dir: out\n"
        "data: {source: 'py:points:rows', split: {validation: 20}}\n"
        f"model: {{name: {points.saved(tmp_path / 'pretrained')}}}\n"
        "train: {num_train_epochs: 2, global_batch_size: 8, learning_rate: 0.02}\n"
    )
    whole = hf_ft.finetune
    with monkeypatch.context() as stopped:
        stopped.setattr("hf_ft.run.finetune", functools.partial(whole, callbacks=[Interrupted()]))
        code, out, err = hf_ft_command("run", "r.yaml", "seed=3", "--json")
    assert (code, out) == (130, "")
    assert err.splitlines()[-2:] == [
        "interrupted; to resume from out/checkpoints/checkpoint-7, run:",
        "  hf-ft run r.yaml seed=3",
    ]
    code, out, err = hf_ft_command("run", "r.yaml", "seed=3", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found) == {"folder", "headline", "verdict", "verified"}
    assert (found["folder"], found["verified"]) == ("out", True)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["headline"] == found["headline"]


@pytest.mark.parametrize("verb", [["init", "image-classification"], ["schema"]])
def test_a_full_disk_leaves_no_half_file(verb, tmp_path):
    """Half a recipe stood in the way of the next try, as `init` does not overwrite."""
    program = (
        "import resource, sys\nfrom hf_ft.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\nmain()"
    )
    file = tmp_path / "x.yaml"
    ran = subprocess.run(
        [sys.executable, "-c", program, *verb, "-o", str(file)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    assert ran.stderr.startswith(f"{file}: it would be larger than a file may be")
    assert not list(tmp_path.iterdir())
