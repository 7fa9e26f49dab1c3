"""The whole flow, on small pictures and on a task of a user's own."""

import html
import json
from pathlib import Path

import pandas
import points
import pytest
import tiny
import torch
from PIL import Image, ImageDraw

from hf_ft import Predictor, check, finetune
from hf_ft.errors import DataError, RecipeError, VerdictError, VerifyError
from hf_ft.verification.items import ITEMS


def draw_signs(folder, per_class=12, names=("stop", "yield", "停")):
    """Write small pictures of three shapes, one folder per class."""
    for kind, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            image = Image.new("RGB", (40, 40), (20 * (index % 5), 60, 10 * index))
            place = (6 + index % 4, 6, 30 + index % 3, 30)
            pen = ImageDraw.Draw(image)
            if kind == 0:
                pen.ellipse(place, fill="red")
            elif kind == 1:
                pen.rectangle(place, fill="yellow")
            else:
                pen.line((5, 5 + index, 35, 30), fill="white", width=4)
            image.save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def signs(tmp_path_factory):
    return draw_signs(tmp_path_factory.mktemp("signs"))


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return tiny.saved(tiny.vit(), tmp_path_factory.mktemp("vit"), tiny.image_processor())


def recipe(signs, vit, folder, **sections):
    return {
        "task": "image-classification",
        "name": "signs",
        "output_dir": str(folder / "run"),
        "data": {"source": str(signs), "split": {"validation": 9, "test": 9}},
        "model": {"name": vit},
        "train": {"num_train_epochs": 2, "global_batch_size": 6, "disable_tqdm": True},
        **sections,
    }


@pytest.fixture(scope="module")
def run(signs, vit, tmp_path_factory):
    return finetune(
        recipe(signs, vit, tmp_path_factory.mktemp("runs"), augment={"policy": "light", "mixup": 0.2})
    )


def test_a_run_leaves_everything_a_user_needs(run):
    found = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    needed = {
        "recipe.yaml",
        "data.json",
        "environment.json",
        "log.jsonl",
        "results.json",
        "timing.json",
        "predictions.parquet",
        "report.html",
        "verify.json",
        "model/config.json",
        "model/model.safetensors",
        "model/preprocessor_config.json",
        "model/task.json",
    }
    assert needed <= found
    assert all(item["passed"] for item in run.verification)
    assert len(run.verification) == len(ITEMS)


def test_the_saved_folder_is_plain_hugging_face(run):
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(run.folder / "model"))
    answers = classify(Image.new("RGB", (50, 50), "red"))
    assert {answer["label"] for answer in answers} == {"stop", "yield", "停"}


def test_the_predictor_gives_the_results_of_the_evaluation(run):
    import pandas

    predicted = pandas.read_parquet(run.folder / "predictions.parquet").set_index("id")
    assert set(predicted["split"]) == {"validation", "test"} and len(predicted["result.scores"].iloc[0]) == 3
    predicted = predicted[predicted["split"] == "test"]
    assert len(predicted) == 9 and set(predicted.columns) >= {"truth", "label", "score", "loss"}
    source = str(run.recipe.data.source)
    answers = Predictor.load(run.folder)([f"{source}/{row_id}" for row_id in predicted.index])
    for answer, (_, row) in zip(answers, predicted.iterrows(), strict=True):
        assert answer["label"] == row["label"] and answer["score"] == pytest.approx(row["score"], abs=1e-4)


def test_the_resolved_recipe_runs_again_and_nothing_is_overwritten(run):
    again = finetune(run.folder / "recipe.yaml")
    assert again.folder.name == "run-2" and (run.folder / "report.html").exists()
    assert again.results == run.results


def test_two_runs_have_the_same_head(run, signs, vit, tmp_path):
    """tf#11965: the seed is set before the head is made."""
    other = finetune(recipe(signs, vit, tmp_path, augment={"policy": "light", "mixup": 0.2}))
    assert other.results["headline"] == run.results["headline"]


@pytest.mark.parametrize(
    "strategy", [{"strategy": "head"}, {"strategy": "last", "n": 1}, {"strategy": "lora", "r": 4}]
)
def test_every_strategy_goes_through_the_gate(signs, vit, tmp_path, strategy):
    done = finetune(recipe(signs, vit, tmp_path, freeze=strategy))
    items = {item["name"]: item for item in done.verification}
    assert items["frozen"]["passed"] and "unchanged" in items["frozen"]["detail"]


