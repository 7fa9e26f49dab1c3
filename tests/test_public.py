from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hf_ft

HEAVY = ("torch", "transformers", "datasets", "peft", "sklearn", "matplotlib")


def heavy_after(code):
    """Run code in a fresh Python, and return the heavy packages that it imported."""
    script = f"{code}\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    root = Path(hf_ft.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{root}:{root / 'tests'}", "PATH": ""},
    )
    return done.stdout.split("\n")[-2].split()


@pytest.mark.parametrize(
    "code",
    [
        "import hf_ft; hf_ft.__version__; dir(hf_ft)",
        "from hf_ft import load_recipe, Recipe, Task, get_task, list_tasks, HfFtError",
        "import hf_ft.cli",
        "import hf_ft; [hf_ft.get_task(name) for name in hf_ft.list_tasks()]",
        "import hf_ft; hf_ft.load_recipe({'task': 'toy:ToyTask', 'data': {'source': 'a'}, "
        "'model': {'name': 'm'}, 'freeze': 'lora', 'train': {'optim': 'sgd'}})",
    ],
)
def test_light_modules_import_no_heavy_package(code):
    assert heavy_after(code) == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["check", "--schema-only", "r.yaml", "freeze.strategy=lora"]]
)
def test_the_command_line_starts_without_heavy_packages(arguments, tmp_path):
    """Neither torch nor transformers, not even TrainingArguments: importing them takes seconds."""
    (tmp_path / "r.yaml").write_text(
        "task: image-classification\ndata: {source: photos}\nmodel: {name: m}\ntrain: {optim: sgd}\n"
    )
    code = f"import os; os.chdir({str(tmp_path)!r}); from hf_ft.cli import app"
    assert heavy_after(f"{code}; app({arguments}, standalone_mode=False)") == []


def test_public_names_can_be_imported():
    for name in hf_ft.__all__:
        assert getattr(hf_ft, name) is not None, name
    assert set(hf_ft.__all__) <= set(dir(hf_ft))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'finetun'"):
        hf_ft.finetun  # noqa: B018


def test_the_version_is_that_of_the_project():
    project = tomllib.loads(
        (Path(hf_ft.__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert project["project"]["version"] == hf_ft.__version__
