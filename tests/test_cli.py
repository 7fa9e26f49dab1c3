from __future__ import annotations

import json
import sys

import pytest

from hf_ft import cli
from hf_ft.errors import DataError

GOOD = "task: toy:ToyTask\ndata: {source: a.csv}\nmodel: {name: m}\n"


@pytest.fixture
def hf_ft_command(monkeypatch, tmp_path, capsys):
    """Call the command line in an empty folder; gives (exit code, standard output, standard error)."""
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
    for verb in ("run", "check", "schema", "recipes", "init", "predict", "push"):
        assert f" {verb} " in out


def test_check_of_the_schema_alone(hf_ft_command, tmp_path):
    (tmp_path / "r.yaml").write_text(GOOD)
    assert hf_ft_command("check", "r.yaml", "--schema-only") == (0, "r.yaml: the recipe is valid\n", "")
    code, _, err = hf_ft_command("check", "r.yaml", "train.learning_rate=0.5", "--schema-only")
    assert code == 0
    assert err.startswith("warning: train.learning_rate: 0.5 is far above")


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
    import hf_ft.run

    def broken(recipe, overrides):
        raise DataError("a.csv: no such file")

    monkeypatch.setattr(hf_ft.run, "load_recipe", broken)
    assert hf_ft_command("run", "r.yaml") == (1, "", "a.csv: no such file\n")


def test_run_hands_the_recipe_to_finetune(hf_ft_command, monkeypatch, tmp_path):
    import hf_ft.run

    seen = []
    monkeypatch.setattr(hf_ft.run, "finetune", lambda recipe, resume, profile: seen.extend([recipe, profile]))
    (tmp_path / "r.yaml").write_text(GOOD)
    code, _, _ = hf_ft_command("run", "r.yaml", "seed=3", "train.max_steps=2", "--profile")
    assert code == 0 and seen[1] is True
    assert (seen[0].name, seen[0].seed, seen[0].train.arguments["max_steps"]) == ("r", 3, 2)


@pytest.mark.parametrize(("errors", "code"), [([], 0), (["twins"], 1)])
def test_check_prints_its_table_and_fails_on_errors(hf_ft_command, monkeypatch, tmp_path, errors, code):
    import hf_ft.run

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
        "toy.yaml exists, and init does not overwrite; choose another file with -o\n",
    )
    assert (tmp_path / "toy.yaml").read_text() == before


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
    assert hf_ft_command("recipes")[:2] == (0, "recipes/a.yaml  What a does\nrecipes/b.yaml  What b does\n")


def test_every_example_is_a_valid_recipe():
    from hf_ft.recipe.read import load_recipe

    for file in cli.example_recipes():
        assert file.read_text(encoding="utf-8").startswith("# "), file.name
        load_recipe(file)


def test_predict_writes_parquet(hf_ft_command, monkeypatch, tmp_path):
    import hf_ft

    calls = []

    class Predictor:
        @classmethod
        def load(cls, folder):
            calls.append(folder)
            return cls()

        def to_parquet(self, inputs, path):
            calls.append((inputs, str(path)))

    monkeypatch.setitem(vars(hf_ft), "Predictor", Predictor)
    assert hf_ft_command("predict", "runs/x", "a.png", "b.png", "-o", "out.parquet") == (
        0,
        "out.parquet\n",
        "",
    )
    assert calls == ["runs/x", (["a.png", "b.png"], "out.parquet")]
