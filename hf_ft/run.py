"""The whole story of a run: recipe, data, model, train, evaluate, save, verify, report, publish.

    accelerate launch -m hf_ft.run recipes/traffic_signs.yaml train.num_train_epochs=3

From Python: `run = finetune("recipes/traffic_signs.yaml")`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from hf_ft.errors import INTERRUPTED, RecipeError, Stopped, exit_codes, logged
from hf_ft.finished_run import Run
from hf_ft.parent_death import end_with_parent, is_launched
from hf_ft.recipe.read import load_recipe
from hf_ft.verification.unsafe_files import refuse_secrets

if TYPE_CHECKING:
    from hf_ft.data.audit import Findings
    from hf_ft.evaluate.linear_probe import HeadInputs
    from hf_ft.evaluate.verdict import Verdict
    from hf_ft.recipe.schema import Recipe
    from hf_ft.report.console import Console
    from hf_ft.report.report import ReportContent
    from hf_ft.seeds import SeedRuns
    from hf_ft.task import Evaluation
    from hf_ft.train.assemble import Setup
    from hf_ft.train.preflight import Preflight
    from hf_ft.verification.verifier import Request


# Set when `finetune` has imported all that it needs.
_IMPORTED = threading.Event()


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


def finetune(
    recipe: Recipe | str | Path | dict[str, Any],
    *,
    data: Any = None,
    callbacks: Sequence[Any] = (),
    resume: str = "auto",
    verbose: bool = True,
    profile: bool = False,
    layers: bool = False,
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
        layers: whether to show every layer also where all of them learn.

    Raises:
        Stopped: a signal stopped the run, after it wrote a checkpoint; it is a KeyboardInterrupt.
        HfFtError: the run stopped; the message says what was found and what to change. A VerifyError means
            that it finished, and that its result cannot be trusted; a VerdictError that its model is not
            better than what `evaluate.must_beat` names.

    >>> run = finetune(recipe, verbose=False)
    >>> run.results["headline"]["metric"], run.results["headline"]["split"]
    ('accuracy', 'test')
    >>> all(item["passed"] for item in run.verification)
    True
    """
    recipe = load_recipe(recipe, in_memory=data is not None)
    if recipe.seeds is not None:
        raise RecipeError("seeds: several runs; call finetune_seeds in place of finetune, or remove the key")
    refuse_secrets(recipe.to_yaml(), sys.argv[1:])

    from hf_ft.verification.fresh_process import FreshProcess, may_be_main

    with contextlib.ExitStack() as stack:
        # Before the imports of this process, so that both import at the same time.
        early = stack.enter_context(FreshProcess()) if may_be_main() else None
        stack.enter_context(_machine_given_back())

        from hf_ft.model.save import save_model
        from hf_ft.report import hub, run_folder
        from hf_ft.report.console import Console
        from hf_ft.report.report import draw_figures
        from hf_ft.report.report_content import report_content, with_gate
        from hf_ft.train.assemble import assemble
        from hf_ft.train.distributed import start_processes
        from hf_ft.train.preflight import preflight
        from hf_ft.train.signals import StopSignals
        from hf_ft.verification.items import RECORD, write_record
        from hf_ft.verification.seal import write_seal

        _IMPORTED.set()
        stops = stack.enter_context(StopSignals().listening())
        processes = start_processes()
        fresh = None
        if processes.is_main_process:
            fresh = early or stack.enter_context(FreshProcess())
        console = Console(speaks=verbose and processes.is_main_process)
        console.room("recipe")
        publishing = hub.check_publish(recipe.publish, processes)
        folder = stack.enter_context(run_folder.open_folder(recipe, resume, processes))
        path, checkpoint = folder.path, folder.checkpoint
        stack.enter_context(logged(lambda: console.stage, path))
        console.lines([f"{recipe.name} -> {path}", *folder.notes, *recipe.warnings, *publishing])

        undisturbed = fresh.paused if fresh is not None else contextlib.nullcontext
        setup = assemble(
            recipe,
            path,
            data=data,
            checkpoint=checkpoint,
            callbacks=[stops, *callbacks],
            profile=profile,
            layers=layers,
            console=console,
            undisturbed=undisturbed,
        )
        if fresh is not None:
            run_folder.write_origin(path, setup)
            fresh.import_like(sys.modules)
        console.room("preflight")
        with undisturbed():  # it measures how long the training will take
            checks = preflight(setup.trainer)
        console.lines(checks.lines)

        console.room("train")
        features = _pretrained_features(setup)
        setup.trainer.fit(checkpoint)
        if setup.profile is not None:
            console.table(setup.profile.table())

        console.room("evaluate")
        model = setup.trainer.finished_model()
        evaluations = _evaluate(setup, console)

        results: dict[str, Any] = {}
        if fresh is not None:
            console.room("save")
            save_model(setup.frozen, setup.task, path / "model", setup.loaded.source)

            console.room("verify")
            fresh.ask(_to_verify(path, setup, data, checks))
            # The fresh process predicts while the next lines compute the verdict and write the files.
            verdict = _judge(setup, evaluations, features)
            results = run_folder.write_run(path, setup, evaluations, verdict)
            content = report_content(path, setup, evaluations[setup.data.final_split], verdict)
            draw_figures(path, content)
            judgement = fresh.judge()
            write_record(path, judgement)
            judgement.require(path / RECORD)
            console.lines(f"{item.name:<12} {item.detail}" for item in judgement.items)

            console.room("report")
            content = with_gate(content, judgement.items, console.seconds)
            console.result(_report(path, setup, content, console))
            if recipe.publish.repo is not None and verdict.meets(recipe.evaluate.must_beat):
                console.room("publish")
                console.lines(hub.publish(path, recipe.publish))
            # Last: without the seal, the same command goes on with this run, and publishes it.
            write_seal(path)
            verdict.require(recipe.evaluate.must_beat)
            console.lines([f"done: {path}"])
        processes.wait_for_everyone()
    return Run(recipe, setup.task, model, results, path)


