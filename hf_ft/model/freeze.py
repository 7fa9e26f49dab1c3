"""Decide which weights learn, keep the rest exactly as it was, and be able to prove it.

Three promises hold for every strategy: new weights always learn; what is frozen stays in eval mode however
often `model.train()` is called, so that batch norms do not drift and dropout does not shake a fixed feature
(pytorch/pytorch#86590); and a strategy that would adapt nothing of the body is refused.
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

# What PEFT puts before the names of the model that it wraps.
ADAPTER_PREFIX = "base_model.model."


@dataclass
class Frozen:
    """A model of which a known part learns.

    Args:
        model: the model to train: the one that was given, or PEFT's wrapper around it.
        strategy: `full`, `head`, `last`, `patterns` or the name of a PEFT method.
        trainable: names of the parameters that learn, in the order of the model.
        frozen: names of those that do not.
        norms_in_eval: how many layers with running statistics stay in eval mode.
        parts: stem, blocks and head, by the names of the model without adapters.
        new: names of the newly initialised parameters, before any wrapping.
        targets: the modules that an adapter was put on.
        notes: what a person should know.
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
        """Module names of the head, without the adapter's prefix."""
        return [part.name for part in self.parts if part.kind == "head"]

    @property
    def adapted(self) -> bool:
        """Whether a PEFT adapter wraps the model."""
        return self.strategy not in PLAIN_STRATEGIES

    def frozen_fingerprint(self) -> str:
        """Hash every frozen parameter and every buffer that training may not move (SHA-256)."""
        return fingerprint(self._fixed_tensors())

    def _fixed_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                yield name, parameter
        moving = {
            name
            for name, module in self.model.named_modules()
            if _has_statistics(module) and not _stays(module)
        }
        for name, buffer in self.model.named_buffers():
            if name.rpartition(".")[0] not in moving:
                yield name, buffer

    def counts(self) -> list[tuple[str, int, int]]:
        """Give (part, trainable parameters, all parameters) for each part that has any, in order."""
        rows = {part.name or "(root)": [0, 0] for part in self.parts}
        for name, parameter in self.model.named_parameters():
            part = _owner(plain_name(name), self.parts)
            row = rows.setdefault("(adapter)" if part is None else part.name or "(root)", [0, 0])
            row[0] += parameter.numel() * parameter.requires_grad
            row[1] += parameter.numel()
        return [(name, learn, total) for name, (learn, total) in rows.items() if total]

    def overview(self) -> Table | str:
        """Draw the trainable parameters of every part; say it in a line where all of them learn."""
        if self.strategy != "full":
            return self.table()
        counts = self.counts()
        learn, total = sum(row[1] for row in counts), sum(row[2] for row in counts)
        fixed = f", but {total - learn:,} that never do" if learn < total else ""
        return f"  all {total:,} parameters of {len(counts)} parts learn{fixed}"

    def table(self) -> Table:
        """Draw the trainable parameters of every part."""
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
        table.add_row("together", f"{learn:,}", f"{total:,}", f"{100 * learn / total:.2f}")
        return table


def freeze(
    model: nn.Module,
    strategy: str | Mapping[str, Any] | FreezeSection = "head",
    new: Sequence[str] | None = None,
) -> Frozen:
    """Choose what learns. Works on any torch module, and again on the same one (unless it is adapted).

    Args:
        model: the model; PEFT methods wrap it, so go on with `.model` of what is returned.
        strategy: `full`, `head`, `last` (with `n` blocks), `patterns`, a PEFT method; or a mapping
            (`{"strategy": "last", "n": 2}`, `{"strategy": "lora", "r": 8}`); or a recipe's `freeze` section.
        new: names of newly initialised parameters (`Loaded.new`); they always learn.

    Returns:
        The model with what is known about its parts.

    Raises:
        ModelError: the strategy is unknown, does not fit the model, would adapt nothing, or would freeze new
            weights.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> freeze(net, "head").trainable
    ['2.weight', '2.bias']
    """
    name, n, patterns, options = _read(strategy)
    new = list(new or [])
    heads = head_modules(model, _new_of_head(model, new, name))
    parts = find_parts(model, heads)
    fixed = _fixed_by_design(model)
    notes: list[str] = []
    targets: list[str] = []
    if name in PLAIN_STRATEGIES:
        learns = _selection(model, parts, name, n, patterns)
        for parameter_name, parameter in model.named_parameters():
            chosen = learns(parameter_name) or parameter_name in new
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
    """Name of a parameter without what PEFT puts before it."""
    return name.removeprefix(ADAPTER_PREFIX)


def _read(strategy: Any) -> tuple[str, int | None, list[str], dict[str, Any]]:
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
            "freeze: `last` needs n (a number of blocks), `patterns` needs patterns, and only they do"
        )
    return name, n, list(patterns or []), rest


