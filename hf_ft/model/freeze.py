"""Freeze a model: choose the trainable parameters, and hash the frozen tensors to prove that none changes.

For every strategy: new weights are trainable. Frozen modules stay in eval mode even after `model.train()`, so
their batch norms do not drift and their dropout does not change a frozen feature (pytorch/pytorch#86590). A
strategy that would train nothing of the body is refused.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hf_ft.errors import ModelError
from hf_ft.model.blocks import Part, find_parts, last_parts
from hf_ft.model.head import head_modules
from hf_ft.model.load import fingerprint

if TYPE_CHECKING:
    import torch
    from rich.table import Table
    from torch import nn

    from hf_ft.recipe.schema import FreezeSection

PLAIN_STRATEGIES = ("full", "head", "last", "patterns")

# PEFT puts this prefix before the names of the parameters of a wrapped model.
ADAPTER_PREFIX = "base_model.model."


@dataclass
class Frozen:
    """A model with a record of its trainable and frozen parameters.

    Args:
        model: the model to train: the model itself, or the PeftModel that wraps it.
        strategy: `full`, `head`, `last`, `patterns` or the name of a PEFT method.
        trainable: names of the trainable parameters, in the order of the model.
        frozen: names of the frozen parameters, in the order of the model.
        norms_in_eval: number of layers with running statistics that stay in eval mode.
        parts: stem, blocks and head, with the names of the model without adapters.
        new: names of the newly initialised parameters, without adapters.
        targets: names of the modules that have an adapter.
        notes: lines for the console and the report.
    """

    model: Any
    strategy: str
    trainable: list[str]
    frozen: list[str]
    norms_in_eval: int
    parts: list[Part]
    new: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def heads(self) -> list[str]:
        """Names of the head's modules, without the prefix of an adapter."""
        return [part.name for part in self.parts if part.kind == "head"]

    @property
    def adapted(self) -> bool:
        """Whether a PEFT adapter wraps the model."""
        return self.strategy not in PLAIN_STRATEGIES

    def frozen_fingerprint(self) -> str:
        """Hash every frozen parameter, and every buffer that training must not change (SHA-256)."""
        return fingerprint(self._frozen_tensors())

    def _frozen_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                yield name, parameter
        trained_norms = {
            name
            for name, module in self.model.named_modules()
            if _has_statistics(module) and not _is_kept_in_eval(module)
        }
        for name, buffer in self.model.named_buffers():
            if name.rpartition(".")[0] not in trained_norms:
                yield name, buffer

    def counts(self) -> list[tuple[str, int, int]]:
        """Return (part, trainable parameters, all parameters) for each part with parameters, in order."""
        rows = {part.name or "(root)": [0, 0] for part in self.parts}
        for name, parameter in self.model.named_parameters():
            part = _owner(plain_name(name), self.parts)
            row = rows.setdefault("(adapter)" if part is None else part.name or "(root)", [0, 0])
            row[0] += parameter.numel() * parameter.requires_grad
            row[1] += parameter.numel()
        return [(name, learn, total) for name, (learn, total) in rows.items() if total]

    def overview(self) -> Table | str:
        """Return the table of trainable parameters, or one line if all parameters are trainable."""
        if self.strategy != "full":
            return self.table()
        counts = self.counts()
        learn, total = sum(row[1] for row in counts), sum(row[2] for row in counts)
        fixed = f", except {total - learn:,} that are never trained" if learn < total else ""
        return f"  all {total:,} parameters of {len(counts)} parts are trainable{fixed}"

    def table(self) -> Table:
        """Return a table of the trainable parameters of every part, for `rich` to print."""
        from rich.table import Table

        counts = self.counts()
        learn, total = sum(row[1] for row in counts), sum(row[2] for row in counts)
        caption = f"{self.norms_in_eval} batch norms stay in eval mode" if self.norms_in_eval else None
        table = Table(title=f"Trainable parameters ({self.strategy})", caption=caption)
        table.add_column("part")
        for title in ("trainable", "all", "%"):
            table.add_column(title, justify="right")
        for name, some, every in counts:
            table.add_row(name, f"{some:,}", f"{every:,}", f"{100 * some / every:.1f}")
        table.add_section()
        table.add_row("total", f"{learn:,}", f"{total:,}", f"{100 * learn / total:.2f}")
        return table


