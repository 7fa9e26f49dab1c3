"""Does torch.compile pay on this machine? Times steps of full fine-tuning, eager and compiled.

    python -m benchmarks.compiled

The first compiled step, which includes compiling, is timed separately.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from benchmarks.prepare import sample_model
from hf_ft.model.allocator import memory_kept

ROWS, CLASSES, TRIES = 32, 10, 5


def step(model: Any, batch: dict[str, torch.Tensor]) -> float:
    begun = time.perf_counter()
    scores = model(**batch).logits
    torch.nn.functional.cross_entropy(scores, torch.zeros(ROWS, dtype=torch.int64)).backward()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - begun


def measure(name: str, model: Any, batch: dict[str, torch.Tensor]) -> str:
    step(model.train(), batch)
    eager = min(step(model, batch) for _ in range(TRIES))
    compiled = torch.compile(model)
    first = step(compiled, batch)
    step(compiled, batch)
    later = min(step(compiled, batch) for _ in range(TRIES))
    gain = eager - later
    pays = f"pays after {first / gain:.0f} steps" if gain > 0 else "never pays"
    ratio = f"eager / compiled {eager / later:.2f}"
    return f"{name}: {ratio}, the first step took as long as {first / eager:.0f} eager ones: {pays}"


def main() -> None:
    options: dict[str, Any] = {"num_labels": CLASSES, "ignore_mismatched_sizes": True}
    network = AutoModelForImageClassification.from_pretrained(sample_model("efficientnet-lite0"), **options)
    network.to(memory_format=torch.channels_last)
    reader = AutoModelForSequenceClassification.from_pretrained(sample_model("minilm"), **options)
    texts = {
        "input_ids": torch.randint(5, 20_000, (ROWS, 24)),
        "attention_mask": torch.ones(ROWS, 24, dtype=torch.int64),
    }
    with memory_kept("cpu"):
        print(measure("EfficientNet-Lite0", network, {"pixel_values": torch.randn(ROWS, 3, 224, 224)}))
        print(measure("MiniLM", reader, texts))


if __name__ == "__main__":
    main()
