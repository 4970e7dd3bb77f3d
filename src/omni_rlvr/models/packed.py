"""Many short completions of a prompt in one row behind it, apart by their mask: no copies of keys.

    prompt | o_1 | o_2 | ... | o_C     each o_c sees the prompt and itself

Without gradients only, for completions that are short beside their prompt, such as the labels of a
list: there, giving each completion a copy of the prompt's keys and values costs more than running
it. ``prefix`` chooses.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from omni_rlvr.functional.masks import position_ids

TAKES_A_MASK = ("sdpa", "eager")
"""Implementations of attention that read a mask of queries by keys."""


def can_pack(
    language_model: PreTrainedModel, prompt_mask: Tensor, prompt_index: Tensor, width: int
) -> bool:
    """Whether all prompts have equally many completions, in order, together shorter than they are.

    Args:
        language_model: a transformers causal LM.
        prompt_mask: [B, P].
        prompt_index: [N] the prompt of each completion.
        width: T.
    """
    num_prompts, num_each = len(prompt_mask), len(prompt_index) // len(prompt_mask)
    if torch.is_grad_enabled() or num_each < 2 or width < 2:
        return False
    if num_each * (width - 1) > prompt_mask.shape[1]:
        return False
    order = torch.arange(num_prompts, device=prompt_index.device).repeat_interleave(num_each)
    in_order = torch.equal(prompt_index, order)
    return in_order and language_model.config._attn_implementation in TAKES_A_MASK


def packed_logits(
    language_model: PreTrainedModel,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
) -> Tensor:
    """Computes the logits that predict each completion token; rows as ``can_pack`` wants them.

    Args:
        language_model: a transformers causal LM.
        prompt_embeds: [B, P, hidden].
        prompt_mask: [B, P], left-padded.
        completion_ids: [N, T], N = B*C in the order of their prompts.
        completion_mask: [N, T], right-padded.

    Returns:
        [N, T, V]; position t predicts ``completion_ids[:, t]``.
    """
    num_prompts, prompt_width = prompt_mask.shape
    num_rows, width = completion_ids.shape
    shape = (num_prompts, num_rows // num_prompts * (width - 1))
    fed, fed_mask = completion_ids[:, :-1].reshape(shape), completion_mask[:, :-1].reshape(shape)
    behind = torch.arange(width - 1, device=fed.device).repeat(num_rows // num_prompts)
    embeds = language_model.get_input_embeddings()(fed).to(prompt_embeds.dtype)
    hidden = language_model.model(
        inputs_embeds=torch.cat([prompt_embeds, embeds], dim=1),
        attention_mask=_mask(prompt_mask, fed_mask, width - 1, prompt_embeds.dtype),
        position_ids=torch.cat(
            [position_ids(prompt_mask), prompt_mask.sum(dim=1, keepdim=True) + behind], dim=1
        ),
        use_cache=False,
    ).last_hidden_state
    last = hidden[:, prompt_width - 1].repeat_interleave(num_rows // num_prompts, dim=0)
    rest = hidden[:, prompt_width:].reshape(num_rows, width - 1, -1)
    return language_model.lm_head(torch.cat([last.unsqueeze(1), rest], dim=1))


def _mask(prompt_mask: Tensor, fed_mask: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Who sees whom: [B, 1, Q, Q], 0 or the least number; padding sees itself, so that none is NaN.

    Args:
        prompt_mask: [B, P].
        fed_mask: [B, C * width].
        width: tokens of one completion.
        dtype: of the mask.
    """
    device, prompt_width, num_fed = prompt_mask.device, prompt_mask.shape[1], fed_mask.shape[1]
    size = prompt_width + num_fed
    place = torch.arange(size, device=device)
    owner = torch.where(place < prompt_width, -1, (place - prompt_width) // width)
    visible = (owner.unsqueeze(0) == -1) | (owner.unsqueeze(0) == owner.unsqueeze(1))
    visible = visible & (place.unsqueeze(0) <= place.unsqueeze(1))
    there = torch.cat([prompt_mask, fed_mask], dim=1).bool().unsqueeze(1)
    seen = visible & there | torch.eye(size, dtype=torch.bool, device=device)
    least = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=device)
    return torch.where(seen, torch.zeros((), dtype=dtype, device=device), least).unsqueeze(1)
