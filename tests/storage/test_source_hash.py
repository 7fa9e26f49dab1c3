"""The hash of the source code that a cached value depends on: no module may be missing from it."""

import shutil
import sys
import threading
from types import ModuleType

import pytest
import small_tasks
import torch

from hf_ft.activations.cache_key import FORWARD
from hf_ft.data.dataset import EncodedRows
from hf_ft.data.device import to_device
from hf_ft.data.prepare import prepare
from hf_ft.model.forward import forward
from hf_ft.model.freeze import freeze
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import list_tasks, new_task
from hf_ft.storage.source_hash import (
    ENCODING,
    PACKAGE,
    _imported_names,
    _is_user_module,
    package_source_hash,
    package_sources,
    task_modules,
    task_source_hash,
)


@pytest.mark.parametrize("name", list_tasks())
def test_no_module_that_encodes_or_computes_is_missing(name, tmp_path, monkeypatch):
    """Every function that runs between a raw row and an activation lies in a file that is hashed."""
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path / "cache"))
    content, rows = small_tasks.recipe_and_data(name, tmp_path)
    recipe = load_recipe(content)
    task = new_task(recipe)
    ready = prepare(recipe, task, data=rows, cache=tmp_path / "audit")
    loaded = task.load(recipe.model)
    model = freeze(loaded.model, recipe.freeze, loaded.new).model
    splits = {
        training: EncodedRows(task, ready.rows["train"], split="train", seed=1, train=training)
        for training in (True, False)
    }
    seen = set()

    def note(frame, event, argument):
        if event == "call":
            seen.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        for training, encoded in splits.items():
            task.inspect(encoded.rows[0])
            batch = encoded.collate(encoded.__getitems__([(0, row, True) for row in range(3)]))
            model.train(training)
            with torch.no_grad():
                forward(task, model, to_device(task, batch, torch.device("cpu")))
        if task.media_roles:
            task.media([encoded.rows[0]], preprocessed=True)
            task.media_numbers(encoded.rows[0])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    ran = {file for file in seen if file.startswith(f"{PACKAGE}/")}
    hashed = {str(file) for file in package_sources([*task_modules(task), *FORWARD])}
    assert len(ran) > 8 and ran <= hashed, sorted(ran - hashed)


def test_editing_any_module_changes_the_hash(tmp_path):
    package = tmp_path / "hf_ft"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    roots = ["hf_ft.tasks.image_classification", *ENCODING, *FORWARD]
    before, files = package_source_hash(roots, package), package_sources(roots, package)
    assert len(files) > 30
    for file in files:
        text = file.read_text()
        file.write_text(f"{text}\n# edited\n")
        assert package_source_hash(roots, package) != before, file
        file.write_text(text)
    assert package_source_hash(roots, package) == before


def test_a_module_imported_inside_a_function_is_hashed(tmp_path):
    package = tmp_path / "hf_ft"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "room/__init__.py").write_text("")
    (package / "first.py").write_text("def work():\n    from hf_ft.room import second\n    return second\n")
    (package / "room/second.py").write_text("import hf_ft.third\n")
    (package / "third.py").write_text("")
    (package / "unrelated.py").write_text("")
    names = {file.name for file in package_sources(["hf_ft.first"], package)}
    assert names == {"__init__.py", "first.py", "second.py", "third.py"}


def test_a_missing_root_module_is_an_error(tmp_path):
    """A module that was moved must not drop out of the key silently."""
    with pytest.raises(FileNotFoundError, match=r"hf_ft\.nowhere\.at_all"):
        package_sources(["hf_ft.nowhere.at_all"])


def test_options_are_part_of_the_hash():
    from toy import ToyOptions, ToyTask

    assert task_source_hash(ToyTask(ToyOptions(size=8))) != task_source_hash(ToyTask(ToyOptions(size=9)))


def test_imports_are_found_in_every_kind_of_statement():
    source = """
import hf_ft.a
def f():
    try:
        from hf_ft import b
    except ImportError:
        import hf_ft.c
    else:
        import hf_ft.d
    finally:
        import hf_ft.e
    match x:
        case 1:
            import hf_ft.f
async def g():
    async with y:
        while True:
            import hf_ft.g
class C:
    if TYPE_CHECKING:
        from hf_ft.h import H
"""
    found = set(_imported_names(source))
    assert found == {*(f"hf_ft.{letter}" for letter in "abcdefgh"), "hf_ft", "hf_ft.h.H"}


def test_a_module_beside_the_package_with_its_name_in_front_is_the_users(tmp_path):
    """`.../hf_ft_mytask.py` begins like `.../hf_ft`, and its edits were not noticed."""
    module = ModuleType("hf_ft_mytask")
    for path, own in [(f"{PACKAGE}_mytask.py", True), (PACKAGE / "task.py", False), (torch.__file__, False)]:
        module.__file__ = str(path)
        assert _is_user_module(module) == own