def freeze(
    model: nn.Module,
    strategy: str | Mapping[str, Any] | FreezeSection = "head",
    new: Sequence[str] | None = None,
) -> Frozen:
    """Choose the trainable parameters of any torch module, and freeze the others.

    The function can be called again on the same model, unless it has an adapter.

    Args:
        model: the model. PEFT methods wrap it, so train `Frozen.model` of the result.
        strategy: `full`, `head`, `last` (with `n` blocks), `patterns`, a PEFT method; or a mapping
            (`{"strategy": "last", "n": 2}`, `{"strategy": "lora", "r": 8}`); or the `freeze` section of a
            recipe.
        new: names of newly initialised parameters (`Loaded.new`), which are always trainable.

    Returns:
        The model with a record of its trainable and frozen parameters.

    Raises:
        ModelError: the strategy is unknown, does not fit the model, would train nothing of the body, or would
            freeze new weights.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> freeze(net, "head").trainable
    ['2.weight', '2.bias']
    """
    name, n, patterns, options = _parse_strategy(strategy)
    new = list(new or [])
    heads = head_modules(model, _new_in_head(model, new, name))
    parts = find_parts(model, heads)
    fixed = _never_trained(model)
    notes: list[str] = []
    targets: list[str] = []
    if name in PLAIN_STRATEGIES:
        is_selected = _selection(model, parts, name, n, patterns)
        for parameter_name, parameter in model.named_parameters():
            chosen = is_selected(parameter_name) or parameter_name in new
            parameter.requires_grad_(chosen and parameter_name not in fixed)
        wrapped: Any = model
    else:
        from hf_ft.model.adapters import wrap

        wrapped, targets, notes = wrap(model, name, options, parts)
    trainable = [key for key, parameter in wrapped.named_parameters() if parameter.requires_grad]
    _check(wrapped, name, parts, trainable, [key for key in new if key not in fixed])
    norms = _keep_in_eval(model, parts, {plain_name(key) for key in trainable}, name not in PLAIN_STRATEGIES)
    learning = set(trainable)
    frozen = [key for key, _ in wrapped.named_parameters() if key not in learning]
    return Frozen(wrapped, name, trainable, frozen, norms, parts, new, targets, notes)


def plain_name(name: str) -> str:
    """Return the name of a parameter without the prefix of PEFT."""
    return name.removeprefix(ADAPTER_PREFIX)


def _parse_strategy(strategy: Any) -> tuple[str, int | None, list[str], dict[str, Any]]:
    if isinstance(strategy, str):
        strategy = {"strategy": strategy}
    if isinstance(strategy, Mapping):
        rest = dict(strategy)
        name, n, patterns = rest.pop("strategy", None), rest.pop("n", None), rest.pop("patterns", None)
        rest = {
            key: value
            for key, value in rest.items()
            if key not in ("head_lr_multiplier", "head_weight_decay")
        }
    else:
        name, n, patterns, rest = (
            strategy.strategy,
            strategy.n,
            strategy.patterns,
            dict(strategy.method_options),
        )
    if name in PLAIN_STRATEGIES:
        for key in rest:
            raise ModelError(f"freeze.{key}: strategy {name} has no such option; it belongs to a PEFT method")
    else:
        from hf_ft.model.adapters import check_method

        check_method(name)
    if (n is not None) != (name == "last") or (patterns is not None) != (name == "patterns"):
        raise ModelError(
            "freeze: strategy `last` needs n (a number of blocks), `patterns` needs patterns, and "
            "no other strategy takes these keys"
        )
    return name, n, list(patterns or []), rest


def _new_in_head(model: nn.Module, new: Sequence[str], strategy: str) -> list[str]:
    # A new weight inside a block does not make the block a head: only `full` can train it.
    body = [part for part in find_parts(model, head_modules(model)) if part.kind == "block"]
    inside = [name for name in new if any(part.holds(name) for part in body)]
    if inside and strategy != "full":
        raise ModelError(
            f"freeze.strategy: {strategy!r} would freeze a body with random weights (new in its blocks: "
            f"{len(inside)}, the first {inside[0]!r}); write `full`, or start from pretrained weights"
        )
    return [] if inside else list(new)


def _never_trained(model: nn.Module) -> set[str]:
    # Tables such as sinusoidal positions are built with requires_grad=False and must not be trained. They are
    # recorded on the first call, before any other parameter is frozen.
    fixed: set[str] | None = getattr(model, "_never_trained_parameters", None)
    if fixed is None:
        fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        model._never_trained_parameters = fixed  # type: ignore[assignment]
    return fixed


