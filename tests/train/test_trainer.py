"""FineTuner: runs that must be equivalent are compared."""

import itertools
import json
from pathlib import Path

import points
import pytest
import torch
from transformers import TrainerCallback

from hf_ft.errors import RecipeError, TrainError
from hf_ft.recipe.read import load_recipe
from hf_ft.train import checkpoints
from hf_ft.train.assemble import assemble
from hf_ft.train.preflight import check_loss_division, check_metrics, probe_step


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    return points.saved(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture
def tuner(pretrained, tmp_path):
    """Build a trainer for the points task; keyword arguments go into `train:`."""

    def build(folder="run", *, callbacks=(), sections=None, data=None, **train):
        recipe = load_recipe(
            {
                "task": "points:Points",
                "data": {"source": "py:points:rows", "split": {"validation": 20}},
                "model": {"name": pretrained},
                "augment": {"noise": 0.1},
                "train": {
                    "num_train_epochs": 3,
                    "global_batch_size": 8,
                    "learning_rate": 0.02,
                    "logging_steps": 1,
                    "disable_tqdm": True,
                    # Results are equal to 1e-5 in full precision only; auto may choose bf16.
                    "precision": "fp32",
                    **train,
                },
                **(sections or {}),
            }
        )
        (tmp_path / folder).mkdir(exist_ok=True)
        return assemble(recipe, tmp_path / folder, data=data, callbacks=callbacks).trainer

    return build


def losses(tuner):
    return [line["loss"] for line in tuner.state.log_history if "loss" in line]


def weights(tuner):
    return torch.cat([parameter.detach().flatten() for parameter in tuner.model.parameters()])


def no_dropout(tuner):
    for module in tuner.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return tuner


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_accumulation_does_not_change_the_loss_or_the_weights(tuner, micro):
    """tf#47688: the Trainer multiplies logged losses by the accumulation; 55 rows leave a partial batch."""
    whole = no_dropout(tuner("whole"))
    parts = no_dropout(tuner("parts", per_device_train_batch_size=micro))
    assert parts.args.gradient_accumulation_steps > 1
    whole.train()
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)
    assert torch.allclose(weights(parts), weights(whole), atol=1e-5)


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("step", [3, 7, 10, 14])
def test_a_resumed_run_equals_an_uninterrupted_one(tuner, tmp_path, step):
    """tf#39215: with augmentation and dropout; within an epoch, at its end, and in the second epoch."""
    straight = tuner("straight")
    straight.train()
    stopped = tuner("stopped", callbacks=[StopAt(step)])
    stopped.train()
    assert stopped.state.global_step == step
    resumed = tuner("stopped")
    torch.manual_seed(999)
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / "checkpoints" / f"checkpoint-{step}"))
    assert losses(resumed) == losses(straight)
    assert torch.equal(weights(resumed), weights(straight))


def test_the_best_checkpoint_is_loaded_and_is_the_measured_model(tuner):
    """tf#48805: the weights loaded at the end must be those that were measured."""
    trained = tuner(num_train_epochs=6, learning_rate=0.3)
    trained.train()
    again = trained.evaluate_rows(trained.eval_dataset).metrics
    assert trained.last_evaluation.metrics["loss"] == pytest.approx(again["loss"], abs=1e-6)
    measured = [line["eval_accuracy"] for line in trained.state.log_history if "eval_accuracy" in line]
    assert len(measured) == 6 and trained.state.best_metric == max(measured)
    assert trained.last_evaluation.metrics["accuracy"] == pytest.approx(max(measured), abs=1e-6)


