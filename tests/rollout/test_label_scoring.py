"""Label scores against one plain forward pass a label, and what must not change them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from omni_rlvr.models.prefix.scoring import completion_logits
from omni_rlvr.rollout import label_scoring
from omni_rlvr.rollout.label_scoring import (
    BARE,
    TAGGED,
    AnswerSlot,
    completion_slot,
    label_logps,
    prompt_slot,
)
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.types import Prompts

LABELS = ("happy", "sad", "happy face", "s", "surprise")
"""One is a prefix of another as text, one as a token too; token counts differ."""
KINDS = ("av", "v", "a", "t")
NESTED = "<think><answer>sad</answer></think><answer>"
REASONED = "<think>The brows are raised.</think>\n<answer>"


def encode(policy, text: str) -> list[int]:
    return policy.processor.tokenizer.encode(text, add_special_tokens=False)


def prompts_of(policy, batch) -> Prompts:
    with torch.no_grad():
        return policy.prompts(batch, policy.encode(batch))


def scores(policy, batch, slots, *, labels=LABELS) -> torch.Tensor:
    return label_logps(policy, prompts_of(policy, batch), slots=slots, labels=labels)


@torch.no_grad()
def by_hand(policy, embeds, prompt_mask, given: list[int], scored: list[int]) -> float:
    """Log-probability of ``scored`` behind one unpadded prompt and ``given``: a plain forward."""
    embed = policy.language_model.get_input_embeddings()
    tail = embed(torch.tensor([given + scored]))
    whole = torch.cat([embeds[prompt_mask.bool()].unsqueeze(0), tail], dim=1)
    logits = policy.language_model(inputs_embeds=whole).logits[0].log_softmax(dim=-1)
    first = whole.shape[1] - len(scored)
    return sum(logits[first + t - 1, token].item() for t, token in enumerate(scored))


def slots_of(policy) -> list[AnswerSlot]:
    """The tag alone, reasoning of two lengths, and a bare label: one row of each."""
    return [
        TAGGED,
        replace(TAGGED, ids=encode(policy, "<think>A smile.</think>\n")),
        replace(TAGGED, ids=encode(policy, REASONED), text=""),
        BARE,
    ]


def closed(policy, label: str, slot: AnswerSlot) -> list[int]:
    """The tokens of a label and what closes it."""
    end = [] if slot.closing else [policy.processor.tokenizer.eos_token_id]
    return [*encode(policy, label + slot.closing), *end]


@pytest.mark.parametrize("turn", range(4))
def test_scores_equal_a_plain_forward_for_each_label(tiny_policy, make_batch, turn):
    batch = make_batch(tiny_policy, 4, KINDS)
    assert (batch.prompt_mask[:, 0] == 0).any()  # left-padded, ragged
    slots = slots_of(tiny_policy)
    slots = slots[turn:] + slots[:turn]  # every slot meets every kind of clip
    got = scores(tiny_policy, batch, slots)
    assert got.shape == (4, 5)
    embeds = prompts_of(tiny_policy, batch).embeds
    for row, slot in enumerate(slots):
        given = [*slot.ids, *encode(tiny_policy, slot.text)]
        for column, label in enumerate(LABELS):
            scored = closed(tiny_policy, label, slot)
            expected = by_hand(tiny_policy, embeds[row], batch.prompt_mask[row], given, scored)
            assert abs(got[row, column].item() - expected) < 1e-5
    assert got.std(dim=1).min() > 0.1  # scores that say something


def test_a_bare_label_is_scored_as_it_is_trained(tiny_policy):
    assert closed(tiny_policy, "happy", BARE) == tiny_policy.processor.target_ids("happy")


def test_the_tokens_scored_are_those_a_model_would_write(tiny_policy):
    """The reference above tokenises lead and label apart; here that is the same as the whole."""
    for label in LABELS:
        whole = encode(tiny_policy, f"{REASONED}{label}</answer>")
        assert whole == encode(tiny_policy, REASONED) + encode(tiny_policy, f"{label}</answer>")


def test_one_pass_over_each_prompt_and_all_labels(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4, KINDS)
    slots, shapes = slots_of(tiny_policy), []
    prompts = prompts_of(tiny_policy, batch)
    tiny_policy.language_model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    label_logps(tiny_policy, prompts, slots=slots, labels=LABELS)
    given = int(batch.prompt_mask.sum())
    given += sum(len(slot.ids) + len(encode(tiny_policy, slot.text)) for slot in slots)
    # a label's last token is scored by the one before it, and need not be read
    rest = sum(len(closed(tiny_policy, label, slot)) - 1 for slot in slots for label in LABELS)
    assert shapes == [(1, given + rest)]  # each prompt once, and no padding


def test_all_labels_together_have_at_most_all_probability(tiny_policy, make_batch):
    got = scores(tiny_policy, make_batch(tiny_policy, 4), slots_of(tiny_policy))
    assert (got.exp().sum(dim=1) <= 1 + 1e-6).all()
    ones = got.log_softmax(dim=-1).exp().sum(dim=1)
    torch.testing.assert_close(ones, torch.ones(4), atol=1e-6, rtol=0)


def test_a_prefix_of_a_label_does_not_win_by_being_short(tiny_policy, make_batch, monkeypatch):
    """A model sure to say "happy face" gives "happy" next to nothing: its closing does not come."""
    said = encode(tiny_policy, "happy face</answer>")

    batch = make_batch(tiny_policy, 1)
    base = scores(tiny_policy, batch, [TAGGED])

    def lifted(*inputs):
        """After T scored tokens, lifts token T of ``said``; works on [N, T, V]."""
        logits = completion_logits(*inputs).clone()
        for t, token in enumerate(said[: logits.shape[1]]):
            logits[:, t, token] += 50.0
        return logits

    monkeypatch.setattr(label_scoring, "completion_logits", lifted)
    got = scores(tiny_policy, batch, [TAGGED]).softmax(dim=-1)[0]
    assert got[LABELS.index("happy face")] > 0.999
    assert got[LABELS.index("happy")] < 1e-6
    assert base.softmax(dim=-1)[0, LABELS.index("happy face")] < 0.9


def test_a_row_is_the_same_alone_and_under_other_padding(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4, KINDS)
    prompts, slots = prompts_of(tiny_policy, batch), slots_of(tiny_policy)
    whole = label_logps(tiny_policy, prompts, slots=slots, labels=LABELS)
    junk, none = torch.randn(4, 7, prompts.embeds.shape[-1]), torch.zeros(4, 7, dtype=torch.long)
    padded = label_logps(
        tiny_policy,
        Prompts(
            torch.cat([junk, prompts.embeds], dim=1),
            torch.cat([none, prompts.mask], dim=1),
            torch.cat([none, prompts.positions], dim=1),
        ),
        slots=slots,
        labels=LABELS,
    )
    torch.testing.assert_close(padded, whole, atol=1e-5, rtol=0)
    for row in range(4):
        one = slice(row, row + 1)
        few = Prompts(prompts.embeds[one], prompts.mask[one], prompts.positions[one])
        alone = label_logps(tiny_policy, few, slots=slots[one], labels=LABELS)
        torch.testing.assert_close(alone, whole[one], atol=1e-5, rtol=0)


def test_the_order_of_labels_and_the_list_change_no_score(tiny_policy, make_batch):
    batch, slots = make_batch(tiny_policy, 4), slots_of(tiny_policy)
    whole = scores(tiny_policy, batch, slots)
    turned = scores(tiny_policy, batch, slots, labels=LABELS[::-1]).flip(1)
    torch.testing.assert_close(turned, whole, atol=1e-5, rtol=0)
    one = scores(tiny_policy, batch, slots, labels=("sad",))
    torch.testing.assert_close(one[:, 0], whole[:, 1], atol=1e-5, rtol=0)


def test_a_lead_changes_the_scores(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 1)
    short, long = (
        scores(tiny_policy, batch, [slot]) for slot in (slots_of(tiny_policy)[i] for i in (0, 2))
    )
    assert (short - long).abs().max() > 0.1


def joining_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, but ``>`` and ``h`` join, as a byte-level BPE may have learnt."""
    vocab = {token: i for i, token in enumerate(["<e>", "<", "a", "b", ">", "h", "s", ">h"])}
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=[(">", "h")]))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<e>", pad_token="<e>")


