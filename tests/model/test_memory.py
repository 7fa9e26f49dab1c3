"""The allocator: what is freed is kept while a run trains on the CPU, and given back when it ends."""

import platform
import resource

import pytest
import torch

from hf_ft.model import memory
from hf_ft.model.memory import give_memory_back, keep_freed_memory, memory_kept

GLIBC = platform.libc_ver()[0] == "glibc"
BLOCK = 2**26


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in (*memory._VARIABLES, "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    yield
    give_memory_back()


def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(BLOCK // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_a_large_block_is_mapped_once_while_memory_is_kept():
    anew = page_faults()
    assert keep_freed_memory("auto", "cpu").startswith("kept")
    # The heap grows first, in a process that has run other tests in several steps.
    kept = min(page_faults() for _ in range(5))
    give_memory_back()
    assert not memory._glibc.kept
    assert kept < anew / 10
    assert page_faults() > anew / 2


@pytest.mark.parametrize(
    ("setting", "device", "variables", "reason"),
    [
        ("system", "cpu", {}, "asked for by train.allocator"),
        ("auto", "cuda", {}, "tensors live on cuda"),
        ("auto", "cpu", {"MALLOC_MMAP_THRESHOLD_": "1000"}, "MALLOC_MMAP_THRESHOLD_ is set"),
        ("auto", "cpu", {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, "jemalloc takes the place of malloc"),
    ],
)
def test_the_allocator_is_left_alone_where_somebody_chose(monkeypatch, setting, device, variables, reason):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert keep_freed_memory(setting, device) == f"system: {reason}"
    assert not memory._glibc.kept


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_prediction_inside_a_run_does_not_end_the_runs_own_keeping():
    with memory_kept("cpu"):
        assert memory._glibc.kept
    assert not memory._glibc.kept
    keep_freed_memory("auto", "cpu")
    with memory_kept("cpu"):
        pass
    assert memory._glibc.kept


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory("auto", "cpu") == "system: the C library is not glibc"