def finetune_seeds(
    recipe: Recipe | str | Path | dict[str, Any], *, data: Any = None, verbose: bool = True
) -> SeedRuns:
    """Fine-tune once with each of `seeds`, on the same split, and measure how much the result varies.

    A seed whose run is finished already is not trained again, so an interrupted call goes on where it was.

    Args:
        recipe: as for `finetune`, with `seeds`.
        data: as for `finetune`.
        verbose: as for `finetune`.

    Raises:
        RecipeError: the recipe has no `seeds`.
        HfFtError: as for `finetune`.
    """
    recipe = load_recipe(recipe, in_memory=data is not None)
    if recipe.seeds is None:
        raise RecipeError("seeds: expected the seeds of several runs, such as [1, 2, 3], found none")

    from hf_ft.report.run_folder import finished_run_of
    from hf_ft.seeds import summarize_seeds

    folders = {}
    for seed in recipe.seeds:
        one = recipe.with_seed(seed)
        done = finished_run_of(one)
        folders[seed] = done or finetune(one, data=data, verbose=verbose).folder
    return summarize_seeds(recipe, folders, data=data, verbose=verbose)


def _pretrained_features(setup: Setup) -> HeadInputs | None:
    """Compute the pretrained features for the linear probe, before training changes the weights."""
    from hf_ft.evaluate.linear_probe import head_inputs
    from hf_ft.train.schedule import epochs_in

    recipe, rows = setup.recipe, setup.rows
    if recipe.model.from_scratch or not recipe.evaluate.linear_probe:
        return None
    return head_inputs(
        setup.passes,
        rows["train"],
        rows[setup.data.final_split],
        setup.frozen.heads,
        epochs=epochs_in(recipe, len(rows["train"])),
        cached=setup.cached,
    )


def _evaluate(setup: Setup, console: Console) -> dict[str, Evaluation]:
    """Measure the finished model on validation and test."""
    from hf_ft.evaluate.final import calibrate

    evaluations = {"validation": setup.trainer.evaluate_finished("validation")}
    # Thresholds are chosen on validation, before test is evaluated.
    console.lines(calibrate(setup.task, evaluations["validation"]))
    if "test" in setup.rows:
        evaluations["test"] = setup.trainer.evaluate_finished("test")
    return evaluations


def _judge(setup: Setup, evaluations: dict[str, Evaluation], features: HeadInputs | None) -> Verdict:
    """Add intervals and baselines to the evaluations, and compare the model with the baselines."""
    from hf_ft.evaluate.final import conclude

    return conclude(
        evaluations,
        setup.task,
        setup.recipe.evaluate,
        metric=setup.metric,
        greater=setup.greater,
        data=setup.data,
        features=features,
    )


