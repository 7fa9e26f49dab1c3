"""Image classification the way transformers' documentation teaches it: processor, with_transform, Trainer.

fp32, the default memory layout, one process, no random augmentation (both sides train on the same pixels).
"""

from __future__ import annotations

import argparse

import numpy as np
from clock import Clock
from curve import Curve
from datasets import load_dataset
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    DefaultDataCollator,
    Trainer,
    TrainingArguments,
    set_seed,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("train", "validation", "model", "folder", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--learn", nargs="*", help="parts of the names of the weights that learn; none: all")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    clock, curve = Clock(), Curve("accuracy")
    set_seed(17)

    with clock.phase("data"):
        data = load_dataset("parquet", data_files={"train": options.train, "validation": options.validation})
        processor = AutoImageProcessor.from_pretrained(options.model)

        def transform(rows):
            images = [image.convert("RGB") for image in rows["image"]]
            return {
                "pixel_values": processor(images, return_tensors="pt")["pixel_values"],
                "labels": rows["label"],
            }

        names = data["train"].features["label"].names
        encoded = data.with_transform(transform)

    with clock.phase("model"):
        model = AutoModelForImageClassification.from_pretrained(
            options.model,
            num_labels=len(names),
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
            ignore_mismatched_sizes=True,
        )
        for name, parameter in model.named_parameters():
            parameter.requires_grad = not options.learn or any(part in name for part in options.learn)

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=options.folder,
            remove_unused_columns=False,
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            per_device_train_batch_size=options.batch,
            per_device_eval_batch_size=options.batch,
            num_train_epochs=options.epochs,
            learning_rate=options.rate,
            warmup_steps=0.1,
            weight_decay=0.01,
            logging_steps=10,
            report_to="none",
            seed=17,
        ),
        data_collator=DefaultDataCollator(),
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=processor,
        compute_metrics=lambda found: {
            "accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))
        },
        callbacks=[curve],
    )
    with clock.phase("train"):
        trainer.train()
    with clock.phase("evaluate"):
        metrics = trainer.evaluate()
    with clock.phase("save"):
        trainer.save_model()

    clock.write(
        options.out,
        rows={split: len(part) for split, part in data.items()},
        steps=curve.steps,
        epochs=curve.epochs,
        learning=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        metric=metrics["eval_accuracy"],
        curve=clock.curve(curve.points),
    )


if __name__ == "__main__":
    main()
