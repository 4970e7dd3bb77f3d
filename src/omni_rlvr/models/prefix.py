"""Completions over shared prompts: a prompt is processed once, however many completions follow it.

One differentiable pass over the B prompts leaves their keys and values; N completions run over
these, and their gradients sum into the one prefix. Works with any transformers causal LM.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from omni_rlvr.functional.masks import position_ids
from omni_rlvr.models.packed import can_pack, packed_logits


def completion_logits(
    language_model: PreTrainedModel,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
    prompt_index: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
) -> Tensor:
    """Computes the logits that predict each completion token; a prompt is processed once.

    Args:
        language_model: a transformers causal LM.
        prompt_embeds: [B, P, hidden].
        prompt_mask: [B, P], left-padded.
        prompt_index: [N] int64, the prompt of each completion.
        completion_ids: [N, T].
        completion_mask: [N, T], right-padded.

    Returns:
        [N, T, V]; position t predicts ``completion_ids[:, t]``.
    """
    if can_pack(language_model, prompt_mask, prompt_index, completion_ids.shape[1]):
        return packed_logits(
            language_model, prompt_embeds, prompt_mask, completion_ids, completion_mask
        )
    cache = DynamicCache()
    prompt_hidden = language_model.model(
        inputs_embeds=prompt_embeds,
        attention_mask=prompt_mask,
        position_ids=position_ids(prompt_mask),
        past_key_values=cache,
    ).last_hidden_state
    hidden = prompt_hidden[prompt_index, -1:]
    if completion_ids.shape[1] > 1:
        cache.batch_select_indices(prompt_index)
        mask = torch.cat([prompt_mask[prompt_index], completion_mask[:, :-1]], dim=1)
        rest = language_model.model(
            inputs_embeds=language_model.get_input_embeddings()(completion_ids[:, :-1]),
            attention_mask=mask,
            position_ids=position_ids(mask)[:, prompt_mask.shape[1] :],
            past_key_values=cache,
        ).last_hidden_state
        hidden = torch.cat([hidden, rest], dim=1)
    return language_model.lm_head(hidden)
