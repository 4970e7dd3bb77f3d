"""What the rest of ``models/prefix`` asks of this folder; see ``prefix/fast_path.py``."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel

from omni_rlvr.models.prefix.cpu_float32.activation_reuse import ActivationReuse
from omni_rlvr.models.prefix.cpu_float32.decoder import FastDecoder
from omni_rlvr.models.prefix.cpu_float32.layers import FastLayers, is_supported
from omni_rlvr.models.prefix.packing import Order


class FastPath:
    """Run decoder layers on their weights; ``make_decoder`` takes the arguments of its class."""

    make_decoder = FastDecoder

    @staticmethod
    def supports(language_model: PreTrainedModel, positions: Tensor) -> bool:
        """Say whether a model's layers, as they are now, can be run on their weights.

        Positions in time, height and width ([3, B, P]) are left to the modules: this folder reads a
        position as one number a token, and would take the axis of time for the row.

        Args:
            language_model: A causal LM whose attention can share a prefix.
            positions: Its tokens' positions.
        """
        return positions.ndim < 3 and is_supported(language_model)

    @staticmethod
    def run_packed(
        language_model: PreTrainedModel,
        embeds: Tensor,
        positions: Tensor,
        order: Order,
        ids: Tensor,
        activations: object | None,
    ) -> Tensor:
        """Run the layers over one packed row, from what its rollout computed where that is known.

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
        source, known = order.source.to(embeds.device), None
        if activations is not None:
            assert isinstance(activations, ActivationReuse)
            num = sum(order.sizes)  # the prompts' tokens come first
            known = activations.by_layer(language_model, embeds[:num], positions[:num], order, ids)
        row, places = embeds[source].unsqueeze(0), positions[source].unsqueeze(0)
        return FastLayers(language_model)(row, places, order.packed, known=known)[0]

    @staticmethod
    def select(activations: object, rows: Tensor) -> object:
        """Take the activations of some of their rows, [n] int64."""
        assert isinstance(activations, ActivationReuse)
        return activations.select(rows)
