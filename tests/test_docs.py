"""The documents: the tutorial runs, tables are complete, and architecture.md names what exists."""

import re
from pathlib import Path

import pytest

import hf_ft

DOCS = Path(__file__).parent.parent / "docs"
PACKAGE = Path(hf_ft.__file__).parent
READABLE = (".py", ".md", ".yaml", ".toml", ".j2")


def test_the_tutorial_runs(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "tutorial.md").read_text(), re.DOTALL)
    assert len(blocks) >= 6
    names: dict = {}
    for block in blocks:
        exec(compile(block, "tutorial.md", "exec"), names)
    baselines = {one["name"]: one["outcome"] for one in names["run"].results["verdict"]["baselines"]}
    assert baselines["the most frequent class of train"] == "better"


def test_every_public_name_is_documented():
    reference = (DOCS / "reference.md").read_text()
    missing = [name for name in hf_ft.__all__ if f"`{name}" not in reference]
    assert missing == []
    assert all(getattr(hf_ft, name).__doc__ for name in hf_ft.__all__ if not name.startswith("__"))


def test_the_architecture_names_only_what_exists():
    """Every path, class and function; but for the table of tasks that are to come."""
    text = (DOCS / "architecture.md").read_text()
    before, _, after = text.partition("### How the tasks that come next fill it in")
    words = re.findall(r"`([^`\n]+)`", before + after[after.index("\n## ") :])
    paths = [word for word in words if re.fullmatch(r"[\w./]+\.py", word)]
    assert len(paths) > 50
    roots = (DOCS.parent, PACKAGE, PACKAGE / "tasks")
    assert [path for path in paths if not any((root / path).is_file() for root in roots)] == []
    source = "\n".join(file.read_text() for file in PACKAGE.rglob("*.py"))
    names = {
        part for word in words if re.fullmatch(r"[\w.]+(\(.*\))?", word) for part in re.findall(r"\w+", word)
    }
    names = {name for name in names if "_" in name or re.search("[a-z][A-Z]", name)}
    assert len(names) > 40
    assert sorted(name for name in names if not re.search(rf"\b{name}\b", source)) == []


def table(first, rows):
    """Return a table of names and descriptions in the form of README.md."""
    lines = [f"| `{name}` | {about} |" for name, about in rows.items()]
    return "\n".join([f"| {first} | |", "| --- | --- |", *lines, ""])


def listed():
    """Return the lists of the command line as tables in the form of README.md."""
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


def test_no_file_names_a_folder_outside_the_repository():
    """A reader cannot use a path that exists on one machine only."""
    root = DOCS.parent
    folders = ("hf_ft", "tests", "docs", "recipes", "benchmarks", "accelerate_configs")
    files = [file for folder in folders for file in (root / folder).rglob("*")]
    files += [root / name for name in ("README.md", "CONTRIBUTING.md", "pyproject.toml", "Makefile")]
    text = {file: file.read_text(encoding="utf-8") for file in files if file.suffix in READABLE}
    assert len(text) > 100
    assert [str(file) for file, content in text.items() if "../" + "shared" in content] == []