def _selection(
    model: nn.Module, parts: Sequence[Part], name: str, n: int | None, patterns: Sequence[str]
) -> Any:
    if name == "full":
        return lambda parameter: True
    if name == "patterns":
        return _match([parameter for parameter, _ in model.named_parameters()], patterns).__contains__
    chosen = [part for part in parts if part.kind == "head"]
    if not chosen and name == "head":
        raise ModelError(f"freeze.strategy: {name!r} needs a head, and {type(model).__name__} has none")
    if name == "last":
        chosen = last_parts(parts, n or 0)
    return lambda parameter: any(part.holds(parameter) for part in chosen)


def _match(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """Return the names that a pattern matches: as a glob of the whole name, else as a regular expression."""
    matched: set[str] = set()
    for pattern in patterns:
        found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            try:
                found = [name for name in names if re.search(pattern, name)]
            except re.error:
                found = []
        if not found:
            likeness = {
                name: difflib.SequenceMatcher(None, name[: len(pattern)], pattern).ratio() for name in names
            }
            near = sorted(names, key=lambda name: -likeness[name])[:3]
            raise ModelError(f"freeze.patterns: {pattern!r} matches no parameter; near: {', '.join(near)}")
        matched.update(found)
    return matched


def _check(
    model: nn.Module, strategy: str, parts: Sequence[Part], trainable: Sequence[str], new: Sequence[str]
) -> None:
    plain = [plain_name(name) for name in trainable]
    if not plain:
        raise ModelError(f"freeze.strategy: {strategy!r} leaves no trainable parameter")
    # PEFT copies the head: `classifier.weight` is trained as `classifier.modules_to_save.default.weight`.
    learning = {re.sub(r"\.modules_to_save\.[^.]+", "", name) for name in plain}
    frozen_new = [name for name in new if name not in learning]
    if frozen_new:
        raise ModelError(
            f"freeze.strategy: {strategy!r} would freeze new, random weights: {', '.join(frozen_new[:5])}"
        )
    body = [name for name in plain if not any(part.kind == "head" and part.holds(name) for part in parts)]
    if strategy not in ("head", "patterns") and not body:
        raise ModelError(
            f"freeze.strategy: {strategy!r} trains nothing of the pretrained body; to train only the head, "
            "write `head`"
        )


def _set_eval_hook(module: nn.Module, _: Any) -> None:
    module.training = False


def _is_kept_in_eval(module: nn.Module) -> bool:
    return _set_eval_hook in module._forward_pre_hooks.values()


def _has_statistics(module: nn.Module) -> bool:
    return "running_mean" in module._buffers


def _keep_in_eval(model: nn.Module, parts: Sequence[Part], learning: set[str], adapted: bool) -> int:
    """Keep frozen parts, and every frozen layer with running statistics, in eval mode.

    A forward pre-hook on each module sets eval mode before each call. It therefore works in any training
    loop, under DDP, after deepcopy, and if a body is called without its head. It does not change weights or
    their names.

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
        part = _owner(name, parts)
        above = part is None or part.kind == "own"
        # A frozen body stays in eval mode as a whole, also a dropout that it calls from several places.
        frozen = f"{name}.".startswith(bodies)
        part_learns = not frozen and (part is None or above or states[parts.index(part)])
        own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
        norm_learns = any(key in learning for key in own) or (not own and part_learns and not adapted)
        if not part_learns or (_has_statistics(module) and not norm_learns):
            module.register_forward_pre_hook(_set_eval_hook)
            norms += _has_statistics(module)
    return norms


def _frozen_prefixes(model: nn.Module, parts: Sequence[Part], learning: set[str]) -> tuple[str, ...]:
    """Return the name prefixes of modules that contain parts, have weights, and train none of them."""
    # Tables that are never trained do not count as weights: otherwise a module with only such a table and a
    # dropout would count as frozen.
    weights = {name for name, _ in model.named_parameters()} - _never_trained(model)
    found = []
    for name, _ in model.named_modules():
        part, start = _owner(name, parts), f"{name}." if name else ""
        inside = {weight for weight in weights if weight.startswith(start)}
        if inside and not inside & learning and (part is None or part.kind == "own"):
            found.append(start)
    return tuple(found)


def _remove_eval_hook(module: nn.Module) -> None:
    for key in [key for key, hook in module._forward_pre_hooks.items() if hook is _set_eval_hook]:
        del module._forward_pre_hooks[key]


def _owner(name: str, parts: Sequence[Part]) -> Part | None:
    # A part of kind `own` is tried last, because its name is a prefix of the names of other parts.
    return next(
        (part for part in sorted(parts, key=lambda part: part.kind == "own") if part.holds(name)), None
    )
