"""Finds the fast path: decoder layers of some models run on their weights, past their modules.

This is the only file that imports the folder ``cpu_float32``, and everything outside
``models/prefix`` knows it by two things alone: the option ``stage.reuse_rollout`` and the field
``activations`` of a rollout, whose content only the folder reads. Without the folder every model
takes the general path, which gives the same numbers to rounding, later.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from omni_rlvr.types import Prompts

if TYPE_CHECKING:  # both files import this one
    from omni_rlvr.models.prefix.decoding import Decoder
    from omni_rlvr.models.prefix.packing import Order

log = logging.getLogger(__name__)


class FastPath(Protocol):
    """What ``cpu_float32/entry.py`` offers."""

    def supports(self, language_model: PreTrainedModel, positions: Tensor) -> bool:
        """Say whether the path gives what the model's own modules give, as the model is now.

        Args:
            language_model: A causal LM whose attention can share a prefix.
            positions: Its tokens' positions; those in time, height and width are not supported.
        """

    def make_decoder(
        self,
        language_model: PreTrainedModel,
        prompts: Prompts,
        num_generations: int,
        size: int,
        *,
        keep_activations: bool,
    ) -> Decoder:
        """Make a decoder of N = B*G rows of at most ``size`` tokens."""

    def run_packed(
        self,
        language_model: PreTrainedModel,
        embeds: Tensor,
        positions: Tensor,
        order: Order,
        ids: Tensor,
        activations: object | None,
    ) -> Tensor:
        """Run the layers over one packed row.

        Args:
            language_model: One that is supported.
            embeds: [S, hidden], the prompts' tokens, then the completions' input tokens.
            positions: [S], of the same tokens.
            order: Where these tokens stand in the packed row.
            ids: [N, T], the completions.
            activations: What their rollout kept; used up.

        Returns:
            [T, hidden], the hidden states of the row's tail.
        """

    def select(self, activations: object, rows: Tensor) -> object:
        """Take the activations of some of their rows, [n] int64."""


@cache
def fast_path() -> FastPath | None:
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
    return entry


def select_activations(activations: object | None, rows: Tensor) -> object | None:
    """Take what a rollout kept for some of its rows, [n] int64; None where it kept nothing."""
    fast = fast_path()
    return None if activations is None or fast is None else fast.select(activations, rows)