def test_among_equal_metrics_the_checkpoint_with_the_lowest_loss_is_loaded(tuner):
    trained = tuner(num_train_epochs=6, learning_rate=1e-3)
    trained.train()
    evaluations = [line for line in trained.state.log_history if "eval_accuracy" in line]
    most = max(line["eval_accuracy"] for line in evaluations)
    equal = [line for line in evaluations if line["eval_accuracy"] == most]
    best = min(equal, key=lambda line: line["eval_loss"])
    assert len(equal) > 1 and best["step"] != equal[0]["step"]
    assert trained.state.best_global_step == best["step"]
    assert trained.last_evaluation.metrics["loss"] == pytest.approx(best["eval_loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("resumed", "factor", "message"),
    [
        (False, 1.001, "not those that were measured and saved"),
        (True, -1.0, "not the model that was measured"),
        (True, 1.001, r"model\.safetensors has changed since it was written, but it is the best"),
    ],
    ids=["by the hash of its weights", "after a resume, by its metric", "by the hash of its file"],
)
def test_a_tampered_best_checkpoint_is_refused(tuner, tmp_path, resumed, factor, message):
    from safetensors.torch import load_file, save_file

    trained = tuner(num_train_epochs=1)
    trained.train()
    trained.best = None if resumed else trained.best
    path = next((tmp_path / "run" / "checkpoints").glob("checkpoint-*/model.safetensors"))
    save_file({name: factor * tensor for name, tensor in load_file(path).items()}, path)
    if "has changed" not in message:
        # As if it had been written so.
        marker = json.loads((path.parent / "complete.json").read_text())
        marker[path.name] = checkpoints._size_and_hash(path)
        (path.parent / "complete.json").write_text(json.dumps(marker))
    with pytest.raises(TrainError, match=message):
        trained._load_best_model()


def test_the_best_checkpoint_of_a_resumed_run_is_measured_again(tuner, tmp_path, monkeypatch):
    tuner(num_train_epochs=3, learning_rate=0.3).train()
    resumed = tuner(num_train_epochs=3, learning_rate=0.3)
    passes = []
    measure = resumed.evaluate_rows
    monkeypatch.setattr(resumed, "evaluate_rows", lambda *rows: passes.append(rows) or measure(*rows))
    resumed.fit(tmp_path / "run" / "checkpoints" / "checkpoint-21")
    assert len(passes) == 1 and resumed.last_evaluation is not None


def test_only_the_best_and_the_last_checkpoint_stay(tuner, tmp_path):
    """tf#35070."""
    trained = tuner(num_train_epochs=6, learning_rate=0.3)
    trained.train()
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"checkpoint-42", f"checkpoint-{trained.state.best_global_step}"}


class Kept(TrainerCallback):
    """Lists the checkpoints that are there after each one that is written."""

    def __init__(self):
        self.kept = []

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir)
        self.kept.append({checkpoints.step_of(path) for path in folder.glob("checkpoint-*")})


def test_checkpoints_by_time_change_nothing_and_do_not_pile_up(tuner, tmp_path):
    written, never = Kept(), tuner("never", save_minutes=None)
    never.train()
    often = tuner("often", callbacks=[written], save_minutes=1e-9)
    often.train()
    without_times = [
        [line for line in one.state.log_history if "train_runtime" not in line] for one in (often, never)
    ]
    assert without_times[0] == without_times[1] and torch.equal(weights(often), weights(never))
    assert [max(steps) for steps in written.kept] == list(range(1, 22))  # the last one of each epoch once
    assert max(map(len, written.kept)) == 2
    assert {path.name for path in (tmp_path / "often" / "checkpoints").iterdir()} == {
        path.name for path in (tmp_path / "never" / "checkpoints").iterdir()
    }


def test_a_nan_stops_the_run_before_its_step_and_names_the_row(tuner, tmp_path):
    """trl#6702: the Trainer's log hides the NaN, and the step is taken."""
    probe = tuner("probe")
    row = probe.train_dataset.ids[list(probe.get_train_dataloader())[2]["row"][0]]
    good = tuner("good", callbacks=[StopAt(2)])
    good.train()
    exploding = tuner("nan", sections={"task": {"name": "points:Points", "explode_at": row}})
    with pytest.raises(TrainError, match=rf"nan at step 3 .* row\(s\) {row};"):
        exploding.train()
    assert exploding.state.global_step == 2 and losses(exploding) == losses(good)
    assert torch.equal(weights(exploding), weights(good))
    assert not list((tmp_path / "nan" / "checkpoints").glob("checkpoint-*"))


