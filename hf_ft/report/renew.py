"""Write the report of a finished run again, from its files and the source of its rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import VerifyError
from hf_ft.evaluate.final import judge_splits
from hf_ft.model.freeze import Frozen, freeze
from hf_ft.report.report import draw_figures, write_report
from hf_ft.report.report_content import report_content, with_gate
from hf_ft.report.run_folder import locked
from hf_ft.storage.atomic import read_json
from hf_ft.train.decisions import Decision
from hf_ft.verification.items import RECORD, Item, read_record
from hf_ft.verification.seal import SEAL, write_seal
from hf_ft.verification.unsafe_files import check_contents
from hf_ft.verification.verifier import Request, Verifier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hf_ft.data.prepare import Prepared
    from hf_ft.recipe.schema import Recipe
    from hf_ft.task import Task


@dataclass(frozen=True)
class Reported:
    """What the report needs of a run, as in `Setup`."""

    recipe: Recipe
    task: Task
    data: Prepared
    metric: str
    greater: bool
    frozen: Frozen
    decisions: Mapping[str, Decision]


def renew_report(run: str | Path, *, data: Any = None, trust_task: str | None = None) -> Path:
    """Write report.html and the figures of a finished run again, and seal the run with them.

    The figures are those of predictions.parquet; nothing that the gate has judged is changed.

    Args:
        run: the run folder.
        data: the rows, if the run trained on rows in memory.
        trust_task: `package.module:Class` of your own task, if the run is of one.

    Returns:
        The path of the report.

    Raises:
        VerifyError: the run is not finished, an item of the gate fails now, or a file that was judged has
            changed.
    """
    folder = Path(run)
    if not (folder / SEAL).is_file():
        raise VerifyError(f"{folder}: no {SEAL}: the run has not ended; run its recipe first")
    with locked(folder):
        verifier = Verifier(Request(folder, data=data, trust_task=trust_task))
        judgement = verifier.judge()
        judgement.require(folder / RECORD)
        record, now = read_record(folder), judgement.files
        before = record.files if record is not None else {}
        changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if changed or record is None:
            raise VerifyError(f"{folder}: {', '.join(changed)} changed after the run was verified")
        return _write(folder, verifier, record.items)


def _write(folder: Path, verifier: Verifier, items: Sequence[Item]) -> Path:
    reported, stored = _reported(verifier), verifier.stored
    verdict = judge_splits(
        stored,
        reported.task,
        reported.recipe.evaluate,
        metric=reported.metric,
        greater=reported.greater,
        data=reported.data,
    )
    content = report_content(folder, reported, stored[reported.data.final_split], verdict)
    draw_figures(folder, content)
    seconds = dict(read_json(folder / "timing.json", dict) or {})
    seconds.pop("report", None)  # as in the report itself, which was written before that stage ended
    page = write_report(folder, with_gate(content, items, seconds))
    check_contents(folder)
    write_seal(folder)
    return page


def _reported(verifier: Verifier) -> Reported:
    task, base = verifier.loaded_task, verifier.base
    metric, greater = verifier.metric
    decisions = json.loads((verifier.folder / "decisions.json").read_text(encoding="utf-8"))
    return Reported(
        verifier.recipe,
        task,
        verifier.data,
        metric,
        greater,
        freeze(base.model, verifier.recipe.freeze, base.new),
        {name: Decision(**entry) for name, entry in decisions.items()},
    )
