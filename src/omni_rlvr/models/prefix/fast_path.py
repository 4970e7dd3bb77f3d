"""Find the fast path, which runs decoder layers of some models on their weights.

This is the only file that imports the folder ``cpu_float32``. Outside ``models/prefix``, only two
things belong to it: the option ``stage.reuse_rollout`` and the field ``activations`` of a rollout,
whose content only the folder reads. Without the folder every model takes the general path, which is
slower and gives the same numbers up to rounding.
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
    """Return the fast path; None if it cannot be imported, which is logged once.

    The folder imports classes of transformers by name, since it runs only known classes. If a
    version of transformers lacks one of them, runs must become slower but not fail.
    """
    try:
        from omni_rlvr.models.prefix.cpu_float32 import entry
    except ImportError as error:
        log.warning("rollouts and updates take the general path, which is slower: %s", error)
        return None
    return entry.FastPath


def select_activations(activations: object | None, rows: Tensor) -> object | None:
    """Select a rollout's activations for some of its rows, [n] int64; None if it has none."""
    fast = fast_path()
    return None if activations is None or fast is None else fast.select(activations, rows)
