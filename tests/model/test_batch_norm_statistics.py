"""Statistics of batch norms are recomputed on training rows without augmentation before evaluation."""

import tiny
import torch

from hf_ft.data.dataset import EncodedRows
from hf_ft.data.table import Table
from hf_ft.model.batch_norm_statistics import learning_batch_norms, settle_batch_norms
from hf_ft.model.freeze import freeze
from hf_ft.task import Inspection, Role, Task


class Pixels(Task):
    name = "pixels"
    roles = {"seed": Role("what the pixels are drawn from")}  # noqa: RUF012

    def inspect(self, row):
        return Inspection()

    def encode(self, rows, rngs):
        return [
            {"pixel_values": torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(row["seed"])) + 2}
            for row in rows
        ]

    def collate(self, items):
        return {"pixel_values": torch.stack([item["pixel_values"] for item in items])}


def encoded(count=96):
    from datasets import Dataset

    table = Table(
        Dataset.from_dict({"seed": list(range(count))}), {"seed": "seed"}, list(map(str, range(count)))
    )
    return EncodedRows(Pixels(), table, split="train", seed=0, train=False)


def first_norm(model):
    return next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))


def test_running_statistics_are_those_of_the_rows():
    model, rows = tiny.resnet(), encoded()
    norm, seen = first_norm(model), []
    handle = norm.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert settle_batch_norms(model, rows.task, rows, 96, seed=0) == len(learning_batch_norms(model)) > 0
    handle.remove()
    expected = torch.stack([one.mean(dim=(0, 2, 3)) for one in seen]).mean(dim=0)
    assert torch.allclose(norm.running_mean, expected, atol=1e-5)
    assert norm.momentum == 0.1 and not model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_batch_norms_keep_the_statistics_of_pretraining():
    """pytorch#86590."""
    model, rows = tiny.resnet(), encoded()
    frozen = freeze(model, "head")
    before = frozen.frozen_fingerprint()
    assert settle_batch_norms(model, rows.task, rows, 96, seed=0) == 0
    assert frozen.frozen_fingerprint() == before


def test_with_zero_rows_nothing_is_recomputed():
    model, rows = tiny.resnet(), encoded()
    before = first_norm(model).running_mean.clone()
    assert settle_batch_norms(model, rows.task, rows, 0, seed=0) == 0
    assert torch.equal(first_norm(model).running_mean, before)
