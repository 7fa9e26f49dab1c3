"""The whole story of a run: recipe, data, model, train, evaluate, save, verify, report, publish.

    accelerate launch -m hf_ft.run recipes/traffic_signs.yaml train.num_train_epochs=3

From Python: `run = finetune("recipes/traffic_signs.yaml")`.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_ft.errors import exit_codes
from hf_ft.recipe.read import load_recipe
from hf_ft.registry import get_task

if TYPE_CHECKING:
    from hf_ft.data.audit import Findings
    from hf_ft.model.predictor import Predictor
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Task


@dataclass
class Run:
    """A finished and verified run.

    Args:
        recipe: as resolved.
        task: fitted.
        model: the trained model, as it lives in memory.
        results: what results.json holds.
        folder: the run folder; `folder / "model"` is a plain Hugging Face folder.
    """

    recipe: Recipe
    task: Task
    model: Any
    results: dict[str, Any]
    folder: Path

    def predictor(self) -> Predictor:
        """Load the saved model for prediction."""
        from hf_ft.model.predictor import Predictor

        return Predictor.load(self.folder)

    @property
    def verification(self) -> list[dict[str, Any]]:
        """What the gate found, item by item: name, passed, detail."""
        return json.loads((self.folder / "verify.json").read_text())

    def report(self) -> Path:
        """Give the path of the report."""
        return self.folder / "report.html"

    def push(self, repo: str, private: bool = True) -> str | None:
        """Publish the model and its card on the Hub, in one commit.

        Args:
            repo: namespace/name, or a name in one's own namespace; made where there is none.
            private: whether to make it private.

        Returns:
            The address and who can see it; None on all processes but the main one, which alone publishes.

        Raises:
            PublishError: the folder is not what was verified, or the Hub does not take it.
        """
        from hf_ft.report import hub
        from hf_ft.train.distributed import start_processes

        return hub.push(self.folder, repo, private) if start_processes().is_main_process else None


@contextlib.contextmanager
def _machine_given_back() -> Iterator[None]:
    """Leave threads and allocator as they were: what a run is fastest with is not for its caller."""
    import torch

    from hf_ft.model.allocator import give_memory_back

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        give_memory_back()


@_machine_given_back()
def finetune(
    recipe: Recipe | str | Path | dict[str, Any],
    *,
    data: Any = None,
    callbacks: Sequence[Any] = (),
    resume: str = "auto",
    verbose: bool = True,
    profile: bool = False,
) -> Run:
    """Fine-tune, evaluate, save and verify one model.

    Args:
        recipe: a path, a dict, or a Recipe.
        data: rows in memory in place of `data.source`: a Dataset, DatasetDict, pandas DataFrame, or list of
            dicts.
        callbacks: further callbacks of the Hugging Face Trainer.
        resume: `auto` goes on with an unfinished run of the same recipe; `never` starts anew; `must` only
            goes on.
        verbose: whether to tell the story on standard output.
        profile: whether to say where the time of training went, in a table and in profile.json.

    Raises:
        HfFtError: the run stopped; the message says what was found and what to change. A VerifyError means
            that it finished, and that its result cannot be trusted.

    >>> run = finetune(recipe, verbose=False)
    >>> run.results["headline"]["metric"], run.results["headline"]["split"]
    ('accuracy', 'test')
    >>> all(item["passed"] for item in run.verification)
    True
    """
    recipe = load_recipe(recipe)

    from transformers import set_seed

    from hf_ft.activations.activation_cache import use_frontier
    from hf_ft.data.prepare import prepare
    from hf_ft.evaluate.final import calibrate, with_interval_and_baseline
    from hf_ft.inputs.decoded_cache import keep_decoded
    from hf_ft.model.allocator import keep_freed_memory
    from hf_ft.model.freeze import freeze
    from hf_ft.model.save import save_model
    from hf_ft.report import hub, report
    from hf_ft.report import run_folder as folder
    from hf_ft.report.console import Story
    from hf_ft.report.report_content import report_content
    from hf_ft.storage.atomic import write_json
    from hf_ft.train.assemble import build_tuner, main_metric
    from hf_ft.train.distributed import start_processes
    from hf_ft.train.precision import settle_evaluation
    from hf_ft.train.preflight import check_loss_division, check_metrics, probe_step
    from hf_ft.train.profiler import ProfiledTuner
    from hf_ft.train.threads import settle_threads
    from hf_ft.verify import check_contents, gate

    processes = start_processes()
    story = Story(speaks=verbose and processes.is_main_process)
    story.room("recipe")
    publishing = hub.check_publish(recipe.publish, processes)
    run_folder = folder.open_folder(recipe, resume, processes)
    path = run_folder.path
    story.lines([f"{recipe.name} -> {path}", *run_folder.notes, *recipe.warnings, *publishing])

    story.room("data")
    task = new_task(recipe)
    with processes.main_process_first():
        data_ready = prepare(recipe, task, data=data)
    story.table(data_ready.findings.table())
    data_ready.findings.raise_for_errors()
    metric, greater = main_metric(recipe, task)

    story.room("model")
    # Before the model is made: the new head is drawn from this seed (tf#11965).
    set_seed(recipe.seed)
    loaded = task.load(recipe.model)
    frozen = freeze(loaded.model, recipe.freeze, loaded.new)
    data_ready.info["notes"] += task.notes(data_ready.rows)
    story.lines([*loaded.notes, *data_ready.info["notes"]])
    story.table(frozen.table())

    story.room("train")
    memory = keep_freed_memory(recipe.train.allocator, processes.device.type)
    kept = keep_decoded(data_ready, task, recipe.cache, processes)
    tuner, notes = build_tuner(recipe, task, frozen, data_ready, path, callbacks, profile=profile)
    notes |= {"allocator": memory, **kept}
    before = frozen.frozen_fingerprint()
    notes["frontier"] = use_frontier(tuner, recipe, data_ready, before)
    settle_evaluation(tuner, path)
    resumed = run_folder.checkpoint is not None
    notes["threads"] = settle_threads(tuner, recipe.train.threads, run_folder.path, resumed=resumed)
    story.facts(notes)
    self_test = check_loss_division(tuner)
    story.lines([self_test, probe_step(tuner)])
    check_metrics(tuner)
    if processes.is_main_process:
        folder.write_origin(path, data_ready)
    tuner.train(resume_from_checkpoint=str(run_folder.checkpoint) if run_folder.checkpoint else None)

    spent = tuner.profile if isinstance(tuner, ProfiledTuner) else None
    if spent is not None:
        story.table(spent.table())

    story.room("evaluate")
    model = tuner.finished_model()
    evaluations = {"validation": tuner.evaluate_finished(data_ready.encoded(task, "validation"))}
    # Before test is looked at: what turns scores into answers is chosen on validation.
    story.lines(calibrate(task, evaluations["validation"]))
    if "test" in data_ready.rows:
        evaluations["test"] = tuner.evaluate_finished(data_ready.encoded(task, "test"))
    for evaluation in evaluations.values():
        with_interval_and_baseline(evaluation, task, recipe.evaluate, metric=metric, data=data_ready)

    items, results = [], {}
    if processes.is_main_process:
        story.room("save")
        save_model(frozen, task, path / "model", loaded.source)
        results = folder.write_run(path, recipe, task, data_ready, evaluations, metric)

        story.room("verify")
        items = gate(path, task, frozen, data_ready, evaluations, metric, self_test, before)
        story.lines(f"{item.name:<12} {item.detail}" for item in items)

        story.room("report")
        final = evaluations[data_ready.final_split]
        seconds = {**story.seconds, **(spent.stages if spent else {})}
        content = report_content(
            path, recipe, task, data_ready, final, metric, greater, frozen, items, seconds, notes
        )
        report.write_report(path, content)
        write_json(path / "timing.json", story.finish(), indent=2)
        if spent is not None:
            write_json(path / "profile.json", spent.to_json(), indent=2)
        # The report repeats much of the recipe: what is kept is looked at once more.
        check_contents(path)
        story.table(report.result_table(content))

        if recipe.publish.repo is not None:
            story.room("publish")
            story.lines(hub.publish(path, recipe.publish))
        story.lines([f"done: {path}"])
    processes.wait_for_everyone()
    return Run(recipe, task, model, results, path)


@_machine_given_back()
def check(recipe: Recipe | str | Path | dict[str, Any], *, data: Any = None) -> Findings:
    """Look before training: audit the data, load the model, run one step forward and backward.

    Args:
        recipe: a path, a dict, or a Recipe.
        data: rows in memory in place of `data.source`.

    Returns:
        What was found; `findings.errors` is empty where the recipe can run.

    >>> check(recipe).errors
    []
    """
    recipe = load_recipe(recipe)

    from transformers import set_seed

    from hf_ft.activations.activation_cache import use_frontier
    from hf_ft.data.prepare import prepare
    from hf_ft.inputs.decoded_cache import keep_decoded
    from hf_ft.model.freeze import freeze
    from hf_ft.report import hub
    from hf_ft.train.assemble import build_tuner
    from hf_ft.train.distributed import start_processes
    from hf_ft.train.preflight import check_loss_division, check_metrics, probe_step
    from hf_ft.train.threads import settle_threads

    publishing = hub.check_publish(recipe.publish, start_processes())
    task = new_task(recipe)
    data_ready = prepare(recipe, task, data=data)
    findings = data_ready.findings
    if findings.errors:
        return findings
    set_seed(recipe.seed)
    loaded = task.load(recipe.model)
    frozen = freeze(loaded.model, recipe.freeze, loaded.new)
    kept = keep_decoded(data_ready, task, recipe.cache, start_processes(), keep=False)
    with tempfile.TemporaryDirectory() as scratch:
        tuner, notes = build_tuner(recipe, task, frozen, data_ready, Path(scratch))
        notes["threads"] = settle_threads(tuner, recipe.train.threads, Path(scratch), resumed=False)
        fingerprint = frozen.frozen_fingerprint()
        notes["frontier"] = use_frontier(tuner, recipe, data_ready, fingerprint, keep=False)
        findings.notes += [*publishing, *loaded.notes, *task.notes(data_ready.rows)]
        findings.notes += [f"{subject}: {text}" for subject, text in {**notes, **kept}.items()]
        findings.notes += [str(check_loss_division(tuner)), str(probe_step(tuner))]
        check_metrics(tuner)
    return findings


def new_task(recipe: Recipe) -> Task:
    """Make the task of a recipe, with the options that the recipe gives it."""
    task_class = get_task(recipe.task.name)
    return task_class(recipe.task, recipe.augment, recipe.loss, recipe.evaluate.extra)


def run(
    recipe: Annotated[str, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes to the recipe: key.path=value, the value in YAML.", metavar="[KEY=VALUE]..."
        ),
    ] = None,
    resume: Annotated[
        str, typer.Option(help="auto: go on with an unfinished run of this recipe; never; must.")
    ] = "auto",
    profile: Annotated[bool, typer.Option("--profile", help="Say where the time of training went.")] = False,
) -> None:
    """Fine-tune a model and verify it.

    recipe -> data -> model -> train -> evaluate -> save -> verify -> report -> publish
    """
    finetune(load_recipe(recipe, overrides or ()), resume=resume, profile=profile)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(run)
    with exit_codes():
        app()
