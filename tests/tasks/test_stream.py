"""Streamed text: whole characters, all of them, once."""

from __future__ import annotations

import pytest
import torch

from omni_rlvr.tasks.predictions_text import TextStream

TEXTS = (
    "<think>The brows are raised.</think>\n<answer>happy</answer>",
    "naïve café",
    "悲しい 😢 👩‍👩‍👧",
    "",
)


def streamed(policy, ids: list[int]) -> list[str]:
    pieces: list[str] = []
    stream = TextStream(policy.processor.decode, pieces.append)
    for token in ids:
        stream.on_tokens(torch.tensor([0]), torch.tensor([token]))
    stream.end(policy.processor.tokenizer.decode(ids, skip_special_tokens=True))
    assert pieces.pop() == "\n"
    return pieces


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_add_up_to_the_text(tiny_policy, text):
    ids = tiny_policy.processor.target_ids(text)
    pieces = streamed(tiny_policy, ids)
    assert "".join(pieces) == text
    assert all(pieces)
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_of_several_tokens_waits_for_its_last(tiny_policy):
    ids = tiny_policy.processor.tokenizer.encode("é", add_special_tokens=False)
    assert len(ids) == 2  # two bytes, and the tokenizer has not learnt to join them
    pieces: list[str] = []
    stream = TextStream(tiny_policy.processor.decode, pieces.append)
    stream.on_tokens(torch.tensor([0]), torch.tensor(ids[:1]))
    assert pieces == []
    stream.on_tokens(torch.tensor([0]), torch.tensor(ids[1:]))
    assert pieces == ["é"]


def test_bytes_that_never_become_a_character_are_shown_at_the_end(tiny_policy):
    ids = tiny_policy.processor.tokenizer.encode("aé", add_special_tokens=False)
    assert streamed(tiny_policy, ids[:-1]) == ["a", "\ufffd"]


def test_text_appears_as_it_comes(tiny_policy):
    ids = tiny_policy.processor.tokenizer.encode(TEXTS[0], add_special_tokens=False)
    assert len(streamed(tiny_policy, ids)) == len(ids)


def test_other_rows_and_the_end_token_are_not_written(tiny_policy):
    pieces: list[str] = []
    stream = TextStream(tiny_policy.processor.decode, pieces.append)
    (a,), (b,) = (tiny_policy.processor.tokenizer.encode(c) for c in "ab")
    stream.on_tokens(torch.tensor([0, 1]), torch.tensor([a, b]))
    stream.on_tokens(torch.tensor([1]), torch.tensor([b]))
    end = tiny_policy.processor.tokenizer.eos_token_id
    stream.on_tokens(torch.tensor([0]), torch.tensor([end]))
    stream.end("a")
    assert pieces == ["a", "\n"]


def test_a_text_that_was_not_streamed_is_written_at_the_end(tiny_policy):
    pieces: list[str] = []
    TextStream(tiny_policy.processor.decode, pieces.append).end("a smile")
    assert pieces == ["a smile", "\n"]


def test_escape_sequences_are_not_written(tiny_policy):
    ids = tiny_policy.processor.tokenizer.encode("a\x1b[31mb", add_special_tokens=False)
    assert "".join(streamed(tiny_policy, ids)) == "a\ufffd[31mb"
