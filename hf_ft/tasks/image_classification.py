"""Image classification: one picture in, one class out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hf_ft.errors import DataError
from hf_ft.recipe.schema import PositiveFloat, Section
from hf_ft.targets.classes import SingleLabel
from hf_ft.task import Batch, Inspection, Item, Ready, Role, Row
from hf_ft.tasks._target import TargetTask

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.inputs.image_processor import Pixels
    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Loaded

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


class ImageClassification(TargetTask):
    """One label per image, softmax over the classes of the training split."""

    name = "image-classification"
    baseline_name = SingleLabel.baseline_name
    summary = "one picture in, one class out (ViT, ResNet, ConvNeXt, Swin, timm, ...)"
    auto_class = "AutoModelForImageClassification"
    roles: ClassVar = {
        "image": Role("a picture: a file or its bytes", usual=("img", "picture", "photo", "file", "path")),
        "label": Role(
            "the class of the picture", target=True, usual=("class", "category", "target", "labels")
        ),
    }
    main_metric = SingleLabel.main_metric
    greater_is_better = SingleLabel.greater_is_better
    class_role = "label"
    headline_metrics = SingleLabel.headline_metrics
    example_input = "picture.png"
    media_role = "image"
    encodes_in_threads = True
    pipeline_tag = "image-classification"
    pipeline_arguments = repr(example_input)
    Options, Augment, Loss = Options, Augment, Loss

    target: SingleLabel

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # How the processor is used; found with the first pictures that are encoded.
        self.pixels: Pixels | None = None
        self.target = SingleLabel(self.loss_options.class_weights, self.loss_options.label_smoothing)

    # Data

    def inspect(self, row: Row) -> Inspection:
        """Decode the picture once: is it readable, and what are its digest and perceptual hash?"""
        from hf_ft.inputs.image_transforms import content_digest, open_image, perceptual_hash

        try:
            image = open_image(row["image"], row["id"])
        except DataError as error:
            return Inspection(problem=str(error))
        return Inspection(digest=content_digest(image), perceptual=perceptual_hash(image))

    def fit(self, train: Any) -> None:
        """Learn the classes and their weights from the training rows."""
        self.target.fit(train.column("label"), train.ids)

    def check(self, split: str, rows: Any) -> None:
        """Refuse labels that the training rows do not have."""
        self.target.check(split, rows.column("label"), rows.ids)

    def state(self) -> dict[str, Any]:
        """The classes in id order."""
        return self.target.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back the classes."""
        self.target.restore(state)

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """How pixels reach the model, tried on training pictures."""
        from hf_ft.inputs.image_processor import pixels_of
        from hf_ft.inputs.image_transforms import open_image

        train = rows["train"]
        few = [train[index] for index in sorted({0, len(train) // 2, len(train) - 1})]
        self.pixels = pixels_of(self.processor, [open_image(row["image"], row["id"]) for row in few])
        if self.mixes:
            return ["pixels: floats of the processor in training, because mixup and cutmix blend them"]
        return [str(self.pixels)]

    # Model

    def load(self, section: ModelSection) -> Loaded:
        """Load an image classifier with one output per class, and its own processor."""
        from hf_ft.model.load import load_model, load_processor

        size = {} if self.options.image_size is None else {"image_size": self.options.image_size}
        loaded = load_model(self.auto_class, section, self.target.config)
        loaded.processor = load_processor("AutoImageProcessor", section, loaded.model, **size)
        self.processor = loaded.processor
        return loaded

    def load_processor(self, folder: str) -> None:
        """Read the processor that was saved with the model."""
        from transformers import AutoImageProcessor

        self.processor = AutoImageProcessor.from_pretrained(folder)

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Pictures to `pixel_values` [C, H, W] by the saved processor; labels to class ids.

        uint8 where `finish` can make the processor's own floats of them; floats where they are to be mixed.
        """
        pixels = self._encode_pixels(rows, rngs)
        items: list[Item] = [{"pixel_values": pixel} for pixel in pixels]
        for item, row in zip(items, rows, strict=True):
            if "label" in row:
                item["labels"] = self.target.encode(row["label"])
        return items

    def _encode_pixels(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> torch.Tensor:
        import torch

        from hf_ft.inputs.image_processor import pixels_of, whole
        from hf_ft.inputs.image_transforms import augmentation, open_image

        mixed = rngs is not None and self.mixes
        if all(isinstance(row["image"], Ready) for row in rows):
            self.pixels = pixels_of(self.processor, (), self.pixels)
            ready = torch.stack([row["image"].tensor for row in rows])
            return self.pixels.finish(ready) if mixed else ready
        images = [open_image(row["image"], row["id"]) for row in rows]
        if rngs is not None:
            augment = augmentation(self.augment.policy, flip=self.augment.flip, crop=self.augment.crop)
            images = [augment(image, rng) for image, rng in zip(images, rngs, strict=True)]
        if mixed or not self.shortcuts:
            return whole(self.processor, images)
        self.pixels = pixels_of(self.processor, images, self.pixels)
        return self.pixels.encode(images)

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Gather pictures that are kept as they leave the processor's geometry; others go one by one."""
        import torch

        from hf_ft.inputs.decoded_rows import DecodedRows

        if not (isinstance(rows, DecodedRows) and rows.ready):
            return None
        batch: Batch = {"pixel_values": rows.stacked(indices)}
        if "label" in rows.others.columns:
            labels = [self.target.encode(rows.others[int(index)]["label"]) for index in indices]
            batch["labels"] = torch.tensor(labels)
        return batch

    def media(self, rows: Sequence[Row], *, ready: bool) -> list[torch.Tensor] | None:
        """Pictures as RGB [H, W, 3], or after the processor's geometry [C, H, W]."""
        import numpy as np
        import torch

        from hf_ft.inputs.image_processor import pixels_of
        from hf_ft.inputs.image_transforms import open_image

        images = [open_image(row["image"], row["id"]) for row in rows]
        if not ready:
            return [torch.from_numpy(np.array(image)) for image in images]
        self.pixels = pixels_of(self.processor, images, self.pixels)
        return list(self.pixels.encode(images)) if self.pixels.table is not None else None

    def media_numbers(self, row: Row) -> int:
        """Three numbers a pixel."""
        from hf_ft.inputs.image_transforms import count_pixels

        return 3 * count_pixels(row["image"], row["id"])

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
        from hf_ft.inputs.image_transforms import cutmix, mixup

        methods = [(mixup, self.augment.mixup), (cutmix, self.augment.cutmix)]
        wanted = [(method, alpha) for method, alpha in methods if alpha > 0]
        method, alpha = wanted[int(rng.integers(len(wanted)))]
        pixels, labels = method(
            item["pixel_values"], other["pixel_values"], self._soft(item), self._soft(other), alpha, rng
        )
        return {**item, "pixel_values": pixels, "labels": labels}

    def _soft(self, item: Item) -> torch.Tensor:
        import torch

        return torch.nn.functional.one_hot(torch.tensor(item["labels"]), len(self.target.label_map)).float()

    def collate(self, items: Sequence[Item]) -> Batch:
        """`pixel_values` [B, C, H, W]; `labels` [B] class ids, or [B, K] class shares after mixing."""
        import torch

        batch: Batch = {"pixel_values": torch.stack([item["pixel_values"] for item in items])}
        if "labels" in items[0]:
            labels = [item["labels"] for item in items]
            batch["labels"] = torch.stack(labels) if torch.is_tensor(labels[0]) else torch.tensor(labels)
        return batch

    def finish(self, batch: Batch) -> Batch:
        """Pixels that came as uint8 become the processor's own floats [B, C, H, W]."""
        import torch

        from hf_ft.inputs.image_processor import pixels_of

        pixels = batch.get("pixel_values")
        if pixels is None or pixels.dtype != torch.uint8:
            return batch
        # Worker processes encode, and prove it on their pictures, on their own.
        self.pixels = pixels_of(self.processor, (), self.pixels)
        return {**batch, "pixel_values": self.pixels.finish(pixels)}

    # Evaluation

    def thumbnail(self, row: Row) -> str:
        """The picture, at most 96 pixels wide."""
        from hf_ft.inputs.image_transforms import open_image, thumbnail

        return thumbnail(open_image(row["image"], row["id"]))

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
