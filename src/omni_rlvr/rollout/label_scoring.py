"""Score every label of a list as a policy's answer, without sampling.

    log p(label) = sum_t log pi(o_t | prompt, lead, o_<t),  o = the tokens of label + closing

The lead is the text between the prompt and the label: ``<answer>`` alone, the policy's own
reasoning up to and including ``<answer>``, or nothing for a model that answers with a bare label.
Prompts and leads are processed once; all labels share their keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import takewhile

import torch
from torch import Tensor

from omni_rlvr.data.collate import pad_rows
from omni_rlvr.functional.logprobs import per_token_logps
from omni_rlvr.models.policy import Policy, Processor
from omni_rlvr.models.prefix.scoring import Rows, completion_logits, first_positions
from omni_rlvr.rollout.experience import LOGITS_AT_ONCE
from omni_rlvr.text.parse import parse
from omni_rlvr.types import Prompts


@dataclass(frozen=True)
class AnswerSlot:
    """The place of a label in a reply: between a lead and a closing."""

    ids: Sequence[int]
    """Tokens of the lead that were generated; they stay as they are."""
    text: str
    """The rest of the lead. It is tokenised together with the label, since the two may join."""
    closing: str
    """Keeps a label from winning as another's prefix; empty where the end token closes it."""


TAGGED = AnswerSlot((), "<answer>", "</answer>")
"""In answer tags, directly after the prompt."""
BARE = AnswerSlot((), "", "")
"""The reply is the label."""


def prompt_slot(processor: Processor, question: str) -> AnswerSlot:
    """Choose by the prompt: tags where the question or the instruction asks for them."""
    asked = TAGGED.text in question + processor.instruction
    return TAGGED if asked else BARE


def completion_slot(
    processor: Processor, completion_ids: Tensor, completion_mask: Tensor
) -> AnswerSlot | None:
    """Cut a completion off after the ``<answer>`` tag that opens its answer.

    Args:
        processor: the processor that tokenises and decodes.
        completion_ids: [T].
        completion_mask: [T].

    Returns:
        The slot after that tag, or None if the completion has no answer. A truncated answer counts.
    """
    ids = completion_ids[completion_mask.bool()]
    text = _text(processor, ids)
    if parse(text).answer is None and parse(text + TAGGED.closing).answer is None:
        return None
    tag = text.rfind(TAGGED.text)  # the answer comes last, so its tag is the last one
    # One token may span the text before the tag and its start; keep the tokens that end before it.
    kept = next(
        count
        for count in range(len(ids), -1, -1)
        if text[:tag].startswith(_text(processor, ids[:count]))
    )
    lead = text[len(_text(processor, ids[:kept])) : tag] + TAGGED.text
    return replace(TAGGED, ids=ids[:kept].tolist(), text=lead)


def reply_slots(
    processor: Processor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    *,
    otherwise: Sequence[AnswerSlot],
) -> list[AnswerSlot]:
    """Cut each of B completions off as ``completion_slot`` does.

    Args:
        processor: the processor that tokenises and decodes.
        completion_ids: [B, T].
        completion_mask: [B, T].
        otherwise: B slots, used for completions without an answer in tags.
    """
    return [
        completion_slot(processor, ids, mask) or slot
        for ids, mask, slot in zip(completion_ids, completion_mask, otherwise, strict=True)
    ]


def _text(processor: Processor, ids: Tensor) -> str:
    return processor.decode(ids.unsqueeze(0), torch.ones_like(ids).unsqueeze(0))[0]


