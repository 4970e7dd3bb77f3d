"""Finds the fast path: decoder layers of some models run on their weights, past their modules.

This is the only file that imports the folder ``cpu_float32``, and everything outside
``models/prefix`` knows it by two things alone: the option ``stage.reuse_rollout`` and the field
``activations`` of a rollout, whose content only the folder reads. Without the folder every model
takes the general path, which gives the same numbers to rounding, later.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:  # the folder may not be importable, see ``fast_path``
    from omni_rlvr.models.prefix.cpu_float32.entry import FastPath

log = logging.getLogger(__name__)


@cache
def fast_path() -> type[FastPath] | None:
    """Return the fast path; None where it cannot be imported, which is logged once.

    The folder names classes of transformers one by one, since it runs only what it knows exactly.
    A release in which one of them has gone makes it unimportable. That must cost speed, not the
    run.
    """
    try:
        from omni_rlvr.models.prefix.cpu_float32 import entry
    except ImportError as error:
        log.warning("rollouts and updates take the general path, which is slower: %s", error)
        return None
    return entry.FastPath


def select_activations(activations: object | None, rows: Tensor) -> object | None:
    """Take what a rollout kept for some of its rows, [n] int64; None where it kept nothing."""
    fast = fast_path()
    return None if activations is None or fast is None else fast.select(activations, rows)
