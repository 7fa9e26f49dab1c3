"""Keep the frozen modules of a model in eval mode, whatever calls `model.train()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.model.blocks import Part, part_of

if TYPE_CHECKING:
    from torch import nn


def never_trained(model: nn.Module) -> set[str]:
    """Return the names of parameters that a model is built with as requires_grad=False (sinusoidal tables).

    They must not be trained. They are recorded on the first call, before any other parameter is frozen.
    """
    fixed: set[str] | None = getattr(model, "_never_trained_parameters", None)
    if fixed is None:
        fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        model._never_trained_parameters = fixed  # type: ignore[assignment]
    return fixed


def _set_eval_hook(module: nn.Module, _: Any) -> None:
    module.training = False


def is_kept_in_eval(module: nn.Module) -> bool:
    """Tell whether `keep_in_eval` keeps a module in eval mode."""
    return _set_eval_hook in module._forward_pre_hooks.values()


def has_statistics(module: nn.Module) -> bool:
    """Tell whether a module has running statistics, as batch norms have."""
    return "running_mean" in module._buffers


def keep_in_eval(model: nn.Module, parts: Sequence[Part], learning: set[str], adapted: bool) -> int:
    """Keep frozen parts, and every frozen layer with running statistics, in eval mode.

    A forward pre-hook on each module sets eval mode before each call. It therefore works in any training
    loop, under DDP, after deepcopy, and if a body is called without its head. It does not change weights or
    their names.

    Args:
        model: the model, not wrapped by an adapter.
        parts: the parts of the model.
        learning: names of the trainable parameters, without the prefix of an adapter.
        adapted: whether the model has an adapter.

    Returns:
        The number of layers with running statistics that are kept in eval mode.
    """
    states = [any(part.holds(name) for name in learning) for part in parts]
    weighted = [any(part.holds(name) for name, _ in model.named_parameters()) for part in parts]
    for index in reversed(range(len(parts) - 1)):
        if not weighted[index]:  # a dropout between two parts is trained if the part after it is
            states[index] = states[index + 1]
    if not weighted[-1]:
        states[-1] = True
    norms = 0
    bodies = _frozen_prefixes(model, parts, learning)
    for name, module in model.named_modules():
        _remove_eval_hook(module)
        part = part_of(name, parts)
        above = part is None or part.kind == "own"
        # A frozen body stays in eval mode as a whole, also a dropout that it calls from several places.
        frozen = f"{name}.".startswith(bodies)
        part_learns = not frozen and (part is None or above or states[parts.index(part)])
        own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
        norm_learns = any(key in learning for key in own) or (not own and part_learns and not adapted)
        if not part_learns or (has_statistics(module) and not norm_learns):
            module.register_forward_pre_hook(_set_eval_hook)
            norms += has_statistics(module)
    return norms


def _frozen_prefixes(model: nn.Module, parts: Sequence[Part], learning: set[str]) -> tuple[str, ...]:
    """Return the name prefixes of modules that contain parts, have weights, and train none of them."""
    # Tables that are never trained do not count as weights: otherwise a module with only such a table and a
    # dropout would count as frozen.
    weights = {name for name, _ in model.named_parameters()} - never_trained(model)
    found = []
    for name, _ in model.named_modules():
        part, start = part_of(name, parts), f"{name}." if name else ""
        inside = {weight for weight in weights if weight.startswith(start)}
        if inside and not inside & learning and (part is None or part.kind == "own"):
            found.append(start)
    return tuple(found)


def _remove_eval_hook(module: nn.Module) -> None:
    for key in [key for key, hook in module._forward_pre_hooks.items() if hook is _set_eval_hook]:
        del module._forward_pre_hooks[key]
