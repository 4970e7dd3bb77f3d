"""The interface of this folder to the rest of ``models/prefix``; see ``prefix/fast_path.py``."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from omni_rlvr.models.prefix.attention_hook import Layout
from omni_rlvr.models.prefix.cpu_float32.activation_reuse import ActivationReuse
from omni_rlvr.models.prefix.cpu_float32.decoder import FastDecoder
from omni_rlvr.models.prefix.cpu_float32.layers import Activations, FastLayers, is_supported
from omni_rlvr.models.prefix.packing import Order


class FastPath:
    """Runs decoder layers on their weights; ``make_decoder`` is a class, see its arguments."""

    make_decoder = FastDecoder

    @staticmethod
    def supports(language_model: PreTrainedModel, positions: Tensor) -> bool:
        """Tell whether a model's layers, as they are now, can be run on their weights.

        Positions in time, height and width ([3, B, P]) are not supported: this folder expects one
        number a token, and would take the first axis for the row.

        Args:
            language_model: A causal LM whose attention can share a prefix.
            positions: The positions of the tokens.
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
        """Run the layers over one packed row, starting from its rollout's activations if given.

        Args:
            language_model: A supported model.
            embeds: [S, hidden], the prompts' tokens, then the completions' input tokens.
            positions: [S], of the same tokens.
            order: The places of these tokens in the packed row.
            ids: [N, T], the completions.
            activations: The activations of their rollout, or None; they can be used once.

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
    def run_layout(
        language_model: PreTrainedModel, embeds: Tensor, positions: Tensor, layout: Layout
    ) -> Tensor:
        """Run the layers under any layout, as ``attention_hook.run_layers`` does."""
        return FastLayers(language_model)(embeds, positions, layout)

    @staticmethod
    def recorded(
        language_model: PreTrainedModel, embeds: Tensor, positions: Tensor, layout: Layout
    ) -> float:
        """Return the size of the activations that a rollout keeps, in bytes a token."""
        record: list[Activations] = []
        with torch.no_grad():
            FastLayers(language_model)(embeds, positions, layout, record=record)
        kept = [tensor for made in record for tensor in made if isinstance(tensor, Tensor)]
        return sum(tensor.nbytes for tensor in kept) / embeds.shape[1]

    @staticmethod
    def packed_bytes(language_model: PreTrainedModel) -> int:
        """Return the size of the weights that ``make_decoder`` copies, in bytes."""
        layers = FastLayers(language_model).layers
        joined = [one for la in layers for one in (la.query, la.keys_values, la.o_proj)]
        joined += [one for la in layers for one in (la.gate_up, la.down)]
        return sum(linear.weight.nbytes for one in joined for linear in one.linears)

    @staticmethod
    def select(activations: object, rows: Tensor) -> object:
        """Select the activations of some rows, [n] int64."""
        assert isinstance(activations, ActivationReuse)
        return activations.select(rows)
