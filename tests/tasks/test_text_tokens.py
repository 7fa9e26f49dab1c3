"""Training on cached tokens is the same training: by batch, run, in workers, resumed, from activations."""

import itertools

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback

from hf_ft.activations.cached_rows import CachedRows
from hf_ft.data.dataset import EncodedRows
from hf_ft.data.table import Table
from hf_ft.errors import DataError
from hf_ft.recipe.read import load_recipe
from hf_ft.storage.row_store import CHECKED_ROWS
from hf_ft.tasks.text_classification import TextClassification
from hf_ft.train.assemble import assemble


def rows(label, *, pair=False):
    """40 texts of 2 to 12 words, and what is to be said about them."""
    labels = {
        "single": lambda number: ["go", "停"][number % 2],
        "several": lambda number: tiny.WORDS[: number % 4],
        "number": lambda number: number / 7,
    }
    texts = [
        " ".join(tiny.WORDS[(number + word) % 14] for word in range(2 + number % 11)) for number in range(40)
    ]
    found = [{"text": text, "label": labels[label](number)} for number, text in enumerate(texts)]
    return [{**row, "pair": texts[-1 - number]} for number, row in enumerate(found)] if pair else found


def no_types():
    tokenizer = tiny.tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def left():
    tokenizer = tiny.word_tokenizer()
    tokenizer.padding_side = "left"
    return tokenizer


