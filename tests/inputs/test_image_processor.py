"""Two stages give the processor's pixels bit for bit; where they cannot, it runs in one call."""

import numpy as np
import pytest
import torch
from PIL import Image

from hf_ft.data.device import to_device
from hf_ft.inputs import image_processor as module
from hf_ft.inputs.image_processor import process_in_one_call, two_stage_processor
from hf_ft.task import Task


def pictures(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def timm(**config):
    pytest.importorskip("timm")
    from transformers import TimmWrapperImageProcessor

    usual = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "interpolation": "bicubic"}
    return TimmWrapperImageProcessor({"input_size": [3, 24, 24], **usual, **config}, "test_efficientnet")


def processor(name, **settings):
    import transformers

    return getattr(transformers, name)(**settings)


SQUARE = {"size": {"height": 24, "width": 24}}
PROCESSORS = {
    "resize": lambda: processor("ViTImageProcessor", **SQUARE),
    "crop": lambda: processor(
        "CLIPImageProcessor", size={"shortest_edge": 28}, crop_size={"height": 24, "width": 24}
    ),
    "crop by share": lambda: processor("ConvNextImageProcessor", size={"shortest_edge": 24}),
    "channels turned, no mean": lambda: processor(
        "MobileViTImageProcessor", size={"shortest_edge": 28}, crop_size={"height": 24, "width": 24}
    ),
    "numpy": lambda: processor("ViTImageProcessorPil", **SQUARE),
    "timm": lambda: timm(crop_pct=0.9),
    "timm, border": lambda: timm(crop_mode="border"),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_two_stages_equal_one_call_bit_for_bit(name):
    made = PROCESSORS[name]()
    found = two_stage_processor(made, pictures((30, 40)))
    assert found.table is not None, found.reason
    for images in (pictures((24, 24), (60, 31), (9, 50), seed=1), pictures((33, 24), seed=2)):
        encoded = found.encode(images)
        assert encoded.dtype == torch.uint8 and encoded.shape == (len(images), 3, 24, 24)
        finished, expected = found.finish(encoded), process_in_one_call(made, images)
        assert finished.dtype == expected.dtype == torch.float32
        assert torch.equal(finished, expected)
        assert found.finish(finished) is finished, "what is finished must stay as it is"
    assert "bit for bit" in str(found)


@pytest.mark.parametrize("name", ["resize", "timm"])
def test_a_device_that_rounds_differently_uses_the_lookup_table(name, monkeypatch):
    """An accelerator multiplies by 1/255 where the CPU divides by 255: an ulp is not bit for bit."""
    arithmetic, made = module._arithmetic, PROCESSORS[name]()
    calls = []

    def rounds(processor, pixels):
        calls.append(len(pixels))
        return arithmetic(processor, pixels) * (1 + 2**-23)

    monkeypatch.setattr(module, "_arithmetic", rounds)
    found, images = two_stage_processor(made, pictures((30, 40))), pictures((40, 50), seed=3)
    assert torch.equal(found.finish(found.encode(images)), process_in_one_call(made, images))
    assert calls == [1], "asked once for a device, and not believed"


def padded():
    """Make a processor that pads after normalising: its zeros are grey and not black."""
    return processor("ViTImageProcessor", do_resize=False, do_pad=True, pad_size={"height": 90, "width": 90})


class Brighter:
    """Subtracts the mean of the picture, so its output is not a function of single values."""

    def __new__(cls):
        from transformers import ViTImageProcessor

        class Contrast(ViTImageProcessor):
            def rescale_and_normalize(self, images, do_rescale, *rest, **more):
                found = super().rescale_and_normalize(images, do_rescale, *rest, **more)
                return found - found.mean(dim=(-1, -2), keepdim=True) if do_rescale else found

        return Contrast(**SQUARE)


class Other:
    def __call__(self, images, return_tensors):
        return {"pixel_values": torch.ones(len(images), 3, 4, 4)}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (padded, "differ from one call"),
        (Brighter, "differ from one call"),
        (lambda: processor("EfficientNetImageProcessor", **SQUARE), "cannot be called in two stages"),
        (
            lambda: processor("ViTImageProcessor", **SQUARE, do_rescale=False, do_normalize=False),
            "arithmetic needs its geometry",
        ),
        (Other, "no image processor of transformers"),
    ],
)
def test_a_processor_without_equal_stages_runs_in_one_call_and_says_why(make, reason):
    made, images = make(), pictures((80, 70), seed=4)
    found = two_stage_processor(made, pictures((70, 60)))
    assert found.table is None and reason in str(found)
    expected = process_in_one_call(made, images)
    assert torch.equal(found.finish(found.encode(images)), expected)


def test_padding_is_detected_with_pictures_that_need_none():
    """The test also rotates and crops pictures, because the first rows may all have one shape."""
    assert two_stage_processor(padded(), pictures((90, 90))).table is None


def test_a_result_is_reused_only_for_its_processor():
    one, other = PROCESSORS["resize"](), PROCESSORS["crop"]()
    found = two_stage_processor(one, pictures((30, 40)))
    assert two_stage_processor(one, [], found) is found
    assert two_stage_processor(other, [], found).processor is other


def test_a_batch_is_finished_on_the_device_of_the_model():
    class Doubling(Task):
        def finish(self, batch):
            return {**batch, "x": batch["x"] * 2}

    batch = {"x": torch.ones(2)}
    assert to_device(Doubling(), batch, torch.device("cpu"))["x"].tolist() == [2, 2]
    assert to_device(Task(), batch, torch.device("cpu"))["x"].tolist() == [1, 1]
