"""Find the head of a model, and check with the loading report that only the head has new weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

# Weights of the body that only pretraining uses, or constants that are computed when the model is built.
PRETRAINING_ONLY = ("mask_token", "relative_position_index", "relative_coords_table")


def head_modules(model: nn.Module, new: Sequence[str] = ()) -> list[str]:
    """List the names of the head's modules: those outside the pretrained body, and those with new weights.

    The body of a transformers model is the child named `base_model_prefix`; the body of a timm model, also
    inside a TimmWrapper, is everything except `get_classifier()`; the body of any other module is everything
    except its last child with parameters.

    Args:
        model: the model, not wrapped by an adapter.
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
    if hasattr(model, "get_classifier"):  # every timm model has this method
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
    """List the new parameters in the loading report of transformers, and check that all are in the head.

    Args:
        model: the loaded model.
        report: the loading report of `from_pretrained`.
        name: name of the model, for messages.

    Returns:
        Names of the new parameters, and notes.

    Raises:
        ModelError: weights outside the head are missing, unexpected, or have another shape.
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
    surplus = [key for key in left if _belongs_to_body(model, key, heads)]
    wrong += [f"{key} (in the checkpoint only)" for key in surplus]
    if wrong:
        raise ModelError(
            f"model.name: weights of {name!r} outside the head do not fit; they would be random or dropped: "
            f"{some(wrong)}. Use the sizes of the checkpoint (see model.config), or another checkpoint"
        )
    new = report["missing_keys"] | set(mismatched)
    order = [parameter for parameter, _ in model.named_parameters() if parameter in new]
    notes = []
    if order:
        notes.append(f"new and random: {some(order)}")
    if set(left) - set(surplus):
        notes.append(
            f"weights of the checkpoint's old head, not used: {some(sorted(set(left) - set(surplus)))}"
        )
    return order, notes


def _belongs_to_body(model: Any, key: str, heads: Sequence[str]) -> bool:
    if key.endswith(PRETRAINING_ONLY) or inside(key, *heads):
        return False
    # Keys have the prefix of the body if the checkpoint is of a whole model, and none if it is of a body.
    first = key.removeprefix(f"{model.base_model_prefix}.").partition(".")[0]
    body = model.base_model
    own = {name for name, _ in body.named_children()} | {
        name for name, _ in body.named_parameters(recurse=False)
    }
    return first in own


def inside(name: str, *modules: str) -> bool:
    """Tell whether a parameter or module lies in one of the modules, by their names."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def some(names: Sequence[str], shown: int = 8) -> str:
    """Join the first `shown` names, followed by the number of other names."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
