"""The input of pictures: decode them, augment them, and compute pixel values with the saved processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hf_ft.errors import DataError
from hf_ft.inputs.base_input import Input
from hf_ft.inputs.raw_inputs import media_files, read_rows
from hf_ft.recipe.schema import Section
from hf_ft.task import MOVING, Batch, Inspection, Item, Preprocessed, Preview, Role, Row, Trait

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.inputs.image_processor import TwoStageProcessor
    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Loaded


class ImageOptions(Section):
    """Keys inside `task:` of tasks that read pictures."""

    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Side of the square picture that the model gets, in pixels; null: as in pretraining."""


class ImageAugment(Section):
    """Keys of `augment:` for pictures. Random numbers depend only on (seed, epoch, row)."""

    policy: Literal["none", "light", "randaugment", "trivialaugment"] = "none"
    """Random augmentation of each training image; light: small shifts, rotations, zooms, colour changes."""
    flip: Literal["none", "horizontal", "both"] = "none"
    """Mirror half of the images. Not for signs, letters or other objects whose mirror image differs."""
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Crop at random to at least this share of the area; 1: no crop."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Blend each image with another one; the share is drawn from Beta(mixup, mixup); 0: no mixup."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Paste a part of another image; its area is drawn from Beta(cutmix, cutmix); 0: no cutmix."""


class ImageInput(Input):
    """One picture for each row, encoded as `pixel_values` [C, H, W]."""

    roles: ClassVar = {
        "image": Role("a picture: a file or its bytes", usual=("img", "picture", "photo", "file", "path"))
    }
    Options, Augment = ImageOptions, ImageAugment
    traits: ClassVar = {
        "transparent": Trait(
            "transparency is ignored, as in transformers' own pipeline, so the hidden colours below "
            "transparent pixels are used; to avoid this, draw the pictures on a background first"
        ),
        "over 8 bits": Trait(
            "their values are scaled to 8 bits; transformers' pipeline would clip them to white, so predict "
            "with hf_ft's Predictor",
            as_pipeline=False,
        ),
        **{name: Trait() for name in ("grey", "palette", "CMYK", "rotated by EXIF", "very wide or tall")},
    }
    media_roles = ("image",)
    encodes_in_threads = True

    def __init__(self, options: Any, augment: Any):
        super().__init__(options, augment)
        # The processor in two stages; set when the first pictures are encoded.
        self.two_stage: TwoStageProcessor | None = None

    # Data

    def inspect(self, row: Row) -> Inspection:
        """Decode the picture; return its digest, perceptual hash and traits, or why it is not readable."""
        from hf_ft.inputs.image_files import content_digest, open_with_traits, perceptual_hash

        try:
            image, traits = open_with_traits(row["image"], row["id"])
        except DataError as error:
            return Inspection(problem=str(error))
        return Inspection(digest=content_digest(image), perceptual=perceptual_hash(image), traits=traits)

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """Say how pixels reach the model; tested on three training pictures."""
        from hf_ft.inputs.image_processor import two_stage_processor

        if self.mixes:
            return ["pixels: floats of the processor in training, because mixup and cutmix blend floats"]
        train = rows["train"]
        few = [train[index] for index in sorted({0, len(train) // 2, len(train) - 1})]
        return [str(two_stage_processor(self.processor, [_open_image(row) for row in few]))]

    # Model

    def load(self, auto_class: str, section: ModelSection, config: Mapping[str, Any]) -> Loaded:
        """Load an image model and its image processor."""
        from hf_ft.model.load import load_model, load_processor

        size = {} if self.options.image_size is None else {"image_size": self.options.image_size}
        loaded = load_model(auto_class, section, config)
        self.processor = load_processor("AutoImageProcessor", section, loaded.model, **size)
        loaded.processor = self.processor
        return loaded

    def load_processor(self, folder: str) -> None:
        """Load the processor that was saved with the model."""
        from transformers import AutoImageProcessor

        self.processor = AutoImageProcessor.from_pretrained(folder)

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Compute `pixel_values` [C, H, W] of pictures with the saved processor.

        They are uint8 where `finish` can compute the processor's floats from them on the device, and floats
        otherwise or where they will be mixed. The entries of a row under MOVING are augmented together with
        its picture and returned under the same key.
        """
        import torch

        from hf_ft.inputs.image_processor import two_stage_processor

        if all(isinstance(row["image"], Preprocessed) for row in rows):
            self.two_stage = two_stage_processor(self.processor, (), self.two_stage)
            stacked = torch.stack([row["image"].tensor for row in rows])
            pixels = self.two_stage.finish(stacked) if rngs is not None and self.mixes else stacked
            samples: list[dict[str, Any]] = [dict(row.get(MOVING, {})) for row in rows]
        else:
            samples = self._augmented(rows, rngs)
            pixels = self._process([sample.pop("image") for sample in samples], mixed=rngs is not None)
        moved: list[Item] = [{MOVING: sample} if sample else {} for sample in samples]
        return [{"pixel_values": one, **rest} for one, rest in zip(pixels, moved, strict=True)]

    def _augmented(
        self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None
    ) -> list[dict[str, Any]]:
        """Open the pictures, and augment each together with the entries that move with it."""
        from hf_ft.inputs.image_augmentation import augmentation

        samples = [{"image": _open_image(row), **row.get(MOVING, {})} for row in rows]
        if rngs is None:
            return samples
        augment = augmentation(self.augment.policy, flip=self.augment.flip, crop=self.augment.crop)
        return [augment(sample, rng) for sample, rng in zip(samples, rngs, strict=True)]

    def _process(self, images: list[Any], *, mixed: bool) -> torch.Tensor:
        from hf_ft.inputs.image_processor import process_in_one_call, two_stage_processor

        if (mixed and self.mixes) or not self.shortcuts:
            return process_in_one_call(self.processor, images)
        self.two_stage = two_stage_processor(self.processor, images, self.two_stage)
        return self.two_stage.encode(images)

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Gather the cached output of the processor's geometry; other pictures are encoded one by one."""
        from hf_ft.inputs.decoded_rows import DecodedRows

        if not (isinstance(rows, DecodedRows) and rows.preprocessed):
            return None
        return {"pixel_values": rows.stacked(indices)["image"]}

    def media(self, rows: Sequence[Row], *, preprocessed: bool) -> list[dict[str, torch.Tensor]] | None:
        """Decode pictures as RGB [H, W, 3], or give the output of the processor's geometry [C, H, W]."""
        import numpy as np
        import torch

        from hf_ft.inputs.image_processor import two_stage_processor

        images = [_open_image(row) for row in rows]
        if not preprocessed:
            return [{"image": torch.from_numpy(np.array(image))} for image in images]
        self.two_stage = two_stage_processor(self.processor, images, self.two_stage)
        if self.two_stage.table is None:
            return None
        return [{"image": pixels} for pixels in self.two_stage.encode(images)]

    def media_numbers(self, row: Row) -> int:
        """Count three values for each pixel."""
        from hf_ft.inputs.image_files import count_pixels

        return 3 * count_pixels(row["image"], row["id"])

    @property
    def is_random(self) -> bool:
        """Whether training images are augmented at random."""
        return self.augment.policy != "none" or self.augment.flip != "none" or self.augment.crop < 1

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix is on."""
        return self.augment.mixup > 0 or self.augment.cutmix > 0

    def mix(self, items: Sequence[Item], rng: np.random.Generator) -> tuple[Item, Sequence[float]]:
        """Apply mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019); draw one of them where both are on."""
        from hf_ft.inputs.image_augmentation import cutmix, mixup

        methods = [(mixup, self.augment.mixup), (cutmix, self.augment.cutmix)]
        wanted = [(method, alpha) for method, alpha in methods if alpha > 0]
        method, alpha = wanted[int(rng.integers(len(wanted)))]
        pixels, share = method(items[0]["pixel_values"], items[1]["pixel_values"], alpha, rng)
        return {**items[0], "pixel_values": pixels}, (share, 1 - share)

    def finish(self, batch: Batch) -> Batch:
        """Turn uint8 pixels into the processor's floats [B, C, H, W]."""
        import torch

        from hf_ft.inputs.image_processor import two_stage_processor

        pixels = batch.get("pixel_values")
        if pixels is None or pixels.dtype != torch.uint8:
            return batch
        # With worker processes, only the workers have encoded pictures: here the stages are not tested yet.
        self.two_stage = two_stage_processor(self.processor, (), self.two_stage)
        return {**batch, "pixel_values": self.two_stage.finish(pixels)}

    # Evaluation and prediction

    def preview(self, row: Row) -> Preview:
        """Show the picture, at most 96 pixels wide."""
        from hf_ft.inputs.image_files import small_picture

        return Preview(small_picture(_open_image(row)))

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Read paths of pictures, folders or files of rows, PIL images, arrays, a DataFrame, or rows."""

        def single(value: Any, number: str) -> list[Row]:
            if isinstance(value, (str, Path)):
                return [{"id": str(path), "image": str(path)} for path in media_files(Path(value), "image")]
            return [{"id": number, "image": value}]

        given = list(inputs) if isinstance(inputs, tuple) else inputs
        return read_rows(given, self.roles, self.columns, single)

    @property
    def example(self) -> str:
        """The name of a picture file."""
        return "picture.png"

    @property
    def pipeline_options(self) -> Mapping[str, Any] | None:
        """No options: the pipeline reads a file as hf_ft does, except where a trait says otherwise."""
        return {}

    def pipeline_input(self, row: Row) -> Any:
        """Return the picture as Pillow opens it; the pipeline opens a file in the same way."""
        from hf_ft.inputs.image_files import found_image

        return found_image(row["image"])


def _open_image(row: Row) -> Any:
    from hf_ft.inputs.image_files import open_image

    return open_image(row["image"], row["id"])
