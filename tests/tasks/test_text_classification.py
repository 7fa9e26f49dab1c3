"""Text classification: one label, several, or a number; texts and pairs; models of many families."""

import json
import re

import numpy as np
import pandas
import pytest
import tiny
import torch
from datasets import Dataset

from hf_ft.data.dataset import EncodedRows
from hf_ft.data.table import Table
from hf_ft.errors import DataError, ModelError, RecipeError
from hf_ft.evaluate.final import calibrate
from hf_ft.evaluate.loop import evaluate_rows, measure
from hf_ft.recipe.schema import ModelSection
from hf_ft.registry import get_task
from hf_ft.tasks.text_classification import Options, TextClassification

TEXTS = ["red light", "go left", "stop", "slow road a sign", "green", "fast fast fast go right"]
NAMES = ["停", "go", "停", "go", "停", "go"]
SETS = [["停"], ["go", "slow"], [], ["slow"], ["停", "slow"], ["go"]]
NUMBERS = [0.5, 2.0, 4.25, 1.0, 3.5, 2.75]


def table(labels, texts=TEXTS, **columns):
    """Make the rows of a split; each role has a column of the same name."""
    rows = Dataset.from_dict({"text": texts, "label": labels, **columns})
    roles = {name: name for name in rows.column_names if name in TextClassification.roles}
    return Table(rows, roles, [f"row {number}" for number in range(len(rows))])


def fitted(labels, options=None, loss=None, **columns):
    task = TextClassification(Options(**(options or {})), None, TextClassification.Loss(**(loss or {})))
    task.fit(table(labels, **columns))
    return task


def bert_folder(folder, **config):
    return tiny.saved(tiny.bert(**config), folder, tiny.tokenizer())


@pytest.fixture
def folder(tmp_path):
    return bert_folder(tmp_path / "bert", id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})


def loaded(task, folder):
    torch.manual_seed(0)
    model = task.load(ModelSection(name=str(folder))).model
    return model


def evaluation(task, model, rows, split="validation", **options):
    return evaluate_rows(task, model, EncodedRows(task, rows, split=split, seed=0, train=False), **options)


# Which kind of problem


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (NAMES, "single-label"),
        ([3, 1, 2, 3, 1, 2], "single-label"),
        (SETS, "multi-label"),
        (NUMBERS, "regression"),
    ],
)
def test_the_problem_is_found_from_all_training_labels(labels, problem):
    task = fitted(labels)
    assert task.target.problem == problem
    assert task.main_metric in task.greater_is_better
    assert (task.class_role is None) == (problem == "regression")


def test_the_problem_does_not_depend_on_the_first_rows():
    """tf PR#11012, tf#14180: transformers picks the loss from the first batch, of all 1.0 perhaps."""
    assert fitted([1.0, 2.0, 3.0, 1.0, 2.0, 2.5]).target.problem == "regression"
    assert fitted([["a"], ["b"], ["a"], ["b"], ["a"], ["a", "b"]]).target.problem == "multi-label"


