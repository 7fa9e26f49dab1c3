"""Put a PEFT adapter on the body of any model, train and save the head with it, and merge the adapter.

PEFT guesses the name of the head and has default targets for language models only. Here the head is known
from loading the model. The targets are PEFT's defaults for the model type if there are any, else the linear
layers of the body, else (in a convolutional network) the convolutions of its blocks.
"""

from __future__ import annotations

import copy
import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_ft.errors import ModelError
from hf_ft.model.blocks import Part

if TYPE_CHECKING:
    import torch
    from torch import nn

# PEFT's OFT also adapts convolutions, but in 0.21 the merged layer computes something else than the adapter.
CONV_METHODS = ("lora", "dora", "loha", "lokr", "boft", "hra", "hira", "ia3")


def check_method(name: str | None) -> None:
    """Check that a strategy is a PEFT method that adapts layers.

    Raises:
        ModelError: the name is unknown, or PEFT has the method but it cannot be used; the message says why,
            or names the nearest method.
    """
    from hf_ft.recipe.library_arguments import peft_methods, unusable_method, usable_methods

    if name in usable_methods():
        return
    if name in peft_methods():
        raise ModelError(f"freeze.strategy: PEFT's {name} cannot be used: it {unusable_method(name)}")
    known = ["full", "head", "last", "patterns", *usable_methods()]
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ModelError(f"freeze.strategy: there is no strategy {name!r}{hint}; known: {', '.join(known)}")


def wrap(
    model: nn.Module, method: str, options: Mapping[str, Any], parts: Sequence[Part]
) -> tuple[Any, list[str], list[str]]:
    """Put an adapter on the body of a model, and make its whole head trainable.

    Args:
        model: the model.
        method: name of a PEFT method; `dora` is LoRA with use_dora.
        options: fields of the method's configuration (`r`, `lora_alpha`, `target_modules`, ...).
        parts: the parts of the model.

    Returns:
        The PeftModel, the names of the adapted modules, and notes for the console.

    Raises:
        ModelError: an option is unknown, no layer of the body can be adapted, or PEFT refuses the layers.
    """
    import peft

    heads = [part.name for part in parts if part.kind == "head"]
    config = _config(method, options)
    kind = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    targets, origin = _targets(model, method, config, kind, parts)
    config.target_modules = targets
    if method == "ia3":
        config.feedforward_modules = _feedforward(model, config, targets)
    config.modules_to_save = [*(config.modules_to_save or []), *heads] or None
    with warnings.catch_warnings():
        # PEFT warns of merging, which `_check_layers` tries, and of tied weights.
        warnings.simplefilter("ignore")
        try:
            wrapped = peft.get_peft_model(model, config)
        except (ValueError, TypeError, RuntimeError, NotImplementedError, KeyError, AttributeError) as error:
            raise ModelError(_refusal(method, model, targets, error)) from error
    _check_heads(wrapped, heads)
    _check_layers(wrapped, method, chosen_start=any(key.startswith("init_") for key in options))
    adapted = sorted(getattr(wrapped.base_model, "targeted_module_names", targets))
    learn = sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)
    saved = sum(
        weight.numel()
        for name, weight in wrapped.named_parameters()
        if weight.requires_grad and "modules_to_save" in name
    )
    total = sum(weight.numel() for weight in wrapped.parameters())
    added = learn - saved
    share = f"{added:,} parameters ({100 * added / total:.2f} %)"
    return wrapped, adapted, [f"{method}: adapted {len(adapted)} modules ({origin}), {share}"]