# name -> model, tokenizer, what is said of a row, whether rows are pairs, the recipe's task
RUNS = {
    "bert, one text": (tiny.bert, tiny.tokenizer, "single", False, {}),
    "bert, pairs": (tiny.bert, tiny.tokenizer, "single", True, {}),
    "bert, cut pairs": (tiny.bert, tiny.tokenizer, "several", True, {"max_length": 9}),
    "bert, numbers": (tiny.bert, tiny.tokenizer, "number", False, {}),
    "roberta, no types": (tiny.roberta, no_types, "several", False, {}),
    "gpt2, pairs": (tiny.gpt2, tiny.word_tokenizer, "number", True, {}),
    "gpt2, left, cut": (tiny.gpt2, left, "single", False, {"max_length": 5}),
}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder."""
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tokenised(monkeypatch):
    """Number of rows in each call of a tokenizer."""
    seen = []

    def counting(self, texts, *given, call=PreTrainedTokenizerBase.__call__, **options):
        seen.append(len(texts))
        return call(self, texts, *given, **options)

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", counting)
    return seen


@pytest.fixture
def tuner(tmp_path):
    """Build a trainer for one of the runs; return the decision about its activation cache too."""
    numbers = itertools.count()

    def build(name, *, folder=None, callbacks=(), freeze_section="full", **train):
        model, tokenizer, label, pair, options = RUNS[name]
        folder = tmp_path / (folder or f"run{next(numbers)}")
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        saved = tiny.saved(model(), tmp_path / "model", tokenizer())
        recipe = load_recipe(
            {
                "task": {"name": "text-classification", **options},
                "data": {"source": "in memory", "split": {"validation": 8}},
                "model": {"name": saved},
                "freeze": freeze_section,
                "train": {
                    "num_train_epochs": 2,
                    "global_batch_size": 6,
                    "learning_rate": 0.01,
                    "logging_steps": 1,
                    "disable_tqdm": True,
                    "precision": "fp32",
                    **train,
                },
            }
        )
        setup = assemble(recipe, folder, data=rows(label, pair=pair), callbacks=callbacks)
        return setup.trainer, setup.decisions["activations"].value

    return build


def told(tuner):
    """Every loss, and the trained weights as bytes."""
    losses = [line.get("loss", line.get("eval_loss")) for line in tuner.state.log_history]
    return losses, [parameter.detach().numpy().tobytes() for parameter in tuner.model.parameters()]


@pytest.mark.parametrize("name", RUNS)
def test_training_on_cached_tokens_is_equal_bit_for_bit(name, tuner, monkeypatch, tokenised):
    kept, _ = tuner(name)
    assert kept.train_dataset.supports_batch_encode and kept.eval_dataset.supports_batch_encode
    before = len(tokenised)
    kept.train()
    # Two epochs and two evaluations tokenized no row.
    assert len(tokenised) == before
    monkeypatch.setattr(TextClassification, "encode_batch", lambda self, rows, indices: None)
    single, _ = tuner(name)
    before = len(tokenised)
    single.train()
    assert not single.train_dataset.supports_batch_encode and sum(tokenised[before:]) >= 2 * 40
    assert told(kept) == told(single) and len(set(told(kept)[0])) > 10


@pytest.mark.parametrize("name", RUNS)
def test_every_batch_is_what_encode_and_collate_give(name, tuner):
    data = tuner(name)[0].train_dataset
    for size, offset in ((1, 3), (5, 0), (32, 0)):
        chosen = np.random.default_rng(offset).permutation(32)[:size]
        batch = data.task.encode_batch(data.rows, chosen)
        single = data.task.collate(data.task.encode([data.rows[row] for row in chosen], None))
        assert batch.keys() == single.keys()
        for key, value in single.items():
            assert batch[key].dtype == value.dtype and torch.equal(batch[key], value), key
    one_by_one = [len(item["input_ids"]) for item in data.task.encode(list(data.rows), None)]
    assert data.lengths == one_by_one


def test_a_second_run_tokenizes_only_the_checked_rows(tuner, tokenised):
    tuner("bert, pairs")[0].train()
    assert sum(tokenised) > 40
    tokenised.clear()
    tuner("bert, pairs")[0].train()
    # For train and validation: the rows that are compared with the stored ones, and two for encode_batch.
    assert sum(tokenised) == 2 * (CHECKED_ROWS + 2)


def test_workers_change_nothing_and_need_no_tokenizer(tuner, monkeypatch, capfd):
    alone, _ = tuner("bert, pairs")
    alone.train()
    others, _ = tuner("bert, pairs", dataloader_num_workers=2)
    assert others.train_dataset.supports_batch_encode and others.eval_dataset.supports_batch_encode
    # Processes that are forked from here on cannot tokenize.
    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", None)
    others.train()
    assert told(others) == told(alone)
    assert "fork" not in capfd.readouterr().err


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("step", [3, 8])
def test_a_resumed_run_is_the_same_run(tuner, tmp_path, step):
    straight, _ = tuner("bert, one text")
    straight.train()
    tuner("bert, one text", folder="stopped", callbacks=[StopAt(step)])[0].train()
    resumed, _ = tuner("bert, one text", folder="stopped")
    assert resumed.train_dataset.supports_batch_encode
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoints" / f"checkpoint-{step}"))
    # The weights may differ: the stopped run evaluated validation once more for its best checkpoint.
    found = [
        [line["loss"] for line in run.state.log_history if "loss" in line] for run in (resumed, straight)
    ]
    assert found[0] == found[1] and len(set(found[0])) == 12


@pytest.mark.parametrize("name", ["bert, pairs", "gpt2, pairs"])
def test_cached_activations_are_computed_from_cached_tokens(tuner, monkeypatch, tokenised, name):
    kept, note = tuner(name, freeze_section={"strategy": "last", "n": 1})
    assert note.startswith("starts at") and isinstance(kept.train_dataset, CachedRows)
    # All rows once, and a few again: those of the search for the cut, and those of the checks.
    assert max(tokenised) == 32 and sum(count == 32 for count in tokenised) == 1
    lengths = kept.train_dataset.store.lengths.tolist()
    kept.train()
    monkeypatch.setattr(TextClassification, "encode_batch", lambda self, rows, indices: None)
    monkeypatch.setenv("HF_FT_CACHE", str(kept.args.output_dir) + "/other")
    single, _ = tuner(name, freeze_section={"strategy": "last", "n": 1})
    assert single.train_dataset.store.lengths.tolist() == lengths
    single.train()
    assert told(kept) == told(single)


def test_tokens_that_are_wrong_stop_the_run(tuner):
    """Both comparisons, on opening and before the first batch, read the last row."""
    data = tuner("bert, one text")[0].train_dataset
    kept = data.task.input._tokens[data.rows.fingerprint]
    flat, _ = kept.store.flat("input_ids")
    flat[:] = flat.flip(0)
    with pytest.raises(DataError, match=r"encode_batch: input_ids of the train rows \[0, 31\] differs"):
        EncodedRows(data.task, data.rows, split="train", seed=0, train=True).__getitems__([(0, 0, True)])
    flat[:] = flat.flip(0)
    again = EncodedRows(data.task, data.rows, split="train", seed=0, train=True)
    again.lengths = [length + 1 for length in data.lengths]
    with pytest.raises(DataError, match=r"encode_batch: lengths of the train rows \[0, 31\] differs"):
        again.__getitems__([(0, 0, True)])


def test_rows_without_cached_tokens_are_encoded_one_by_one(tuner, monkeypatch):
    task = tuner("bert, one text")[0].task
    few = Table(Dataset.from_list(rows("single")[:3]), {"text": "text", "label": "label"}, ["a", "b", "c"])
    assert task.encode_batch(few, np.arange(2)) is None
    assert task.encode_batch(list(few), np.arange(2)) is None
    # A slow tokenizer, and one with an output that the cache does not know.
    monkeypatch.setattr(type(task.processor), "is_fast", False)
    assert task.lengths(few) == [len(item["input_ids"]) for item in task.encode(list(few), None)]
    assert task.encode_batch(few, np.arange(2)) is None
    monkeypatch.undo()
    more = few.select([0, 1])
    assert task.lengths(more) and task.encode_batch(more, np.arange(2)) is not None
    task.processor.model_input_names = ["input_ids", "special_tokens_mask"]
    assert task.encode_batch(more, np.arange(2)) is None
