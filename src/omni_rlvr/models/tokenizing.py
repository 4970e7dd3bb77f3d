"""Tokenizer functions that the processors of all families share."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from omni_rlvr.models.chat_template import TURNS, ChatFrame, chat_frame
from omni_rlvr.types import UserError


def chat_frame_of(tokenizer: PreTrainedTokenizerBase) -> ChatFrame:
    """Find the text that a tokenizer's chat template puts before and after a user's turn.

    Raises:
        UserError: There is no template, or it cannot be used.
    """
    source = str(tokenizer.name_or_path)
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(
            f"model.path={source}: the tokenizer has no chat template; copy "
            "chat_template.jinja from the model that it was trained from"
        ) from error
    return chat_frame(template, tokenizer.special_tokens_map, source)


def with_padding(tokenizer: PreTrainedTokenizerBase, folder: Path) -> PreTrainedTokenizerBase:
    """Give a tokenizer a pad token, if it has none.

    Raises:
        UserError: It has no end token either.
    """
    if tokenizer.eos_token is None:
        raise UserError(
            f"model.path={folder}: tokenizer_config.json has no eos_token, which ends a completion"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token  # any token is fine: padding is masked
    return tokenizer


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that pads rows."""
    return tokenizer.get_vocab()[str(tokenizer.pad_token)]


def encode_around(
    tokenizer: PreTrainedTokenizerBase, text: str, media: Mapping[str, Sequence[int]]
) -> list[int]:
    """Tokenise text and replace marks in it by placeholders of media.

    Args:
        tokenizer: The language model's tokenizer.
        text: The text with marks.
        media: A mark -> the placeholder ids that replace it.
    """
    ids: list[int] = []
    for piece in re.split(f"({'|'.join(map(re.escape, media))})", text):
        ids += media[piece] if piece in media else tokenizer.encode(piece, add_special_tokens=False)
    return ids


def target_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenise a completion with its end token."""
    return [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]


def refuse_special_tokens(
    tokenizer: PreTrainedTokenizerBase, others: Collection[str], text: str, source: str
) -> None:
    """Refuse text that a tokenizer would read as a placeholder or an end of turn.

    Args:
        tokenizer: The tokenizer whose special tokens are refused.
        others: Further texts to refuse.
        text: The text to check.
        source: Where the text comes from, for the message.

    Raises:
        UserError: The text contains such a token; names it and the source.
    """
    added = (
        tokenizer.added_tokens_decoder.values()
    )  # not those like Qwen3's <think>, which are not special
    for token in (*others, *(str(t) for t in added if t.special)):
        if token in text:
            raise UserError(f"{source}: the text contains the special token {token}; remove it")


def decode(
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: Collection[int],
    completion_ids: Tensor,
    completion_mask: Tensor,
) -> list[str]:
    """Decode completions ([N, T] ids and mask) up to their first end token.

    Special tokens before it are kept as text: the reward must see everything that the model wrote.
    """
    rows = []
    for ids, mask in zip(completion_ids.tolist(), completion_mask.bool().tolist(), strict=True):
        row = [token for token, counts in zip(ids, mask, strict=True) if counts]
        end = next((i for i, token in enumerate(row) if token in stop_ids), len(row))
        rows.append(row[:end])
    return tokenizer.batch_decode(rows, skip_special_tokens=False)


def byte_tokenizer(named: Mapping[str, str]) -> PreTrainedTokenizerFast:
    """Build a tokenizer with a token for each byte, for tiny models of Qwen's families.

    Args:
        named: Its special tokens besides those of a chat, by the names of their attributes.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
        chat_template=TURNS,
        extra_special_tokens={**named, "start": "<|im_start|>"},
        clean_up_tokenization_spaces=False,
    )
