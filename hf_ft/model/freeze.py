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
from hf_ft.model.blocks import Part, find_parts, last_parts, part_of
from hf_ft.model.eval_mode import has_statistics, is_kept_in_eval, keep_in_eval, never_trained
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
            if has_statistics(module) and not is_kept_in_eval(module)
        }
        for name, buffer in self.model.named_buffers():
            if name.rpartition(".")[0] not in trained_norms:
                yield name, buffer

    def counts(self) -> list[tuple[str, int, int]]:
        """Return (part, trainable parameters, all parameters) for each part with parameters, in order."""
        rows = {part.name or "(root)": [0, 0] for part in self.parts}
        for name, parameter in self.model.named_parameters():
            part = part_of(plain_name(name), self.parts)
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
    fixed = never_trained(model)
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
    norms = keep_in_eval(model, parts, {plain_name(key) for key in trainable}, name not in PLAIN_STRATEGIES)
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
