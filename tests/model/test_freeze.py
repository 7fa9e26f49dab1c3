"""Freezing: trainable weights change and frozen ones do not, in every family and with every strategy."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from torch import nn

from hf_ft.errors import ModelError
from hf_ft.model.adapters import merged
from hf_ft.model.blocks import find_blocks, find_parts
from hf_ft.model.freeze import Frozen, freeze, plain_name
from hf_ft.model.head import head_modules
from hf_ft.model.load import load_saved
from hf_ft.model.parameter_groups import default_learning_rate, network_kind, parameter_groups

STRATEGIES: dict[str, Any] = {
    "full": "full",
    "head": "head",
    "last": {"strategy": "last", "n": 1},
    "lora": {"strategy": "lora", "r": 4},
}


def head_weights(model: nn.Module) -> list[str]:
    heads = head_modules(model)
    return [
        name for name, _ in model.named_parameters() if any(name.startswith(f"{head}.") for head in heads)
    ]


def train(frozen: Frozen, steps: int = 2, rate: float = 1e-3) -> None:
    """Make training steps with an evaluation between them, as a run does."""
    model, batch = frozen.model, tiny.inputs(frozen.model)
    optimizer = torch.optim.AdamW(parameter_groups(model, frozen, rate, 0.01))
    for _ in range(steps):
        model.eval()
        model.train()
        tiny.loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_matrix(family: str, strategy: str, tmp_path: Path) -> None:
    """Frozen weights and buffers do not change (pytorch#86590), new weights do, the saved folder is equal."""
    torch.manual_seed(0)
    model = tiny.FAMILIES[family]()
    new = head_weights(model)
    frozen = freeze(model, STRATEGIES[strategy], new)
    assert new
    learning = {name.replace(".modules_to_save.default", "") for name in map(plain_name, frozen.trainable)}
    assert set(new) <= learning
    before = {
        name: value.detach().clone() for name, value in frozen.model.named_parameters() if value.requires_grad
    }
    mark, batch = frozen.frozen_fingerprint(), tiny.inputs(model)
    start = tiny.outputs(frozen.model, batch)
    train(frozen)
    assert frozen.frozen_fingerprint() == mark
    moved = {
        name
        for name, value in frozen.model.named_parameters()
        if name in before and not torch.equal(value, before[name])
    }
    # The mask token is only used in pretraining and has no gradient.
    assert set(before) - moved <= {"dinov2.embeddings.mask_token"}
    after = tiny.outputs(frozen.model, batch)
    assert (after - start).abs().max() > 1e-3
    plain = merged(frozen.model) if frozen.adapted else frozen.model
    plain.save_pretrained(tmp_path)
    again = load_saved(type(model).__name__, tmp_path)
    torch.testing.assert_close(tiny.outputs(again, batch), after, atol=1e-4, rtol=1e-4)


def test_frozen_batch_norms_drift_without_the_hook() -> None:
    """Control of test_matrix: with requires_grad=False alone, running statistics change (pytorch#86590)."""
    model = tiny.resnet()
    model.requires_grad_(False)
    before = model.resnet.embedder.embedder.normalization.running_mean.clone()
    model.train()
    model(**tiny.inputs(model))
    assert not torch.equal(model.resnet.embedder.embedder.normalization.running_mean, before)


@pytest.mark.parametrize("use", ["deepcopy", "pickle", "wrapped", "body alone"])
def test_frozen_norms_stay_in_eval_mode_in_any_training_loop(use: str) -> None:
    """pytorch#86590: `train()`, deepcopy and other things that training loops do to a model."""
    frozen = freeze(tiny.resnet(), "head")
    assert frozen.norms_in_eval == 10
    model = frozen.model
    if use == "deepcopy":
        model = copy.deepcopy(model)
    elif use == "pickle":
        model = pickle.loads(pickle.dumps(model))
    before = {name: value.clone() for name, value in model.named_buffers()}
    batch = tiny.inputs(model)
    if use == "wrapped":
        wrapper = nn.ModuleDict({"module": model}).train()
        wrapper["module"](**batch)
    else:
        model.train()
        (model.resnet if use == "body alone" else model)(**batch)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_frozen_dropout_is_off_and_trainable_dropout_on() -> None:
    """A frozen body gives the same features in train mode; the dropout before the head still works."""
    model = tiny.bert(hidden_dropout_prob=0.5, classifier_dropout=0.5)
    freeze(model, "head")
    model.train()
    batch = tiny.inputs(model)
    one, other = (model.bert(**batch).pooler_output for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(model(**batch).logits, model(**batch).logits)


def test_functional_dropout_and_stochastic_depth_are_off() -> None:
    model = tiny.dinov2(drop_path_rate=0.9, attention_probs_dropout_prob=0.9)
    freeze(model, "head")
    model.train()
    one, other = (model.dinov2(**tiny.inputs(model)).last_hidden_state for _ in range(2))
    assert torch.equal(one, other)


def test_dropout_between_parts_belongs_to_the_part_after_it() -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(
        n_embd=16, n_layer=3, n_head=2, vocab_size=20, pad_token_id=0, resid_pdrop=0.0, attn_pdrop=0.0
    )
    model = GPT2ForSequenceClassification(config)
    freeze(model, {"strategy": "last", "n": 1})
    model.train()
    tokens = {"input_ids": torch.arange(8).reshape(1, 8) + 1}
    assert torch.equal(model(**tokens).logits, model(**tokens).logits)
    freeze(model, "full")
    model.train()
    assert not torch.equal(model(**tokens).logits, model(**tokens).logits)


def test_freezing_again_replaces_the_earlier_stage() -> None:
    """Gradual unfreezing calls `freeze` again: no hook or flag of the earlier stage may remain."""
    model = tiny.resnet()
    assert freeze(model, "head").norms_in_eval == 10
    assert freeze(model, {"strategy": "last", "n": 1}).norms_in_eval == 8
    everything = freeze(model, "full")
    assert everything.norms_in_eval == 0
    assert not everything.frozen
    model.train()
    model(**tiny.inputs(model))
    assert all(module.training for module in model.modules())


def test_fixed_tables_are_never_trained() -> None:
    """PatchTST's sinusoidal positions have requires_grad=False, which every later stage preserves."""
    model = tiny.patchtst(positional_encoding_type="sincos")
    for strategy in ("head", "full"):
        frozen = freeze(model, strategy)
        assert "model.encoder.positional_encoder.position_enc" in frozen.frozen


@pytest.mark.parametrize(
    ("architecture", "side", "heads", "blocks", "last"),
    [
        ("vgg11_bn", 64, ["timm_model.head.fc"], 8, "timm_model.features.25"),
        ("inception_v3", 96, ["timm_model.fc"], 16, "timm_model.Mixed_7c"),
        ("resnet18", 32, ["timm_model.fc"], 8, "timm_model.layer4.1"),
        ("test_convnext", 32, ["timm_model.head.fc"], 9, "timm_model.stages.3.blocks.1"),
    ],
)
def test_blocks_and_head_of_timm_networks(
    architecture: str, side: int, heads: list[str], blocks: int, last: str
) -> None:
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    with torch.device("meta"):
        model = TimmWrapperForImageClassification(
            TimmWrapperConfig(architecture=architecture, **tiny._labels())
        )
    assert head_modules(model) == heads
    found = find_blocks(model, heads)
    assert len(found) == blocks
    assert found[-1] == last


def test_every_parameter_lies_in_one_part() -> None:
    for build in tiny.FAMILIES.values():
        model = build()
        parts = find_parts(model, head_modules(model))
        for name, _ in model.named_parameters():
            assert sum(part.holds(name) for part in parts) == 1, name


def test_last_trains_the_layers_after_the_blocks() -> None:
    frozen = freeze(tiny.vit(), {"strategy": "last", "n": 2})
    places = {".".join(name.split(".")[:3]) for name in frozen.trainable}
    assert places == {
        "vit.layers.1",
        "vit.layers.2",
        "vit.layernorm.weight",
        "vit.layernorm.bias",
        "classifier.weight",
        "classifier.bias",
    }


def test_patterns_glob_first_then_regular_expression() -> None:
    """`layers.1.*` as a glob must not match layers.10, which it matches as a regular expression."""
    model = tiny.vit(num_hidden_layers=11, hidden_size=8, intermediate_size=8)
    frozen = freeze(model, {"strategy": "patterns", "patterns": ["vit.layers.1.*"]}, head_weights(model))
    assert {name.split(".")[2] for name in frozen.trainable if "layers" in name} == {"1"}
    assert "classifier.weight" in frozen.trainable
    frozen = freeze(model, {"strategy": "patterns", "patterns": [r"layers\.(9|10)\..*bias$"]})
    assert {name.split(".")[2] for name in frozen.trainable} == {"9", "10"}


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("lorra", "did you mean 'lora'"),
        ("prompt_tuning", "no task of hf_ft has a prompt"),
        ("adalora", "use lora or dora"),
        ({"strategy": "last", "n": 9}, "this model has 3"),
        ({"strategy": "last"}, "`last` needs n"),
        ({"strategy": "head", "n": 2}, "no other strategy"),
        ({"strategy": "head", "r": 2}, "has no such option"),
        ({"strategy": "lora", "rank": 2}, "no such option"),
        ({"strategy": "lora", "lora_alfa": 2}, "did you mean 'lora_alpha'"),
        ({"strategy": "patterns", "patterns": ["vit.layer.0.*"]}, "matches no parameter; near: vit.layers.0"),
        ({"strategy": "lora", "target_modules": ["querry"]}, "names no module of the body"),
        ({"strategy": "lora", "target_modules": ["classifier"]}, "names no module of the body"),
        ({"strategy": "c3a", "block_size": 256}, "PEFT's c3a cannot adapt"),
    ],
)
def test_refusals(strategy: Any, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        freeze(tiny.vit(), strategy)
    assert message in str(caught.value)


def test_random_body_is_not_frozen() -> None:
    model = tiny.vit()
    names = [name for name, _ in model.named_parameters()]
    for strategy in ("head", "lora", {"strategy": "last", "n": 1}):
        with pytest.raises(ModelError, match="body with random weights"):
            freeze(model, strategy, names)
    assert len(freeze(model, "full", names).trainable) == len(names)


def test_model_without_a_head() -> None:
    from transformers import ViTModel

    model = ViTModel(tiny.vit().config)
    with pytest.raises(ModelError, match="has none"):
        freeze(model, "head")
    assert freeze(model, {"strategy": "last", "n": 1}).trainable[0].startswith("layers.2.")


@pytest.mark.parametrize("strategy", [*STRATEGIES, "ia3"])
def test_groups_cover_every_trainable_parameter_once(strategy: str) -> None:
    """tf#657: head and body have their own learning rate and weight decay."""
    frozen = freeze(tiny.vit(), STRATEGIES.get(strategy, strategy))
    groups = parameter_groups(frozen.model, frozen, 1e-4, 0.1, head_lr_multiplier=10, head_weight_decay=0.3)
    seen = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(seen) == sorted(id(value) for value in frozen.model.parameters() if value.requires_grad)
    names = {id(value): name for name, value in frozen.model.named_parameters()}
    for group in groups:
        head = group["name"].startswith("head")
        assert group["lr"] == pytest.approx(1e-3 if head else 1e-4)
        for parameter in group["params"]:
            name = names[id(parameter)]
            vector = parameter.ndim == 1 or "ia3" in name
            assert group["weight_decay"] == (0.0 if vector else 0.3 if head else 0.1)
            assert ("classifier" in name) == head


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (tiny.bert(), "narrow transformer"),
        (tiny.vit(hidden_size=512), "transformer"),
        (tiny.resnet(), "convolutional network"),
        (tiny.convnext(), "convolutional network"),
        (tiny.timm(), "convolutional network"),
        (nn.Linear(2, 2), "transformer"),
    ],
)
def test_kinds_of_networks(model, kind) -> None:
    assert network_kind(model) == kind