def test_an_ambiguous_problem_is_an_error():
    with pytest.raises(DataError, match=r"whole numbers written as decimals \(0\.0, 1\.0\).*task\.problem"):
        fitted([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    assert fitted([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], {"problem": "regression"}).target.problem == "regression"
    assert fitted([0.0, 1.0, 0.0, 1.0, 1.0, 0.0], {"problem": "single-label"}).labels() == ["0", "1"]


@pytest.mark.parametrize(
    ("problem", "labels", "bad", "message"),
    [
        ("single-label", SETS, 6, "a list of labels; .* task.problem: multi-label"),
        ("single-label", ["a", None, "b", " ", "a", "b"], 2, "there is no label"),
        ("multi-label", NAMES, 6, "expected a list of labels, found '停'; .* task.problem: single-label"),
        ("multi-label", [["a"], [None], ["b"], [], ["a"], ["b"]], 1, "a label of the list is empty"),
        ("regression", NAMES, 6, "the label is '停'; expected a finite number"),
        ("regression", [1.0, float("nan"), 2.0, None, 3.0, float("inf")], 3, "expected a finite number"),
    ],
)
def test_labels_that_do_not_fit_the_stated_problem_are_bad_rows(problem, labels, bad, message):
    task = TextClassification(Options(problem=problem))
    found = [task.inspect({"id": "r", "text": "stop", "label": label}).problem for label in labels]
    assert sum(one is not None for one in found) == bad
    assert re.search(f"row r: .*{message}", next(filter(None, found)))


@pytest.mark.parametrize(
    ("labels", "bad"),
    [
        ([1.5, float("inf"), 2.0, 4.5, float("nan"), 3.0], {1: "finite number", 4: "finite number"}),
        (["a", None, "b", "a", "a", "b"], {1: "there is no label"}),
        ([["a"], None, ["b"], [], ["a"], ["b"]], {1: "expected a list"}),
    ],
)
def test_bad_labels_are_named_where_the_problem_had_to_be_found(labels, bad):
    """The audit checks a row before the target is chosen."""
    rows = table(labels)
    task = TextClassification()
    assert all(task.inspect(row).problem is None for row in rows)
    task.fit(rows)
    found = task.check("train", rows)
    assert found.keys() == bad.keys() and all(bad[row] in problem for row, problem in found.items())


def test_numbers_that_are_all_the_same_are_refused():
    with pytest.raises(DataError, match=r"every row has the same label, 1\.5; there is nothing to learn"):
        fitted([1.5] * 6)


def test_other_splits_must_fit_train():
    with pytest.raises(DataError, match="labels that train does not have: 'Go '"):
        fitted(NAMES).check("test", table(["Go ", *NAMES[1:]]))
    with pytest.raises(DataError, match="labels that train does not have: 'stop'"):
        fitted(SETS).check("test", table([["stop"], *SETS[1:]]))
    with pytest.raises(DataError, match="only one of train and test has a second text"):
        fitted(NAMES).check("test", table(NAMES, pair=TEXTS))


@pytest.mark.parametrize(
    ("labels", "loss", "message"),
    [
        (NUMBERS, {"class_weights": "balanced"}, r"loss\.class_weights: .* the problem regression"),
        (SETS, {"label_smoothing": 0.1}, r"loss\.label_smoothing: .* the problem multi-label"),
        (NAMES, {"kind": "mae"}, r"loss\.kind: .* the problem single-label"),
        (NAMES, {"class_weights": {"og": 2.0}}, "no class 'og' in the training rows; classes: go, 停"),
    ],
)
def test_loss_keys_of_another_problem_are_refused(labels, loss, message):
    with pytest.raises(RecipeError, match=message):
        fitted(labels, loss=loss)


# The audit


def test_inspect_names_problems_and_finds_duplicates():
    task = fitted(NAMES)
    assert task.inspect({"text": " \n"}).problem == "the text is empty"
    assert task.inspect({"text": None}).problem == "the text is empty"
    assert "found int 7; expected a text" in task.inspect({"text": 7}).problem
    assert task.inspect({"text": ["a title", None]}).problem is None
    assert task.inspect({"text": "fine", "pair": ""}).problem == "the text is empty"
    digests = {task.inspect({"text": text}).digest for text in ("Stop  now", "stop now\n", "ｓｔｏｐ now")}
    assert len(digests) == 1
    assert task.inspect({"text": "stop", "pair": "now"}).digest not in digests


# Tokens


def test_pads_to_the_batch_and_counts_what_is_cut(folder):
    task = fitted(NAMES, {"max_length": 5})
    loaded(task, folder)
    rows = table(NAMES)
    items = task.encode([rows[0], rows[2], rows[5]], None)
    batch = task.collate(items)
    assert batch["input_ids"].shape == (3, 5)
    assert batch["attention_mask"].sum(1).tolist() == [4, 3, 5]
    assert batch["labels"].tolist() == [1, 1, 0]
    assert task.collate(task.encode([rows[2]], None))["input_ids"].shape == (1, 3)
    assert task.lengths(rows) == [4, 4, 3, 5, 3, 5]
    notes = task.notes({"train": rows})
    assert notes[0] == "problem: single-label, the training labels are names or whole numbers, one per row"
    assert "longest 7; 2 (33.33%) are cut at 5 (task.max_length)" in notes[2]
    assert task.processor.model_max_length == 5


def test_the_length_is_bounded_by_the_model(folder):
    task = fitted(NAMES, {"max_length": 33})
    with pytest.raises(ModelError, match=r"task\.max_length: found 33; the model reads at most 32"):
        loaded(task, folder)
    task = fitted(NAMES)
    loaded(task, folder)
    assert task.input.max_length == 32


def test_roberta_reads_fewer_tokens_than_its_position_table_has(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.model_max_length = 10**30
    folder = tiny.saved(tiny.roberta(), tmp_path / "roberta", tokenizer)
    task = fitted(NAMES)
    model = loaded(task, folder)
    assert task.input.max_length == 39 and "token_type_ids" in task.processor.model_input_names
    batch = task.collate(task.encode([{"text": "a " * 60}], None))
    assert torch.isfinite(task.forward(model, batch).logits).all()


def test_several_columns_make_one_text(folder):
    task = TextClassification(Options(separator=" / "))
    rows = Dataset.from_dict({"title": ["red", None], "body": ["go", "stop"], "label": ["a", "b"]})
    train = Table(rows, {"text": ["title", "body"], "label": "label"}, ["x", "y"])
    task.fit(train)
    loaded(task, folder)
    assert task.processor.decode(task.encode([train[0]], None)[0]["input_ids"]) == "[CLS] red [UNK] go [SEP]"
    assert task.processor.decode(task.encode([train[1]], None)[0]["input_ids"]) == "[CLS] stop [SEP]"
    assert task.read_inputs([{"title": "red", "body": "go", "more": 1}])[0]["text"] == ["red", "go"]


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = bert_folder(tmp_path / "small", vocab_size=20)
    with pytest.raises(ModelError, match=r"the tokenizer of .* has 44 tokens, and the model has 20"):
        loaded(fitted(NAMES), folder)


# Models


def distilbert():
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    sizes = {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 64,
        "vocab_size": 60,
        "max_position_embeddings": 40,
    }
    return DistilBertForSequenceClassification(DistilBertConfig(**sizes)).eval()


def deberta():
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pooler_hidden_size": 32}
    return DebertaV2ForSequenceClassification(DebertaV2Config(**tiny._text_sizes(), **relative)).eval()


def modernbert():
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    return ModernBertForSequenceClassification(ModernBertConfig(**tiny._text_sizes(), **special)).eval()


MODELS = {
    "bert": (tiny.bert, tiny.tokenizer),
    "roberta": (tiny.roberta, tiny.tokenizer),
    "distilbert": (distilbert, tiny.tokenizer),
    "deberta-v2": (deberta, tiny.tokenizer),
    "modernbert": (modernbert, tiny.tokenizer),
    "gpt2": (tiny.gpt2, tiny.word_tokenizer),
}


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("labels", [NAMES, SETS, NUMBERS], ids=["single", "multi", "number"])
def test_every_family_learns_every_problem_alone_and_as_a_pair(family, labels, tmp_path):
    model, tokenizer = (make() for make in MODELS[family])
    folder = tiny.saved(model, tmp_path / family, tokenizer)
    task = fitted(labels, pair=TEXTS[::-1])
    rows = table(labels, pair=TEXTS[::-1])
    model = loaded(task, folder)
    assert model.config.pad_token_id == task.processor.pad_token_id is not None
    kinds = {"single-label": "single_label", "multi-label": "multi_label"}
    kind = kinds.get(task.target.problem)
    assert model.config.problem_type == (f"{kind}_classification" if kind else "regression")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = task.collate(task.encode(list(rows), None))
    batch["real"] = torch.ones(6, dtype=torch.bool)
    losses = []
    model.train()
    for _ in range(25):
        loss = task.loss(model, task.forward(model, batch), batch)
        assert loss.shape == task.count(batch).shape == (6,)
        loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.mean().detach()))
    assert losses[-1] < 0.95 * losses[0]
    # Padding must not change an answer: GPT-2 needs the padding token in its config to find the last token.
    model.eval()
    with torch.inference_mode():
        together = task.predict(model, task.forward(model, batch), batch)
        for index in (0, 2):
            one = task.collate(task.encode([rows[index]], None))
            alone = task.predict(model, task.forward(model, one), one)[0]
            assert task.difference(alone, together[index]) < 1e-4


def test_a_pair_is_not_glued_together_where_a_tokenizer_has_no_separator(tmp_path):
    folder = tiny.saved(tiny.gpt2(), tmp_path / "gpt2", tiny.word_tokenizer())
    task = fitted(NAMES, pair=TEXTS[::-1])
    loaded(task, folder)
    first, second = {"text": "red a", "pair": "light"}, {"text": "red", "pair": "a light"}
    seen = []
    task.processor = lambda texts, pairs, **options: seen.append((texts, pairs)) or {"input_ids": [[0]]}
    task.processor.num_special_tokens_to_add = lambda pair: 0
    task.encode([first], None)
    task.encode([second], None)
    assert seen == [(["red a\nlight"], None), (["red\na light"], None)]


# Loss

# What a loss may depend on of a model: whether it trains.
TRAINING = torch.nn.Linear(1, 1).train()


def test_single_label_loss_is_weighted_cross_entropy():
    task = fitted(["a", "a", "a", "b", "a", "a"], loss={"class_weights": "balanced"})
    assert task.target.weights == pytest.approx([0.6, 3.0])
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    expected = torch.nn.functional.cross_entropy(logits, labels, torch.tensor([0.6, 3.0]))
    batch = {"labels": labels}
    mean = task.target.loss(TRAINING, logits, batch).sum() / task.target.count(batch).sum()
    assert float(mean) == pytest.approx(float(expected))


def test_multi_label_loss_is_binary_cross_entropy_with_weighted_positives():
    task = fitted(SETS, loss={"class_weights": "balanced"})
    assert task.labels() == ["go", "slow", "停"]
    assert task.target.weights == pytest.approx([4 / 2, 3 / 3, 4 / 2])
    labels = torch.tensor(np.stack([task.target.encode(value) for value in SETS]))
    assert labels[1].tolist() == [1, 1, 0] and labels[2].tolist() == [0, 0, 0]
    logits = torch.randn(6, 3)
    weight = torch.tensor(task.target.weights)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
    losses = task.target.loss(TRAINING, logits, {"labels": labels})
    assert float(losses.mean()) == pytest.approx(float(expected))


def test_a_number_is_learned_standardised_and_decoded_in_its_unit():
    task = fitted(NUMBERS)
    scaled = np.array([task.target.encode(value) for value in NUMBERS])
    assert scaled.mean() == pytest.approx(0, abs=1e-6) and scaled.std() == pytest.approx(1)
    results = task.target.predict(None, torch.tensor(scaled, dtype=torch.float32), {})
    assert [task.decode(result)["value"] for result in results] == pytest.approx(NUMBERS, abs=1e-5)
    assert fitted(NUMBERS, {"standardise": False}).target.encode(4.25) == 4.25


def test_the_new_head_of_several_labels_starts_at_their_log_odds(folder):
    """With a bias of zero, rare labels need hundreds of steps to become rare: one epoch with 28 emotions."""
    task = fitted([["go"], ["go"], ["go", "left"], ["stop", "go"], [], ["left"]])
    model = loaded(task, folder)
    assert model.classifier.bias.tolist() == pytest.approx([np.log(4 / 2), np.log(2 / 4), np.log(1 / 5)])
    number = fitted(NUMBERS)
    assert loaded(number, folder).classifier.bias.abs().max() < 1e-6


# Evaluation


@pytest.mark.parametrize("labels", [NAMES, SETS, NUMBERS], ids=["single", "multi", "number"])
def test_evaluation_by_length_is_the_same_for_every_batch_size(labels, folder):
    """Rows come back in the order of the split, and the loss does not depend on batches (tf#39241)."""
    task = fitted(labels)
    model, rows = loaded(task, folder), table(labels)
    one, three = (evaluation(task, model, rows, batch_size=size) for size in (1, 4))
    assert one.ids == three.ids == rows.ids
    assert one.metrics["loss"] == pytest.approx(three.metrics["loss"], abs=1e-5)
    assert one.losses == pytest.approx(three.losses, abs=1e-4)
    alone = task.collate(task.encode([rows[5]], None))
    with torch.inference_mode():
        assert (
            task.difference(
                task.predict(model, model(**{k: v for k, v in alone.items() if k != "labels"}), alone)[0],
                three.results[5],
            )
            < 1e-4
        )
    baselines = task.baselines(rows, rows)
    assert len(baselines) == 2 and list(baselines)[1].startswith("TF-IDF and ")
    for results in baselines.values():
        scores = measure(task, results, task.references(rows)).compute()
        assert task.main_metric in scores and task.main_metric in one.metrics
    assert {name for name, value in one.metrics.items() if isinstance(value, float)} <= set(
        task.greater_is_better
    )
    assert all(figure.name and figure.figure for figure in task.figures(one, rows))
    for result, reference in zip(one.results, one.references, strict=True):
        assert task.describe(result)
        json.dumps([task.decode(result), task.decode_reference(reference)], ensure_ascii=False)


def test_thresholds_are_tuned_on_validation_and_used_everywhere(folder):
    task = fitted(SETS, {"thresholds": "tuned"})
    model, rows = loaded(task, folder), table(SETS)
    before = evaluation(task, model, rows)
    assert task.target.thresholds == [0.5] * 3
    tuned = evaluation(task, model, rows)
    notes = calibrate(task, tuned)
    assert "thresholds chosen on 6 validation rows" in notes[0] and notes[0] in tuned.metrics["notes"]
    assert task.target.thresholds != [0.5] * 3
    assert tuned.metrics["micro_f1"] > before.metrics["micro_f1"]
    assert tuned.metrics["loss"] == before.metrics["loss"]
    assert tuned.metrics["per_class"][0]["threshold"] == pytest.approx(task.target.thresholds[0])
    again = TextClassification(task.options)
    again.restore(json.loads(json.dumps(task.state())))
    given = [again.decode(result)["labels"] for result in tuned.results]
    assert given == [task.decode(result)["labels"] for result in tuned.results]
    scores = np.stack([result["scores"] for result in tuned.results])
    expected = scores >= np.float32(task.target.thresholds)
    assert [len(labels) for labels in given] == expected.sum(axis=1).tolist()


def test_a_fixed_threshold_is_kept(folder):
    task = fitted(SETS, {"thresholds": 0.3})
    found = evaluation(task, loaded(task, folder), table(SETS))
    before = dict(found.metrics)
    assert calibrate(task, found) == [] and found.metrics == before
    assert task.target.thresholds == [0.3] * 3


# Prediction


def test_state_is_all_that_prediction_needs(folder, tmp_path):
    task = fitted(NAMES, {"max_length": 6})
    model = loaded(task, folder)
    tiny.saved(model, tmp_path / "model", task.processor)
    again = get_task("text-classification")(task.options)
    again.restore(json.loads(json.dumps(task.state(), ensure_ascii=False)))
    again.load_processor(str(tmp_path / "model"))
    rows = again.read_inputs(TEXTS)
    assert (
        again.collate(again.encode(rows, None))["input_ids"].tolist()
        == task.collate(task.encode([{"text": text} for text in TEXTS], None))["input_ids"].tolist()
    )
    assert again.labels() == ["go", "停"]


def test_the_saved_folder_is_a_pipeline(folder, tmp_path):
    from transformers import pipeline

    task = fitted(SETS)
    model = loaded(task, folder)
    saved = tiny.saved(model, tmp_path / "model", task.processor)
    found = pipeline("text-classification", saved, top_k=None)(["slow road"])[0]
    rows = task.read_inputs("slow road")
    batch = task.collate(task.encode(rows, None))
    with torch.inference_mode():
        scores = task.decode(task.predict(model, model(**batch), batch)[0])["scores"]
    assert {one["label"]: one["score"] for one in found} == pytest.approx(scores, abs=1e-5)


def test_inputs_come_as_texts_dicts_frames_and_files(tmp_path):
    task = TextClassification()
    rows = Dataset.from_dict({"sms": ["a", "b"], "label": ["x", "y"]})
    task.fit(Table(rows, {"text": "sms", "label": "label"}, ["0", "1"]))
    expected = [{"id": "0", "text": "go"}, {"id": "1", "text": "stop now"}]
    assert task.read_inputs(["go", "stop now"]) == expected
    assert task.read_inputs("go") == expected[:1]
    assert task.read_inputs([{"sms": "go"}, {"text": "stop now"}]) == expected
    frame = pandas.DataFrame({"sms": ["go", "stop now"], "other": [1, 2]})
    assert task.read_inputs(frame) == expected
    for name, write in {"csv": frame.to_csv, "parquet": frame.to_parquet, "jsonl": None}.items():
        path = tmp_path / f"inputs.{name}"
        if write is None:
            frame.to_json(path, orient="records", lines=True)
        else:
            write(path, index=False)
        assert task.read_inputs(str(path)) == task.read_inputs(path) == expected
    with pytest.raises(DataError, match="input 0: no column sms; found txt"):
        task.read_inputs([{"txt": "go"}])
    with pytest.raises(DataError, match="input 1: the text is empty"):
        task.read_inputs(["go", " "])
    with pytest.raises(DataError, match=r"expected a file of rows: \.csv"):
        task.read_inputs(tmp_path)
    # The command line passes a list.
    assert task.read_inputs([str(tmp_path / "inputs.csv")]) == expected
    with pytest.raises(DataError, match="there is no file"):
        task.read_inputs(["inputs.csv"])
    assert task.read_inputs("see inputs.csv")[0]["text"] == "see inputs.csv"


def test_pairs_come_as_tuples():
    task = fitted(NAMES, pair=TEXTS)
    assert task.read_inputs([("go", "stop")]) == [{"id": "0", "text": "go", "pair": "stop"}]
    assert task.read_inputs(("go", "stop")) == task.read_inputs([("go", "stop")])
    with pytest.raises(DataError, match="input 0: 1 texts; expected text and pair"):
        task.read_inputs("go")
