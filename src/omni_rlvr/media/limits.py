"""Limits on the size of media files: a few bytes of header can make a decoder allocate any amount.

A process that reads clips has one set of limits, set when it starts. They are checked before
anything is allocated; the kernel enforces the limit on memory.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class Limits:
    """Limits on the size of clips; each field has the name of its option in ``dataset``."""

    max_frame_pixels: int = 4096 * 4096
    max_frames: int = 500_000
    max_duration_s: float = 4 * 3600.0
    min_sample_rate: int = 1000
    max_sample_rate: int = 384_000
    max_streams: int = 256
    max_memory_gb: float = 16.0

    @staticmethod
    def of(options: Mapping[str, Any]) -> Limits:
        """Pick the limits from a data set's options; one that is not there has its default."""
        return Limits(**{f.name: options[f.name] for f in fields(Limits) if f.name in options})

    def problem(self, name: str, value: float, what: str) -> str | None:
        """Compare a value with the limit of this name.

        Args:
            name: A field of this class.
            value: The file's value.
            what: The value in words, e.g. ``"its picture has 9 x 9 pixels a frame"``.

        Returns:
            None, or what is wrong and which option sets the limit.
        """
        limit = vars(self)[name]
        is_low = name.startswith("min")
        if value >= limit if is_low else value <= limit:
            return None
        allowed = f"{'less' if is_low else 'more'} than dataset.{name}={limit:.10g} allows"
        return f"{what}, {allowed}; convert it, or change the limit"

    def sound_problem(self, sample_rate: int, duration_s: float, num_channels: int) -> str | None:
        """Compare a sound that is not decoded yet with the limits; see ``problem``."""
        gigabytes = sample_rate * duration_s * num_channels * 4 / GIGABYTE  # float32
        rate = f"its sound has a sample rate of {sample_rate} Hz"
        return (
            self.problem("min_sample_rate", sample_rate, rate)
            or self.problem("max_sample_rate", sample_rate, rate)
            or self.problem("max_duration_s", duration_s, f"its sound is {duration_s:.10g} s long")
            or self.problem("max_memory_gb", gigabytes, f"its sound takes {gigabytes:.3g} GB")
        )


_in_force = Limits()


def in_force() -> Limits:
    """Return the limits of this process."""
    return _in_force


def enforce(limits: Limits) -> None:
    """Set the limits of this process; call it once its libraries are loaded.

    The address space may grow by ``max_memory_gb`` from now on. Memory is limited on Linux only:
    other systems do not tell the current size of the address space.
    """
    global _in_force
    _in_force = limits
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + round(limits.max_memory_gb * GIGABYTE)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            size = min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))