def _to_verify(path: Path, setup: Setup, data: Any, checks: Preflight) -> Request:
    """Say what the verifier is to judge, and what only this process knows."""
    from hf_ft.data.sources import rows_in_memory
    from hf_ft.model.save import task_name
    from hf_ft.verification.verifier import Request, RunsWord

    return Request(
        path,
        threads=setup.decisions["threads"].value,
        trust_task=task_name(type(setup.task)),
        data=None if data is None else rows_in_memory(data),
        word=RunsWord(setup.recipe.to_yaml(), checks.self_test.passed, str(checks.self_test)),
    )


def _report(path: Path, setup: Setup, content: ReportContent, console: Console) -> ReportContent:
    """Write the report and the times of the run; return the content of the report."""
    from hf_ft.report.report import write_report
    from hf_ft.storage.atomic import write_json
    from hf_ft.verification.unsafe_files import check_contents

    if setup.profile is not None:
        content = replace(content, timing={**content.timing, **setup.profile.stages})
        write_json(path / "profile.json", setup.profile.to_json(), indent=2)
    write_report(path, content)
    write_json(path / "timing.json", console.finish(), indent=2)
    # The report repeats much of the recipe: what is kept is looked at once more.
    check_contents(path)
    return content


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
    recipe = load_recipe(recipe, in_memory=data is not None)
    refuse_secrets(recipe.to_yaml(), sys.argv[1:])

    from hf_ft.errors import AuditError
    from hf_ft.report import hub
    from hf_ft.train.assemble import assemble
    from hf_ft.train.distributed import start_processes
    from hf_ft.train.preflight import preflight

    publishing = hub.check_publish(recipe.publish, start_processes())
    with tempfile.TemporaryDirectory() as scratch:
        try:
            setup = assemble(recipe, Path(scratch), data=data, keep=False)
        except AuditError as error:
            return error.findings
        checks = preflight(setup.trainer)
    findings = setup.data.findings
    findings.notes += [*publishing, *setup.loaded.notes, *setup.data.info["notes"]]
    findings.notes += [f"{subject}: {choice}" for subject, choice in setup.decisions.items()]
    findings.notes += checks.lines
    return findings


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
    layers: Annotated[
        bool, typer.Option("--layers", help="Show every layer also where all of them learn.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Say nothing but one JSON object: folder, headline, verdict, verified."),
    ] = False,
) -> None:
    """Fine-tune a model and verify it.

    recipe -> data -> model -> prepare -> preflight -> train -> evaluate -> save -> verify -> report
    """
    if is_launched():
        # Otherwise a killed launcher would leave its processes running, with nobody to stop them.
        end_with_parent(signal.SIGTERM)
    loaded = None
    try:
        loaded = load_recipe(recipe, overrides or ())
        if loaded.seeds is not None:
            runs = finetune_seeds(loaded, verbose=not (quiet or as_json))
            if as_json and runs.content:  # on the main process
                typer.echo(json.dumps(runs.content, ensure_ascii=False))
            return
        finished = finetune(
            loaded, resume=resume, verbose=not (quiet or as_json), profile=profile, layers=layers
        )
    except KeyboardInterrupt as stop:
        _end_interrupted(stop, loaded, shlex.join([recipe, *(overrides or ())]))
    if as_json and finished.results:  # on the main process
        summary = {"folder": str(finished.folder), "headline": finished.results["headline"]}
        summary["verdict"] = finished.results["verdict"]["text"]
        verified = all(item["passed"] for item in finished.verification)
        typer.echo(json.dumps({**summary, "verified": verified}, ensure_ascii=False))


def _end_interrupted(stop: KeyboardInterrupt, loaded: Recipe | None, arguments: str) -> NoReturn:
    """Say how to go on, and end the program with the exit code of the signal.

    Args:
        stop: what was raised.
        loaded: the recipe, if it had been read.
        arguments: of the command that was interrupted.
    """
    code = stop.exit_code if isinstance(stop, Stopped) else INTERRUPTED
    verb = "accelerate launch -m hf_ft.run" if sys.argv[0].endswith("run.py") else "hf-ft run"
    if loaded is None or not _IMPORTED.is_set():
        # Modules that are half imported can neither be used nor clean up after themselves.
        said = f"interrupted before anything was written; to start again, run:\n  {verb} {arguments}"
        print(said, file=sys.stderr, flush=True)
        os._exit(code)
    if loaded.seeds is not None:
        typer.echo(
            f"interrupted; to go on with the seeds that are left, run:\n  {verb} {arguments}", err=True
        )
        raise typer.Exit(code) from None
    from hf_ft.report.run_folder import interruption_message

    typer.echo(interruption_message(loaded, f"{verb} {arguments}"), err=True)
    raise typer.Exit(code) from None


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(run)
    with exit_codes():
        app()
