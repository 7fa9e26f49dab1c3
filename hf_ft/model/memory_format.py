"""Make a network faster without changing its outputs: memory format channels_last, folded batch norms."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def choose_memory_format(model: torch.nn.Module, setting: str = "auto") -> str | None:
    """Convert a convolutional network to channels_last, in which its kernels are fastest.

    Args:
        model: changed in place.
        setting: `auto`, or the name of a memory format of torch, which is then used.

    Returns:
        The choice and its reason, as text; None if `auto` changes nothing.
    """
    import torch

    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    # A ViT has only one convolution, its patch embedding, and would not become faster.
    if setting == "auto" and convolutions < 4:
        return None
    chosen = "channels_last" if setting == "auto" else setting
    model.to(memory_format=getattr(torch, chosen))
    if setting == "auto":
        return f"{chosen}: {convolutions} 2-d convolutions"
    no_effect = "" if convolutions else ", which changes nothing in a network without 2-d convolutions"
    return f"{chosen}: asked for by train.memory_format{no_effect}"


def fold_batch_norms(model: torch.nn.Module, run: Callable[[], Any]) -> torch.nn.Module | None:
    """Return a copy for prediction in which batch norms are folded into the convolutions before them.

    In eval mode a batch norm multiplies and adds constants, so it can be merged into the weights of the
    convolution before it. EfficientNet-Lite0 on a CPU spends a fifth of its time in batch norms. One forward
    pass records which norm follows which convolution. It does not record a function between the two: compare
    the outputs of the copy with those of the model before using it.

    Args:
        model: in eval mode; not changed.
        run: calls the model once.

    Returns:
        The copy, or None if no batch norm can be folded.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    if not any(_can_be_folded(module) for module in model.modules()):
        return None
    pairs = _convolution_norm_pairs(model, run)
    if not pairs:
        return None
    folded = copy.deepcopy(model)
    for convolution, norm in pairs:
        before, after = folded.get_submodule(convolution), folded.get_submodule(norm)
        folded.set_submodule(convolution, fuse_conv_bn_eval(before, after))  # type: ignore[type-var,arg-type]
        folded.set_submodule(norm, _remainder(after))
    choose_memory_format(folded)
    return folded


def _convolution_norm_pairs(model: torch.nn.Module, run: Callable[[], Any]) -> list[tuple[str, str]]:
    """List (convolution, batch norm) where only this batch norm reads the output of the convolution."""
    import torch

    names = {module: name for name, module in model.named_modules()}
    # id of an output -> its convolution, and the output itself: while it is held, its id is not reused.
    producers: dict[int, tuple[torch.nn.Module, Any]] = {}
    calls: Counter[torch.nn.Module] = Counter()
    readers: dict[int, list[torch.nn.Module]] = {}

    def before(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        for value in inputs:
            if id(value) in producers:
                readers.setdefault(id(value), []).append(module)

    def after(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1
        if type(module) is torch.nn.Conv2d:
            producers[id(output)] = (module, output)

    hooks = [module.register_forward_pre_hook(before) for module in names]
    hooks += [module.register_forward_hook(after) for module in names]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    found = [(producers[output][0], reading[0]) for output, reading in readers.items() if len(reading) == 1]
    return [
        (names[convolution], names[norm])
        for convolution, norm in found
        if _can_be_folded(norm) and calls[convolution] == calls[norm] == 1
    ]


def _can_be_folded(module: torch.nn.Module) -> bool:
    import torch

    norms: tuple[type, ...] = (torch.nn.BatchNorm2d, *_norms_with_activation())
    return type(module) in norms and not module.training and module.running_mean is not None


def _remainder(norm: torch.nn.Module) -> torch.nn.Module:
    """Return the module that replaces a folded batch norm: an identity, or its activation."""
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