def test_default_learning_rates() -> None:
    assert default_learning_rate("full", "adamw_torch")[0] == 5e-5
    assert default_learning_rate("full", "sgd")[0] == 5e-3
    assert default_learning_rate("full", "adamw_torch", from_scratch=True)[0] == 1e-3
    for optimizer in ("sgd", "adamw_torch_fused", "lion_32bit", "adafactor"):
        scratch = default_learning_rate("full", optimizer, from_scratch=True)[0]
        for strategy in ("full", "last", "patterns"):
            rate, reason = default_learning_rate(strategy, optimizer)
            assert scratch / 100 <= rate <= scratch / 10, reason
            assert "pretrained" in reason
            for network in ("narrow transformer", "convolutional network"):
                assert rate <= default_learning_rate(strategy, optimizer, network)[0] < scratch
    assert default_learning_rate("last")[0] == default_learning_rate("last", network="narrow transformer")[0]
    assert default_learning_rate("full", network="convolutional network")[0] == 3e-4
    assert default_learning_rate("last", network="convolutional network")[0] == 3e-4
    assert (default_learning_rate("head")[0], default_learning_rate("head", "sgd")[0]) == (1e-2, 0.1)
    with pytest.raises(ModelError, match="no default is known"):
        default_learning_rate("full", "mystery")


