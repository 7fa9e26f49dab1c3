"""Documentation that is not run is not true."""

import re
from pathlib import Path

import pytest

import hf_ft

DOCS = Path(__file__).parent.parent / "docs"


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
