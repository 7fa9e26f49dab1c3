"""Full precision: neither autocast nor TF32, and everything as it was afterwards."""

import pytest
import torch

from hf_ft.model.mixed_precision import full_precision

PARTS = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)


def precisions():
    return [part.fp32_precision for part in PARTS]


def test_convolutions_and_products_are_in_float32_inside_the_block():
    """With TF32, torch's default for convolutions, logits differ by 3e-3 between batch sizes (H100)."""
    before = precisions()
    assert before[0] == "tf32"
    with full_precision(torch.nn.Linear(2, 2)):
        assert precisions() == ["ieee"] * 3
    assert precisions() == before
    with pytest.raises(ValueError, match="inside"), full_precision(torch.nn.Linear(2, 2)):
        raise ValueError("inside")
    assert precisions() == before
