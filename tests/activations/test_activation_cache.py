"""The activation cache: training from cached activations gives equal results; a wrong cache is never used."""

import importlib
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from anything import Anything
from filelock import FileLock
from torch.utils import _pytree as pytree
from transformers import BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_ft.activations.cached_rows import CachedRows
from hf_ft.activations.proof import candidates
from hf_ft.errors import DataError
from hf_ft.evaluate.loop import evaluate_rows
from hf_ft.model.passes import Passes
from hf_ft.model.preserved_state import preserved_state
from hf_ft.recipe.read import load_recipe
from hf_ft.storage.atomic import write_json
from hf_ft.storage.row_store import RowStore
from hf_ft.train.assemble import assemble


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "activations"


@pytest.fixture
def tuner(tmp_path):
    """Return a function that builds a trainer of a small model and gives its decision on the cache too."""
    numbers = itertools.count()

    def build(family, strategy, *, sections=None, rows=40, keep=True, resumed=None, **train):
        folder = Path(resumed or tmp_path / f"run{next(numbers)}")
        folder.mkdir(exist_ok=True)
        recipe = load_recipe(
            {
                "task": {"name": "anything:Anything", "family": family},
                "output_dir": str(folder),
                "data": {"source": "py:anything:rows", "split": {"validation": 10}},
                "model": {"name": "tiny"},
                "freeze": strategy,
                "train": {
                    "num_train_epochs": 3,
                    "global_batch_size": 8,
                    "learning_rate": 0.01,
                    "logging_steps": 1,
                    "disable_tqdm": True,
                    # Losses are compared to 1e-5, which needs full precision; auto may choose bf16.
                    "precision": "fp32",
                    **train,
                },
                **(sections or {}),
            }
        )
        setup = assemble(recipe, folder, keep=keep, checkpoint=folder if resumed else None)
        write_json(folder / "identity.json", setup.trainer.identity)
        return setup.trainer, setup.decisions["activations"].value

    return build


OFF = {"cache": {"activations": "off"}}
STRATEGIES = {
    "head": {"strategy": "head"},
    "last": {"strategy": "last", "n": 1},
}


def losses(tuner):
    return [line["loss"] for line in tuner.state.log_history if "loss" in line]


def measured(tuner):
    return [line["eval_loss"] for line in tuner.state.log_history if "eval_loss" in line]


def weights(tuner):
    """Return all weights but the biases of attention keys.

    Softmax does not depend on these biases: their gradient is rounding noise, from which AdamW makes steps.
    """
    return torch.cat(
        [
            parameter.detach().flatten()
            for name, parameter in tuner.model.named_parameters()
            if not name.endswith(("key.bias", "k_proj.bias"))
        ]
    )


SLOW = ("dinov2", "swin", "convnext", "vit (timm)")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in tiny.FAMILIES],
)
def test_training_from_cached_activations_is_the_same_training(tuner, family, strategy):
    # The gradient of a bias before a batch norm is rounding noise, from which AdamW would make a full step.
    optimizer = {"optim": "sgd"} if "timm" in family else {}
    from_cache, note = tuner(family, STRATEGIES[strategy], **optimizer)
    assert note.startswith("starts at"), note
    assert isinstance(from_cache.train_dataset, CachedRows)
    # Each trainer trains right after it is built: work in between changes the random state of dropout.
    from_cache.train()
    whole, _ = tuner(family, STRATEGIES[strategy], sections=OFF, **optimizer)
    whole.train()
    assert len(losses(whole)) == 12 and len(set(losses(whole))) > 6
    assert losses(from_cache) == pytest.approx(losses(whole), abs=1e-5)
    assert measured(from_cache) == pytest.approx(measured(whole), abs=1e-5)
    assert float((weights(from_cache) - weights(whole)).abs().max()) < 1e-5


