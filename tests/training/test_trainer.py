"""Freed memory stays in the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from omni_rlvr.training.trainer import keep_freed_memory

FAULTS = """
import resource
import torch
from omni_rlvr.training.trainer import keep_freed_memory
assert keep_freed_memory()
torch.set_num_threads(1)
def rounds(number):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(number):
        parts = [torch.ones(5 * 2**20) for _ in range(4)]  # 20 MiB each
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
rounds(5)
print(rounds(50))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_blocks_are_not_fetched_again():
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    # 20,480 pages of 4 KiB hold the four blocks: handed back, up to 50 times as many are fetched
    assert int(out.stdout) < 20_480


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
