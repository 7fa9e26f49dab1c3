"""Text classification the way transformers' run_glue example does it: tokenise with map, then the Trainer.

fp32, one process. `--pad max_length` is the example's default (every sentence padded to 128 tokens);
`--pad batch` is its option to pad to the longest sentence of the batch.
"""

from __future__ import annotations

import argparse

import numpy as np
from clock import Clock
from curve import Curve
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("train", "validation", "model", "folder", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--learn", nargs="*", help="parts of the names of the weights that learn; none: all")
    parser.add_argument("--pad", choices=["max_length", "batch"], default="max_length")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-4)
    options = parser.parse_args()
    clock, curve = Clock(), Curve("accuracy")
    set_seed(17)

    with clock.phase("data"):
        data = load_dataset("parquet", data_files={"train": options.train, "validation": options.validation})
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        padding = "max_length" if options.pad == "max_length" else False

        def tokenise(rows):
            found = tokenizer(rows["text"], padding=padding, max_length=options.max_length, truncation=True)
            return {**found, "labels": rows["label"]}

        encoded = data.map(tokenise, batched=True, remove_columns=data["train"].column_names)
        names = data["train"].features["label"].names

    with clock.phase("model"):
        model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=len(names))
        for name, parameter in model.named_parameters():
            parameter.requires_grad = not options.learn or any(part in name for part in options.learn)

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=options.folder,
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
        data_collator=default_data_collator if padding else DataCollatorWithPadding(tokenizer),
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=tokenizer,
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