def merged(model: Any) -> Any:
    """Return a float32 copy of an adapted model with the adapter merged into the weights.

    Raises:
        ModelError: the method cannot merge into these layers.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    try:
        copied = copy.deepcopy(model).float()
        _unwrap_heads(copied.get_base_model())
        plain = copied.merge_and_unload(safe_merge=True)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise ModelError(f"this adapter cannot be merged into its model: {error}") from error
    left = [
        name
        for name, module in plain.named_modules()
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)
    ]
    if left:
        raise ModelError(
            f"this adapter cannot be merged into its model: {', '.join(left[:5])} are still wrapped"
        )
    return plain.eval()


def _unwrap_heads(model: nn.Module) -> None:
    # Some methods of PEFT (IA3) cannot unwrap a head that has several layers.
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, module.modules_to_save[module.active_adapters[0]])


def _config(method: str, options: Mapping[str, Any]) -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    from hf_ft.recipe.library_arguments import method_arguments

    known = method_arguments(method)
    for key in sorted(set(options) - set(known)):
        near = difflib.get_close_matches(key, sorted(known), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(sorted(known))}"
        raise ModelError(f"freeze.{key}: PEFT's {method} has no such option; {hint}")
    values = {**options, **({"use_dora": True} if method == "dora" else {})}
    name = "lora" if method == "dora" else method
    try:
        return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name.upper())](**values)
    except (ValueError, TypeError) as error:
        raise ModelError(f"freeze: PEFT refuses these options of {method}: {error}") from error


def _targets(
    model: nn.Module, method: str, config: Any, tuner: Any, parts: Sequence[Part]
) -> tuple[list[str], str]:
    body = [
        (name, module)
        for name, module in model.named_modules()
        if name and not any(part.kind == "head" and part.holds(name) for part in parts)
    ]
    asked = config.target_modules
    if asked is not None and asked != "all-linear":
        return _chosen_targets(config, asked, body), "freeze.target_modules"
    kind = getattr(getattr(model, "config", None), "model_type", None)
    usual = getattr(tuner, "target_module_mapping", {}).get(kind) if asked is None else None
    if usual is not None:
        config.target_modules = usual
        found = _selected(config, body)
        if found:
            return found, "PEFT's default for " + str(kind)
    config.target_modules = None
    found, origin = _by_type(method, body, parts)
    if not found:
        raise ModelError(
            f"freeze.strategy: {method} finds no layer to adapt in the body of {type(model).__name__}; "
            f"name layers in freeze.target_modules, or choose head, last or full"
        )
    return found, origin


def _by_type(
    method: str, body: Sequence[tuple[str, nn.Module]], parts: Sequence[Part]
) -> tuple[list[str], str]:
    from torch import nn

    if method == "ln_tuning":
        norms = (nn.LayerNorm, nn.RMSNorm)
        return [name for name, module in body if isinstance(module, norms)], "layer norms of the body"
    blocks = [part for part in parts if part.kind == "block"]
    within = [(name, module) for name, module in body if any(part.holds(name) for part in blocks)]
    linear, convolutions = _of(within, nn.Linear), _of(within, nn.Conv2d)
    if _size(linear) >= _size(convolutions):
        return [name for name, _ in _of(body, nn.Linear)], "linear layers of the body"
    if method not in CONV_METHODS:
        raise ModelError(
            f"freeze.strategy: PEFT's {method} cannot adapt the convolutions that make up this network "
            f"(peft#3193); these can: {', '.join(CONV_METHODS)}"
        )
    # Depthwise and grouped kernels have no lower rank, and most methods cannot merge into them.
    ungrouped = [name for name, module in convolutions if module.groups == 1]
    return ungrouped, f"convolutions of the blocks, without {len(convolutions) - len(ungrouped)} grouped ones"


def _of(modules: Sequence[tuple[str, nn.Module]], kind: type[nn.Module]) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in modules if isinstance(module, kind)]


def _size(modules: Sequence[tuple[str, nn.Module]]) -> int:
    return sum(weight.numel() for _, module in modules for weight in module.parameters())


def _chosen_targets(config: Any, asked: Any, body: Sequence[tuple[str, nn.Module]]) -> list[str]:
    """Return the modules that `freeze.target_modules` names; every pattern must match one."""
    from peft.tuners.tuners_utils import check_target_module_exists

    names = [name for name, _ in body]
    for pattern in [asked] if isinstance(asked, str) else sorted(asked):
        alone = copy.copy(config)
        alone.target_modules = pattern if isinstance(asked, str) else [pattern]
        if not any(check_target_module_exists(alone, name) for name in names):
            near = difflib.get_close_matches(
                pattern, {name.rpartition(".")[2] for name in names}, n=3, cutoff=0.4
            )
            raise ModelError(
                f"freeze.target_modules: {pattern!r} names no module of the body"
                + (f"; near: {', '.join(near)}" if near else f"; it has, for example: {', '.join(names[:8])}")
            )
    return _selected(config, body)


def _selected(config: Any, body: Sequence[tuple[str, nn.Module]]) -> list[str]:
    """List the modules of the body that PEFT's rule selects; this list then replaces the rule."""
    from peft.tuners.tuners_utils import check_target_module_exists

    found = [name for name, _ in body if check_target_module_exists(config, name)]
    for key in ("layers_to_transform", "layers_pattern", "exclude_modules"):
        if getattr(config, key, None) is not None:
            setattr(config, key, None)  # `found` applies it already
    return found