def test_a_nan_gradient_stops_the_run_and_names_the_rows(tuner, monkeypatch):
    """The square root has a value at 0 and no gradient: the loss alone does not show the NaN."""
    made = tuner()
    plain_loss = made.task.loss
    second = list(made.get_train_dataloader())[1]["row"].tolist()

    def loss(model, outputs, batch):
        losses = plain_loss(model, outputs, batch)
        root = (outputs.logits * 0).abs().sqrt().sum()
        return losses + root if second[0] in batch["row"].tolist() else losses

    monkeypatch.setattr(made.task, "loss", loss)
    names = ", ".join(made.train_dataset.ids[row] for row in second)
    with pytest.raises(TrainError, match=rf"gradient is nan at step 2 .* for the rows {names}; the step was"):
        made.train()
    assert torch.isfinite(weights(made)).all() and made.state.global_step == 1


def test_early_stopping(tuner):
    trained = tuner(num_train_epochs=30, early_stopping_patience=2, learning_rate=1e-9)
    trained.train()
    assert trained.state.epoch == 3


def test_training_that_had_ended_is_not_continued(tuner, tmp_path):
    """Resumed after an early stop, the Trainer takes a step more, which may even become the best."""
    trained = tuner(num_train_epochs=30, early_stopping_patience=2, learning_rate=0.3)
    trained.fit()
    last = tmp_path / "run" / "checkpoints" / f"checkpoint-{trained.state.global_step}"
    log = tmp_path / "run" / "log.jsonl"
    with log.open("a") as file:
        file.write('{"train_runtime": 1.')  # killed while it wrote its last line
    again = tuner(num_train_epochs=30, early_stopping_patience=2, learning_rate=0.3)
    steps = []
    again.training_step = lambda *given: steps.append(given)
    again.fit(last)
    assert trained.state.epoch < 30 and not steps and torch.equal(weights(again), weights(trained))
    assert again.state.log_history == trained.state.log_history[: len(again.state.log_history)]
    assert [json.loads(line) for line in log.read_text().splitlines()] == again.state.log_history
    first = again.evaluate_finished("validation").metrics, trained.evaluate_finished("validation").metrics
    assert first[0]["accuracy"] == first[1]["accuracy"]


def test_exponential_schedule_falls_to_its_final_share(tuner):
    trained = tuner(
        lr_scheduler_type="exponential",
        lr_scheduler_kwargs={"final": 0.01},
        warmup_steps=0,
        learning_rate=0.1,
    )
    trained.train()
    rates = [line["learning_rate"] for line in trained.state.log_history if "learning_rate" in line]
    ratios = [b / a for a, b in itertools.pairwise(rates)]
    assert max(ratios) - min(ratios) < 1e-6
    assert trained.lr_scheduler.get_last_lr()[0] == pytest.approx(0.001)


def test_sgd_with_momentum(tuner):
    trained = tuner(optim="sgd", optim_args="momentum=0.9", num_train_epochs=1)
    trained.train()
    assert trained.optimizer.param_groups[0]["momentum"] == 0.9


def test_unknown_metric_is_refused_with_those_that_are_measured(tuner):
    """tf PR#31142: the direction of a metric is declared, never guessed, and checked before training."""
    with pytest.raises(RecipeError, match=r"'surprise' is not a metric of points \(accuracy, "):
        tuner(sections={"evaluate": {"metric": "surprise", "mode": "max"}})


METRIC = """
import datasets
import evaluate

class Errors(evaluate.Metric):
    def _info(self):
        features = datasets.Features(
            {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
        )
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        if len(set(references)) < 2:
            raise ValueError("needs both classes")
        return {"errors": sum(a != b for a, b in zip(predictions, references))}
"""


