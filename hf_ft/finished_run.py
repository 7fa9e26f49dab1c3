"""`Run`: a finished run, with its model, results and folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        from hf_ft.model.save import task_name

        return Predictor.load(self.folder, trust_task=task_name(type(self.task)))

    @property
    def verification(self) -> list[dict[str, Any]]:
        """What the gate found, item by item: name, passed, detail."""
        return json.loads((self.folder / "verify.json").read_text(encoding="utf-8"))["items"]

    def report(self) -> Path:
        """Return the path of the report."""
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
