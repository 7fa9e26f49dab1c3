"""Checkpoints: bit-exact, strict, complete or absent, and without a pickle."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_ft.errors import TrainError
from hf_ft.train import checkpoints


def net():
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


def trained(optimizer_class, **options):
    model = net()
    optimizer = optimizer_class(model.parameters(), lr=0.1, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    for _ in range(3):
        model(torch.randn(8, 4)).sum().backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model, optimizer, scheduler


def write(folder, step=1):
    model, optimizer, scheduler = trained(torch.optim.AdamW)
    temporary = folder / ".writing"
    temporary.mkdir(parents=True)
    checkpoints.save_weights(model, temporary)
    checkpoints.save_optimizer(optimizer, scheduler, temporary)
    checkpoints.save_random_state(temporary, 0)
    checkpoints.complete(temporary, folder / f"checkpoint-{step}")
    return model, optimizer, scheduler


def test_every_tensor_is_restored(tmp_path):
    """tf#43701: the Trainer's own loader leaves 16 of 24 tensors of a ViT where they were."""
    model, _, _ = write(tmp_path)
    other = net()
    checkpoints.load_weights(other, tmp_path / "checkpoint-1")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def frozen_net():
    model = net()
    model[0].requires_grad_(False)
    return model


def test_frozen_weights_are_written_once_and_shared(tmp_path):
    model, before = frozen_net(), None
    for step in (1, 2):
        temporary = tmp_path / ".writing"
        temporary.mkdir()
        checkpoints.save_weights(model, temporary, before)
        checkpoints.complete(temporary, tmp_path / f"checkpoint-{step}", before)
        before = tmp_path / f"checkpoint-{step}"
        torch.nn.init.ones_(model[2].weight)
    assert sorted(load_file(tmp_path / "checkpoint-2" / checkpoints.FROZEN)) == ["0.bias", "0.weight"]
    assert (tmp_path / "checkpoint-1" / checkpoints.FROZEN).samefile(before / checkpoints.FROZEN)
    # The later checkpoint is complete without the earlier one.
    checkpoints.prune(tmp_path, {"checkpoint-2"})
    assert checkpoints.newest(tmp_path) == (before, [])
    other = frozen_net()
    checkpoints.load_weights(other, before)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    file = before / checkpoints.FROZEN
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert checkpoints.newest(tmp_path)[0] is None


