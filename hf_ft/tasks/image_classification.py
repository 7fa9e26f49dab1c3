"""Image classification: predict one class, or several labels, of a picture."""

from __future__ import annotations

from typing import ClassVar, Literal

from hf_ft.inputs.image import ImageInput, ImageOptions
from hf_ft.targets.classes import MultiLabel, SingleLabel, Thresholds
from hf_ft.task import Role
from hf_ft.tasks._composed import ComposedTask


class Options(ImageOptions, Thresholds):
    """Keys inside `task:` of image-classification."""

    problem: Literal["single-label", "multi-label"] | None = None
    """null: multi-label if the labels are lists, else single-label."""


class ImageClassification(ComposedTask):
    """Predict one class, or several labels, of a picture."""

    name = "image-classification"
    summary = "one picture in; one class, or several labels, out (ViT, ResNet, ConvNeXt, Swin, timm, ...)"
    pipeline_tag = "image-classification"
    auto_class = "AutoModelForImageClassification"
    input_class, target_classes = ImageInput, (SingleLabel, MultiLabel)
    roles: ClassVar = {
        **ImageInput.roles,
        "label": Role(
            "the class of the picture, or a list of labels",
            target=True,
            usual=("class", "category", "target", "labels"),
        ),
    }
    Options = Options
