"""Memory format and folded batch norms: the faster network gives equal outputs."""

import pytest
import tiny
import torch

from hf_ft.model.memory_format import choose_memory_format, fold_batch_norms


def moved(model):
    """Set random statistics and weights of batch norms, so that a missing fold changes the outputs."""
    torch.manual_seed(5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    return model


@pytest.mark.parametrize("make", [tiny.resnet, tiny.timm])
def test_folded_norms_give_the_same_outputs(make):
    model = moved(make())
    batch = tiny.inputs(model)
    expected = tiny.outputs(model, batch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norms(model, lambda: tiny.outputs(model, batch))
    left = [module for module in folded.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert not left, f"{len(left)} norms are left"
    assert torch.allclose(tiny.outputs(folded, batch), expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("make", [tiny.vit, tiny.convnext, tiny.bert])
def test_a_network_without_batch_norms_is_not_folded(make):
    model = make()
    batch = tiny.inputs(model)
    assert fold_batch_norms(model, lambda: tiny.outputs(model, batch)) is None


class Branching(torch.nn.Module):
    """A convolution before a batch norm; `also` adds a second reader of its output, or a second call."""

    def __init__(self, also):
        super().__init__()
        self.also = also
        self.conv, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
        self.other = torch.nn.ReLU()

    def forward(self, pixels):
        value = self.conv(pixels)
        normed = self.norm(value)
        if self.also == "module":
            return normed + self.other(value)
        if self.also == "twice":
            return normed + self.norm(self.conv(normed))
        if self.also == "function":
            return normed + value
        return normed


@pytest.mark.parametrize(("also", "folded"), [("nothing", True), ("module", False), ("twice", False)])
def test_a_convolution_with_another_reader_is_not_folded(also, folded):
    model = moved(Branching(also).eval())
    pixels = torch.randn(2, 3, 4, 4)
    assert (fold_batch_norms(model, lambda: model(pixels)) is not None) == folded


def test_norms_that_use_the_batch_are_not_folded():
    model = Branching("nothing").train()
    assert fold_batch_norms(model, lambda: model(torch.randn(2, 3, 4, 4))) is None


@pytest.mark.parametrize(
    ("make", "setting", "last", "said"),
    [
        (tiny.resnet, "auto", True, "channels_last: 1"),
        (tiny.resnet, "contiguous_format", False, "contiguous_format: asked for by train.memory_format"),
        (tiny.vit, "auto", False, "None"),
        (tiny.vit, "channels_last", True, "channels_last: asked for by train.memory_format"),
    ],
)
def test_the_memory_format_is_chosen_or_asked_for(make, setting, last, said):
    model = make()
    assert str(choose_memory_format(model, setting)).startswith(said)
    kernel = next(module.weight for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    assert kernel.is_contiguous(memory_format=torch.channels_last) == last


def test_a_memory_format_without_effect_is_reported():
    assert "changes nothing in a network without" in choose_memory_format(tiny.bert(), "channels_last")
    assert "changes nothing" not in choose_memory_format(tiny.vit(), "channels_last")