def test_without_hard_links_frozen_weights_are_written_again(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(95, "Operation not supported")

    model = frozen_net()
    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        checkpoints.save_weights(model, tmp_path / name, tmp_path / "one" if name == "two" else None)
    first, second = (tmp_path / name / checkpoints.FROZEN for name in ("one", "two"))
    assert not first.samefile(second) and first.read_bytes() == second.read_bytes()


def test_a_tensor_that_was_frozen_first_and_learned_later_is_restored_as_learned(tmp_path):
    model, other = frozen_net(), frozen_net()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        checkpoints.save_weights(model, tmp_path / name, tmp_path / "one" if name == "two" else None)
        model[0].requires_grad_(True)
        torch.nn.init.ones_(model[0].weight)
    torch.nn.init.zeros_(other[0].weight)
    checkpoints.save_weights(model, tmp_path / "two", None)
    checkpoints.load_weights(other, tmp_path / "two")
    assert torch.equal(other[0].weight, model[0].weight)


def test_a_deleted_earlier_checkpoint_does_not_stop_a_run(tmp_path):
    (tmp_path / ".writing").mkdir()
    gone = tmp_path / "checkpoint-1"
    checkpoints.save_weights(frozen_net(), tmp_path / ".writing", gone)
    checkpoints.complete(tmp_path / ".writing", tmp_path / "checkpoint-2", gone)
    assert checkpoints.newest(tmp_path) == (tmp_path / "checkpoint-2", [])


def test_a_tensor_with_two_names_is_restored(tmp_path):
    def tied():
        model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
        model["b"].weight = model["a"].weight
        return model

    model, other = tied(), tied()
    checkpoints.save_weights(model, tmp_path)
    checkpoints.load_weights(other, tmp_path)
    assert all(torch.equal(one, other.state_dict()[name]) for name, one in model.state_dict().items())


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    write(tmp_path)
    other = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    with pytest.raises(TrainError, match="does not fit the model"):
        checkpoints.load_weights(other, tmp_path / "checkpoint-1")


@pytest.mark.parametrize(
    ("optimizer_class", "options"), [(torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": 0.9})]
)
def test_optimizer_and_schedule_are_restored_bit_for_bit(tmp_path, optimizer_class, options):
    torch.manual_seed(0)
    model, optimizer, scheduler = trained(optimizer_class, **options)
    checkpoints.save_optimizer(optimizer, scheduler, tmp_path)
    copy = net()
    copy.load_state_dict(model.state_dict())
    again = optimizer_class(copy.parameters(), lr=0.1, **options)
    schedule_again = torch.optim.lr_scheduler.LambdaLR(again, lambda step: 0.9**step)
    checkpoints.load_optimizer(again, schedule_again, tmp_path)
    batch = torch.randn(8, 4)
    for network, one, schedule in ((model, optimizer, scheduler), (copy, again, schedule_again)):
        network(batch).pow(2).sum().backward()
        one.step()
        schedule.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))
    assert scheduler.get_last_lr() == schedule_again.get_last_lr()


def test_states_have_the_layout_of_their_parameters(tmp_path):
    """On CUDA the fused AdamW refuses a parameter in channels_last with a contiguous state."""
    model = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)

    def made():
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    optimizer, schedule = made()
    model(torch.rand(2, 4, 5, 5).to(memory_format=torch.channels_last)).sum().backward()
    optimizer.step()
    checkpoints.save_optimizer(optimizer, schedule, tmp_path)
    again, schedule_again = made()
    checkpoints.load_optimizer(again, schedule_again, tmp_path)
    before, after = optimizer.state[model.weight], again.state[model.weight]
    assert torch.equal(before["exp_avg"], after["exp_avg"])
    assert after["exp_avg"].stride() == model.weight.stride() != torch.empty(8, 4, 3, 3).stride()


def test_the_random_state_is_restored(tmp_path):
    checkpoints.save_random_state(tmp_path, 0)
    first = random.random(), np.random.rand(), torch.rand(1).item()
    checkpoints.load_random_state(tmp_path, 0)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


def test_random_state_of_another_process_count_is_refused(tmp_path):
    checkpoints.save_random_state(tmp_path, 0)
    with pytest.raises(TrainError, match="number of processes"):
        checkpoints.load_random_state(tmp_path, 1)


def test_no_file_is_a_pickle(tmp_path):
    """tf PR#43140 (CVE-2026-1839): loading rng_state.pth or optimizer.pt can run any code."""
    write(tmp_path)
    for path in (tmp_path / "checkpoint-1").iterdir():
        assert path.suffix in {".safetensors", ".json"}
        assert path.suffix != ".json" or json.loads(path.read_text()) is not None


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.json", "random-0.safetensors", "complete.json"]
)
def test_a_broken_checkpoint_is_passed_over(tmp_path, name):
    """tf#35782: the Trainer takes the folder with the highest number, complete or not."""
    write(tmp_path, 1)
    write(tmp_path, 2)
    broken = tmp_path / "checkpoint-2" / name
    broken.unlink() if name == "complete.json" else broken.write_bytes(broken.read_bytes()[:-1])
    found, skipped = checkpoints.newest(tmp_path)
    assert found == tmp_path / "checkpoint-1"
    assert len(skipped) == 1 and "checkpoint-2" in skipped[0]


def test_an_interrupted_write_leaves_no_checkpoint(tmp_path):
    (tmp_path / ".writing-checkpoint-3").mkdir()
    (tmp_path / ".writing-checkpoint-3" / "model.safetensors").write_bytes(b"half")
    assert checkpoints.newest(tmp_path) == (None, [])


def test_prune_deletes_all_but_the_named_checkpoints(tmp_path):
    for step in (1, 2, 10):
        write(tmp_path, step)
    checkpoints.prune(tmp_path, {"checkpoint-2", "checkpoint-10"})
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-2"]
