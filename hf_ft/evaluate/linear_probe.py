"""The linear probe, a baseline: a linear model on the pretrained features, which are the inputs of the head.

It shows how good the pretrained features are without fine-tuning (Alain and Bengio, "Understanding
intermediate layers using linear classifier probes", 2016). With cached activations it costs next to nothing;
otherwise its forward passes take at most a tenth of the work of training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ft.evaluate.classical import MOST_ROWS, draw_rows
from hf_ft.task import SimpleFeatures

if TYPE_CHECKING:
    import torch
    from torch import nn

    from hf_ft.data.dataset import EncodedRows
    from hf_ft.model.passes import Passes
    from hf_ft.task import Task

# Forward passes as a share of those in training: a forward pass is about a third of a training step, and all
# passes together may take a tenth of training.
_SHARE_OF_TRAINING = 0.1 * 3
# A sample of fewer training rows, or of fewer per class, says little about the features.
_FEWEST_ROWS, _FEWEST_ROWS_OF_A_CLASS = 64, 2
# Most rows times features times classes of the linear model, so that fitting takes seconds.
_MOST_NUMBERS = 200_000_000
FEATURES = "pretrained features"


@dataclass(frozen=True)
class HeadInputs:
    """Inputs of the head of the pretrained model, before training.

    Args:
        chosen: positions of training rows, int [M].
        train: inputs of the head for these rows, float32 [M, F].
        answered: positions of rows of the evaluated split, int [N].
        values: inputs of the head for these rows, float32 [N, F].
    """

    chosen: np.ndarray
    train: np.ndarray
    answered: np.ndarray
    values: np.ndarray


def head_inputs(
    passes: Passes,
    train: EncodedRows,
    evaluated: EncodedRows,
    heads: Sequence[str],
    *,
    epochs: float,
    cached: bool,
) -> HeadInputs | None:
    """Compute the inputs of the head, for a sample of the rows if all rows would cost too much.

    Args:
        passes: runs the model.
        train: training rows, as they are trained on.
        evaluated: rows of the evaluated split.
        heads: names of the modules of the head.
        epochs: number of training epochs.
        cached: whether passes start at cached activations, and so cost next to nothing.

    Returns:
        The inputs; None if the task has no linear model, if even a small sample would cost more than a tenth
        of training, or if the head gets no tensor with one entry per row.
    """
    if not passes.task.fits_classical:
        return None
    most = 2 * len(train) + 2 * len(evaluated) if cached else int(_SHARE_OF_TRAINING * epochs * len(train))
    answered = draw_rows(len(evaluated), most // 2)
    chosen = draw_rows(len(train), min(MOST_ROWS, most - len(answered)))
    if len(chosen) < min(_FEWEST_ROWS, len(train)) or not len(answered):
        return None
    # Cached activations of augmented rows are those of their random views: other passes would not be free.
    of_train = _compute(passes, train if cached else train.plain(), chosen, heads)
    of_evaluated = None if of_train is None else _compute(passes, evaluated, answered, heads)
    if of_train is None or of_evaluated is None:
        return None
    return HeadInputs(chosen, of_train, answered, of_evaluated)


def linear_probe(task: Task, inputs: HeadInputs, train: Any, rows: int) -> dict[str, list[Any]]:
    """Fit a linear model on the inputs of the head, and predict the evaluated rows with it.

    Args:
        task: the fitted task.
        inputs: from `head_inputs`.
        train: the raw training rows.
        rows: number of rows of the evaluated split.

    Returns:
        Name of the baseline -> a result for each row, None for rows that are not in the sample; empty if the
        task has no linear model.
    """
    from sklearn.preprocessing import StandardScaler

    classes = len(task.labels() or [""])
    sample = draw_rows(len(inputs.chosen), _MOST_NUMBERS // (classes * inputs.train.shape[1]))
    if len(sample) < min(len(inputs.chosen), _FEWEST_ROWS_OF_A_CLASS * classes):
        return {}
    scaler = StandardScaler().fit(inputs.train[sample])
    learned = scaler.transform(inputs.train[sample])
    features = SimpleFeatures(FEATURES, learned, scaler.transform, "dense linear")
    chosen = inputs.chosen[sample]
    few = train if len(chosen) == len(train) else train.select(chosen.tolist())
    found = task.fit_classical(features, few)
    if found is None:
        return {}
    name, answer = found
    results: list[Any] = [None] * rows
    for place, result in zip(inputs.answered, answer(inputs.values), strict=True):
        results[place] = result
    sampled = f", fitted on {len(few):,} of {len(train):,} rows" if len(few) < len(train) else ""
    return {name + sampled: results}


def _compute(
    passes: Passes, rows: EncodedRows, chosen: np.ndarray, heads: Sequence[str]
) -> np.ndarray | None:
    """Run the model on these rows, each process on its share; return the inputs of the head, [N, F].

    Returns:
        None if a head of any kind gets no such input: it may use bare parameters, or change the rows.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object

    from hf_ft.data.samplers import batches_of, forward_batch, numbers_in

    state, lengths = PartialState(), rows.lengths
    own = np.arange(len(chosen))[state.process_index :: state.num_processes]
    most, tokens = forward_batch(
        numbers_in(passes.batch(rows, [0])), passes.device.type, lengths=lengths is not None
    )
    own_lengths = None if lengths is None else [lengths[row] for row in chosen[own]]
    found: dict[int, np.ndarray] = {}
    was_training = passes.model.training
    passes.model.eval()
    with _first_input(passes.model, heads) as seen, torch.inference_mode():
        for places in batches_of(len(own), most, own_lengths, tokens):
            batch = passes.batch(rows, chosen[own[places]].tolist())
            seen.clear()
            passes.run(batch)
            if not seen or seen[0].ndim < 2 or len(seen[0]) != len(places):
                break
            values = pooled(seen[0], batch.get("attention_mask")).float().cpu().numpy()
            found |= dict(zip(own[places].tolist(), values, strict=True))
    passes.model.train(was_training)
    parts = gather_object([found])
    joined = {place: value for part in parts for place, value in part.items()}
    if len(joined) < len(chosen):
        return None
    return np.stack([joined[place] for place in range(len(chosen))])


@contextlib.contextmanager
def _first_input(model: nn.Module, heads: Sequence[str]) -> Iterator[list[torch.Tensor]]:
    """Collect the inputs of all modules of the head that have weights, in the order of their calls."""
    import torch

    from hf_ft.model.freeze import plain_name
    from hf_ft.model.head import inside

    seen: list[torch.Tensor] = []

    def look(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor):
            seen.append(inputs[0])

    found = [
        module
        for name, module in model.named_modules()
        if inside(plain_name(name), *heads) and any(True for _ in module.parameters(recurse=False))
    ]
    # A hook after the call: a pass that starts at the head gets its cached input from a hook before the call.
    hooks = [module.register_forward_hook(look) for module in found]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def pooled(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Average features over steps or pixels.

    Args:
        values: steps [B, L, F], pixels [B, F, H, W], or one vector per row [B, F].
        mask: [B, L], 0 where a step is padding, or None.

    Returns:
        [B, F].
    """
    if values.ndim == 3 and mask is not None and mask.shape == values.shape[:2]:
        weights = mask.unsqueeze(-1).to(values.dtype)
        return (values * weights).sum(1) / weights.sum(1).clamp(min=1)
    if values.ndim == 3:
        return values.mean(1)
    return values.flatten(2).mean(2) if values.ndim > 3 else values
