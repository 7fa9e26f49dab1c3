"""The command line `hf-ft VERB ...`: each verb calls a function of the package."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_ft import __version__
from hf_ft import run as flow
from hf_ft.causes import explain, full_disk, naming
from hf_ft.errors import HfFtError, RecipeError, exit_codes
from hf_ft.storage.atomic import write_text
from hf_ft.text_utils import hint

app = typer.Typer(
    help="Fine-tune a pretrained model from a recipe, and prove the result.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class OnBad(enum.StrEnum):
    """What `hf-ft predict` does with inputs that cannot be read."""

    error = "error"
    skip = "skip"


def _write(file: Path, text: str, *, overwrite: bool = True) -> None:
    """Write a file that the user named with -o, whole or not at all."""
    try:
        # Not a device such as /dev/stdout, and not in a new folder, whose name is rather a typing error.
        if overwrite and file.parent.is_dir() and (file.is_file() or not file.exists()):
            write_text(file, text)
            return
        with naming(file), file.open("w" if overwrite else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise RecipeError(
            f"{file} exists, and init does not overwrite it; choose another file with -o"
        ) from None
    except OSError as error:
        if full_disk(error) is not None:
            if not overwrite:  # the file is new, and half of it would stand in the way of the next try
                file.unlink(missing_ok=True)
            raise HfFtError(explain(error)) from error
        raise RecipeError(
            f"{file} cannot be written ({error.strerror}); choose another file with -o"
        ) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hf-ft {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Fine-tune a pretrained model from a recipe, and prove the result."""


def _complete_recipe(incomplete: str) -> list[str]:
    return [file.stem for file in example_recipes() if file.stem.startswith(incomplete)]


def _complete_task(incomplete: str) -> list[str]:
    from hf_ft.registry import list_tasks

    return [name for name in list_tasks() if name.startswith(incomplete)]


app.command()(flow.run)

RecipeFile = Annotated[str, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the recipe: key.path=value, the value in YAML.", metavar="[KEY=VALUE]..."
    ),
]


TrustTask = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:CLASS", help="Your own task, if RUN is of one: its module is imported, as code."
    ),
]


@app.command()
def check(
    recipe: RecipeFile,
    overrides: Overrides = None,
    schema_only: Annotated[
        bool, typer.Option("--schema-only", help="Check the recipe alone, not its data.")
    ] = False,
) -> None:
    """Check a recipe, its data and its model."""
    from rich.console import Console

    from hf_ft.recipe.read import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if schema_only:
        typer.echo(f"{recipe}: the recipe is valid")
        return
    findings = flow.check(loaded)
    Console().print(findings.table())
    if findings.errors:
        raise typer.Exit(1)


@app.command()
def schema(
    task: Annotated[
        str | None, typer.Argument(help="Narrow the schema to this task.", autocompletion=_complete_task)
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
) -> None:
    """Write the JSON schema of recipes.

    With it, editors complete and check recipes.
    """
    import json

    from hf_ft.recipe.task_schema import json_schema
    from hf_ft.registry import get_task

    text = json.dumps(json_schema(get_task(task) if task else None), indent=2, ensure_ascii=False)
    if output is None:
        typer.echo(text)
    else:
        _write(output, text + "\n")
        typer.echo(output)


@app.command()
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Print this example.", show_default=False, autocompletion=_complete_recipe),
    ] = None,
) -> None:
    """List the worked examples, or print one of them: hf-ft recipes NAME > my.yaml."""
    if name is not None:
        typer.echo(find_example(name).read_text(encoding="utf-8"), nl=False)
        return
    files = example_recipes()
    for file in files:
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        typer.echo(_two_columns(file.stem, first.lstrip("# "), [one.stem for one in files]))


@app.command()
def tasks() -> None:
    """List the tasks, one line each."""
    from hf_ft.registry import get_task, list_tasks

    for name in list_tasks():
        typer.echo(_two_columns(name, get_task(name).summary, list_tasks()))


@app.command()
def samples() -> None:
    """List the samples for `data.source` and `model.name`: data and models that ship in PyPI packages."""
    from hf_ft.data.samples import sample_names

    known = {f"sample:{name}": about for name, about in sample_names().items()}
    for name, about in known.items():
        typer.echo(_two_columns(name, about, list(known)))


