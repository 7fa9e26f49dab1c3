"""The items of the gate, and verify.json, which records what was judged.

source      the rows and labels, read again from the source, are those that data.json describes
labels      the label maps of config.json, task.json and data.json are that of the source
counted     predictions.parquet holds every row of every evaluated split exactly once, with its true answer
reload      the saved model predicts raw rows as predictions.parquet says
results     results.json is what predictions.parquet and the labels of the source give
frozen      the frozen weights of the saved model are those of the base model
loss        the loss does not depend on accumulation or the number of processes: the run's own word
contents    no file of the run holds a pickle, an archive, code or a secret
provenance  the recipe can be run again and was not changed; versions are stored
pipeline    transformers' pipeline on raw inputs gives the scores of the Predictor, unusual inputs first
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hf_ft.errors import VerifyError
from hf_ft.storage.atomic import read_json, write_json, write_text
from hf_ft.storage.file_hash import checksums, sha256_of

ITEMS = (
    "source",
    "labels",
    "counted",
    "reload",
    "results",
    "frozen",
    "loss",
    "contents",
    "provenance",
    "pipeline",
)
RECORD, CHECKSUMS = "verify.json", "model.sha256"
# The files that are judged; the report, the figures and the times come later or are no part of the result.
FOLDERS = ("model", "adapter")
FILES = (
    "recipe.yaml",
    "data.json",
    "bad.csv",
    "environment.json",
    "decisions.json",
    "results.json",
    "predictions.parquet",
    "baselines.parquet",
)


@dataclass(frozen=True)
class Item:
    """One item of the gate.

    Args:
        name: short name, as in the module's list.
        passed: whether the check passed.
        detail: what was measured, or why the check failed.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Judgement:
    """The items of the gate, and the files that they are about.

    Args:
        items: in the order of ITEMS.
        files: path inside the run folder -> SHA-256, from before the first item.
    """

    items: Sequence[Item]
    files: Mapping[str, str]

    @property
    def passed(self) -> bool:
        """Whether every item has passed, and none is missing."""
        return {item.name for item in self.items} >= set(ITEMS) and all(item.passed for item in self.items)

    def require(self, record: Path) -> None:
        """Refuse a run with an item that failed.

        Args:
            record: where the items can be read.

        Raises:
            VerifyError: names every item that failed.
        """
        failed = [f"\n  {item.name}: {item.detail}" for item in self.items if not item.passed]
        if failed:
            raise VerifyError(
                f"the run is not done, see {record}:{''.join(failed)}\n"
                "The same command judges it again, without training; with --resume never (in Python: "
                "resume='never') it starts a new run"
            )


def run_checks(checks: Mapping[str, Callable[[], str]]) -> list[Item]:
    """Run every check; a check that fails does not keep the others from running.

    Args:
        checks: name -> function that returns what it measured, or raises VerifyError.
    """
    items = []
    for name, check in checks.items():
        try:
            items.append(Item(name, True, check()))
        except VerifyError as error:
            items.append(Item(name, False, str(error)))
        except Exception as error:  # whatever breaks inside of an item is that item's failure
            items.append(Item(name, False, f"the check itself failed: {type(error).__name__}: {error}"))
    return items


def judged_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a run that the gate judges, by its path inside the run folder."""
    found = {
        f"{part}/{name}": digest
        for part in FOLDERS
        if (folder / part).is_dir()
        for name, digest in checksums(folder / part).items()
    }
    return found | {name: sha256_of(folder / name) for name in FILES if (folder / name).is_file()}


def write_record(folder: Path, judgement: Judgement) -> None:
    """Write verify.json, and model.sha256 as `sha256sum --check model.sha256` reads it.

    Args:
        folder: the run folder.
        judgement: of this folder.
    """
    model = {name: digest for name, digest in judgement.files.items() if name.startswith("model/")}
    write_text(folder / CHECKSUMS, "".join(f"{digest}  {name}\n" for name, digest in model.items()))
    content = {"items": [asdict(item) for item in judgement.items], "files": dict(judgement.files)}
    write_json(folder / RECORD, content, indent=2)


def read_record(folder: Path) -> Judgement | None:
    """Read verify.json; None where it is missing or damaged."""
    content = read_json(folder / RECORD, dict)
    try:
        return content and Judgement([Item(**item) for item in content["items"]], dict(content["files"]))
    except (KeyError, TypeError, ValueError):
        return None
