"""Find the head of a model, and hold the loading report against it: only the head may be new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

# Weights inside the body that only pretraining uses, or that are constants computed anew.
PRETRAINING_ONLY = ("mask_token", "relative_position_index", "relative_coords_table")


def head_modules(model: nn.Module, new: Sequence[str] = ()) -> list[str]:
    """Names of the modules that make the head: what is not the pretrained body, and what holds new weights.

    For a transformers model the body is the child called `base_model_prefix`; for timm, also inside
    TimmWrapper, all but `get_classifier()`; for any other module, all but the last child with parameters.

    Args:
        model: the model, not yet wrapped by an adapter.
        new: names of newly initialised parameters.
    """
    heads = _known_head(model)
    for parameter in new:
        owner = parameter.rpartition(".")[0]
        if owner and not any(inside(parameter, head) for head in heads):
            heads.append(owner)
    return [head for head in heads if not any(inside(head, other) for other in heads if other != head)]


def _known_head(model: Any) -> list[str]:
    children = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    prefix = getattr(model, "base_model_prefix", None)
    if prefix == "timm_model":
        return [f"timm_model.{name}" for name in _known_head(model.timm_model)]
    if hasattr(model, "get_classifier"):  # timm's own contract, also of the model inside a TimmWrapper
        found = model.get_classifier()
        wanted = found if isinstance(found, tuple) else (found,)
        return [
            name
            for name, module in model.named_modules()
            if any(module is one and len(module.state_dict()) for one in wanted)
        ]
    if prefix is not None:
        return [name for name in children if name != prefix] if prefix in children else []
    return children[-1:]


def check_report(model: Any, report: Mapping[str, Any], name: str) -> tuple[list[str], list[str]]:
    """Read transformers' loading report: which parameters are new, and is all of that in the head?

    Returns:
        Names of the new parameters, and notes.

    Raises:
        ModelError: weights outside the head are missing, of another shape, or left over.
    """
    heads = head_modules(model)
    allowed = [*heads, f"{model.base_model_prefix}.pooler", *(["pooler"] if not heads else [])]
    mismatched = {key: (tuple(old), tuple(new)) for key, old, new in report["mismatched_keys"]}
    wrong = [
        f"{key} (not in the checkpoint)"
        for key in sorted(report["missing_keys"])
        if not inside(key, *allowed)
    ]
    wrong += [
        f"{key} (checkpoint {old}, model {new})"
        for key, (old, new) in sorted(mismatched.items())
        if not inside(key, *allowed)
    ]
    left = sorted(report["unexpected_keys"])
    surplus = [key for key in left if _of_body(model, key, heads)]
    wrong += [f"{key} (in the checkpoint only)" for key in surplus]
    if wrong:
        raise ModelError(
            f"model.name: {name!r} does not fit outside the head; these weights would be random or thrown "
            f"away: {some(wrong)}. Take the checkpoint's own sizes (see model.config), or another checkpoint"
        )
    new = report["missing_keys"] | set(mismatched)
    order = [parameter for parameter, _ in model.named_parameters() if parameter in new]
    notes = []
    if order:
        notes.append(f"new and random: {some(order)}")
    if set(left) - set(surplus):
        notes.append(f"not used from the checkpoint (another head): {some(sorted(set(left) - set(surplus)))}")
    return order, notes


def _of_body(model: Any, key: str, heads: Sequence[str]) -> bool:
    if key.endswith(PRETRAINING_ONLY) or inside(key, *heads):
        return False
    # A checkpoint of the bare body has no prefix, one of a whole model has it.
    first = key.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]
    body = model.base_model
    own = {name for name, _ in body.named_children()} | {
        name for name, _ in body.named_parameters(recurse=False)
    }
    return first in own


def inside(name: str, *modules: str) -> bool:
    """Tell whether a parameter lies in one of the modules."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def some(names: Sequence[str], shown: int = 8) -> str:
    """Join the first names, and say how many more there are."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