@app.command()
def init(
    task: Annotated[
        str | None,
        typer.Argument(
            help="image-classification, ..., or package.module:Class.",
            show_default=False,
            autocompletion=_complete_task,
        ),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="NAME", help="Copy a worked example instead.", autocompletion=_complete_recipe
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; default: TASK.yaml.")] = None,
) -> None:
    """Write a recipe: with every key of a task explained, or a copy of a worked example."""
    from hf_ft.recipe.starter import starter
    from hf_ft.registry import get_task, list_tasks

    if (task is None) == (example is None):
        known = f"a task ({', '.join(list_tasks())}) or --from with an example (hf-ft recipes lists them)"
        raise RecipeError(f"init: expected {known}" + (", found both" if task else ", found neither"))
    if task is not None:
        found = get_task(task)
        file, text = output or Path(f"{found.name.replace('-', '_')}.yaml"), starter(found, task)
        advice = "fill in data.source and model.name, then: "
    else:
        copied = find_example(str(example))
        file, text, advice = output or Path(copied.name), copied.read_text(encoding="utf-8"), ""
    _write(file, text, overwrite=False)
    typer.echo(f"{file}: {advice}hf-ft check {file}")


@app.command()
def predict(
    run_folder: Annotated[
        str, typer.Argument(metavar="RUN", help="A run folder, a saved model folder, or a Hub id.")
    ],
    inputs: Annotated[list[str], typer.Argument(help="Pictures, folders, files of rows, or texts.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .csv, .parquet or .jsonl.")],
    on_bad: Annotated[
        OnBad, typer.Option(help="If an input cannot be read: stop before anything is written, or skip it.")
    ] = OnBad.error,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Write the K best classes in place of all scores.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Write a label only if its score is at least this.")
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="COLUMN", help="Column with the ids of the rows; default: the run's data.id."
        ),
    ] = None,
    trust_task: TrustTask = None,
) -> None:
    """Predict with a finished run.

    The other columns of an input file are copied beside the answers.
    """
    from hf_ft.model.prediction_files import check_choice, check_output, list_bad_rows

    check_output(output, inputs)
    from hf_ft import Predictor

    predictor = Predictor.load(run_folder, trust_task=trust_task)
    check_choice(predictor.task, top_k, threshold)
    note = predictor.task.input_note()
    if note is not None:
        typer.echo(note, err=True)
    written = predictor.to_file(
        inputs,
        output,
        on_bad=on_bad.value,
        top_k=top_k,
        threshold=threshold,
        id_column=id_column,
    )
    if written.bad:
        total = written.rows + len(written.bad)
        typer.echo(f"left out {len(written.bad)} of {total} inputs:\n{list_bad_rows(written.bad)}", err=True)
    if sys.stderr.isatty():
        rate = f"{written.rows / max(written.seconds, 1e-9):,.0f} a second"
        typer.echo(f"{written.rows:,} rows in {written.seconds:.1f} s, {rate}", err=True)
    typer.echo(output)


@app.command()
def verify(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    rows: Annotated[
        str,
        typer.Option(help="Rows to predict again: sample, a number, or all rows of validation and test."),
    ] = "sample",
    trust_task: TrustTask = None,
) -> None:
    """Judge a finished run again: by its files, and by its rows, which are read from their source.

    It compares every file with what was judged when the run ended, reads the rows and labels again, predicts
    rows with the saved model, and computes results.json again.
    """
    from hf_ft.verification.verifier import verify as judge

    if rows not in ("sample", "all") and not (rows.isdecimal() and int(rows) > 0):
        raise RecipeError(f"--rows: expected sample, all or a number above 0, found {rows!r}")
    chosen: Any = int(rows) if rows.isdecimal() else rows
    judgement = judge(run_folder, rows=chosen, trust_task=trust_task)
    for item in judgement.items:
        typer.echo(f"{'passed' if item.passed else 'FAILED'}  {item.name:<12} {item.detail}")
    if not judgement.passed:
        raise typer.Exit(1)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    trust_task: TrustTask = None,
) -> None:
    """Write the report of a finished run again, from its files and the source of its rows."""
    from hf_ft.report.renew import renew_report

    typer.echo(renew_report(run_folder, trust_task=trust_task))


@app.command()
def push(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    repo: Annotated[str, typer.Option("--repo", help="namespace/name of a model repository on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make the repository public.")] = False,
) -> None:
    """Publish the model of a finished run and a model card on the Hub, private by default."""
    from hf_ft.report import hub

    typer.echo(hub.push(run_folder, repo, private=not public))


def example_recipes() -> list[Path]:
    """Find the worked examples: inside the installed package, or at the top of the repository."""
    package = Path(__file__).parent
    folder = next(path for path in (package / "recipes", package.parent / "recipes") if path.is_dir())
    return sorted(folder.glob("*.yaml"))


def find_example(name: str) -> Path:
    """Find the file of a worked example.

    Raises:
        RecipeError: there is no example of that name; the message names the nearest one.
    """
    known = {file.stem: file for file in example_recipes()}
    stem = Path(name).name.removesuffix(".yaml")
    if stem not in known:
        raise RecipeError(f"there is no example {name!r}{hint(stem, known)} (there are: {', '.join(known)})")
    return known[stem]


def _two_columns(name: str, text: str, names: list[str]) -> str:
    return f"{name:<{max(map(len, names))}}  {text}".rstrip()


def main() -> None:
    """Run the command line."""
    with exit_codes():
        app()