def _lite0():
    """Load EfficientNet-Lite0 with its ImageNet weights, for pictures of 64 x 64 pixels."""
    from hf_ft.model.load import load_model
    from hf_ft.recipe.schema import ModelSection

    section = ModelSection(name="sample:efficientnet-lite0")
    model = load_model("AutoModelForImageClassification", section, tiny._labels()).model
    model.config.pretrained_cfg["input_size"] = (3, 64, 64)
    return model


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_real_weights(tuner, monkeypatch, strategy):
    monkeypatch.setitem(tiny.FAMILIES, "lite0", _lite0)
    from_cache, note = tuner("lite0", STRATEGIES[strategy], optim="sgd", num_train_epochs=2)
    assert note.startswith("starts at"), note
    from_cache.train()
    whole, _ = tuner("lite0", STRATEGIES[strategy], sections=OFF, optim="sgd", num_train_epochs=2)
    whole.train()
    assert losses(from_cache) == pytest.approx(losses(whole), abs=1e-5)
    assert measured(from_cache) == pytest.approx(measured(whole), abs=1e-5)
    assert float((weights(from_cache) - weights(whole)).abs().max()) < 1e-5


def _other_family(kind):
    """Build a tiny model of a family that `tiny` lacks: shared layers, relative positions, and the like."""
    import transformers as tf

    labels = tiny._labels()
    text = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, **labels}
    positions = {"intermediate_size": 64, "max_position_embeddings": 40}
    image = {"image_size": tiny.SIDE, **labels}
    models = {
        "gpt2": lambda: tf.GPT2ForSequenceClassification(
            tf.GPT2Config(
                vocab_size=60, n_embd=32, n_layer=3, n_head=2, n_positions=40, pad_token_id=0, **labels
            )
        ),
        "distilbert": lambda: tf.DistilBertForSequenceClassification(
            tf.DistilBertConfig(vocab_size=60, dim=32, n_layers=3, n_heads=2, hidden_dim=64, **labels)
        ),
        "albert": lambda: tf.AlbertForSequenceClassification(
            tf.AlbertConfig(**text, **positions, embedding_size=16)
        ),
        "modernbert": lambda: tf.ModernBertForSequenceClassification(
            tf.ModernBertConfig(**text, **positions, pad_token_id=0, bos_token_id=1, eos_token_id=2)
        ),
        "deberta": lambda: tf.DebertaV2ForSequenceClassification(
            tf.DebertaV2Config(**text, **positions, relative_attention=True, pos_att_type=["p2c", "c2p"])
        ),
        "mobilenet": lambda: tiny.calibrated(
            tf.MobileNetV2ForImageClassification(tf.MobileNetV2Config(depth_multiplier=0.35, **image))
        ),
        "patchtsmixer": lambda: tf.PatchTSMixerForRegression(
            tf.PatchTSMixerConfig(
                context_length=16, patch_length=4, patch_stride=4, num_input_channels=2, d_model=16,
                num_layers=3, num_targets=1, scaling=None,
            )
        ),
    }  # fmt: skip
    return models[kind]().eval()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "family", ["gpt2", "distilbert", "albert", "modernbert", "deberta", "mobilenet", "patchtsmixer"]
)
def test_models_with_unusual_forward_passes(tuner, monkeypatch, family, strategy):
    monkeypatch.setitem(tiny.FAMILIES, family, lambda: _other_family(family))
    from_cache, note = tuner(family, STRATEGIES[strategy], optim="sgd")
    if (family, strategy) == ("albert", "last"):
        assert "not used: only 0.7% of a step's work lies before" in note
        return
    assert note.startswith("starts at"), note
    from_cache.train()
    whole, _ = tuner(family, STRATEGIES[strategy], sections=OFF, optim="sgd")
    whole.train()
    assert losses(from_cache) == pytest.approx(losses(whole), rel=1e-5, abs=1e-5)
    assert float((weights(from_cache) - weights(whole)).abs().max()) < 1e-5


def test_training_starts_at_the_block_that_has_the_adapter(tuner):
    lora = {"strategy": "lora", "r": 2, "target_modules": r".*layer\.2\.attention.*(query|value)"}
    from_cache, note = tuner("bert", lora)
    assert "layer.2" in note, note
    from_cache.train()
    whole, _ = tuner("bert", lora, sections=OFF)
    whole.train()
    assert losses(from_cache) == pytest.approx(losses(whole), abs=1e-5)
    assert float((weights(from_cache) - weights(whole)).abs().max()) < 1e-5


