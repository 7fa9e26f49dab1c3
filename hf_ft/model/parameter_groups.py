"""Learning rates: a default for each strategy and optimizer, and parameter groups for head and body."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_ft.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

    from hf_ft.model.freeze import Frozen

# Learning rates for networks from random weights, by family of optimizer. Momentum SGD: He et al. 2016;
# Adam: Kingma & Ba 2015; Lion: a tenth of Adam's (Chen et al. 2023).
FROM_SCRATCH = {"sgd": 0.1, "lion": 1e-4, "adagrad": 1e-2, "adam": 1e-3}

# (Share of that rate for pretrained weights, reason), by kind of network.
PRETRAINED = {
    "transformer": (0.05, "a pretrained transformer: a twentieth of a from-scratch rate"),
    "narrow transformer": (0.1, "a pretrained transformer, narrow: a tenth of a from-scratch rate"),
    "convolutional network": (0.3, "a pretrained convolutional network: 0.3 of a from-scratch rate"),
}
# Hidden size below which a transformer is narrow; BERT-base has 768.
NARROW = 512
# A tenth at least for the last blocks alone: most of the pretrained weights stay as they are.
LAST = (0.1, "the last pretrained blocks: a tenth of a from-scratch rate")
# (Share of the from-scratch rate, reason) for a new head on a frozen body. A linear head bears large steps of
# Adam: on the frozen features of 7 data sets (MiniLM, EfficientNet-Lite0) this was the best or equal on 6.
HEAD = (1.0, "only the new head learns: a from-scratch rate")
HEAD_ADAM = (10.0, "only the new head learns: ten times a from-scratch rate")
ADAPTER = (0.5, "adapter weights start anew beside frozen ones: half a from-scratch rate")
# Methods that learn a few scaling vectors need larger steps (Liu et al. 2022; Kopiczko et al. 2024).
VECTORS = (5.0, "a few scaling vectors: five times a from-scratch rate")
VECTOR_METHODS = ("ia3", "vera", "pvera", "ln_tuning")

Group = dict[str, Any]


def default_learning_rate(
    strategy: str, optimizer: str = "adamw_torch", network: str = "transformer", from_scratch: bool = False
) -> tuple[float, str]:
    """Return the learning rate for a strategy, an optimizer and a kind of network, and the reason in words.

    Args:
        strategy: `full`, `head`, `last`, `patterns` or a PEFT method.
        optimizer: a name of TrainingArguments.optim.
        network: of `network_kind`.
        from_scratch: whether all weights start at random.

    Raises:
        ModelError: nothing is known about such an optimizer.

    >>> default_learning_rate("full", "sgd")[0]
    0.005
    """
    family = _family(optimizer)
    base = FROM_SCRATCH[family]
    if from_scratch:
        return base, f"all weights are new ({family})"
    if strategy in ("full", "patterns"):
        share, reason = PRETRAINED[network]
    elif strategy == "last":
        share, reason = max(LAST, PRETRAINED[network])
    elif strategy == "head":
        share, reason = HEAD_ADAM if family == "adam" else HEAD
    else:
        share, reason = VECTORS if strategy in VECTOR_METHODS else ADAPTER
    return float(f"{base * share:.3g}"), f"{reason} ({family}: {base:g})"


def network_kind(model: nn.Module) -> str:
    """Return the kind of network, a key of `PRETRAINED`; `transformer` if it is neither of the others.

    Args:
        model: the model, with or without an adapter.
    """
    from torch.nn import Conv2d

    if not any("attention" in type(module).__name__.lower() for module in model.modules()):
        convolutions = any(isinstance(module, Conv2d) for module in model.modules())
        return "convolutional network" if convolutions else "transformer"
    width = getattr(getattr(model, "config", None), "hidden_size", None)
    return "narrow transformer" if isinstance(width, int) and width < NARROW else "transformer"


def _family(optimizer: str) -> str:
    for family in ("sgd", "lion", "adagrad"):
        if family in optimizer:
            return family
    if any(word in optimizer for word in ("adam", "adafactor", "lamb", "lomo", "stable_adamw")):
        return "adam"
    raise ModelError(f"train.learning_rate: no default is known for the optimizer {optimizer!r}; write one")


def parameter_groups(
    model: nn.Module,
    frozen: Frozen,
    learning_rate: float,
    weight_decay: float = 0.0,
    head_lr_multiplier: float = 1.0,
    head_weight_decay: float | None = None,
) -> list[Group]:
    """Divide what learns into groups for the optimizer: head and body, with and without decay.

    Biases, norm layers and other vectors do not decay. Every trainable parameter is in exactly one group.

    Args:
        model: the model that is trained (`frozen.model`, or a wrapper that keeps its names).
        frozen: what `freeze` returned.
        learning_rate: of the body or the adapter.
        weight_decay: of the body or the adapter.
        head_lr_multiplier: the head learns at this many times the learning rate.
        head_weight_decay: of the head; None: as the body.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name`; none is empty.
    """
    head_decay = weight_decay if head_weight_decay is None else head_weight_decay
    body = "adapter" if frozen.adapted else "body"
    rates = {body: (learning_rate, weight_decay), "head": (learning_rate * head_lr_multiplier, head_decay)}
    groups: dict[tuple[str, bool], Group] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        place = "head" if _in_head(name, frozen) else body
        decays = _decays(name, parameter)
        rate, decay = rates[place]
        title = place if decays else f"{place} (no decay)"
        empty = {"params": [], "lr": rate, "weight_decay": decay if decays else 0.0, "name": title}
        groups.setdefault((place, decays), empty)["params"].append(parameter)
    return list(groups.values())


def _in_head(name: str, frozen: Frozen) -> bool:
    from hf_ft.model.freeze import plain_name

    return any(part.kind == "head" and part.holds(plain_name(name)) for part in frozen.parts)


def _decays(name: str, parameter: Any) -> bool:
    # IA3 keeps its scaling vectors, which are one at rest, as matrices with one row.
    return parameter.ndim > 1 and "ia3_l" not in name
