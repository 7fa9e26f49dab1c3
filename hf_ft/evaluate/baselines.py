"""Trivial answers: what needs no model at all, and what every result has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ft.evaluate.multilabel import indicator


def majority_class(train_classes: Sequence[int], classes: int) -> dict[str, Any]:
    """Answer with the most frequent class of the training rows.

    Args:
        train_classes: class ids of the training rows.
        classes: K.

    Returns:
        The result of any row: the class, and as scores the frequencies of the classes.
    """
    counts = np.bincount(np.asarray(train_classes), minlength=classes)
    scores = (counts / counts.sum()).astype(np.float32)
    return {"class": int(counts.argmax()), "scores": scores}


def frequent_labels(train_labels: Sequence[Sequence[int]], labels: int) -> dict[str, Any]:
    """Answer with the most frequent label of the training rows, and with all that over half of them have.

    Args:
        train_labels: label ids of each training row.
        labels: K.

    Returns:
        The result of any row: scores of 1 for these labels, which pass any threshold, and of 0 for others.
    """
    share = np.mean([indicator(ids, labels) for ids in train_labels], axis=0)
    return {"scores": (share >= min(0.5, share.max())).astype(np.float32)}


def mean_value(train_values: np.ndarray) -> dict[str, Any]:
    """Answer with the mean of the training rows.

    Args:
        train_values: float [M, T], in original units.

    Returns:
        The result of any row.
    """
    return {"value": np.asarray(train_values, dtype=np.float64).mean(axis=0)}