def test_cached_rows_are_not_read_by_worker_processes(tuner):
    """A batch refers to the model of this process; a worker process would pass on a copy of the model."""
    from_cache, _ = tuner("vit", STRATEGIES["head"], dataloader_num_workers=2)
    assert from_cache.get_train_dataloader().num_workers == 0
    from_cache.train()
    alone, _ = tuner("vit", STRATEGIES["head"])
    alone.train()
    assert losses(from_cache) == losses(alone)


def test_a_second_run_reads_the_activations_of_the_first(tuner, monkeypatch):
    first, note = tuner("vit", STRATEGIES["head"])
    assert "40 of 40 rows computed now" in note
    ran = []
    kept_layer = type(first.model.vit.layers[0])
    forward = kept_layer.forward
    monkeypatch.setattr(
        kept_layer, "forward", lambda self, x, *a, **k: (ran.append(len(x)), forward(self, x, *a, **k))[1]
    )
    second, note = tuner("vit", STRATEGIES["head"], learning_rate=0.5)
    assert "all found" in note
    ran.clear()
    second.train()
    assert ran == []
    assert all(isinstance(rows, CachedRows) for rows in (second.train_dataset, second.eval_dataset))


def test_other_weights_or_rows_do_not_read_stored_activations(tuner, monkeypatch):
    tuner("vit", STRATEGIES["head"])
    _, note = tuner("vit", STRATEGIES["head"], sections={"seed": 18})
    assert "computed now" in note  # another split has other rows
    build = tiny.FAMILIES["vit"]

    def changed():
        model = build()
        model.vit.layers[0].attention.q_proj.weight.data.mul_(1.01)
        return model

    monkeypatch.setitem(tiny.FAMILIES, "vit", changed)
    _, note = tuner("vit", STRATEGIES["head"])
    assert "40 of 40 rows computed now" in note


def test_a_damaged_file_is_noticed_when_it_is_opened_and_when_it_is_read(tuner, cache):
    first, _ = tuner("vit", STRATEGIES["head"])
    files = sorted(cache.glob("*/slot 0.bin"))
    assert len(files) == 2

    def damage():
        for file in files:
            content = bytearray(file.read_bytes())
            file.write_bytes(bytes(255 - byte for byte in content))

    damage()
    _, note = tuner("vit", STRATEGIES["head"])
    assert "40 of 40 rows computed now, because stored activations differed" in note
    damage()
    first.train_dataset.store._is_checked[:] = False
    with pytest.raises(DataError, match=r"row \d+ of this cache is damaged"):
        first.train()


def test_wrong_activations_under_the_right_key_are_noticed(tuner, cache):
    """Stored values are multiplied by 1.5 and their checksums are written anew."""
    tuner("vit", STRATEGIES["head"])
    trainer, _ = tuner("vit", STRATEGIES["head"])
    for rows in (trainer.train_dataset, trainer.eval_dataset):
        store = rows.store
        for row in range(len(store)):
            values = [value[0] for value in store.read([row]).values()]
            store.write(row, [1.5 * values[0], *values[1:]])
    _, note = tuner("vit", STRATEGIES["head"])
    assert "because stored activations differed" in note


@pytest.mark.parametrize("change", [4, -1])
def test_rows_that_have_become_longer_or_shorter_are_computed_again(tuner, monkeypatch, change):
    """The key does not change, as for a helper that a user's task calls; the stored lengths differ."""
    monkeypatch.setattr(Anything, "_length", lambda self, row: 4 + row["number"] % 5)
    tuner("bert", STRATEGIES["last"])
    monkeypatch.setattr(Anything, "_length", lambda self, row: 4 + row["number"] % 5 + change)
    from_cache, note = tuner("bert", STRATEGIES["last"])
    assert "40 of 40 rows computed now, because stored activations differed" in note
    from_cache.train()
    whole, _ = tuner("bert", STRATEGIES["last"], sections=OFF)
    whole.train()
    assert losses(from_cache) == pytest.approx(losses(whole), abs=1e-5)


def test_training_rows_of_equal_length_are_not_taken_for_rows_of_a_fixed_shape(tuner, monkeypatch):
    train = tuner("bert", STRATEGIES["last"], sections=OFF)[0].train_dataset
    numbers = {row["number"] for row in train.rows}
    monkeypatch.setattr(
        Anything, "_length", lambda self, row: 8 if row["number"] in numbers else 4 + row["number"] % 9
    )
    from_cache, note = tuner("bert", STRATEGIES["last"])
    assert note.startswith("starts at"), note
    from_cache.train()
    whole, _ = tuner("bert", STRATEGIES["last"], sections=OFF)
    whole.train()
    assert measured(from_cache) == pytest.approx(measured(whole), abs=1e-5)


