"""Documentation that is not run is not true."""

import re
from pathlib import Path

import pytest

import hf_ft

DOCS = Path(__file__).parent.parent / "docs"
READABLE = (".py", ".md", ".yaml", ".toml", ".j2")


def test_the_tutorial_runs(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "tutorial.md").read_text(), re.DOTALL)
    assert len(blocks) >= 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, "tutorial.md", "exec"), names)
    assert names["headline"]["value"] > names["headline"]["baseline"]


def test_every_public_name_is_documented():
    reference = (DOCS / "reference.md").read_text()
    missing = [name for name in hf_ft.__all__ if f"`{name}" not in reference]
    assert missing == []
    assert all(getattr(hf_ft, name).__doc__ for name in hf_ft.__all__ if not name.startswith("__"))


def table(first, rows):
    """A table of names and what they are, as README.md shows it."""
    lines = [f"| `{name}` | {about} |" for name, about in rows.items()]
    return "\n".join([f"| {first} | |", "| --- | --- |", *lines, ""])


def listed():
    """What the command line lists, for README.md."""
    from hf_ft.cli import example_recipes
    from hf_ft.data.samples import sample_names

    examples = {file.stem: file.read_text(encoding="utf-8").partition("\n")[0] for file in example_recipes()}
    return {
        "tasks": table("task", {name: hf_ft.get_task(name).summary for name in hf_ft.list_tasks()}),
        "samples": table("sample", {f"sample:{name}": about for name, about in sample_names().items()}),
        "examples": table("example", {name: line.lstrip("# ") for name, line in examples.items()}),
    }


@pytest.mark.parametrize("what", ["tasks", "samples", "examples"])
def test_the_readme_lists_what_the_command_line_lists(what):
    expected = listed()[what]
    assert expected in (DOCS.parent / "README.md").read_text(), f"README.md must hold this table:\n{expected}"


def test_nothing_names_a_folder_beside_the_repository():
    """A path that only one machine has is of no use to a reader."""
    root = DOCS.parent
    folders = ("hf_ft", "tests", "docs", "recipes", "benchmarks", "accelerate_configs")
    files = [file for folder in folders for file in (root / folder).rglob("*")]
    files += [root / name for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml", "Makefile")]
    text = {file: file.read_text(encoding="utf-8") for file in files if file.suffix in READABLE}
    assert len(text) > 100
    assert [str(file) for file, content in text.items() if "../" + "shared" in content] == []