@pytest.mark.parametrize(
    ("metric", "module", "message"),
    [
        ("errors", METRIC, None),
        ("accuracy", METRIC, None),
        ("mistakes", METRIC, r"evaluate\.metric: 'mistakes' is not measured; .*errors\.py\) gives errors$"),
        ("errors", METRIC.replace("< 2", "< 3"), r"cannot be computed here: needs both classes"),
        ("errors", METRIC.replace('"errors"', '"accuracy"'), "gives 'accuracy', which is already computed"),
    ],
    ids=["given", "own", "another name", "not computable", "name taken"],
)
def test_extra_metrics_are_tried_before_training(tuner, tmp_path, metric, module, message):
    """tf PR#31142: a metric with another name would stop the run at the first evaluation, hours later."""
    file = tmp_path / "errors.py"
    file.write_text(module)
    mode = "max" if metric == "accuracy" else "min"
    made = tuner(sections={"evaluate": {"metric": metric, "mode": mode, "extra": [str(file)]}})
    before = weights(made).clone()
    if message is None:
        check_metrics(made)
    else:
        with pytest.raises(RecipeError, match=message):
            check_metrics(made)
    assert torch.equal(weights(made), before) and made.state.global_step == 0


def test_the_self_test_detects_a_loss_that_depends_on_the_batch_division(tuner, monkeypatch):
    made = tuner()
    assert check_loss_division(made).passed
    plain_loss = points.Points.loss
    monkeypatch.setattr(
        points.Points, "loss", lambda self, *given: plain_loss(self, *given) / len(given[2]["labels"])
    )
    assert not check_loss_division(made).passed


def test_the_probe_restores_model_and_random_state(tuner):
    made = tuner()
    before, state = weights(made).clone(), torch.get_rng_state()
    probe = probe_step(made)
    assert probe.micro_batches == 21
    assert torch.equal(weights(made), before) and torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in made.model.parameters())


def test_a_model_without_gradients_is_refused(tuner):
    """tf#21381."""
    made = tuner()
    for parameter in made.model.parameters():
        parameter.requires_grad_(False)
    made.model.head.bias.requires_grad_(True)
    made.task.loss = lambda model, outputs, batch: outputs.logits.sum(-1) * 0.0
    with pytest.raises(TrainError, match="received a gradient"):
        probe_step(made)


def test_the_log_holds_every_step(tuner, tmp_path):
    tuner().train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 22))


def test_balanced_sampling_sees_the_rare_class_as_often(tuner):
    rows = [row for row in points.rows(300) if row["label"] == "above"][:60]
    rows += [row for row in points.rows(300) if row["label"] == "below"][:12]
    sections = {"data": {"source": "unused", "sampler": "balanced", "split": {"validation": 12}}}
    made = tuner(sections=sections, data=rows, global_batch_size=60)
    drawn = [row for batch in made.get_train_dataloader() for row in batch["labels"].tolist()]
    assert 15 <= sum(drawn) <= 45


def test_without_evaluations_the_last_model_is_the_result(tuner, tmp_path):
    from safetensors.torch import load_file

    straight = tuner("straight", num_train_epochs=2)
    straight.train()
    trained = tuner("silent", eval_strategy="no", num_train_epochs=2)
    trained.train()
    assert trained.state.best_metric is None and not trained.loaded_best
    assert not any("eval_loss" in line for line in trained.state.log_history)
    found = trained.evaluate_finished("validation")
    last = load_file(tmp_path / "straight" / "checkpoints" / "checkpoint-14" / "model.safetensors")
    assert all(torch.equal(trained.model.state_dict()[name], tensor) for name, tensor in last.items())
    rows = trained.eval_dataset
    batch = rows.collate(rows.__getitems__([(0, row, True) for row in range(len(rows))]))
    with torch.no_grad():
        logits = trained.model.eval()(batch["point"]).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"])
    assert found.metrics["loss"] == pytest.approx(float(expected), abs=1e-6)
    assert found.metrics["accuracy"] == (logits.argmax(-1) == batch["labels"]).double().mean()


def test_gradients_scaled_by_the_trainer_are_detected(tuner):
    """tf#47688: if a release divides by the accumulation steps once more, no run may start."""
    made = tuner()
    made.loss_is_scaled_for_ga = False
    with pytest.raises(TrainError, match="scales gradients"):
        probe_step(made)