@pytest.mark.parametrize("name", ["proof.json", "lengths.bin", "store.json"])
def test_a_file_of_a_store_that_cannot_be_read_counts_as_missing(tuner, cache, name):
    tuner("vit", STRATEGIES["head"])
    for file in cache.glob(f"*/{name}"):
        file.write_text("")
    _, note = tuner("vit", STRATEGIES["head"])
    assert note.startswith("starts at")


def test_on_a_full_disk_the_run_trains_without_the_cache(tuner, monkeypatch):
    def full(descriptor, start, size):
        raise OSError(28, "No space left on device")

    # The proof needs a few bytes and gets them; storing the rows fails.
    monkeypatch.setattr("hf_ft.activations.activation_cache.prove", lambda *arguments: 0.9)
    monkeypatch.setattr("os.posix_fallocate", full)
    trainer, note = tuner("vit", STRATEGIES["head"])
    assert note.startswith("not used: [Errno 28] No space left on device")
    trainer.train()
    assert len(losses(trainer)) == 12


def test_an_interrupted_fill_continues(tuner, monkeypatch):
    write, monkey = RowStore.write, {"rows": 0}

    def dies(store, row, values):
        if len(store) > 6:
            monkey["rows"] += 1
            if monkey["rows"] > 20:
                raise KeyboardInterrupt
        write(store, row, values)

    monkeypatch.setattr("hf_ft.data.samplers.MOST_ROWS", 8)
    monkeypatch.setattr(RowStore, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        tuner("vit", STRATEGIES["head"])
    monkeypatch.setattr(RowStore, "write", write)
    _, note = tuner("vit", STRATEGIES["head"])
    assert "20 of 40 rows computed now" in note


@pytest.mark.parametrize("began_cached", [True, False])
def test_a_resumed_mixed_run_evaluates_in_the_precision_it_began_with(tuner, began_cached):
    """Whether rows are cached may change with free disk space; metrics of two precisions do not compare."""
    first, resumed = ({}, OFF) if began_cached else (OFF, {})
    began, _ = tuner("resnet", STRATEGIES["head"], sections=first, precision="bf16")
    again, _ = tuner(
        "resnet", STRATEGIES["head"], sections=resumed, precision="bf16", resumed=began.recipe.output_dir
    )
    assert began.eval_fp32 == began_cached == again.eval_fp32
    assert isinstance(began.eval_dataset, CachedRows) == began_cached
    assert not isinstance(again.eval_dataset, CachedRows)
    before = began.evaluate_rows(began.eval_dataset).metrics["loss"]
    assert again.evaluate_rows(again.eval_dataset).metrics["loss"] == pytest.approx(before, abs=1e-6)


def test_random_rows_are_cached_as_views(tuner, cache):
    noise = {"augment": {"noise": 0.5}}
    _, note = tuner("patchtst", STRATEGIES["last"], sections=noise)
    assert "cache: {views: 4}" in note and "in each of 3 epochs" in note
    from_cache, note = tuner("patchtst", STRATEGIES["last"], sections={**noise, "cache": {"views": 2}})
    assert note.startswith("starts at") and "70 of 70 rows computed now" in note
    from_cache.train()
    views = {**noise, "cache": {"views": 2, "activations": "off"}}
    whole, _ = tuner("patchtst", STRATEGIES["last"], sections=views)
    whole.train()
    assert losses(from_cache) == pytest.approx(losses(whole), abs=1e-5)
    again = [whole.train_dataset[(epoch, 0, True)]["past_values"] for epoch in range(3)]
    assert torch.equal(again[0], again[2]) and not torch.equal(again[0], again[1])


@pytest.mark.parametrize(
    ("strategy", "sections", "train", "reason"),
    [
        ("full", {}, {}, "not used: every weight is trained"),
        ("head", OFF, {}, "off (cache.activations)"),
        ("head", {"cache": {"max_gb": 1e-9}}, {}, "cache.max_gb is 1e-09"),
        ("head", {}, {"activation_checkpointing": True}, "not used with train.activation_checkpointing"),
    ],
)
def test_the_reason_for_not_caching_is_given(tuner, strategy, sections, train, reason):
    trainer, note = tuner("vit", {"strategy": strategy}, sections=sections, **train)
    assert reason in note
    assert not isinstance(trainer.train_dataset, CachedRows)


def test_a_frozen_part_that_draws_random_numbers_is_not_cached(tuner, monkeypatch):
    """timm's drop_rate calls a function and not a Dropout module, so only the proof can notice it."""
    build = tiny.FAMILIES["efficientnet (timm)"]

    def dropping():
        model = build()
        model.timm_model.drop_rate = 0.5
        return model

    monkeypatch.setitem(tiny.FAMILIES, "efficientnet (timm)", dropping)
    _, note = tuner("efficientnet (timm)", STRATEGIES["head"])
    assert note.startswith("not used: timm_model.classifier: the frozen part draws random numbers")


def test_a_network_with_constant_features_is_not_cached(tuner, monkeypatch):
    """A random timm network in eval mode gives features of about 1e-22: no comparison could fail on them."""

    def dead():
        model = tiny.timm()
        with torch.no_grad():
            model.timm_model.conv_head.weight.zero_()
            model.timm_model.bn2.bias.zero_()
            model.timm_model.bn2.running_mean.zero_()
        return model

    monkeypatch.setitem(tiny.FAMILIES, "efficientnet (timm)", dead)
    _, note = tuner("efficientnet (timm)", STRATEGIES["head"])
    assert "a wrong activation would not be noticed" in note


def test_the_search_for_a_cut_does_not_change_the_model(tuner):
    trainer, _ = tuner("efficientnet (timm)", STRATEGIES["last"])
    other, _ = tuner("efficientnet (timm)", STRATEGIES["last"], sections=OFF)
    pairs = zip(trainer.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    assert trainer.model.training == other.model.training
    assert not any("forward" in vars(module) for module in trainer.model.modules())


def test_mixed_training_from_cached_activations_is_the_same_training(tuner):
    from_cache, note = tuner("vit", STRATEGIES["last"], precision="bf16")
    assert note.startswith("starts at"), note
    from_cache.train()
    final = from_cache.evaluate_finished("validation")
    whole, _ = tuner("vit", STRATEGIES["last"], sections=OFF, precision="bf16")
    whole.train()
    assert losses(from_cache) == pytest.approx(losses(whole), abs=2e-2)
    plain = whole.evaluate_finished("validation")
    assert final.metrics["loss"] == pytest.approx(plain.metrics["loss"], abs=2e-2)


def test_evaluation_from_the_cache_of_a_mixed_run_is_in_full_precision(tuner):
    """The best checkpoint is chosen by the metrics that the saved model will have, without a second pass."""
    from_cache, _ = tuner("resnet", STRATEGIES["head"], precision="bf16")
    dtypes = {
        rows.train: {field.dtype for field in rows.store.fields if field.name.startswith("slot")}
        for rows in (from_cache.train_dataset, from_cache.eval_dataset)
    }
    assert dtypes == {True: {torch.bfloat16}, False: {torch.float32}}
    from_cache.train()
    best = min(measured(from_cache))
    final = from_cache.evaluate_finished("validation")
    assert final is from_cache.last_evaluation
    model = from_cache.finished_model()
    exact = evaluate_rows(from_cache.task, model, from_cache.eval_dataset.encoded)
    assert final.metrics["loss"] == pytest.approx(exact.metrics["loss"], abs=1e-6)
    assert best <= exact.metrics["loss"] + 1e-6


# Model classes that a user wrote


class UserModel(BertForSequenceClassification):
    """A body with a frozen embedding and a trained last layer; each test overrides a part of it."""

    def __init__(self, config):
        super().__init__(config)
        self.bert = torch.nn.Identity()
        self.first = FrozenPart(torch.nn.Embedding(60, 32))
        self.body = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.GELU(), torch.nn.Linear(32, 32))
        self.experts = torch.nn.Embedding(2, 32)


class FrozenPart(torch.nn.Module):
    """Returns the embeddings, their length, and the number of the expert for each row."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.wide = torch.nn.Sequential(torch.nn.Linear(32, 128), torch.nn.GELU(), torch.nn.Linear(128, 32))

    def forward(self, ids):
        hidden = self.wide(self.inner(ids))
        return hidden, ids.shape[1], (ids[:, 0] % 7 == 1).long()


class UsesLength(UserModel):
    def forward(self, input_ids=None, attention_mask=None, **rest):
        hidden, length, _ = self.first(input_ids)
        hidden = self.body(hidden) * attention_mask[..., None]
        return SequenceClassifierOutput(logits=self.classifier(5 * hidden.sum(1) / length))


class UsesExperts(UserModel):
    def forward(self, input_ids=None, attention_mask=None, **rest):
        hidden, _, expert = self.first(input_ids)
        hidden = self.body(hidden) * attention_mask[..., None]
        return SequenceClassifierOutput(logits=self.classifier(hidden.sum(1) + self.experts(expert)))


class InPlace(UserModel):
    def forward(self, input_ids=None, attention_mask=None, **rest):
        hidden = self.body(self.first(input_ids)[0])
        hidden *= attention_mask[..., None]
        return SequenceClassifierOutput(logits=self.classifier(hidden.sum(1)))


class ReadsNumbers(UserModel):
    def forward(self, input_ids=None, attention_mask=None, **rest):
        hidden = self.body(self.first(input_ids)[0])
        return SequenceClassifierOutput(
            logits=self.classifier((hidden * attention_mask[..., None]).sum(1) / (1 + int(0 * hidden.max())))
        )


class DropsRarely(UserModel):
    def forward(self, input_ids=None, attention_mask=None, **rest):
        hidden = self.body(self.first(input_ids)[0])
        if torch.rand(()) < 1e-9:
            hidden = 0 * hidden
        return SequenceClassifierOutput(logits=self.classifier((hidden * attention_mask[..., None]).sum(1)))


@pytest.fixture
def own(monkeypatch):
    """Return a function that makes `tiny` build one of these networks."""

    def make(kind):
        def build():
            torch.manual_seed(0)
            sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
            config = BertConfig(**sizes, num_labels=3, hidden_dropout_prob=0.0)
            return kind(config).eval()

        monkeypatch.setitem(tiny.FAMILIES, "own", build)
        return "own"

    return make


BEHIND_FIRST = {"strategy": "patterns", "patterns": ["body*", "experts*", "classifier*"]}
BEHIND_BODY = {"strategy": "patterns", "patterns": ["classifier*"]}


@pytest.mark.parametrize("kind", [UsesLength, UsesExperts])
def test_outputs_that_are_not_floats_are_cached_or_refused(tuner, own, kind):
    """Lengths as Python numbers, and integer tensors that are 0 in the rows of the proof."""
    family = own(kind)
    from_cache, note = tuner(family, BEHIND_FIRST)
    whole, _ = tuner(family, BEHIND_FIRST, sections=OFF)
    assert note.startswith("starts at body" if kind is UsesExperts else "not used: ")
    for one in (from_cache, whole):
        one.train()
    assert losses(from_cache) == pytest.approx(losses(whole), abs=1e-5)


@pytest.mark.parametrize("kind", [InPlace, ReadsNumbers, DropsRarely])
def test_a_network_without_a_cut_trains_without_the_cache(tuner, own, kind):
    family = own(kind)
    trainer, note = tuner(family, BEHIND_BODY)
    assert note.startswith(("not used: ", "starts at body.")), note
    if kind is DropsRarely:
        assert "draws random numbers" in note
    whole, _ = tuner(family, BEHIND_BODY, sections=OFF)
    for one in (trainer, whole):
        one.train()
    assert losses(trainer) == pytest.approx(losses(whole), abs=1e-5)


def test_the_source_of_a_user_model_is_part_of_the_key(tuner, monkeypatch, tmp_path):
    source = (
        "import torch\nfrom transformers import BertForSequenceClassification\n\n\n"
        "class Mine(BertForSequenceClassification):\n    pass\n"
    )
    module = tmp_path / "own_network_of_a_test.py"
    module.write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    build = tiny.FAMILIES["bert"]

    def mine():
        model = build()
        model.__class__ = importlib.import_module(module.stem).Mine
        return model

    monkeypatch.setitem(tiny.FAMILIES, "bert", mine)
    _, note = tuner("bert", STRATEGIES["head"])
    assert "computed now" in note
    _, note = tuner("bert", STRATEGIES["head"])
    assert "all found" in note
    module.write_text(source + "    factor = 2\n")
    _, note = tuner("bert", STRATEGIES["head"])
    assert "40 of 40 rows computed now" in note


def test_a_check_deletes_nothing(tuner, cache, monkeypatch):
    """`hf-ft check` only says what would be cached, even if older stores would have to be deleted for it."""
    tuner("vit", STRATEGIES["head"])
    before = sorted(cache.iterdir())
    for section in ({"max_gb": 1e-9}, {"max_gb": 1e-4}):
        trainer, note = tuner("resnet", STRATEGIES["head"], sections={"cache": {**section}}, keep=False)
        assert "would" in note or "not used" in note or "starts at" in note
        assert not isinstance(trainer.train_dataset, CachedRows) and sorted(cache.iterdir()) == before


def test_damaged_rows_that_are_not_sampled_are_computed_again(tuner, cache):
    first, _ = tuner("vit", STRATEGIES["head"])
    first.train()
    for file in cache.glob("*/slot 0.bin"):
        content = bytearray(file.read_bytes())
        content[len(content) * 9 // 10] ^= 255  # not in a row that `agrees` computes again
        file.write_bytes(bytes(content))
    second, note = tuner("vit", STRATEGIES["head"])
    assert "2 of 40 rows computed now" in note
    second.train()
    assert losses(second) == losses(first)


def test_mixed_training_reads_slots_of_the_precision_of_the_proof(tuner):
    """Activations before the cut are bf16 in the whole pass, and also when they are read from the cache."""
    from_cache, _ = tuner("resnet", STRATEGIES["head"], precision="bf16")
    cut = from_cache.model.get_submodule(from_cache.train_dataset.partial.plan.cut)
    seen, forward = set(), cut.forward

    def watched(*args, **kwargs):
        seen.add((from_cache.model.training, pytree.tree_leaves((args, kwargs))[0].dtype))
        return forward(*args, **kwargs)

    # `forward` is replaced, because a hook added here would run before the hook that feeds in the slots.
    cut.forward = watched
    from_cache.train()
    from_cache.evaluate_finished("validation")
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_a_second_mixed_run_reads_the_activations_of_the_first(tuner, family):
    """After a norm layer slots are fp32, computed from bf16 values that depend on the rest of the batch."""
    tuner(family, STRATEGIES["last"], precision="bf16")
    _, note = tuner(family, STRATEGIES["last"], precision="bf16")
    assert "all found" in note


@pytest.mark.parametrize("content", ["", "null", "5", "[]", "{}", "[null]", '"abc"'])
def test_json_files_with_another_type_of_value_count_as_missing(tuner, tmp_path, monkeypatch, content):
    first, _ = tuner("bert", STRATEGIES["head"])
    first.train()
    files = list((tmp_path / "cache").rglob("*.json"))
    assert {path.name[:5] for path in files} >= {"proof", "store", "known", "audit"}
    for file in files:
        file.write_text(content)
    again, note = tuner("bert", STRATEGIES["head"])
    assert note.startswith("starts at")
    again.train()
    assert losses(again) == pytest.approx(losses(first), abs=1e-6)


def test_machines_that_share_a_disk_do_not_wait_for_each_other(tuner, cache, monkeypatch):
    """Each machine fills a store of its own; waiting for another machine's lock would block a barrier."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    trainer, _ = tuner("vit", STRATEGIES["head"])
    second = SimpleNamespace(
        process_index=1,
        num_processes=2,
        local_process_index=0,
        is_local_main_process=True,
        wait_for_everyone=lambda: None,
    )
    rows, folder = trainer.train_dataset.encoded, trainer.train_dataset.store.folder
    passes = Passes(trainer.task, trainer.model, torch.device("cpu"), "fp32")
    with preserved_state(trainer.model):
        trainer.model.train()
        writer = next(candidates(passes, rows))
    with FileLock(f"{folder}.lock"):
        found, computed = writer.write(rows, folder, second, progress=False)
    assert found.store.folder.name == f"{folder.name}-machine-1" and computed == len(found)
    again, computed = writer.write(rows, folder, second, progress=False)
    assert computed == 0 and again.store.folder == found.store.folder