def test_table_adds_up() -> None:
    for strategy in ("head", "lora"):
        frozen = freeze(tiny.vit(), strategy)
        counts = frozen.counts()
        parameters = list(frozen.model.parameters())
        assert sum(row[1] for row in counts) == sum(
            value.numel() for value in parameters if value.requires_grad
        )
        assert sum(row[2] for row in counts) == sum(value.numel() for value in parameters)
        assert frozen.table().row_count == len(counts) + 1


def test_a_fully_trainable_model_is_summarised_in_one_line() -> None:
    frozen = freeze(tiny.vit(), "full")
    total = sum(value.numel() for value in frozen.model.parameters())
    assert frozen.overview() == f"  all {total:,} parameters of {len(frozen.counts())} parts are trainable"
    assert freeze(tiny.vit(), "head").overview().row_count > 3


def test_plain_torch_module() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    frozen = freeze(net, "head")
    assert frozen.trainable == ["3.weight", "3.bias"]
    assert frozen.norms_in_eval == 1


def test_fingerprint_sees_every_bit() -> None:
    frozen = freeze(tiny.resnet(), "head")
    mark = frozen.frozen_fingerprint()
    with torch.no_grad():
        frozen.model.classifier[1].weight += 1
    assert frozen.frozen_fingerprint() == mark
    norm = frozen.model.resnet.embedder.embedder.normalization
    norm.running_var[0] = torch.nextafter(norm.running_var[0], torch.tensor(9.0))
    assert frozen.frozen_fingerprint() != mark


