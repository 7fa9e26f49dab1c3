"""Adapters: the right layers, a trainable head, and merged weights that give the same outputs."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from hf_ft.errors import ModelError
from hf_ft.model.adapters import CONV_METHODS, merged
from hf_ft.model.freeze import freeze

# Options of each method that fit the small layers of the tests.
OPTIONS: dict[str, dict[str, Any]] = {
    "c3a": {"block_size": 16, "init_weights": True},
    "fourierft": {"n_frequency": 50, "init_weights": True},
    "miss": {"r": 8},
    "road": {"group_size": 16},
    "shira": {"r": 4},
    "waveft": {"n_frequency": 50, "init_weights": True},
}
LINEAR = [
    "lora",
    "dora",
    "ia3",
    "vera",
    "oft",
    "boft",
    "loha",
    "lokr",
    "hra",
    "ln_tuning",
    "randlora",
    *OPTIONS,
]


def train(frozen: Any, steps: int = 3) -> None:
    learn = [parameter for parameter in frozen.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learn, lr=1e-2)
    for _ in range(steps):
        frozen.model.train()
        tiny.loss(frozen.model, tiny.inputs(frozen.model)).backward()
        optimizer.step()
        optimizer.zero_grad()


def check(family: str, method: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = tiny.FAMILIES[family]()
    batch = tiny.inputs(model)
    start = tiny.outputs(model, batch)
    frozen = freeze(model, {"strategy": method, **options})
    torch.testing.assert_close(tiny.outputs(frozen.model, batch), start, atol=1e-4, rtol=1e-4)
    mark = frozen.frozen_fingerprint()
    train(frozen)
    after = tiny.outputs(frozen.model, batch)
    assert frozen.frozen_fingerprint() == mark
    assert (after - start).abs().max() > 1e-3
    torch.testing.assert_close(tiny.outputs(merged(frozen.model), batch), after, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tiny.outputs(frozen.model, batch), after)
    return frozen


@pytest.mark.parametrize("method", LINEAR)
def test_methods_on_a_transformer(method: str) -> None:
    """peft#2502, #1836: the merged model must compute what the trained adapter computes."""
    frozen = check("vit", method, OPTIONS.get(method, {}))
    assert frozen.targets
    assert not any("classifier" in name for name in frozen.targets)


@pytest.mark.parametrize("method", CONV_METHODS)
def test_methods_on_convolutions(method: str) -> None:
    """peft#1732: with batch norms in eval mode, only the adapter and the head change."""
    frozen = check("resnet", method, {})
    assert len(frozen.targets) == 9
    assert frozen.norms_in_eval == 10


def test_all_linear_on_a_convolutional_network_finds_the_convolutions() -> None:
    """peft#2923: `all-linear` on a ResNet adapts the classifier and nothing else."""
    frozen = freeze(tiny.resnet(), {"strategy": "lora", "target_modules": "all-linear"})
    assert len(frozen.targets) == 9


@pytest.mark.parametrize("method", ["vera", "oft", "randlora"])
def test_methods_that_cannot_adapt_convolutions_are_refused(method: str) -> None:
    """peft#3193."""
    with pytest.raises(ModelError, match="cannot adapt the convolutions"):
        freeze(tiny.resnet(), method)


def test_depthwise_convolutions_are_left_out_or_refused() -> None:
    """LoRA can train a depthwise kernel but not merge it: the error comes before training."""
    frozen = freeze(tiny.timm(), "lora")
    assert not any("conv_dw" in name for name in frozen.targets)
    assert "without 2 grouped" in frozen.notes[0]
    model = tiny.timm()
    with pytest.raises(ModelError, match=r"not merge it|cannot adapt"):
        freeze(model, {"strategy": "lora", "r": 256, "target_modules": ["conv_dw"]})


def test_oft_on_convolutions_is_refused_by_comparing_outputs() -> None:
    """PEFT 0.21: OFT on a convolution gives outputs of 2e5 before any step, and others when merged."""
    with pytest.raises(ModelError, match=r"changes the output of .* when it is merged"):
        freeze(tiny.resnet(), {"strategy": "oft", "target_modules": r".*layers.*convolution"})


def test_random_initial_weights_must_be_asked_for() -> None:
    with pytest.raises(ModelError, match=r"changes the output of .* on purpose \(init_weights\)"):
        freeze(tiny.vit(), {"strategy": "c3a", "block_size": 16})
    freeze(tiny.vit(), {"strategy": "c3a", "block_size": 16, "init_weights": "xavier_uniform"})


def test_roberta_head_is_saved_although_target_modules_match_it() -> None:
    """peft#310, #577: `dense` is also a layer of the head, which is trained and not adapted."""
    frozen = freeze(tiny.roberta(), {"strategy": "lora", "target_modules": ["dense", "query"]})
    assert not any(name.startswith("classifier") for name in frozen.targets)
    learning = [name for name in frozen.trainable if "classifier" in name]
    assert len(learning) == 4
    assert all("modules_to_save" in name for name in learning)


def test_ia3_scales_inputs_of_feedforward_layers_only() -> None:
    frozen = freeze(tiny.roberta(), {"strategy": "ia3", "target_modules": ["key", "value", "output.dense"]})
    modules = dict(frozen.model.get_base_model().named_modules())
    assert modules["roberta.encoder.layer.0.output.dense"].is_feedforward
    assert not modules["roberta.encoder.layer.0.attention.self.key"].is_feedforward


def test_layers_to_transform_is_kept() -> None:
    options = {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}
    frozen = freeze(tiny.vit(), {"strategy": "lora", **options})
    assert frozen.targets == ["vit.layers.1.attention.q_proj"]


def test_merging_does_not_change_the_adapter() -> None:
    frozen = freeze(tiny.vit(), "lora")
    train(frozen, 1)
    before = {name: value.clone() for name, value in frozen.model.state_dict().items()}
    plain = merged(frozen.model)
    assert set(plain.state_dict()) == set(tiny.vit().state_dict())
    assert all(torch.equal(value, before[name]) for name, value in frozen.model.state_dict().items())