def _new_of_head(model: nn.Module, new: Sequence[str], strategy: str) -> list[str]:
    # A new weight inside a block is no head: only `full` can train it.
    body = [part for part in find_parts(model, head_modules(model)) if part.kind == "block"]
    inside = [name for name in new if any(part.holds(name) for part in body)]
    if inside and strategy != "full":
        raise ModelError(
            f"freeze.strategy: {strategy!r} would freeze a body with random weights (new in its blocks: "
            f"{len(inside)}, the first {inside[0]!r}); write `full`, or start from pretrained weights"
        )
    return [] if inside else list(new)


def _fixed_by_design(model: nn.Module) -> set[str]:
    # Sinusoidal tables come with requires_grad off and must never learn. Noted once, before the first
    # freezing.
    fixed: set[str] | None = getattr(model, "_fixed_by_design", None)
    if fixed is None:
        fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        model._fixed_by_design = fixed  # type: ignore[assignment]
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
    """Names that a pattern matches: as a glob over the whole name, else as a regular expression in it."""
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
        raise ModelError(f"freeze.strategy: {strategy!r} leaves nothing that learns")
    # PEFT copies a saved module: `classifier.weight` learns as `classifier.modules_to_save.default.weight`.
    learning = {re.sub(r"\.modules_to_save\.[^.]+", "", name) for name in plain}
    asleep = [name for name in new if name not in learning]
    if asleep:
        raise ModelError(
            f"freeze.strategy: {strategy!r} would freeze new, random weights: {', '.join(asleep[:5])}"
        )
    body = [name for name in plain if not any(part.kind == "head" and part.holds(name) for part in parts)]
    if strategy not in ("head", "patterns") and not body:
        raise ModelError(
            f"freeze.strategy: {strategy!r} adapts nothing of the pretrained body; for that, write `head`"
        )


def _stay_in_eval(module: nn.Module, _: Any) -> None:
    module.training = False


def _stays(module: nn.Module) -> bool:
    return _stay_in_eval in module._forward_pre_hooks.values()


def _has_statistics(module: nn.Module) -> bool:
    return "running_mean" in module._buffers


def _keep_in_eval(model: nn.Module, parts: Sequence[Part], learning: set[str], adapted: bool) -> int:
    """Pin frozen parts, and every frozen layer with running statistics, to eval mode; count the latter.

    The hook sits on each module and acts before each forward pass, so it holds in any training loop, under
    DDP, after deepcopy, and where a body is called without its head. It leaves weights and their names alone.
    """
    states = [any(part.holds(name) for name in learning) for part in parts]
    weighted = [any(part.holds(name) for name, _ in model.named_parameters()) for part in parts]
    for index in reversed(range(len(parts) - 1)):
        if not weighted[index]:  # a dropout between two parts belongs to the one that it feeds
            states[index] = states[index + 1]
    if not weighted[-1]:
        states[-1] = True
    norms = 0
    bodies = _frozen_bodies(model, parts, learning)
    for name, module in model.named_modules():
        _release(module)
        part = _owner(name, parts)
        above = part is None or part.kind == "own"
        # A whole body that is frozen draws nothing, be it itself or by a dropout that it uses all over.
        frozen = f"{name}.".startswith(bodies)
        part_learns = not frozen and (part is None or above or states[parts.index(part)])
        own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
        norm_learns = any(key in learning for key in own) or (not own and part_learns and not adapted)
        if not part_learns or (_has_statistics(module) and not norm_learns):
            module.register_forward_pre_hook(_stay_in_eval)
            norms += _has_statistics(module)
    return norms


def _frozen_bodies(model: nn.Module, parts: Sequence[Part], learning: set[str]) -> tuple[str, ...]:
    """Give what the names begin with of modules above the parts that have weights, of which none learns."""
    # A table that never learns is no weight: a dropout beside it is not frozen for its sake.
    weights = {name for name, _ in model.named_parameters()} - _fixed_by_design(model)
    found = []
    for name, _ in model.named_modules():
        part, start = _owner(name, parts), f"{name}." if name else ""
        inside = {weight for weight in weights if weight.startswith(start)}
        if inside and not inside & learning and (part is None or part.kind == "own"):
            found.append(start)
    return tuple(found)


def _release(module: nn.Module) -> None:
    for key in [key for key, hook in module._forward_pre_hooks.items() if hook is _stay_in_eval]:
        del module._forward_pre_hooks[key]


def _owner(name: str, parts: Sequence[Part]) -> Part | None:
    # What a module above the parts holds itself comes last: its name begins like all the others'.
    return next(
        (part for part in sorted(parts, key=lambda part: part.kind == "own") if part.holds(name)), None
    )