SIZES = {"vocab_size": 60, "pad_token_id": 0, "num_labels": 3}
SHAKEN = {
    "t5": lambda: tf.T5ForSequenceClassification(
        tf.T5Config(
            **SIZES,
            d_model=32,
            d_kv=16,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    ),
    "bart": lambda: tf.BartForSequenceClassification(
        tf.BartConfig(
            **SIZES,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_position_embeddings=40,
            eos_token_id=1,
        )
    ),
    "xlm": lambda: tf.XLMForSequenceClassification(
        tf.XLMConfig(**SIZES, emb_dim=32, n_layers=2, n_heads=2, max_position_embeddings=40)
    ),
    "xlnet": lambda: tf.XLNetForSequenceClassification(
        tf.XLNetConfig(**SIZES, d_model=32, n_layer=2, n_head=2, d_inner=64)
    ),
}


@pytest.mark.parametrize("family", SHAKEN)
def test_a_frozen_body_uses_no_dropout_outside_its_blocks(family: str) -> None:
    """A dropout of the body beside its blocks, and functions that read `training` of the body, are off."""
    torch.manual_seed(0)
    model = freeze(SHAKEN[family](), "head").model.train()
    body = getattr(model, model.base_model_prefix)
    assert not any(parameter.requires_grad for parameter in body.parameters())
    ids = torch.tensor([[5, 6, 7, 8, 1], [9, 10, 11, 12, 1]])
    given = {"decoder_input_ids": ids} if family in ("t5", "bart") else {}
    with torch.no_grad():
        one, two = (body(input_ids=ids, **given)[0] for _ in range(2))
    assert torch.equal(one, two)
    assert model.training and any(module.training for name, module in model.named_modules() if "drop" in name)
