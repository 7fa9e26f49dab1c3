"""The worked examples: anybody can run them, and the documented commands work."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np
import pandas
import pytest
from documented import ROOT, documented
from PIL import Image

from hf_ft.data.prepare import prepare
from hf_ft.data.sources import on_hub, read_source
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import new_task
from hf_ft.run import check

RECIPES = {file.stem: file for file in sorted((ROOT / "recipes").glob("*.yaml"))}
MADE = [name for name, file in RECIPES.items() if "#> " in file.read_text(encoding="utf-8")]

COMMANDS = documented("/data")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_begins_with_a_description(name):
    text = RECIPES[name].read_text(encoding="utf-8")
    assert re.match(r"# [A-Z].*\S\n", text)
    load_recipe(RECIPES[name])


@pytest.mark.parametrize("name", RECIPES)
def test_every_source_is_public_or_made_by_the_lines_of_the_header(name):
    source = load_recipe(RECIPES[name]).data.source
    for one in [source] if isinstance(source, str) else source.values():
        if one.startswith("./data/"):
            assert name in MADE and f"hf-ft recipes {name} |" in RECIPES[name].read_text(encoding="utf-8")
        else:
            assert one.startswith(("sample:", "https://")) or (on_hub(one) and "/" in one)


@pytest.mark.parametrize("name", [name for name in RECIPES if "sample:" in RECIPES[name].read_text()])
def test_recipes_on_samples_pass_the_check(name, tmp_path):
    pytest.importorskip("timm")
    assert check(load_recipe(RECIPES[name], [f"output_dir={tmp_path}"])).errors == []


def test_the_documents_name_recipes_and_valid_overrides():
    assert {"traffic_signs", "sentiment", "traffic_flow", "flood_depth"} <= {name for name, _ in COMMANDS}
    for name, overrides in COMMANDS:
        load_recipe(RECIPES[name], overrides)


@pytest.mark.real
@pytest.mark.parametrize(("name", "number"), [(name, number) for number, (name, _) in enumerate(COMMANDS)])
def test_the_documented_overrides_fit_the_data(real_data, tmp_path, name, number):
    recipe = load_recipe(RECIPES[name], documented(real_data)[number][1])
    assert prepare(recipe, new_task(recipe), cache=tmp_path).findings.errors == []


# The lines of a header that make ./data/NAME, with a small copy of the source in place of the network.


def hours_of_uci(monkeypatch):
    rows = pandas.date_range("2010-01-01", periods=48, freq="h")
    times = {part: getattr(rows, part) for part in ("year", "month", "day", "hour")}
    values = {
        name: np.arange(48) for name in ("No", "pm2.5", "DEWP", "TEMP", "PRES", "cbwd", "Iws", "Is", "Ir")
    }
    monkeypatch.setattr(pandas, "read_csv", lambda address: pandas.DataFrame({**times, **values}))


def xrays_of_zenodo(monkeypatch):
    import io
    import urllib.request

    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = np.zeros((4, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = np.arange(4)[:, None] % 2
    file = io.BytesIO()
    np.savez(file, **arrays)
    monkeypatch.setattr(urllib.request, "urlopen", lambda address: io.BytesIO(file.getvalue()))


def scenes_of_github(monkeypatch):
    for name in ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking"):
        folder, letter = Path("RSSCN7", name), name[0]
        folder.mkdir(parents=True)
        for number in (1, 36, 38, 42, 57, 60, 101):
            Image.new("RGB", (40, 40)).save(folder / f"{letter}{number:03}.jpg")


def floods_of_aeon(monkeypatch):
    module = types.ModuleType("aeon.datasets")
    module.load_regression = lambda name, split: (np.zeros((3, 1, 266)), np.arange(3.0))
    monkeypatch.setitem(sys.modules, "aeon", types.ModuleType("aeon"))
    monkeypatch.setitem(sys.modules, "aeon.datasets", module)


SOURCES = {
    "air_quality": (hours_of_uci, {"train": 48}),
    "chest_xray": (xrays_of_zenodo, {"train": 4, "validation": 4, "test": 4}),
    "remote_sensing": (scenes_of_github, {"train": 21, "validation": 7, "test": 7}),
    "flood_depth": (floods_of_aeon, {"train": 3, "test": 3}),
}


@pytest.mark.parametrize("name", MADE)
def test_the_lines_of_a_header_make_what_the_recipe_reads(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_source, rows = SOURCES[name]
    make_source(monkeypatch)
    lines = re.findall(r"^#> (.*)$", RECIPES[name].read_text(encoding="utf-8"), re.MULTILINE)
    exec(compile("\n".join(lines), name, "exec"), {})
    recipe = load_recipe(RECIPES[name])
    found = read_source(recipe.data)
    assert {split: len(part) for split, part in found.items()} == rows
    columns = recipe.data.columns.values()
    needed = {name for column in columns for name in ([column] if isinstance(column, str) else column)}
    assert needed <= set(found["train"].column_names)
