"""The side of hf_ft: `Predictor` over a file of rows.

python benchmarks/ours/ours_predict.py MODEL ROWS.parquet OUT.json
"""

from __future__ import annotations

import sys

from clock import Clock
from datasets import load_dataset

# The plain script imports this at its top, so the import counts as start-up on this side too.
from transformers import pipeline  # noqa: F401

from hf_ft import Predictor


def main() -> None:
    model, rows, out = sys.argv[1:]
    clock = Clock()
    with clock.phase("model"):
        predictor = Predictor.load(model)
    with clock.phase("predict"):
        answers = predictor(rows)

    data = load_dataset("parquet", data_files={"rows": rows}, split="rows")
    names = data.features["label"].names
    right = [answer["label"] == names[label] for answer, label in zip(answers, data["label"], strict=True)]
    clock.write(out, rows={"predicted": len(answers)}, metric=sum(right) / len(right))


if __name__ == "__main__":
    main()
