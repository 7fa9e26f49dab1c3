"""Extra metrics that a recipe names in `evaluate.extra`: modules of the package `evaluate`."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np

from hf_ft.errors import RecipeError


def _load(path: str) -> Any:
    import evaluate

    # In memory and with a unique id, so that processes on one host do not share evaluate's cache files.
    return evaluate.load(path, keep_in_memory=True, experiment_id=uuid.uuid4().hex)


class ExtraMetric:
    """A metric named in a recipe: a canonical metric of the Hub (`f1`), or the path of a local module.

    Loading a module runs its code. Of the Hub, only metrics of the organisation `evaluate-metric` can
    therefore be named; download a community module, read it, and name its path.

    Args:
        name: a Hub name without a slash, a file ending in `.py`, or a folder holding a file of the same name.

    Raises:
        RecipeError: the module cannot be loaded, or needs inputs that hf_ft does not have.
    """

    def __init__(self, name: str):
        local = name.endswith(".py") or Path(name).is_dir()
        if not local and "/" in name:
            raise RecipeError(
                f"evaluate.extra: {name!r} would run code from somebody's Space. Download the module, "
                f"read it, and name its path; or name a canonical metric of the Hub, such as 'f1'"
            )
        try:
            self.module = _load(name)
        except ImportError as error:
            raise RecipeError(f"evaluate.extra: {name!r} needs a package that is missing: {error}") from error
        except (FileNotFoundError, ConnectionError) as error:
            raise RecipeError(
                f"evaluate.extra: cannot load {name!r}: "
                f"{'there is no such file' if local else 'the Hub is not reachable, or has no such metric'}. "
                f"Expected the path of an evaluate module, or a metric of the Hub (with a network, or the "
                f"module in evaluate's cache); leave it out to run offline"
            ) from error
        self.name = name
        self.inputs = self._inputs()

    def _inputs(self) -> dict[str, str]:
        """Return which array (predictions, references or scores) each input of the module takes."""
        import datasets

        features = self.module.features
        first = features[0] if isinstance(features, list) else features
        filled = {"predictions": "predictions", "references": "references", "prediction_scores": "scores"}
        unknown = sorted(set(first) - set(filled))
        if unknown:
            raise RecipeError(
                f"evaluate.extra: {self.name!r} needs the input(s) {', '.join(unknown)}; expected a metric "
                f"with no inputs but {', '.join(filled)}"
            )
        # A module whose prediction is a list per row takes the scores of all classes.
        prediction = first.get("predictions")
        if isinstance(prediction, datasets.List | datasets.LargeList):
            filled["predictions"] = "scores"
        return {name: filled[name] for name in first}

    def compute(
        self, predictions: np.ndarray, references: np.ndarray, scores: np.ndarray | None
    ) -> dict[str, float]:
        """Compute the metric.

        Args:
            predictions: class ids or values, [N].
            references: class ids or values, [N].
            scores: probabilities [N, K], or None in regression.

        Returns:
            The scalars that the module returns, by the module's own names.

        Raises:
            RecipeError: the module raises an error with these inputs.
        """
        if scores is None and "scores" in self.inputs.values():
            raise RecipeError(f"evaluate.extra: {self.name!r} needs class scores; a regression has none")
        if scores is not None and scores.shape[1] == 2 and "prediction_scores" in self.inputs:
            scores = scores[:, 1]
        given = {"predictions": predictions, "references": references, "scores": scores}
        try:
            answer = self.module.compute(**{name: given[source] for name, source in self.inputs.items()})
        except (ValueError, TypeError) as error:
            raise RecipeError(f"evaluate.extra: {self.name!r} cannot be computed here: {error}") from error
        return {
            name: float(value) for name, value in answer.items() if isinstance(value, int | float | np.number)
        }
