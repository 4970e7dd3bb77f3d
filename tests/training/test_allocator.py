"""Freed memory stays in the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from omni_rlvr.training.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    parts = [torch.ones(2**20) for _ in range(4)]  # 4 MiB each
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_blocks_are_not_fetched_again():
    def faults(how: str) -> int:
        out = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True
        )
        return int(out.stdout)

    # 4,096 pages of 4 KiB hold the four blocks; handed back, they are fetched 50 times
    assert faults("kept") < 20_000 < faults("left alone")


def test_other_c_libraries_are_left_alone(monkeypatch):
    from omni_rlvr.training import allocator

    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_freed_memory()
