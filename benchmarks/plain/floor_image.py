"""The floor: the cost of the arithmetic alone, in a bare PyTorch loop without Trainer and without any cache.

It uses channels_last, and bf16 where the processor has it. Forward passes are in batches of 8, which fit the
caches of a CPU best.

`--loop forward`: one forward pass over every row, train and validation. `--loop train`: the training of all
weights with the same settings (batch, AdamW, schedule, epochs, an evaluation after each).
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from typing import Any

import torch
from clock import Clock
from datasets import Image, load_dataset
from PIL import Image as PillowImage
from torch.nn.functional import cross_entropy
from transformers import AutoImageProcessor, AutoModelForImageClassification, get_scheduler, set_seed

Batch = tuple[torch.Tensor, torch.Tensor]


class Rows:
    """Pictures as stored bytes, decoded and processed batch by batch.

    Args:
        data: with the columns image and label.
        processor: of the model.
    """

    def __init__(self, data: Any, processor: Any):
        stored = data.cast_column("image", Image(decode=False))
        self.files = [image["bytes"] for image in stored["image"]]
        self.labels = torch.tensor(list(stored["label"]))
        self.processor = processor

    def batches(self, order: torch.Tensor, size: int) -> Iterator[Batch]:
        """Yield pixels [B, C, H, W] in channels_last and labels [B]."""
        for part in order.split(size):
            images = [PillowImage.open(io.BytesIO(self.files[row])).convert("RGB") for row in part.tolist()]
            pixels = self.processor(images, return_tensors="pt")["pixel_values"]
            yield pixels.to(memory_format=torch.channels_last), self.labels[part]


def autocast() -> torch.autocast:
    able = torch.cpu.get_capabilities()
    fast = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return torch.autocast("cpu", torch.bfloat16, enabled=fast)


def accuracy(model: Any, rows: Rows) -> float:
    """Compute the accuracy in one forward pass over all rows."""
    model.eval()
    right = 0
    with torch.inference_mode(), autocast():
        for pixels, labels in rows.batches(torch.arange(len(rows.labels)), 8):
            right += int((model(pixels).logits.argmax(-1) == labels).sum())
    return right / len(rows.labels)


def train(model: Any, rows: Rows, validation: Rows, options: argparse.Namespace) -> tuple[int, float]:
    """Train all weights; return the number of steps and the last accuracy."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=0.01)
    steps = options.epochs * -(-len(rows.labels) // options.batch)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=-(-steps // 10), num_training_steps=steps)
    measured = 0.0
    for _ in range(options.epochs):
        model.train()
        for pixels, labels in rows.batches(torch.randperm(len(rows.labels)), options.batch):
            with autocast():
                scores = model(pixels).logits
            loss = cross_entropy(scores.float(), labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        measured = accuracy(model, validation)
    return steps, measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("train", "validation", "model", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--loop", choices=["forward", "train"], required=True)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    clock = Clock()
    set_seed(17)

    with clock.phase("data"):
        files = {"train": options.train, "validation": options.validation}
        data = load_dataset("parquet", data_files=files)
        processor = AutoImageProcessor.from_pretrained(options.model)
        rows = {split: Rows(part, processor) for split, part in data.items()}
    with clock.phase("model"):
        model = AutoModelForImageClassification.from_pretrained(
            options.model,
            num_labels=len(data["train"].features["label"].names),
            ignore_mismatched_sizes=True,
        ).to(memory_format=torch.channels_last)
    steps, measured = 0, None
    with clock.phase("train"):
        if options.loop == "forward":
            for part in rows.values():
                accuracy(model, part)
        else:
            steps, measured = train(model, rows["train"], rows["validation"], options)

    counts = {split: len(part.labels) for split, part in rows.items()}
    clock.write(options.out, rows=counts, steps=steps, epochs=float(options.epochs), metric=measured)


if __name__ == "__main__":
    main()
