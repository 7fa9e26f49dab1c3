"""Loading: only the head may have new weights; every mistake has a message of its own."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from hf_ft.errors import ModelError
from hf_ft.model.load import fingerprint, load_model, load_processor
from hf_ft.recipe.schema import ModelSection

AUTO = "AutoModelForImageClassification"
TWO = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}


def load(folder: str | Path, auto: str = AUTO, **section: Any) -> Any:
    return load_model(auto, ModelSection(name=str(folder), **section), tiny._labels())


@pytest.mark.parametrize("family", ["vit", "resnet", "efficientnet (timm)", "vit (timm)"])
def test_new_head_and_old_body(family: str, tmp_path: Path) -> None:
    base = tiny.FAMILIES[family](**TWO)
    found = load(tiny.saved(base, tmp_path))
    assert found.model.config.id2label == dict(enumerate(tiny.LABELS))
    assert {name.rpartition(".")[2] for name in found.new} == {"weight", "bias"}
    new = set(found.new)
    old = base.state_dict()
    body = {name: value for name, value in found.model.state_dict().items() if name not in new}
    assert len(body) == len(old) - 2
    assert all(torch.equal(value, old[name]) for name, value in body.items())
    assert found.source["content"] == fingerprint((name, old[name]) for name in body)
    assert "new and random" in found.notes[0]


def test_same_labels_mean_nothing_is_new(tmp_path: Path) -> None:
    found = load(tiny.saved(tiny.vit(), tmp_path))
    assert found.new == []
    assert found.notes == []


def test_bare_body_and_another_head(tmp_path: Path) -> None:
    from transformers import BertForMaskedLM, ViTModel

    ViTModel(tiny.vit().config).save_pretrained(tmp_path / "body")
    found = load(tmp_path / "body")
    assert found.new == ["classifier.weight", "classifier.bias"]
    assert "pooler.dense.weight" in " ".join(found.notes)
    BertForMaskedLM(tiny.bert().config).save_pretrained(tmp_path / "language")
    found = load(tmp_path / "language", "AutoModelForSequenceClassification")
    assert [name for name in found.new if "pooler" in name]
    assert "old head" in found.notes[1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"image_size": 64},
            "vit.embeddings.position_embeddings (checkpoint (1, 17, 32), model (1, 65, 32))",
        ),
        ({"num_hidden_layers": 4}, "vit.layers.3.attention.k_proj.bias (not in the checkpoint)"),
        ({"num_hidden_layers": 2}, "(in the checkpoint only)"),
        ({"hidden_dropout": 0.1}, "did you mean 'hidden_dropout_prob'"),
        ({"hidden_dropout_prob": "x"}, "expected float, got str"),
        ({"num_labels": 4}, "the task sets this"),
    ],
)
def test_wrong_body_stops_the_run(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    """tf PR#12664, tf#15876: ignore_mismatched_sizes let a random body pass with one warning."""
    base = tiny.saved(tiny.vit(), tmp_path)
    with pytest.raises(ModelError) as caught:
        load(base, config=config)
    assert message in str(caught.value)


