"""Compute the hidden states of completions, processing each prompt only once.

All prompts and completions go through the model as one packed row, in one differentiable pass, in
which the gradients of a prompt's completions are summed. Only hidden states that predict a
completion token are returned. For a model whose attention cannot share a prefix, the prompt's keys
and values are repeated for its completions.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from omni_rlvr.models.prefix.attention_hook import can_share, checkpointing, run_layers, sharing
from omni_rlvr.models.prefix.fast_path import fast_path
from omni_rlvr.models.prefix.packing import Order
from omni_rlvr.types import Prompts


@dataclass(frozen=True)
class Rows:
    """N completions of B prompts."""

    prompts: Prompts
    prompt_index: Tensor
    """[N] int64, the prompt of each completion."""
    ids: Tensor
    """[N, T]."""
    mask: Tensor
    """[N, T], right-padded."""

    def later_positions(self) -> Tensor:
        """Compute the positions of the completions' input tokens: [N, T - 1], or [3, N, T - 1]."""
        places = self.prompts.positions
        steps = torch.arange(self.ids.shape[1] - 1, device=places.device)
        later = first_positions(places)[self.prompt_index].unsqueeze(1) + steps
        return later.expand(*places.shape[:-2], -1, -1)


def completion_hidden(
    language_model: PreTrainedModel,
    rows: Rows,
    *,
    gradient_checkpointing: bool,
    activations: object | None = None,
) -> Tensor:
    """Compute the hidden state that predicts each completion token.

    Args:
        language_model: A transformers causal LM.
        rows: Prompts and completions.
        gradient_checkpointing: Whether layers keep only their inputs (in train mode).
        activations: Activations that the rollout of these rows kept, or None; under gradient they
            can be used once.

    Returns:
        [M, hidden] for the M tokens of ``completion_mask``, row by row.
    """
    shared = can_share(language_model)
    if not gradient_checkpointing:
        if not shared:
            return _repeated_hidden(language_model, rows)
        # without gradient, leave the activations for the pass that needs a graph
        kept = activations if torch.is_grad_enabled() else None
        return _packed_hidden(language_model, rows, kept)

    def context() -> AbstractContextManager:
        return sharing(language_model) if shared else nullcontext()

    # not ``_repeated_hidden``: backward runs each layer again, which would fill its cache twice
    run = _packed_hidden if shared else _copied_hidden
    with context(), checkpointing(language_model, context):
        return run(language_model, rows)


def completion_logits(language_model: PreTrainedModel, rows: Rows) -> Tensor:
    """Compute all logits of all completion tokens; for small vocabularies and for tests.

    Returns:
        [N, T, V]; position t predicts ``rows.ids[:, t]``; 0 beyond the mask.
    """
    hidden = completion_hidden(language_model, rows, gradient_checkpointing=False)
    logits = language_model.lm_head(hidden)
    out = logits.new_zeros(*rows.ids.shape, logits.shape[-1])
    return out.masked_scatter(rows.mask.bool().unsqueeze(-1), logits)


def first_positions(positions: Tensor) -> Tensor:
    """Return the position of the first completion token of each prompt: [B], its maximum + 1."""
    return positions.amax(dim=-1) + 1 if positions.ndim == 2 else positions.amax(dim=(0, -1)) + 1


def _packed_hidden(
    language_model: PreTrainedModel, rows: Rows, activations: object | None = None
) -> Tensor:
    """Run everything as one packed row, starting from the rollout's activations if given."""
    sizes, counts = rows.prompts.mask.sum(dim=1).tolist(), rows.mask.sum(dim=1)
    order = Order(sizes, (counts - 1).clamp(min=0).tolist(), rows.prompt_index.tolist())
    # all prompts' tokens, then all completions' input tokens: [S, hidden], and [S] or [3, S]
    prompt, inputs = rows.prompts.mask.bool(), rows.mask[:, 1:].bool()
    tail = language_model.get_input_embeddings()(rows.ids[:, :-1][inputs])
    embeds = torch.cat([rows.prompts.embeds[prompt], tail.to(rows.prompts.embeds.dtype)])
    places = (rows.prompts.positions[..., prompt], rows.later_positions()[..., inputs])
    positions = torch.cat(places, dim=-1)
    fast = fast_path()
    if fast is not None and fast.supports(language_model, rows.prompts.positions):
        hidden = fast.run_packed(language_model, embeds, positions, order, rows.ids, activations)
    else:
        source = order.source.to(embeds.device)
        row, at = embeds[source].unsqueeze(0), positions[..., source].unsqueeze(-2)
        hidden = run_layers(language_model, row, at, order.packed)[0]
    there = torch.arange(order.predicts.shape[1], device=counts.device) < counts.unsqueeze(1)
    return hidden[order.in_tail[order.predicts].to(hidden.device)[there]]


def _repeated_hidden(language_model: PreTrainedModel, rows: Rows) -> Tensor:
    """Run each prompt once, and repeat its keys and values for its completions."""
    cache = DynamicCache()
    hidden = language_model.model(
        inputs_embeds=rows.prompts.embeds,
        attention_mask=rows.prompts.mask,
        position_ids=rows.prompts.positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[rows.prompt_index, -1:]
    if (
        rows.ids.shape[1] > 1
    ):  # the last token of a completion predicts nothing, so it is not an input
        cache.batch_select_indices(rows.prompt_index)
        mask = torch.cat([rows.prompts.mask[rows.prompt_index], rows.mask[:, :-1]], dim=1)
        rest = language_model.model(
            inputs_embeds=language_model.get_input_embeddings()(rows.ids[:, :-1]),
            attention_mask=mask,
            position_ids=rows.later_positions(),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden = torch.cat([hidden, rest], dim=1)
    return hidden[rows.mask.bool()]


def _copied_hidden(language_model: PreTrainedModel, rows: Rows) -> Tensor:
    """Run each completion together with a copy of its prompt."""
    index, size = rows.prompt_index, rows.prompts.mask.shape[1]
    tail = language_model.get_input_embeddings()(rows.ids[:, :-1])
    places = (rows.prompts.positions[..., index, :], rows.later_positions())
    hidden = language_model.model(
        inputs_embeds=torch.cat([rows.prompts.embeds[index], tail], dim=1),
        attention_mask=torch.cat([rows.prompts.mask[index], rows.mask[:, :-1]], dim=1),
        position_ids=torch.cat(places, dim=-1),
        use_cache=False,
    ).last_hidden_state
    return hidden[:, size - 1 :][rows.mask.bool()]
