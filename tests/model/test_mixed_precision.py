"""Full precision: neither autocast nor TF32, and everything as it was afterwards."""

import pytest
import torch

from hf_ft.model.mixed_precision import full_precision

BACKENDS = torch.backends
LAYER = torch.nn.Linear(2, 2)


def precisions():
    parts = (BACKENDS, BACKENDS.cuda.matmul, BACKENDS.cudnn.conv, BACKENDS.cudnn.rnn)
    return [part.fp32_precision for part in parts]


def test_convolutions_and_products_are_in_float32_inside_the_block():
    """With TF32, torch's default for convolutions, logits differ by 3e-3 between batch sizes (H100)."""
    before = precisions()
    assert before == ["none", "none", "tf32", "tf32"] and BACKENDS.cudnn.allow_tf32
    with full_precision(LAYER):
        # Libraries read the older names; torch raises an error where both kinds of names disagree.
        assert not BACKENDS.cudnn.allow_tf32 and not BACKENDS.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest" and "tf32" not in precisions()
        with full_precision(LAYER):
            assert not BACKENDS.cudnn.allow_tf32
        assert "tf32" not in precisions()
    assert precisions() == before and BACKENDS.cudnn.allow_tf32
    with pytest.raises(ValueError, match="inside"), full_precision(LAYER):
        raise ValueError("inside")
    assert precisions() == before


def test_a_run_in_tf32_is_measured_in_float32_too():
    """transformers sets TF32 for everything at once (`train.precision: tf32`)."""
    try:
        BACKENDS.fp32_precision = "tf32"
        before = precisions()
        assert before == ["tf32"] * 4
        with full_precision(LAYER):
            assert "tf32" not in precisions()
        assert precisions() == before
    finally:
        BACKENDS.fp32_precision = "none"
    assert precisions() == ["none", "none", "tf32", "tf32"] and BACKENDS.cudnn.allow_tf32
