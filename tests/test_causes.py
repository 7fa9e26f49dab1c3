"""A full disk is recognised and named, whoever reports it; nothing that stood there before is lost."""

import errno
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from hf_ft.causes import explain, full_disk, naming, show_bytes
from hf_ft.errors import DataError
from hf_ft.storage.atomic import new_folder, write_text
from hf_ft.train import checkpoints

RUST = "Error while serializing: I/O error: No space left on device (os error 28)"


def caused(outer, inner):
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/r/log.jsonl"), "/r/log.jsonl"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/r/log.jsonl"), "/r/log.jsonl"),
        (RuntimeError(RUST), None),
        (OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left"), None),
        (caused(ValueError("while generating"), OSError(errno.ENOSPC, "No space left")), None),
        (OSError(errno.EFBIG, "File too large", "/r/log.jsonl"), "/r/log.jsonl"),
    ],
)
def test_a_full_disk_is_recognised_whoever_reports_it(error, named):
    found = full_disk(error)
    assert found is not None and found.filename == named
    said = explain(error)
    assert (named or "") in said and ("Free some space" in said or "ulimit -f" in said), said
    assert "\n" not in said


@pytest.mark.parametrize(
    "error", [OSError("a truncated picture"), KeyError("28"), FileNotFoundError(2, "No such file", "x")]
)
def test_other_errors_are_no_full_disk(error):
    assert full_disk(error) is None and type(error).__name__ in explain(error)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "choose a folder that you may write to"),
        (errno.EROFS, "can only be read"),
        (errno.ENOTDIR, "a file lies where a folder is expected"),
        (errno.EISDIR, "a folder lies where a file is expected"),
        (errno.ENAMETOOLONG, "shorter output_dir"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_other_refusals_of_the_system_have_a_next_step(number, advice):
    said = explain(OSError(number, os.strerror(number), "/runs/x"))
    assert said.startswith("/runs/x: ") and advice in said


def test_an_error_without_a_name_gets_it_and_one_with_a_name_keeps_it(tmp_path):
    path = tmp_path / "big.safetensors"
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*big\.safetensors'") as found,
        naming(path, 3 * 10**6),
    ):
        raise RuntimeError(RUST)
    assert found.value.__notes__ == ["big.safetensors needs about 3.0 MB."]
    with pytest.raises(OSError, match="inner"), naming(path):
        raise OSError(errno.ENOSPC, "No space left", "inner")
    with pytest.raises(ZeroDivisionError), naming(path):
        raise ZeroDivisionError


def test_a_full_cache_of_datasets_is_named_and_not_the_file_that_is_read(tmp_path, monkeypatch):
    """datasets says "An error occurred while generating the dataset"; the cause is on another disk."""
    import pandas
    from datasets.arrow_writer import ArrowWriter

    from hf_ft.data.files import read_files

    def full(*given, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    pandas.DataFrame({"text": ["a", "b"]}).to_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(ArrowWriter, "write_table", full)
    with pytest.raises(DataError, match=rf"disk is full: {tmp_path / 'cache'} cannot .*HF_DATASETS_CACHE"):
        read_files([str(tmp_path / "rows.parquet")])


def test_a_temporary_name_is_not_shown(tmp_path):
    """Nobody can find `.model.new-4711`, and nobody looks for it."""
    (tmp_path / "model").mkdir()
    for name in ("config.json", None):
        with pytest.raises(OSError) as found, new_folder(tmp_path / "model") as fresh:
            raise OSError(errno.ENOSPC, "No space left on device", name and str(fresh / name))
        assert found.value.filename == str(tmp_path / "model" / (name or ""))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_sizes_are_formatted():
    assert [show_bytes(size) for size in (0, 999, 1500, 2.5e6, 3e9)] == [
        "0 bytes", "999 bytes", "1.5 kB", "2.5 MB", "3.0 GB",
    ]  # fmt: skip


# Writes more than the limit of the size of a file, as a full disk would have it, and says what was raised.
LIMITED = """
import resource, sys
from pathlib import Path
from hf_ft.storage.atomic import new_folder, write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder = Path(sys.argv[1])
for write in (
    lambda: write_text(folder / "file", "new" * 1000),
    lambda: fill(folder / "folder"),
):
    def fill(place):
        with new_folder(place) as fresh:
            (fresh / "file").write_text("new" * 1000)
    try:
        write()
    except OSError as error:
        print(error.filename)
"""


def test_what_cannot_be_replaced_whole_stays_as_it_was(tmp_path):
    """With a limit that the operating system enforces."""
    write_text(tmp_path / "file", "old")
    with new_folder(tmp_path / "folder") as fresh:
        (fresh / "file").write_text("old")
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == [str(tmp_path / "file"), str(tmp_path / "folder")]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def checkpoint(folder, step, scale=1.0):
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, scale)
    temporary = folder / f".writing-checkpoint-{step}"
    temporary.mkdir(parents=True)
    checkpoints.save_weights(model, temporary)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoints.save_optimizer(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer), temporary)
    checkpoints.save_random_state(temporary, 0)
    checkpoints.complete(temporary, folder / f"checkpoint-{step}")


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "optimizer.safetensors",
        "optimizer.json",
        "scheduler.json",
        "random-0.json",
        "complete.json",
    ],
)
def test_a_full_disk_in_a_checkpoint_leaves_the_last_one(tmp_path, monkeypatch, name):
    """The error names the file, and the newest complete checkpoint is the one before."""
    checkpoint(tmp_path, 7)

    def full(tensors, path, **options):
        if path.endswith(name):
            raise RuntimeError(RUST)
        save_file(tensors, path, **options)

    write = type(tmp_path).write_text

    def full_text(self, text, *given, **options):
        if self.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, text, *given, **options)

    monkeypatch.setattr(checkpoints, "save_file", full)
    monkeypatch.setattr(type(tmp_path), "write_text", full_text)
    with pytest.raises(OSError, match=rf"No space left on device: '.*{name}'"):
        checkpoint(tmp_path, 14)
    monkeypatch.undo()
    found, skipped = checkpoints.newest(tmp_path)
    assert found == tmp_path / "checkpoint-7" and not skipped