@torch.no_grad()
def label_logps(
    policy: Policy,
    prompts: Prompts,
    *,
    slots: Sequence[AnswerSlot],
    labels: Sequence[str],
) -> Tensor:
    """Compute the log-probability that each label is the answer.

    Lead text, label and closing are tokenised as one text, as the model would write them. The
    tokens that all labels share with the lead are not scored; if a label joins the lead's last
    token (``>h`` + ``appy``), that token is scored for every label. ``exp`` of a row sums to at
    most 1: the rest is the probability of answers outside the list. ``log_softmax(dim=-1)`` makes
    it a distribution over the list.

    Args:
        policy: in eval mode.
        prompts: B prompts, as the policy made them.
        slots: B slots, one per prompt, with leads of any length.
        labels: L different labels.

    Returns:
        [B, L] float32, in nats. As many prompts are scored at once as LOGITS_AT_ONCE allows.

    Note:
        It is a sum, not a mean over tokens: the probability of exactly these words. A label of more
        tokens has more places to lose probability, just as when it is sampled.
    """
    tokenise = cache(lambda slot: _tokenise(policy.processor, slot, labels))
    pairs = [tokenise(replace(slot, ids=tuple(slot.ids))) for slot in slots]  # many are the same
    longest = max(len(row) for _, rows in pairs for row in rows)
    vocab_size = policy.language_model.config.get_text_config().vocab_size
    at_once = max(1, LOGITS_AT_ONCE // (vocab_size * longest * len(labels)))
    if len(slots) > at_once:
        parts = [slice(start, start + at_once) for start in range(0, len(slots), at_once)]
        return torch.cat(
            [
                label_logps(policy, prompts.rows(part), slots=slots[part], labels=labels)
                for part in parts
            ]
        )
    pad, device = policy.processor.pad_token_id, prompts.embeds.device
    lead_ids, lead_mask = pad_rows([lead for lead, _ in pairs], pad=pad, left=False)
    ids, mask = pad_rows([row for _, rows in pairs for row in rows], pad=pad, left=False)
    ids, mask = ids.to(device), mask.to(device)
    whole = _append(
        prompts,
        policy.language_model.get_input_embeddings()(lead_ids.to(device)),
        lead_mask.to(device),
    )
    owners = torch.arange(len(slots), device=device).repeat_interleave(len(labels))
    logits = completion_logits(policy.language_model, Rows(whole, owners, ids, mask))
    logps = per_token_logps(logits, ids, temperature=1.0)
    return logps.masked_fill(mask == 0, 0.0).sum(dim=1).unflatten(0, (len(slots), len(labels)))


def _tokenise(
    processor: Processor, slot: AnswerSlot, labels: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Return the tokens of the lead, and for each label the tokens after them that are scored."""
    encode = processor.tokenizer.encode
    end = [] if slot.closing else [processor.tokenizer.eos_token_id]
    opening = encode(slot.text, add_special_tokens=False)
    rows = [
        encode(slot.text + label + slot.closing, add_special_tokens=False) + end for label in labels
    ]
    columns = zip(opening, *rows, strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return [*slot.ids, *opening[:shared]], [row[shared:] for row in rows]


def _append(prompts: Prompts, embeds: Tensor, mask: Tensor) -> Prompts:
    """Append right-padded rows to prompts, and move all padding to the left.

    Positions continue those of the prompt, as those of a completion do.
    """
    steps = torch.arange(mask.shape[1], device=mask.device)
    # 0 on padding, which would otherwise get the largest position of its row
    places = (first_positions(prompts.positions).unsqueeze(1) + steps) * mask
    places = places.expand(*prompts.positions.shape[:-2], -1, -1)
    whole_mask = torch.cat([prompts.mask, mask], dim=1)
    order = whole_mask.argsort(dim=1, stable=True)  # zeros first, tokens in their order
    order = order[:, int((1 - whole_mask).sum(dim=1).min()) :]
    whole = torch.cat([prompts.embeds, embeds.to(prompts.embeds.dtype)], dim=1)
    positions = torch.cat([prompts.positions, places], dim=-1)
    rows = torch.arange(len(order), device=order.device).unsqueeze(1)
    return Prompts(whole[rows, order], whole_mask.gather(1, order), positions[..., rows, order])
