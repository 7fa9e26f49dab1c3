"""Image classification: one picture in, one class out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hf_ft.data.labels import LabelMap
from hf_ft.errors import DataError
from hf_ft.evaluate.metrics import CLASSIFICATION_DIRECTIONS
from hf_ft.recipe.schema import PositiveFloat, Section
from hf_ft.task import Batch, Evaluation, Figure, Inspection, Item, Metrics, Role, Row, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.model.load import Loaded
    from hf_ft.recipe.schema import ModelSection

IMAGE_FILES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}


class Options(Section):
    """Keys inside `task:` of image-classification."""

    image_size: Annotated[int, Field(ge=8, le=4096)] | None = Field(
        None,
        description="Side of the square that the model sees, in pixels; null: as in pretraining.",
    )


class Augment(Section):
    """Keys of `augment:` of image-classification. Every draw depends on (seed, epoch, row) alone."""

    policy: Literal["none", "light", "randaugment", "trivialaugment"] = Field(
        "none",
        description="Random changes of each training image; light: small shifts, turns, zooms and colours.",
    )
    flip: Literal["none", "horizontal", "both"] = Field(
        "none", description="Mirror half of the images. Not for signs, letters or anything with a side."
    )
    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Crop at random, keeping at least this share of the area; 1: no crop."
    )
    mixup: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Blend each image with another one, share drawn from Beta(mixup, mixup); 0: never."
    )
    cutmix: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Paste a part of another image, area drawn from Beta(cutmix, cutmix); 0: never."
    )


class Loss(Section):
    """Keys of `loss:` of image-classification."""

    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = Field(
        None,
        description="Weight of each class: balanced (inverse frequency), or class name -> weight.",
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of the target that is spread over all classes (Szegedy et al. 2016)."
    )


class ImageClassification(Task):
    """One label per image, softmax over the classes of the training split."""

    name = "image-classification"
    baseline_name = "always the most frequent class of train"
    summary = "one picture in, one class out (ViT, ResNet, ConvNeXt, Swin, timm, ...)"
    auto_class = "AutoModelForImageClassification"
    roles: ClassVar = {
        "image": Role("a picture: a file or its bytes", usual=("img", "picture", "photo", "file", "path")),
        "label": Role(
            "the class of the picture", target=True, usual=("class", "category", "target", "labels")
        ),
    }
    main_metric = "accuracy"
    greater_is_better = CLASSIFICATION_DIRECTIONS
    class_role = "label"
    headline_metrics = ("balanced_accuracy", "macro_f1", "roc_auc")
    example_input = "picture.png"
    pipeline_tag = "image-classification"
    pipeline_arguments = repr(example_input)
    Options, Augment, Loss = Options, Augment, Loss

    label_map: LabelMap
    class_weights: list[float]

    # Data

    def inspect(self, row: Row) -> Inspection:
        """Decode the picture once: is it readable, and what are its digest and perceptual hash?"""
        from hf_ft.data.images import content_digest, open_image, perceptual_hash

        try:
            image = open_image(row["image"], row["id"])
        except DataError as error:
            return Inspection(problem=str(error))
        return Inspection(digest=content_digest(image), perceptual=perceptual_hash(image))

    def fit(self, train: Any) -> None:
        """Build the label map and the class weights from the training rows."""
        names = train.column("label")
        self.label_map = LabelMap.fit(names, train.ids)
        self.class_weights = self._weights(names)

    def _weights(self, names: Sequence[Any]) -> list[float]:
        setting = self.loss_options.class_weights
        classes = self.label_map.names
        if setting is None:
            return [1.0] * len(classes)
        if setting == "balanced":
            counts = [0] * len(classes)
            for name in names:
                counts[self.label_map.id(name)] += 1
            return [len(names) / (len(classes) * count) for count in counts]
        unknown = sorted(set(setting) - set(classes))
        if unknown:
            raise DataError(
                f"loss.class_weights: no class {unknown[0]!r} in the training rows; classes: {classes}"
            )
        return [float(setting.get(name, 1.0)) for name in classes]

    def check(self, split: str, rows: Any) -> None:
        """Every label is one of the training rows' classes."""
        self.label_map.check(split, rows.column("label"), rows.ids)

    def state(self) -> dict[str, Any]:
        """The label map."""
        return {"labels": self.label_map.to_json()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back the label map."""
        self.label_map = LabelMap.from_json(state["labels"])

    def labels(self) -> list[str]:
        """Class names in id order."""
        return list(self.label_map.names)

    # Model

    def load(self, section: ModelSection) -> Loaded:
        """Load an image classifier with one output per class, and its own processor."""
        from hf_ft.model.load import load_model, load_processor

        size = {} if self.options.image_size is None else {"image_size": self.options.image_size}
        loaded = load_model(self.auto_class, section, self.label_map.config)
        loaded.processor = load_processor("AutoImageProcessor", section, loaded.model, **size)
        self.processor = loaded.processor
        return loaded

    def load_processor(self, folder: str) -> None:
        """Read the processor that was saved with the model."""
        from transformers import AutoImageProcessor

        self.processor = AutoImageProcessor.from_pretrained(folder)

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Pictures to `pixel_values` [C, H, W] by the saved processor; labels to class ids."""
        from hf_ft.data.images import augmentation, open_image

        images = [open_image(row["image"], row["id"]) for row in rows]
        if rngs is not None:
            augment = augmentation(self.augment.policy, flip=self.augment.flip, crop=self.augment.crop)
            images = [augment(image, rng) for image, rng in zip(images, rngs, strict=True)]
        pixels = self.processor(images, return_tensors="pt")["pixel_values"]
        items: list[Item] = [{"pixel_values": pixel} for pixel in pixels]
        for item, row in zip(items, rows, strict=True):
            if "label" in row:
                item["labels"] = self.label_map.id(row["label"])
        return items

    @property
    def random(self) -> bool:
        """Whether training images are changed at random."""
        return self.augment.policy != "none" or self.augment.flip != "none" or self.augment.crop < 1

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix is on."""
        return self.augment.mixup > 0 or self.augment.cutmix > 0

    def mix(self, item: Item, other: Item, rng: np.random.Generator) -> Item:
        """Mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019), a coin deciding where both are on."""
        from hf_ft.data.images import cutmix, mixup

        methods = [(mixup, self.augment.mixup), (cutmix, self.augment.cutmix)]
        wanted = [(method, alpha) for method, alpha in methods if alpha > 0]
        method, alpha = wanted[int(rng.integers(len(wanted)))]
        pixels, labels = method(
            item["pixel_values"], other["pixel_values"], self._soft(item), self._soft(other), alpha, rng
        )
        return {**item, "pixel_values": pixels, "labels": labels}

    def _soft(self, item: Item) -> torch.Tensor:
        import torch

        return torch.nn.functional.one_hot(torch.tensor(item["labels"]), len(self.label_map.names)).float()

    def collate(self, items: Sequence[Item]) -> Batch:
        """`pixel_values` [B, C, H, W]; `labels` [B] class ids, or [B, K] class shares after mixing."""
        import torch

        batch: Batch = {"pixel_values": torch.stack([item["pixel_values"] for item in items])}
        if "labels" in items[0]:
            labels = [item["labels"] for item in items]
            batch["labels"] = torch.stack(labels) if torch.is_tensor(labels[0]) else torch.tensor(labels)
        return batch

    def loss(self, model: Any, outputs: Any, batch: Batch) -> torch.Tensor:
        """Cross-entropy of each row [B], weighted by class."""
        import torch.nn.functional as functional

        logits = outputs.logits.float()
        return functional.cross_entropy(
            logits,
            batch["labels"],
            weight=logits.new_tensor(self.class_weights),
            label_smoothing=self.loss_options.label_smoothing if model.training else 0.0,
            reduction="none",
        )

    def count(self, batch: Batch) -> torch.Tensor:
        """The class weight of each row [B]: the mean is the weighted mean, as in torch."""
        import torch

        labels = batch["labels"]
        weights = labels.new_tensor(self.class_weights, dtype=torch.float32)
        return weights[labels] if labels.ndim == 1 else labels @ weights

    def predict(self, model: Any, outputs: Any, batch: Batch) -> list[dict[str, Any]]:
        """Class id, probabilities [K] and logits [K] of each row."""
        logits = outputs.logits.float().cpu()
        scores = logits.softmax(-1).numpy()
        classes = logits.argmax(-1).tolist()
        return [
            {"class": k, "scores": s, "logits": x}
            for k, s, x in zip(classes, scores, logits.numpy(), strict=True)
        ]

    # Evaluation

    def references(self, rows: Any) -> list[int]:
        """Class ids."""
        return [self.label_map.id(name) for name in rows.column("label")]

    def metrics(self) -> Metrics:
        """Accuracy and its relatives, per class and as a confusion matrix."""
        from hf_ft.evaluate.metrics import ClassificationMetrics

        return ClassificationMetrics(self.labels(), self.extra_metrics)

    def baseline(self, train: Any, rows: Any) -> dict[str, float]:
        """Always the most frequent class of the training rows."""
        from hf_ft.evaluate.baselines import majority_baseline

        return majority_baseline(self.references(train), self.references(rows), self.labels())

    def decode(self, result: dict[str, Any]) -> dict[str, Any]:
        """The class by name, its probability, and the probabilities of all classes."""
        names = self.label_map.names
        scores = {name: float(score) for name, score in zip(names, result["scores"], strict=True)}
        return {"label": names[result["class"]], "score": scores[names[result["class"]]], "scores": scores}

    def decode_reference(self, reference: int) -> str:
        """The class by name."""
        return self.label_map.names[reference]

    def describe(self, result: dict[str, Any]) -> str:
        """The class and its probability."""
        return f"{self.label_map.names[result['class']]} ({result['scores'][result['class']]:.0%})"

    def thumbnail(self, row: Row) -> str:
        """The picture, at most 96 pixels wide."""
        from hf_ft.data.images import open_image, thumbnail

        return thumbnail(open_image(row["image"], row["id"]))

    def difference(self, a: dict[str, Any], b: dict[str, Any]) -> float:
        """Largest difference between two rows of logits."""
        return float(abs(a["logits"] - b["logits"]).max())

    def figures(self, evaluation: Evaluation) -> list[Figure]:
        """Confusion matrix, classes from worst to best, and how far the probabilities can be believed."""
        import numpy as np

        from hf_ft.evaluate.figures import confusion_figure, per_class_figure, reliability_figure

        scores = np.stack([result["scores"] for result in evaluation.results])
        return [
            confusion_figure(evaluation.metrics["confusion"], self.labels()),
            per_class_figure(evaluation.metrics["per_class"]),
            reliability_figure(scores, evaluation.references),
        ]

    # Prediction

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Paths of pictures, folders or tables, PIL images, arrays, a DataFrame, or rows with `image`."""
        if isinstance(inputs, (str, Path)) or not isinstance(inputs, Sequence):
            inputs = [inputs]
        rows: list[Row] = []
        for value in inputs:
            if isinstance(value, dict):
                rows.append({"id": str(len(rows)), **value})
            elif isinstance(value, (str, Path)) or hasattr(value, "columns"):
                rows += self._read_rows(value)
            else:
                rows.append({"id": str(len(rows)), "image": value})
        return rows

    def _read_rows(self, source: Any) -> list[Row]:
        """Rows of a DataFrame or a file of rows; or a picture; or all pictures of a folder."""
        from hf_ft.data.columns import map_columns
        from hf_ft.data.files import format_of, read_files
        from hf_ft.data.sources import as_datasets
        from hf_ft.data.table import Table

        if isinstance(source, (str, Path)):
            if format_of(str(source)) is None:
                return [{"id": str(path), "image": str(path)} for path in _pictures(Path(source))]
            name, found = str(source), read_files([str(source)])
        else:
            name, found = "row", as_datasets(source, "inputs")["train"]
        columns = map_columns(found.column_names, {"image": self.roles["image"]}, {}, "inputs")
        return list(Table(found, columns, [f"{name}/{index}" for index in range(len(found))]))


def _pictures(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(
            f"{path}: there is no such file or folder; expected a picture, a folder, or a file of rows"
        )
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_FILES)
    if not found:
        raise DataError(f"{path}: no picture in this folder; expected files ending in {sorted(IMAGE_FILES)}")
    return found
