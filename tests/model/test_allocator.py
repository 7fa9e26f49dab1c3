"""The allocator: freed memory stays in the process during a run on the CPU, and is returned at its end."""

import platform
import resource
import subprocess
import sys

import pytest

from hf_ft.model import allocator as memory
from hf_ft.model.allocator import give_memory_back, keep_freed_memory, memory_kept

GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in (*memory._VARIABLES, "LD_PRELOAD"):
        monkeypatch.delenv(name, raising=False)
    yield
    give_memory_back()


COUNTS = """
import resource
import torch
from hf_ft.model.allocator import give_memory_back, keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

anew = page_faults()
assert keep_freed_memory("auto", "cpu").startswith("keeps freed memory")
kept = min(page_faults() for _ in range(5))  # the heap grows in several steps
before = resident()
give_memory_back()
print(anew, kept, before, resident())
"""


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_freed_memory_is_reused_without_page_faults_and_then_returned():
    # In a new process: the heap of a process that ran other tests has holes that large blocks may fill.
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    anew, kept, before, after = map(int, done.stdout.split())
    block = 2**26 // resource.getpagesize()
    assert kept < anew / 10 and before - after > block / 2


@pytest.mark.parametrize(
    ("setting", "device", "variables", "reason"),
    [
        ("system", "cpu", {}, "asked for by train.allocator"),
        ("auto", "cuda", {}, "tensors are on cuda"),
        ("auto", "cpu", {"MALLOC_MMAP_THRESHOLD_": "1000"}, "MALLOC_MMAP_THRESHOLD_ is set"),
        ("auto", "cpu", {"LD_PRELOAD": "/usr/lib/libjemalloc.so.2"}, "jemalloc replaces malloc"),
    ],
)
def test_the_allocator_is_not_changed_if_it_is_configured(monkeypatch, setting, device, variables, reason):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert keep_freed_memory(setting, device) == f"system: {reason}"
    assert not memory._glibc.kept


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_prediction_inside_a_run_does_not_return_the_memory_of_the_run():
    with memory_kept("cpu"):
        assert memory._glibc.kept
    assert not memory._glibc.kept
    keep_freed_memory("auto", "cpu")
    with memory_kept("cpu"):
        pass
    assert memory._glibc.kept


def test_another_c_library_is_not_configured(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory("auto", "cpu") == "system: the C library is not glibc"
