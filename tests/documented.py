"""The commands in docs/results*.md: tests check the commands that readers are told to run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent


def documented(data):
    """Return the commands of docs/results*.md as [(recipe, overrides)], with `$DATA` replaced."""
    found = []
    for file in sorted((ROOT / "docs").glob("results*.md")):
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        shared = dict(re.findall(r'^`(\w+)="(.*)"`$', text, re.MULTILINE))
        for command in re.findall(r"^    hf-ft run recipes/(.*)$", text, re.MULTILINE):
            for name, value in {**shared, "DATA": str(data)}.items():
                command = command.replace(f"${name}", value)
            recipe, *overrides = shlex.split(command)
            found.append((recipe.removesuffix(".yaml"), overrides))
    return found


def overrides_of(recipe, data):
    """Return the overrides of the first documented command of a recipe."""
    return next(overrides for name, overrides in documented(data) if name == recipe)
