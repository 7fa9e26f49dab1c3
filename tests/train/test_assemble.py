"""`assemble`: `check` announces what `run` does, and the trainer is not changed afterwards."""

import dataclasses
import json

import pytest
import tiny

from hf_ft.activations.cached_rows import CachedRows
from hf_ft.errors import AuditError
from hf_ft.recipe.read import load_recipe
from hf_ft.run import check
from hf_ft.train import precision, threads
from hf_ft.train.assemble import assemble
from hf_ft.train.paired_timing import PairedTiming


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def measured(monkeypatch):
    """Replace the measurements: bf16 and one thread are faster; return the list of what was measured."""
    seen = []

    def give(kind, pairs):
        def timed(usual, new, **how):
            seen.append(kind)
            return PairedTiming(pairs)

        return timed

    monkeypatch.setattr(precision, "_bf16_instructions", lambda: ["amx_bf16"])
    monkeypatch.setattr(precision, "time_pairs", give("precision", ((2.0, 1.0),) * 3))
    monkeypatch.setattr(threads, "time_pairs", give("threads", ((1.0, 2.0),) * 3))
    monkeypatch.setattr(threads, "STEP_SECONDS", float("inf"))
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return seen


def texts():
    return [
        {"text": f"{word} light " * (1 + number % 3), "label": word}
        for number in range(10)
        for word in tiny.WORDS[:3]
    ]


@pytest.fixture
def recipe(tmp_path):
    model = tiny.saved(tiny.bert(), tmp_path / "bert", tiny.tokenizer())

    def make(**sections):
        return load_recipe(
            {
                "task": "text-classification",
                "output_dir": str(tmp_path / "run"),
                "data": {"source": "in memory", "split": {"validation": 9}},
                "model": {"name": model},
                "train": {"num_train_epochs": 1, "global_batch_size": 6, "disable_tqdm": True},
                **sections,
            }
        )

    return make


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_check_makes_the_decisions_of_run(recipe, measured, tmp_path, strategy):
    """With the same measurements all decisions are equal, except for how many rows were computed now."""
    chosen = recipe(freeze={"strategy": strategy})
    findings = check(chosen, data=texts())
    by_check = list(measured)
    (tmp_path / "run").mkdir()
    setup = assemble(chosen, tmp_path / "run", data=texts())
    # The answer about bf16 is stored for the second run; threads are measured in every run.
    assert by_check == ["precision", "threads"] and measured[2:] == ["threads"]
    announced = dict(line.split(": ", 1) for line in findings.notes if ": " in line)
    for subject, decision in setup.decisions.items():
        done = str(decision).replace(", 30 of 30 rows computed now", "").replace(", by an earlier run", "")
        assert announced[subject] == done, subject
    assert {"precision", "threads", "activations", "allocator", "evaluation"} <= set(setup.decisions)
    assert setup.decisions["precision"].value == "bf16" and setup.decisions["threads"].value == 1
    assert isinstance(setup.trainer.train_dataset, CachedRows) == (strategy == "head")


def test_the_setup_is_frozen_and_its_trainer_was_built_last(recipe, measured, tmp_path):
    (tmp_path / "run").mkdir()
    setup = assemble(recipe(freeze="head"), tmp_path / "run", data=texts())
    with pytest.raises(dataclasses.FrozenInstanceError):
        setup.rows = {}
    trainer = setup.trainer
    assert trainer.train_dataset is setup.rows["train"] and trainer.eval_dataset is setup.rows["validation"]
    assert trainer.model is setup.frozen.model and trainer.args.bf16
    recorded = json.loads((tmp_path / "run/decisions.json").read_text())
    assert recorded["threads"]["value"] == 1 and recorded["precision"]["value"] == "bf16"


class FakeConsole:
    """A console that stores the tables it is given."""

    def __init__(self, speaks):
        self.speaks, self.tables = speaks, []
        self.room = self.lines = self.facts = lambda content: None
        self.table = self.tables.append


@pytest.mark.parametrize(("speaks", "layers"), [(True, False), (False, True)])
def test_layers_and_epoch_lines_are_shown_as_asked_for(recipe, tmp_path, speaks, layers):
    """The table of a model of which all learns is shown only on request; a quiet run prints no lines."""
    console = FakeConsole(speaks)
    setup = assemble(recipe(freeze="full"), tmp_path, data=texts(), layers=layers, console=console)
    assert isinstance(console.tables[1], str) == (not layers)
    shown = [type(one).__name__ for one in setup.trainer.callback_handler.callbacks]
    assert ("EpochLines" in shown) == speaks


def test_bad_rows_stop_the_assembly_with_all_findings(recipe, tmp_path):
    with pytest.raises(AuditError) as caught:
        assemble(recipe(), tmp_path, data=[*texts(), {"text": " ", "label": tiny.WORDS[0]}])
    assert len(caught.value.findings.bad) == 1 and "the text is empty" in str(caught.value)
    assert check(recipe(), data=[*texts(), {"text": " ", "label": tiny.WORDS[0]}]).errors