def test_a_label_that_joins_the_tag_is_scored_from_where_they_part(tiny_policy, make_batch):
    prompts = prompts_of(tiny_policy, make_batch(tiny_policy, 1))
    tiny_policy.processor = replace(tiny_policy.processor, tokenizer=joining_tokenizer())
    slot = AnswerSlot([7, 7], "<a>", "<b")
    got = label_logps(tiny_policy, prompts, slots=[slot], labels=("h", "s"))
    ids = tiny_policy.processor.tokenizer.get_vocab()
    # "<a>" is < a >, "<a>h<b" is < a >h < b, "<a>s<b" is < a > s < b: they part behind "< a".
    given = [7, 7, ids["<"], ids["a"]]
    expected = [
        by_hand(tiny_policy, prompts.embeds[0], prompts.mask[0], given, [ids[t] for t in scored])
        for scored in ([">h", "<", "b"], [">", "s", "<", "b"])
    ]
    assert got[0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "lead"),
    [
        (f"{REASONED}happy</answer>", REASONED),
        ("<answer>happy</answer>", "<answer>"),
        (f"{REASONED}happ", REASONED),  # cut short by the length
        (f"{NESTED}happy</answer>", NESTED),  # the tag in the thinking is none
        ("<think>A smile", None),
        ("happy", None),
        ("<answer>a</answer><answer>b</answer>", None),
    ],
)
def test_the_lead_of_a_completion(tiny_policy, text, lead):
    processor = tiny_policy.processor
    ids = torch.tensor([*processor.target_ids(text), processor.pad_token_id])
    mask = torch.tensor([1] * (len(ids) - 1) + [0])
    got = completion_slot(processor, ids, mask)
    if lead is None:
        assert got is None
        return
    assert got is not None
    assert got.text == "<answer>"
    assert processor.tokenizer.decode(got.ids) + got.text == lead
    assert got.ids == ids.tolist()[: len(got.ids)]  # the model's own tokens