def _feedforward(model: nn.Module, config: Any, targets: Sequence[str]) -> list[str]:
    """List the targets that are feed-forward layers: IA3 scales their input, and the output of all others."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as USUAL

    kind = getattr(getattr(model, "config", None), "model_type", None)
    asked = config.feedforward_modules
    usual = USUAL.get(str(kind), []) if asked is None else asked
    names = [usual] if isinstance(usual, str) else sorted(usual)
    found = [
        target for target in targets if any(target == name or target.endswith(f".{name}") for name in names)
    ]
    if asked is not None and not found:
        raise ModelError(
            f"freeze.feedforward_modules: {names} names none of the adapted modules: {list(targets)[:8]}"
        )
    return found


def _check_heads(wrapped: Any, heads: Sequence[str]) -> None:
    from peft.utils import ModulesToSaveWrapper

    saved = {
        name
        for name, module in wrapped.get_base_model().named_modules()
        if isinstance(module, ModulesToSaveWrapper)
    }
    if not set(heads) <= saved:
        raise ModelError(
            f"the adapter does not save the head {sorted(set(heads) - saved)}; it saves {sorted(saved)}"
        )


def _check_layers(wrapped: Any, method: str, chosen_start: bool) -> None:
    """Check on random inputs that each adapted layer starts equal to the pretrained layer and can be merged.

    In peft 0.21, LoRA on a depthwise convolution cannot be merged, and a merged OFT convolution computes
    something else than the adapter. This check finds it before training.

    Args:
        wrapped: the PeftModel.
        method: name of the method, for messages.
        chosen_start: whether the recipe sets the initial weights of the adapter, which may then change the
            layer.

    Raises:
        ModelError: a layer cannot be merged, or computes something else.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[tuple[str, Any]] = [
        (n, m) for n, m in wrapped.get_base_model().named_modules() if isinstance(m, BaseTunerLayer)
    ]
    for name, module in layers:
        before, after = copy.deepcopy(module).eval(), copy.deepcopy(module).eval()
        try:
            after.merge(safe_merge=True)
        except (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
            raise ModelError(
                f"freeze.strategy: PEFT's {method} could train {name} but not merge it into the model "
                f"afterwards ({error}); leave it out of freeze.target_modules"
            ) from error
        numbers = _random_input(before.get_base_layer())
        with torch.no_grad():
            plain, trained, joined = before.get_base_layer()(numbers), before(numbers), after(numbers)
        allowed = 1e-3 * plain.norm()
        if (trained - joined).norm() > allowed:
            raise ModelError(
                f"freeze.strategy: PEFT's {method} changes the output of {name} when it is merged; use lora"
            )
        if not chosen_start and (trained - plain).norm() > allowed:
            raise ModelError(
                f"freeze.strategy: PEFT's {method} changes the output of {name} before any training; set the "
                f"initial weights on purpose ({_start_options(method)}), or use lora"
            )


def _random_input(layer: Any) -> torch.Tensor:
    """Draw a random input of a layer, from a new generator: the random state of the run does not change."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, nn.Embedding):
        return torch.arange(min(4, layer.num_embeddings)).to(layer.weight.device)
    if isinstance(layer, nn.modules.conv._ConvNd):
        # The input holds several overlapping windows; on a single window, the error of OFT does not show.
        sides = [(size - 1) * step + 4 for size, step in zip(layer.kernel_size, layer.dilation, strict=True)]
        shape: Sequence[int] = (2, layer.in_channels, *sides)
    elif isinstance(layer, nn.Linear):
        shape = (2, layer.in_features)
    else:  # a norm layer, or the transposed linear layer of GPT-2
        shape = (2, layer.weight.shape[0])
    return torch.randn(shape, generator=generator).to(layer.weight.device)


def _start_options(method: str) -> str:
    from hf_ft.recipe.library_arguments import method_arguments

    return ", ".join(key for key in method_arguments(method) if key.startswith("init_")) or "no option"


def _refusal(method: str, model: nn.Module, targets: Sequence[str], error: Exception) -> str:
    reason = " ".join(str(error).split())[:400]
    return (
        f"freeze.strategy: PEFT's {method} cannot adapt {', '.join(targets[:3])} of {type(model).__name__}: "
        f"{reason}. Change the method's options (freeze.target_modules, sizes), or use lora"
    )