def test_the_loss_may_choose_the_best_checkpoint(signs, vit, tmp_path):
    """The gate then compares outputs by the task's own metric."""
    done = finetune(recipe(signs, vit, tmp_path, evaluate={"metric": "loss"}))
    assert done.results["headline"]["metric"] == "loss" and all(item["passed"] for item in done.verification)
    log = [json.loads(line) for line in (done.folder / "log.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in log if "eval_loss" in line]
    measured = done.results["splits"]["validation"]["metrics"]["loss"]
    assert measured == pytest.approx(min(losses), rel=1e-5)
    steps = [line["step"] for line in log if "loss" in line]
    assert {line["step"] for line in log if "eval_loss" in line} <= set(steps)


def test_a_resnet_under_lora_is_the_same_model_merged_and_as_an_adapter(signs, tmp_path):
    """peft#1732: BatchNorm statistics are not part of an adapter; peft#3193: convolutions as targets."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForImageClassification

    resnet = tiny.saved(tiny.resnet(), tmp_path / "resnet", tiny.image_processor())
    train = {"num_train_epochs": 2, "global_batch_size": 6, "learning_rate": 0.05, "disable_tqdm": True}
    done = finetune(recipe(signs, resnet, tmp_path, freeze={"strategy": "lora", "r": 2}, train=train))
    adapter = load_file(done.folder / "adapter" / "adapter_model.safetensors")
    learned = [tensor for name, tensor in adapter.items() if "lora_B" in name and tensor.ndim == 4]
    base = AutoModelForImageClassification.from_pretrained(resnet, num_labels=3, ignore_mismatched_sizes=True)
    merged = AutoModelForImageClassification.from_pretrained(done.folder / "model")
    # Every convolution of the blocks has learned: the matrices that PEFT starts at zero are no longer zero.
    convolutions = [
        name for name, part in base.named_modules() if "encoder" in name and isinstance(part, torch.nn.Conv2d)
    ]
    assert len(learned) == len(convolutions) > 5 and all(tensor.abs().max() > 0 for tensor in learned)
    statistics = {name: value for name, value in base.state_dict().items() if "running" in name}
    assert len(statistics) > 10
    assert all(torch.equal(merged.state_dict()[name], value) for name, value in statistics.items())
    adapted = PeftModel.from_pretrained(base, done.folder / "adapter")
    pictures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        live, plain, again = (
            model.eval()(pixel_values=pictures).logits for model in (done.model, merged, adapted)
        )
    assert torch.allclose(plain, live, atol=1e-5) and torch.allclose(again, live, atol=1e-5)


def test_sabotage_of_the_saved_model_fails_the_gate(signs, vit, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    from hf_ft.model import save

    save_model = save.save_model

    def sabotaged(frozen, task, folder, source):
        save_model(frozen, task, folder, source)
        path = folder / "model.safetensors"
        tensors = load_file(path)
        save_file({name: t * 1.01 for name, t in tensors.items()}, path, metadata={"format": "pt"})

    monkeypatch.setattr(save, "save_model", sabotaged)
    with pytest.raises(VerifyError, match=r"reload: .* gives other outputs than the trained model"):
        finetune(recipe(signs, vit, tmp_path))


@pytest.mark.parametrize("task", ["points:Points", "points:ComposedPoints"])
def test_a_task_of_a_user_s_own_runs_completely(task, tmp_path, monkeypatch):
    # The fresh process of the gate must find the task's module, as it would for a user's installed package.
    monkeypatch.setenv("PYTHONPATH", str(Path(points.__file__).parent))
    done = finetune(
        {
            "task": task,
            "augment": {"noise": 0.01},
            "output_dir": str(tmp_path / "run"),
            "data": {"source": "py:points:rows", "split": {"validation": 20, "test": 10}},
            "model": {"name": points.saved(tmp_path / "pretrained")},
            "train": {"learning_rate": 0.02, "global_batch_size": 8, "disable_tqdm": True},
        }
    )
    assert done.results["headline"]["value"] > 0.5
    assert done.predictor()([[0.0, 3.0]])[0]["label"] == "above"


def test_check_reports_findings_without_training(signs, vit, tmp_path):
    findings = check(recipe(signs, vit, tmp_path))
    assert findings.errors == [] and any("min of training ahead" in note for note in findings.notes)
    assert not (tmp_path / "run").exists()


def test_check_reports_a_broken_picture(signs, vit, tmp_path):
    """ds#6470: one damaged file stopped a run in its sixth hour."""
    broken = draw_signs(tmp_path / "signs")
    (broken / "stop" / "3.png").write_bytes(b"not a picture")
    findings = check(recipe(broken, vit, tmp_path))
    assert any("stop/3.png" in error for error in findings.errors)
    with pytest.raises(DataError, match=r"stop/3\.png"):
        finetune(recipe(broken, vit, tmp_path))


def test_an_unfinished_run_of_another_recipe_is_not_continued(signs, vit, tmp_path, monkeypatch):
    """tf#22580."""
    from hf_ft.train.trainer import FineTuner

    monkeypatch.setattr(
        FineTuner, "_finalize_training", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        finetune(recipe(signs, vit, tmp_path))
    monkeypatch.undo()
    changed = recipe(signs, vit, tmp_path)
    changed["train"] = {**changed["train"], "learning_rate": 0.5}
    with pytest.raises(RecipeError, match=r"train\.learning_rate: auto then, 0\.5 now"):
        finetune(changed)
    done = finetune(recipe(signs, vit, tmp_path))
    assert done.folder == tmp_path / "run"


def test_a_run_in_memory(vit, signs, tmp_path):
    rows = [{"img": Image.open(path), "kind": path.parent.name} for path in sorted(signs.rglob("*.png"))]
    given = recipe(signs, vit, tmp_path)
    given["data"] = {
        "source": "memory",
        "columns": {"image": "img", "label": "kind"},
        "split": {"validation": 9},
    }
    done = finetune(given, data=rows)
    assert done.results["headline"]["split"] == "validation"


@pytest.mark.parametrize("name", ["finetune", "check", "Predictor", "freeze"])
def test_the_doctests_of_the_public_names(name, run, signs, vit, tmp_path):
    import doctest

    import hf_ft

    given = {
        "recipe": recipe(signs, vit, tmp_path),
        "run_folder": run.folder,
        "picture": str(next(signs.rglob("*.png"))),
        name: getattr(hf_ft, name),
    }
    runner = doctest.DocTestRunner()
    examples = doctest.DocTestFinder(recurse=False).find(given[name], name, globs=given)
    assert sum(len(test.examples) for test in examples) > 0
    for test in examples:
        runner.run(test)
    assert runner.summarize().failed == 0


def test_a_run_that_misses_must_beat_fails_and_its_files_stay(tmp_path, monkeypatch):
    """The task has no baseline, so the model cannot be shown to be better than one."""
    monkeypatch.setenv("PYTHONPATH", str(Path(points.__file__).parent))
    content = {
        "task": "points:Points",
        "output_dir": str(tmp_path / "run"),
        "data": {"source": "py:points:rows", "split": {"validation": 20, "test": 10}},
        "model": {"name": points.saved(tmp_path / "pretrained")},
        "train": {"num_train_epochs": 1},
        "evaluate": {"must_beat": "baseline"},
    }
    with pytest.raises(VerdictError, match=r"evaluate\.must_beat.*test"):
        finetune(content, verbose=False)
    assert all(item["passed"] for item in json.loads((tmp_path / "run" / "verify.json").read_text())["items"])
    saved = json.loads((tmp_path / "run" / "results.json").read_text())["verdict"]
    assert saved["outcome"] == "not compared" and saved["baselines"] == []
    assert saved["text"] in html.unescape((tmp_path / "run" / "report.html").read_text())


def test_a_stale_rank_of_another_launcher_does_not_lose_the_model(signs, vit, tmp_path, monkeypatch):
    """RANK alone does not make this process one of several; a run ended without a model and exit code 0."""
    monkeypatch.setenv("RANK", "1")
    done = finetune(recipe(signs, vit, tmp_path), verbose=False)
    assert done.results and (done.folder / "model" / "config.json").is_file() and done.report().is_file()


@pytest.mark.slow
def test_an_official_test_split_with_duplicates_is_measured_with_and_without_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(points.__file__).parent))
    rows = points.rows(120)
    data = {"train": rows[:80], "test": [*rows[80:], *rows[:5]]}
    recipe = {
        "task": "points:Points",
        "name": "p",
        "output_dir": str(tmp_path / "run"),
        "data": {"split": {"validation": 20}, "duplicates": "report"},
        "model": {"name": points.saved(tmp_path / "pretrained")},
        "train": {"num_train_epochs": 2, "global_batch_size": 8, "disable_tqdm": True},
    }
    run = finetune(recipe, data=data, verbose=False)
    head = run.results["headline"]
    without = head["without_duplicates"]
    assert (head["rows"], without["rows"], without["metric"]) == (45, 40, "accuracy")
    predicted = pandas.read_parquet(run.folder / "predictions.parquet")
    predicted = predicted[predicted["id"].isin([f"test/{row}" for row in range(45)])]
    right = (predicted["label"] == predicted["truth"]).to_numpy()
    assert without["value"] == pytest.approx(right[:40].mean()) and head["value"] == pytest.approx(
        right.mean()
    )
    assert without["interval"][0] <= without["value"] <= without["interval"][1]
    assert without["text"] in html.unescape((run.folder / "report.html").read_text())
    assert set(json.loads((run.folder / "data.json").read_text())["seen"]["test"]) == {
        f"test/{row}" for row in range(40, 45)
    }
    recipe = {**recipe, "name": "q", "output_dir": str(tmp_path / "other")}
    recipe["data"] = {**recipe["data"], "duplicates": "drop_from_train"}
    run = finetune(recipe, data=data, verbose=False)
    found = json.loads((run.folder / "data.json").read_text())
    left_out = {name for names in found["left_out"].values() for name in names}
    assert left_out == {f"train/{row}" for row in range(5)}
    assert found["sizes"]["train"] + found["sizes"]["validation"] == 75 and found["sizes"]["test"] == 45
    assert "without_duplicates" not in run.results["headline"]
    assert "are left out (data.duplicates: drop_from_train)" in (run.folder / "report.html").read_text()
