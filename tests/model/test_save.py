"""Saving and loading a model: the folder holds the trained weights, and is written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from hf_ft.errors import ModelError
from hf_ft.model.freeze import freeze
from hf_ft.model.load import load_model, load_saved
from hf_ft.model.predictor import Predictor
from hf_ft.model.save import save_model
from hf_ft.model.saved_folder import find_folder
from hf_ft.recipe.schema import ModelSection, Section
from hf_ft.storage.atomic import new_folder
from hf_ft.task import Inspection, Task

AUTO = "AutoModelForImageClassification"


class Toy(Task):
    """A minimal task for saving and prediction: a picture of one colour is one of three signs."""

    name, auto_class, targets = "toy", AUTO, ("labels",)

    class Options(Section):
        shade: tuple[float, float] = (0.0, 1.0)

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.names: list[str] = []

    def state(self) -> dict[str, Any]:
        return {"labels": self.names}

    def restore(self, state: Any) -> None:
        self.names = list(state["labels"])

    def labels(self) -> list[str]:
        return self.names

    def load_processor(self, folder: str) -> None:
        from transformers import AutoImageProcessor

        self.processor = AutoImageProcessor.from_pretrained(folder)

    def read_inputs(self, inputs: Any) -> list[dict[str, Any]]:
        return [{"id": f"picture {i}", "image": image} for i, image in enumerate(inputs)]

    def encode(self, rows: Any, rngs: Any) -> list[dict[str, Any]]:
        images = [row["image"] for row in rows]
        return [
            {"pixel_values": pixels} for pixels in self.processor(images, return_tensors="pt")["pixel_values"]
        ]

    def inspect(self, row: Any) -> Inspection:
        return Inspection()

    def collate(self, items: Any) -> dict[str, Any]:
        return {"pixel_values": torch.stack([item["pixel_values"] for item in items])}

    def predict(self, model: Any, outputs: Any, batch: Any) -> list[Any]:
        assert batch["real"].all()
        assert batch["row"].tolist() == list(range(len(batch["row"])))
        return list(outputs.logits.cpu())

    def decode(self, result: Any) -> dict[str, Any]:
        return {"label": self.names[int(result.argmax())], "score": float(result.softmax(-1).max())}


TRUST = f"{Toy.__module__}:{Toy.__qualname__}"


def toy() -> Toy:
    task = Toy()
    task.names, task.processor = tiny.LABELS, tiny.image_processor()
    return task


def pictures(count: int = 5) -> list[Any]:
    from PIL import Image

    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 40, 30, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def trained(frozen: Any, batch: dict[str, torch.Tensor], steps: int = 2) -> None:
    learn = [parameter for parameter in frozen.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learn, lr=1e-2)
    for _ in range(steps):
        frozen.model.train()
        tiny.loss(frozen.model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    frozen.model.eval()


def loaded(tmp_path: Path, model: Any = None) -> Any:
    """Load a model with other labels for three signs, so that its head is new."""
    base = tiny.saved(
        model or tiny.vit(id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}), tmp_path / "base"
    )
    return load_model(AUTO, ModelSection(name=base), tiny._labels())


@pytest.mark.parametrize("strategy", ["full", "head", "lora"])
def test_predictor_gives_what_the_model_gave(tmp_path: Path, strategy: str) -> None:
    found = loaded(tmp_path)
    frozen = freeze(found.model, strategy, found.new)
    trained(frozen, tiny.inputs(found.model))
    task, rows = toy(), toy().read_inputs(pictures())
    batch = task.collate(task.encode(rows, None))
    before = tiny.outputs(frozen.model, batch)
    save_model(frozen, task, tmp_path / "run" / "model", found.source)
    # Test files can be imported by name only because pytest puts their folder on sys.path.
    predictor = Predictor.load(tmp_path / "run", trust_task=TRUST)
    assert predictor.task.names == tiny.LABELS
    assert predictor.task.options == task.options
    torch.testing.assert_close(torch.stack(predictor.results(rows, batch_size=2)), before, atol=1e-4, rtol=0)
    answers = predictor(pictures(), batch_size=2)
    assert [answer["id"] for answer in answers] == [row["id"] for row in rows]
    assert [answer["label"] for answer in answers] == [tiny.LABELS[i] for i in before.argmax(-1)]


def test_adapter_folder_loads_with_labels_processor_and_pinned_base(tmp_path: Path) -> None:
    """peft#1486, peft#554: a saved adapter lacked labels, head or base model."""
    found = loaded(tmp_path)
    frozen = freeze(found.model, "lora", found.new)
    trained(frozen, tiny.inputs(found.model))
    save_model(frozen, toy(), tmp_path / "run" / "model", found.source)
    settings = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == found.source["name"]
    whole, adapter = (
        Predictor.load(tmp_path / "run" / name, trust_task=TRUST) for name in ("model", "adapter")
    )
    assert adapter.model.config.id2label == dict(enumerate(tiny.LABELS))
    rows = whole.task.read_inputs(pictures())
    for one, other in zip(whole.results(rows), adapter.results(rows), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_an_adapter_names_a_base_that_peft_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """peft#554: PEFT knows no `sample:` names, and relative paths depend on the current folder."""
    import peft
    from transformers import AutoConfig, AutoModelForImageClassification

    found = loaded(tmp_path)
    monkeypatch.setattr("hf_ft.data.samples.sample_model", lambda name: str(tmp_path / "base"))
    frozen = freeze(found.model, "lora", found.new)
    monkeypatch.chdir(tmp_path)
    for name in ("base", "sample:tiny"):
        save_model(frozen, toy(), tmp_path / "run" / "model", {**found.source, "name": name})
        folder = tmp_path / "run" / "adapter"
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")
            config = AutoConfig.from_pretrained(folder)
            base = peft.PeftConfig.from_pretrained(str(folder)).base_model_name_or_path
            model = AutoModelForImageClassification.from_pretrained(
                base, config=config, ignore_mismatched_sizes=True
            )
            batch = tiny.inputs(model)
            model = peft.PeftModel.from_pretrained(model, str(folder)).eval()
            assert torch.allclose(tiny.outputs(model, batch), tiny.outputs(frozen.model, batch), atol=1e-5)
            assert Predictor.load(folder, trust_task=TRUST).model is not None


def test_adapter_on_a_changed_base_is_refused(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    frozen = freeze(found.model, "lora", found.new)
    save_model(frozen, toy(), tmp_path / "run" / "model", found.source)
    torch.manual_seed(99)
    tiny.saved(tiny.vit(id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}), tmp_path / "base")
    with pytest.raises(ModelError, match="other weights"):
        Predictor.load(tmp_path / "run" / "adapter", trust_task=TRUST)


def test_adapter_without_its_base_is_not_saved(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    frozen = freeze(found.model, "lora", found.new)
    with pytest.raises(ModelError, match=r"Loaded\.source"):
        save_model(frozen, toy(), tmp_path / "run" / "model")


def test_timm_labels_and_processor_survive(tmp_path: Path) -> None:
    """The `label_names` of a TimmWrapper checkpoint override id2label when the model is saved again."""
    base = tiny.saved(tiny.timm(id2label={0: "x", 1: "y"}, label2id={"x": 0, "y": 1}), tmp_path / "base")
    section = ModelSection(name=base, processor={"crop_pct": 0.5, "mean": [0.1, 0.2, 0.3]})
    found = load_model(AUTO, section, tiny._labels())
    from hf_ft.model.load import load_processor

    task = toy()
    task.processor = load_processor("AutoImageProcessor", section, found.model)
    pixels = task.encode(task.read_inputs(pictures()), None)
    save_model(found.model, task, tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model", trust_task=TRUST)
    assert predictor.model.config.id2label == dict(enumerate(tiny.LABELS))
    assert predictor.task.processor.data_config["mean"] == (0.1, 0.2, 0.3)
    again = predictor.task.encode(task.read_inputs(pictures()), None)
    for one, other in zip(pixels, again, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])


def test_folder_is_plain_and_without_pickles(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    found = loaded(tmp_path)
    save_model(freeze(found.model, "head", found.new), toy(), tmp_path / "model", found.source)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "task.json"}
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "model")
    answers = pipeline("image-classification", model=model, image_processor=processor)(pictures(1)[0])
    assert {answer["label"] for answer in answers} == set(tiny.LABELS)
    # Chinese labels are stored as readable text.
    assert "停" in (tmp_path / "model" / "task.json").read_text(encoding="utf-8")


def test_damaged_folder_is_refused(tmp_path: Path) -> None:
    """peft#2054: a file with almost no weights was loaded as a model."""
    from safetensors.torch import load_file, save_file

    found = loaded(tmp_path)
    folder = save_model(found.model, toy(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    gone = sorted(weights)[3]
    save_file({name: value for name, value in weights.items() if name != gone}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="missing, unexpected"):
        load_saved(AUTO, folder)


def test_code_of_the_base_model_is_not_copied(tmp_path: Path) -> None:
    """A folder with auto_map asks its users to trust code; hf_ft neither loads nor needs any."""
    model = loaded(tmp_path).model
    model.config.auto_map = {"AutoModel": "modeling.Model"}
    folder = save_model(model, toy(), tmp_path / "model")
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    assert load_saved(AUTO, folder) is not None


def test_a_folder_does_not_choose_which_module_is_imported(tmp_path: Path, monkeypatch) -> None:
    """A downloaded task.json could name any module, also one that lies in the current folder."""
    folder = save_model(loaded(tmp_path).model, toy(), tmp_path / "model")
    content = json.loads((folder / "task.json").read_text())
    (tmp_path / "stolen.py").write_text("raise SystemExit('code of the folder was run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (folder / "task.json").write_text(json.dumps(content | {"task": "stolen:Task"}))
    for trusted in (None, content["task"]):
        with pytest.raises(ModelError, match=r"stolen:Task.*trust_task='stolen:Task'.*--trust-task"):
            Predictor.load(folder, trust_task=trusted)
    with pytest.raises(SystemExit, match="was run"):
        Predictor.load(folder, trust_task="stolen:Task")


def test_failed_save_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with new_folder(folder) as fresh:
        (fresh / "old").touch()
    with pytest.raises(RuntimeError, match="disk full"), new_folder(folder) as fresh:
        (fresh / "new").touch()
        raise RuntimeError("disk full")
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with new_folder(folder) as fresh:
        (fresh / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_parquet_of_predictions(tmp_path: Path) -> None:
    from pyarrow import parquet

    found = loaded(tmp_path)
    save_model(found.model, toy(), tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model", device="cpu", trust_task=TRUST)
    path = predictor.to_file(pictures(), tmp_path / "out" / "answers.parquet", batch_size=2).path
    assert parquet.read_table(path).to_pylist() == predictor(pictures())


def test_a_predictor_of_a_run_knows_its_id_column(tmp_path: Path) -> None:
    save_model(loaded(tmp_path).model, toy(), tmp_path / "run" / "model")
    assert Predictor.load(tmp_path / "run", trust_task=TRUST).id_column is None
    (tmp_path / "run" / "recipe.yaml").write_text("data: {source: a.csv, id: nr}\n")
    assert Predictor.load(tmp_path / "run", trust_task=TRUST).id_column == "nr"


def test_folder_of_another_tool_is_refused(tmp_path: Path) -> None:
    tiny.saved(tiny.vit(), tmp_path)
    with pytest.raises(ModelError, match=r"no task\.json"):
        find_folder(tmp_path)
    with pytest.raises(ModelError, match="there is no folder"):
        find_folder(tmp_path / "nothing")
