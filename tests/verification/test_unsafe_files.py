"""Pickles, archives, code and secrets are found in the files of a run, whatever they are called."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from hf_ft.errors import VerifyError
from hf_ft.verification.unsafe_files import check_contents


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["training_args.bin", "optimizer.pt", "rng_state.pth", "innocent.safetensors"]
)
def test_a_pickle_is_caught_by_name_or_by_content(folder, name):
    """tf PR#43140 (CVE-2026-1839)."""
    (folder / "model" / name).write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(VerifyError, match="pickle"):
        check_contents(folder)


def test_the_value_of_a_token_is_caught_in_any_file(folder, monkeypatch):
    """autotrain#762: the token was written into the upload."""
    monkeypatch.setenv("CANARY_TOKEN", "canary-in-a-coal-mine")
    assert "no secret" in check_contents(folder)
    (folder / "model" / "README.md").write_text("login with canary-in-a-coal-mine")
    with pytest.raises(VerifyError, match=r"\$CANARY_TOKEN"):
        check_contents(folder)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_any_protocol_is_caught(folder, protocol):
    for content in ({"a": [1, 2]}, Path("x")):
        (folder / "model" / "innocent.safetensors").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(VerifyError, match=r"innocent\.safetensors is a pickle"):
            check_contents(folder)


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_an_archive_is_caught(folder, tmp_path_factory, kind):
    made = shutil.make_archive(str(tmp_path_factory.mktemp("made") / "a"), kind, folder)
    shutil.copy(made, folder / "model" / "weights.safetensors")
    with pytest.raises(VerifyError, match=r"weights\.safetensors is an archive"):
        check_contents(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [("modeling.py", "print(1)"), ("config.json", '{"auto_map": {"AutoModel": "modeling.Model"}}')],
)
def test_code_beside_the_model_is_caught(folder, name, content):
    (folder / "model" / name).write_text(content)
    with pytest.raises(VerifyError, match=rf"model/{name} is or names code"):
        check_contents(folder)


@pytest.mark.parametrize("variable", ["CANARY_TOKEN_2", "MY_API_KEYS", "db_password_old", "AWS_SECRET_ID"])
@pytest.mark.parametrize("kind", ["safetensors", "png"])
def test_secrets_are_caught_in_metadata(folder, monkeypatch, variable, kind):
    monkeypatch.setenv(variable, "canary-in-a-coal-mine")
    text = {"note": "canary-in-a-coal-mine"}
    path = folder / "model" / f"file.{kind}"
    if kind == "safetensors":
        save_file({"x": torch.zeros(2)}, path, metadata=text)
    else:
        about = PngInfo()
        about.add_text("note", text["note"])
        Image.new("RGB", (2, 2)).save(path, pnginfo=about)
    with pytest.raises(VerifyError, match=rf"file.{kind} holds a secret: .*{variable}"):
        check_contents(folder)


def test_a_token_is_caught_by_its_form(folder):
    (folder / "environment.json").write_text(json.dumps({"arguments": ["hf_" + "a" * 34]}))
    with pytest.raises(VerifyError, match="Hugging Face token"):
        check_contents(folder)
