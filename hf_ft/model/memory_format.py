"""What makes a network faster and leaves its answers: the layout of its memory, and folded batch norms."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def choose_memory_format(model: torch.nn.Module, setting: str = "auto") -> str | None:
    """Put a convolutional net into channels_last, its kernels' fastest layout.

    Args:
        model: changed in place.
        setting: `auto`, or the name of a memory format of torch to insist on.

    Returns:
        What was chosen and why; None where there is nothing to choose.
    """
    import torch

    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    # A ViT has one convolution, its patch embedding: nothing to gain.
    if setting == "auto" and convolutions < 4:
        return None
    chosen = "channels_last" if setting == "auto" else setting
    model.to(memory_format=getattr(torch, chosen))
    asked = "asked for by train.memory_format"
    if not convolutions:
        asked += ", which changes nothing in a network without 2-d convolutions"
    return f"{chosen}: {f'{convolutions} 2-d convolutions' if setting == 'auto' else asked}"


def fold_batch_norms(model: torch.nn.Module, run: Callable[[], Any]) -> torch.nn.Module | None:
    """Give a copy for prediction in which convolutions do what the batch norms behind them did.

    In eval mode a batch norm multiplies and adds constants, which the weights before it can hold; a fifth of
    EfficientNet-Lite0's time on a CPU goes into doing it separately. Which norm follows which convolution is
    seen in one forward pass. What a function adds to a convolution's output is not seen: compare the outputs
    of the copy with those of the model before it is used.

    Args:
        model: in eval mode; not changed.
        run: calls the model once.

    Returns:
        The copy, or None where nothing can be folded.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    if not any(_can_be_folded(module) for module in model.modules()):
        return None
    pairs = _followed(model, run)
    if not pairs:
        return None
    faster = copy.deepcopy(model)
    for convolution, norm in pairs:
        before, behind = faster.get_submodule(convolution), faster.get_submodule(norm)
        faster.set_submodule(convolution, fuse_conv_bn_eval(before, behind))  # type: ignore[type-var,arg-type]
        faster.set_submodule(norm, _rest(behind))
    choose_memory_format(faster)
    return faster


def _followed(model: torch.nn.Module, run: Callable[[], Any]) -> list[tuple[str, str]]:
    """Name every convolution whose output is read by one batch norm, and that batch norm."""
    import torch

    names = {module: name for name, module in model.named_modules()}
    made: dict[int, tuple[torch.nn.Module, Any]] = {}  # holds the outputs, so that no id is used twice
    calls: Counter[torch.nn.Module] = Counter()
    readers: dict[int, list[torch.nn.Module]] = {}

    def before(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        for value in inputs:
            if id(value) in made:
                readers.setdefault(id(value), []).append(module)

    def after(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if type(module) is torch.nn.Conv2d:
            made[id(output)] = (module, output)

    hooks = [module.register_forward_pre_hook(before) for module in names]
    hooks += [module.register_forward_hook(after) for module in names]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    found = [(made[output][0], reading[0]) for output, reading in readers.items() if len(reading) == 1]
    return [
        (names[convolution], names[norm])
        for convolution, norm in found
        if _can_be_folded(norm) and calls[convolution] == calls[norm] == 1
    ]


def _can_be_folded(module: torch.nn.Module) -> bool:
    import torch

    norms: tuple[type, ...] = (torch.nn.BatchNorm2d, *_norms_with_activation())
    return type(module) in norms and not module.training and module.running_mean is not None


def _rest(norm: torch.nn.Module) -> torch.nn.Module:
    """Give what is left of a batch norm once it is folded: nothing, or its activation."""
    import torch

    if type(norm) is torch.nn.BatchNorm2d:
        return torch.nn.Identity()
    return torch.nn.Sequential(norm.drop, norm.act)  # type: ignore[arg-type]


def _norms_with_activation() -> tuple[type, ...]:
    from transformers.utils import is_timm_available

    if not is_timm_available():
        return ()
    from timm.layers import BatchNormAct2d

    return (BatchNormAct2d,)