def test_a_token_that_reaches_into_the_tag_is_tokenised_again(tiny_policy):
    class Pieces:
        """A tokenizer of five tokens; the second ends in the first character of the tag."""

        eos_token_id = 99

        @staticmethod
        def batch_decode(rows, skip_special_tokens):
            pieces = ["x", "\n<", "answer>", "happy", "</answer>"]
            return ["".join(pieces[i] for i in row) for row in rows]

    processor = replace(tiny_policy.processor, tokenizer=Pieces())
    slot = completion_slot(processor, torch.arange(5), torch.ones(5))
    assert slot == AnswerSlot([0], "\n<answer>", "</answer>")


def test_the_slot_follows_what_the_prompt_asks_for(tiny_policy):
    processor = tiny_policy.processor
    asks = "Output the thinking process in <think> </think> and emotion in <answer> </answer> tags."
    assert prompt_slot(processor, EMOTION_QUESTION) is BARE
    assert prompt_slot(processor, f"{EMOTION_QUESTION} {asks}") is TAGGED
    assert (
        prompt_slot(
            replace(processor, settings=replace(processor.settings, instruction=asks)),
            EMOTION_QUESTION,
        )
        is TAGGED
    )


def test_scores_by_hand(tiny_policy, make_batch, monkeypatch):
    """Every token has probability 1/V under equal logits: log p = -n log V."""
    vocabulary = tiny_policy.config.text_config.vocab_size
    monkeypatch.setattr(
        label_scoring,
        "completion_logits",
        lambda language_model, rows: torch.zeros(*rows.ids.shape, vocabulary),
    )
    got = scores(tiny_policy, make_batch(tiny_policy, 1), [TAGGED])[0]
    for label, logp in zip(LABELS, got.tolist(), strict=True):
        n = len(encode(tiny_policy, f"{label}</answer>"))
        assert logp == pytest.approx(-n * math.log(vocabulary), rel=1e-6)
