"""Pictures as an input: read, augmented, and turned into pixels by the saved processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hf_ft.errors import DataError
from hf_ft.inputs.base import Input
from hf_ft.inputs.raw_inputs import media_files, read_rows
from hf_ft.recipe.schema import Section
from hf_ft.task import MOVING, Batch, Inspection, Item, Preview, Ready, Role, Row, Trait

if TYPE_CHECKING:
    import numpy as np
    import torch

    from hf_ft.inputs.image_processor import Pixels
    from hf_ft.recipe.schema import ModelSection
    from hf_ft.task import Loaded


class ImageOptions(Section):
    """Keys inside `task:` of tasks that read pictures."""

    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Side of the square that the model sees, in pixels; null: as in pretraining."""


class ImageAugment(Section):
    """Keys of `augment:` for pictures. Every draw depends on (seed, epoch, row) alone."""

    policy: Literal["none", "light", "randaugment", "trivialaugment"] = "none"
    """Random changes of each training image; light: small shifts, turns, zooms and colours."""
    flip: Literal["none", "horizontal", "both"] = "none"
    """Mirror half of the images. Not for signs, letters or anything with a side."""
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Crop at random, keeping at least this share of the area; 1: no crop."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Blend each image with another one, share drawn from Beta(mixup, mixup); 0: never."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Paste a part of another image, area drawn from Beta(cutmix, cutmix); 0: never."""


class ImageInput(Input):
    """One picture, as `pixel_values` [C, H, W]."""

    roles: ClassVar = {
        "image": Role("a picture: a file or its bytes", usual=("img", "picture", "photo", "file", "path"))
    }
    Options, Augment = ImageOptions, ImageAugment
    traits: ClassVar = {
        "transparent": Trait(
            "the colours below transparent pixels are used, as in transformers' own pipeline; to show the "
            "model what the eye sees, lay the pictures on a background before"
        ),
        "over 8 bits": Trait(
            "their values are scaled to 8 bits; transformers' pipeline clips them to white, so predict with "
            "hf_ft's Predictor",
            as_pipeline=False,
        ),
        **{name: Trait() for name in ("grey", "palette", "CMYK", "rotated by EXIF", "very wide or tall")},
    }
    media_roles = ("image",)
    encodes_in_threads = True

    def __init__(self, options: Any, augment: Any):
        super().__init__(options, augment)
        # How the processor is used; found with the first pictures that are encoded.
        self.pixels: Pixels | None = None

    # Data

    def inspect(self, row: Row) -> Inspection:
        """Decode the picture once: is it readable, and what are its digest and perceptual hash?"""
        from hf_ft.inputs.image_transforms import content_digest, open_with_traits, perceptual_hash

        try:
            image, traits = open_with_traits(row["image"], row["id"])
        except DataError as error:
            return Inspection(problem=str(error))
        return Inspection(digest=content_digest(image), perceptual=perceptual_hash(image), traits=traits)

    def notes(self, rows: Mapping[str, Any]) -> list[str]:
        """How pixels reach the model, tried on training pictures."""
        from hf_ft.inputs.image_processor import pixels_of

        if self.mixes:
            return ["pixels: floats of the processor in training, because mixup and cutmix blend them"]
        train = rows["train"]
        few = [train[index] for index in sorted({0, len(train) // 2, len(train) - 1})]
        return [str(pixels_of(self.processor, [_opened(row) for row in few]))]

    # Model

    def load(self, auto_class: str, section: ModelSection, config: Mapping[str, Any]) -> Loaded:
        """Load an image model and its own processor."""
        from hf_ft.model.load import load_model, load_processor

        size = {} if self.options.image_size is None else {"image_size": self.options.image_size}
        loaded = load_model(auto_class, section, config)
        self.processor = load_processor("AutoImageProcessor", section, loaded.model, **size)
        loaded.processor = self.processor
        return loaded

    def load_processor(self, folder: str) -> None:
        """Read the processor that was saved with the model."""
        from transformers import AutoImageProcessor

        self.processor = AutoImageProcessor.from_pretrained(folder)

    def encode(self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None) -> list[Item]:
        """Pictures to `pixel_values` [C, H, W] by the saved processor.

        uint8 where `finish` can make the processor's own floats of them; floats where they are to be mixed.
        What a row has under MOVING is augmented together with its picture, and given back under that key.
        """
        import torch

        from hf_ft.inputs.image_processor import pixels_of

        if all(isinstance(row["image"], Ready) for row in rows):
            self.pixels = pixels_of(self.processor, (), self.pixels)
            ready = torch.stack([row["image"].tensor for row in rows])
            pixels = self.pixels.finish(ready) if rngs is not None and self.mixes else ready
            samples: list[dict[str, Any]] = [dict(row.get(MOVING, {})) for row in rows]
        else:
            samples = self._augmented(rows, rngs)
            pixels = self._pixels_of([sample.pop("image") for sample in samples], mixed=rngs is not None)
        moved: list[Item] = [{MOVING: sample} if sample else {} for sample in samples]
        return [{"pixel_values": one, **rest} for one, rest in zip(pixels, moved, strict=True)]

    def _augmented(
        self, rows: Sequence[Row], rngs: Sequence[np.random.Generator] | None
    ) -> list[dict[str, Any]]:
        """Open the pictures, and change them at random, together with what moves with them."""
        from hf_ft.inputs.image_transforms import augmentation

        samples = [{"image": _opened(row), **row.get(MOVING, {})} for row in rows]
        if rngs is None:
            return samples
        augment = augmentation(self.augment.policy, flip=self.augment.flip, crop=self.augment.crop)
        return [augment(sample, rng) for sample, rng in zip(samples, rngs, strict=True)]

    def _pixels_of(self, images: list[Any], *, mixed: bool) -> torch.Tensor:
        from hf_ft.inputs.image_processor import pixels_of, whole

        if (mixed and self.mixes) or not self.shortcuts:
            return whole(self.processor, images)
        self.pixels = pixels_of(self.processor, images, self.pixels)
        return self.pixels.encode(images)

    def encode_batch(self, rows: Any, indices: np.ndarray) -> Batch | None:
        """Gather pictures that are kept as they leave the processor's geometry; others go one by one."""
        from hf_ft.inputs.decoded_rows import DecodedRows

        if not (isinstance(rows, DecodedRows) and rows.ready):
            return None
        return {"pixel_values": rows.stacked(indices)["image"]}

    def media(self, rows: Sequence[Row], *, ready: bool) -> list[dict[str, torch.Tensor]] | None:
        """Pictures as RGB [H, W, 3], or after the processor's geometry [C, H, W]."""
        import numpy as np
        import torch

        from hf_ft.inputs.image_processor import pixels_of

        images = [_opened(row) for row in rows]
        if not ready:
            return [{"image": torch.from_numpy(np.array(image))} for image in images]
        self.pixels = pixels_of(self.processor, images, self.pixels)
        if self.pixels.table is None:
            return None
        return [{"image": pixels} for pixels in self.pixels.encode(images)]

    def media_numbers(self, row: Row) -> int:
        """Three numbers a pixel."""
        from hf_ft.inputs.image_transforms import count_pixels

        return 3 * count_pixels(row["image"], row["id"])

    @property
    def is_random(self) -> bool:
        """Whether training images are changed at random."""
        return self.augment.policy != "none" or self.augment.flip != "none" or self.augment.crop < 1

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix is on."""
        return self.augment.mixup > 0 or self.augment.cutmix > 0

    def mix(self, items: Sequence[Item], rng: np.random.Generator) -> tuple[Item, Sequence[float]]:
        """Mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019), a coin deciding where both are on."""
        from hf_ft.inputs.image_transforms import cutmix, mixup

        methods = [(mixup, self.augment.mixup), (cutmix, self.augment.cutmix)]
        wanted = [(method, alpha) for method, alpha in methods if alpha > 0]
        method, alpha = wanted[int(rng.integers(len(wanted)))]
        pixels, share = method(items[0]["pixel_values"], items[1]["pixel_values"], alpha, rng)
        return {**items[0], "pixel_values": pixels}, (share, 1 - share)

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

    # Evaluation and prediction

    def preview(self, row: Row) -> Preview:
        """The picture, at most 96 pixels wide."""
        from hf_ft.inputs.image_transforms import small_picture

        return Preview(small_picture(_opened(row)))

    def read_inputs(self, inputs: Any) -> list[Row]:
        """Paths of pictures, folders or files of rows, PIL images, arrays, a DataFrame, or rows."""

        def single(value: Any, number: str) -> list[Row]:
            if isinstance(value, (str, Path)):
                return [{"id": str(path), "image": str(path)} for path in media_files(Path(value), "image")]
            return [{"id": number, "image": value}]

        given = list(inputs) if isinstance(inputs, tuple) else inputs
        return read_rows(given, self.roles, self.columns, single)

    @property
    def example(self) -> str:
        """The name of a file."""
        return "picture.png"

    @property
    def pipeline_options(self) -> Mapping[str, Any] | None:
        """The pipeline reads a file as it is read here, but for `traits` that say otherwise."""
        return {}

    def pipeline_input(self, row: Row) -> Any:
        """The picture as Pillow opens it; the pipeline opens a file the same way."""
        from hf_ft.inputs.image_transforms import found_image

        return found_image(row["image"])


def _opened(row: Row) -> Any:
    from hf_ft.inputs.image_transforms import open_image

    return open_image(row["image"], row["id"])
