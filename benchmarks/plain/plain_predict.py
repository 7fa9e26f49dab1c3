"""Prediction the way transformers' documentation teaches it: a pipeline over a data set, in batches."""

from __future__ import annotations

import argparse

from clock import Clock
from datasets import load_dataset
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("rows", "model", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    clock = Clock()

    with clock.phase("model"):
        classify = pipeline("image-classification", model=options.model)
    with clock.phase("data"):
        data = load_dataset("parquet", data_files={"rows": options.rows}, split="rows")
    with clock.phase("predict"):
        answers = list(classify(KeyDataset(data, "image"), batch_size=options.batch, top_k=1))

    names = data.features["label"].names
    right = [answer[0]["label"] == names[label] for answer, label in zip(answers, data["label"], strict=True)]
    clock.write(options.out, rows={"predicted": len(answers)}, metric=sum(right) / len(right))


if __name__ == "__main__":
    main()
