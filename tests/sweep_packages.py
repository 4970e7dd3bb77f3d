"""Where ``make test`` puts the extras ``sweep`` and ``ray`` (joblib, Optuna, Submitit, Ray): apart
from the other packages, since Hydra imports all its plugins at every start, and Optuna's takes
0.7 s.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

SWEEP_PACKAGES = Path(sys.prefix) / "sweep"
needs_plugins = pytest.mark.skipif(
    not SWEEP_PACKAGES.is_dir(),
    reason="make test installs joblib, Optuna, Submitit and Ray; they are not there",
)


def with_plugins() -> dict[str, str]:
    """The environment of a command that finds them."""
    before = filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(SWEEP_PACKAGES), *before])}
