"""Image regression: predict one number, or several, from a picture."""

from __future__ import annotations

from typing import ClassVar

from hf_ft.inputs.image import ImageInput
from hf_ft.targets.numbers import Number
from hf_ft.task import Role
from hf_ft.tasks._composed import ComposedTask


class ImageRegression(ComposedTask):
    """Predict numbers from a picture: an age, an amount, an angle, a distance."""

    name = "image-regression"
    summary = "one picture in, one number or several out (ViT, ResNet, ConvNeXt, Swin, timm, ...)"
    auto_class = "AutoModelForImageClassification"
    input_class, target_classes = ImageInput, (Number,)
    roles: ClassVar = {
        **ImageInput.roles,
        "target": Role(
            "the number to predict, or several",
            target=True,
            several=True,
            usual=("label", "value", "score", "y"),
        ),
    }
