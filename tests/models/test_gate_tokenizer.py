"""The gate's tokenizer against transformers' BERT tokenizer; which added tokens text may hold."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import BertTokenizer

from omni_rlvr.models.composed.tokenizers import MAX_GATE_TOKENS, PACKAGED, load_gate_tokenizer
from omni_rlvr.text.prompts import WORDINGS
from omni_rlvr.types import UserError

TEXTS = [
    *(f"{w.question}{w.separator}{w.instruction}" for w in WORDINGS.values()),
    "<vi_start><vi_end><au_start><audio><au_end>As an expert",
    "Café, naïve; 中文 ☃ don't\tSTOP",
]


def test_ids_are_those_of_transformers() -> None:
    ours = load_gate_tokenizer(Path(), None, size=30522)
    theirs = BertTokenizer(vocab=str(PACKAGED))
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text)["input_ids"], text


def test_a_text_longer_than_bert_reads_is_cut() -> None:
    ids = load_gate_tokenizer(Path(), None, size=30522).encode("word " * 600).ids
    assert len(ids) == MAX_GATE_TOKENS
    assert (ids[0], ids[-1]) == (101, 102)


def test_added_tokens_that_are_no_special_ones_may_stand_in_text(tiny_policy) -> None:
    tokenizer = copy.deepcopy(tiny_policy.processor.tokenizer)
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("<|x|>", special=True)])
    processor = replace(tiny_policy.processor, tokenizer=tokenizer)
    processor.check_text("<think>a</think>", "train.json[1]")
    with pytest.raises(UserError, match="special token"):
        processor.check_text("a <|x|>", "train.json[1]")
