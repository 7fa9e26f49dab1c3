"""Trivial baselines: answers without any model, which every model should beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_ft.evaluate.multilabel import indicator


def majority_class(train_classes: Sequence[int], classes: int) -> dict[str, Any]:
    """Predict the most frequent class of the training rows.

    Args:
        train_classes: class ids of the training rows.
        classes: K.

    Returns:
        The result for every row: the class, and the frequencies of the classes as scores.
    """
    counts = np.bincount(np.asarray(train_classes), minlength=classes)
    scores = (counts / counts.sum()).astype(np.float32)
    return {"class": int(counts.argmax()), "scores": scores}


def frequent_labels(train_labels: Sequence[Sequence[int]], labels: int) -> dict[str, Any]:
    """Predict the most frequent label of the training rows, and all labels that over half of the rows have.

    Args:
        train_labels: label ids of each training row.
        labels: K.

    Returns:
        The result for every row: a score of 1, which reaches any threshold, for these labels; 0 for others.
    """
    share = np.mean([indicator(ids, labels) for ids in train_labels], axis=0)
    return {"scores": (share >= min(0.5, share.max())).astype(np.float32)}


def mean_value(train_values: np.ndarray) -> dict[str, Any]:
    """Predict the mean of the training rows.

    Args:
        train_values: float [M, T], in original units.

    Returns:
        The result for every row: the mean of each target, float [T].
    """
    return {"value": np.asarray(train_values, dtype=np.float64).mean(axis=0)}