def test_timm_body_of_another_architecture_stops_the_run(tmp_path: Path) -> None:
    base = tiny.saved(tiny.timm("test_vit"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": "test_vit2"}))
    with pytest.raises(ModelError, match="outside the head do not fit"):
        load(base)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "there is no folder './nowhere'"),
        ("someone/no-such-model", "no folder 'someone/no-such-model' (current folder:"),
    ],
)
def test_missing_models(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        load(name)
    assert message in str(caught.value)


def test_damaged_and_foreign_folders(tmp_path: Path) -> None:
    base = tiny.saved(tiny.vit(), tmp_path / "cut")
    (tmp_path / "cut" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="header"):
        load(base)
    (tmp_path / "cut" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no file named"):
        load(base)
    with pytest.raises(ModelError, match="Unrecognized configuration class"):
        load(tiny.saved(tiny.bert(), tmp_path / "bert"))
    with pytest.raises(ModelError, match="cannot find the class 'AutoModelForMiracles'"):
        load(base, "AutoModelForMiracles")


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
    )
    (tmp_path / "own.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(ModelError, match="trust_remote_code"):
        load(tmp_path)


def test_half_precision_checkpoints_become_float32(tmp_path: Path) -> None:
    """tf#23165: weights loaded in fp16 were trained in fp16."""
    found = load(tiny.saved(tiny.vit().half(), tmp_path))
    assert {value.dtype for value in found.model.state_dict().values()} == {torch.float32}


def test_from_scratch_is_all_new_and_seeded(tmp_path: Path) -> None:
    """tf#11965: the seed is set before the head is created, so equal seeds give equal weights."""
    base = tiny.saved(tiny.vit(), tmp_path)
    marks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found = load(base, from_scratch=True, config={"num_hidden_layers": 1})
        assert found.new == [name for name, _ in found.model.named_parameters()]
        marks.append(fingerprint(found.model.state_dict().items()))
    assert marks[0] == marks[1] != marks[2]


def test_class_without_an_auto_class(tmp_path: Path) -> None:
    base = tiny.saved(tiny.patchtst(), tmp_path)
    section = ModelSection(name=base)
    for name in ("PatchTSTForRegression", "transformers:PatchTSTForRegression"):
        assert load_model(name, section).new == []


def test_processor_settings(tmp_path: Path) -> None:
    base = tiny.saved(tiny.vit(), tmp_path, tiny.image_processor())
    section = ModelSection(name=base, processor={"image_mean": [0.1, 0.2, 0.3]})
    found = load_model(AUTO, section)
    processor = load_processor("AutoImageProcessor", section, found.model, image_size=48)
    assert list(processor.image_mean) == [0.1, 0.2, 0.3]
    assert (processor.size["height"], processor.size["width"]) == (48, 48)
    with pytest.raises(ModelError, match="did you mean 'image_mean'"):
        load_processor(
            "AutoImageProcessor", ModelSection(name=base, processor={"image_meen": [0]}), found.model
        )


def test_timm_processor_settings_are_not_ignored(tmp_path: Path) -> None:
    """AutoImageProcessor accepts overrides for the processor of a TimmWrapper and ignores them silently."""
    section = ModelSection(name=tiny.saved(tiny.timm(), tmp_path), processor={"crop_pct": 0.5})
    found = load_model(AUTO, section)
    processor = load_processor("AutoImageProcessor", section, found.model, image_size=64)
    assert processor.data_config["crop_pct"] == 0.5
    assert processor.data_config["input_size"] == (3, 64, 64)
    with pytest.raises(ModelError, match=r"model\.processor\.crop: .* did you mean 'crop_"):
        load_model(AUTO, ModelSection(name=section.name, processor={"crop": 1}))


def test_tokenizer(tmp_path: Path) -> None:
    base = tiny.saved(tiny.bert(), tmp_path, tiny.tokenizer())
    section = ModelSection(name=base, processor={"model_max_length": 7})
    found = load_model("AutoModelForSequenceClassification", section)
    tokenizer = load_processor("AutoTokenizer", section, found.model)
    assert len(tokenizer("the red sign " * 9, truncation=True)["input_ids"]) == 7


def test_a_new_head_does_not_depend_on_whether_the_sample_was_built_before(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_FT_CACHE", str(tmp_path))
    heads = []
    for _ in range(2):
        torch.manual_seed(3)
        section = ModelSection(name="sample:efficientnet-lite0")
        loaded = load_model("AutoModelForImageClassification", section, tiny._labels())
        heads.append(loaded.model.state_dict()[loaded.new[0]])
    assert torch.equal(*heads)


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("kind", ["names a function", "raw pickle", "pointer of Git LFS", "empty"])
def test_weights_that_are_no_tensors_are_refused_without_torchs_advice(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch advises `weights_only=False`, which runs whatever code the file holds."""
    monkeypatch.chdir(tmp_path)
    base = tiny.vit()
    base.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    file = tmp_path / "pytorch_model.bin"
    if kind == "names a function":
        torch.save({**base.state_dict(), "x": Evil()}, file)
    else:
        contents = {"raw pickle": pickle.dumps(Evil()), "empty": b""}
        file.write_bytes(contents.get(kind, b"version https://git-lfs.github.com/spec/v1"))
    with pytest.raises(ModelError, match=r"does not hold tensors alone.*\.safetensors") as found:
        load(tmp_path)
    assert "weights_only" not in str(found.value) and not (tmp_path / "hacked").exists()
    assert "posix.system" in str(found.value) or kind != "names a function"
