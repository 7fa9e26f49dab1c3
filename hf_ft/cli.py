"""The command line: `hf-ft VERB ...`. Each verb is a few lines; the work is in the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_ft import run as flow
from hf_ft.errors import RecipeError, exit_codes

app = typer.Typer(
    help="Fine-tune a pretrained model from a recipe, and prove the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(flow.run)

RecipeFile = Annotated[str, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the recipe: key.path=value, the value in YAML.", metavar="[KEY=VALUE]..."
    ),
]
TaskName = Annotated[str, typer.Argument(help="image-classification, ..., or package.module:Class.")]


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
    task: Annotated[str | None, typer.Argument(help="Narrow the schema to this task.")] = None,
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
        output.write_text(text + "\n", encoding="utf-8")
        typer.echo(output)


@app.command()
def recipes() -> None:
    """List the worked examples, one line each."""
    for file in example_recipes():
        first = next(
            (line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")), ""
        )
        typer.echo(f"{shown(file)}  {first.lstrip('# ')}".rstrip())


@app.command()
def init(
    task: TaskName,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; default: <task>.yaml.")] = None,
) -> None:
    """Write a commented recipe for a task."""
    from hf_ft.recipe.starter import starter
    from hf_ft.registry import get_task

    found = get_task(task)
    file, text = output or Path(f"{found.name.replace('-', '_')}.yaml"), starter(found, task)
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise RecipeError(
            f"{file} exists, and init does not overwrite; choose another file with -o"
        ) from None
    typer.echo(f"{file}: fill in data.source and model.name, then: hf-ft check {file}")


@app.command()
def predict(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a saved model folder.")],
    inputs: Annotated[list[str], typer.Argument(help="Files, folders or a CSV.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write, one row per input.")],
) -> None:
    """Predict with a finished run."""
    from hf_ft import Predictor

    Predictor.load(run_folder).to_parquet(inputs, output)
    typer.echo(output)


@app.command()
def push(
    run_folder: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    repo: Annotated[str, typer.Option("--repo", help="namespace/name of a model repository on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it.")] = False,
) -> None:
    """Publish a finished run on the Hub: its model and a model card, private by default."""
    from hf_ft.report import hub

    typer.echo(hub.push(run_folder, repo, private=not public))


def example_recipes() -> list[Path]:
    """Find the worked examples: inside the installed package, or at the top of the repository."""
    package = Path(__file__).parent
    folder = next(path for path in (package / "recipes", package.parent / "recipes") if path.is_dir())
    return sorted(folder.glob("*.yaml"))


def shown(file: Path) -> str:
    """Write a path relative to the working folder where it lies below it."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def main() -> None:
    """Run the command line."""
    with exit_codes():
        app()
