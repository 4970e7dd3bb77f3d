"""The rollout against transformers' own generate, and what must change no completion."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode

from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.models.prefix.decoding import SharedDecoder
from omni_rlvr.rollout.experience import completion_scores
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.text.parse import parse
from omni_rlvr.types import Experience, Prompts

pytestmark = pytest.mark.usefixtures("each_path")

GREEDY = {"temperature": 0, "num_generations": 1}


def run(policy, batch, *, seed=0, positions=None, own=None, on_tokens=None, **changes):
    """Rolls out; ``own`` says which prompts, each of which then has random numbers of its own."""
    sampling = SamplingConfig(
        **{"num_generations": 4, "temperature": 1.0, "max_completion_length": 12} | changes
    )
    with torch.no_grad():
        prompts = policy.prompts(batch, policy.encode(batch))
    if positions is not None:
        prompts = replace(prompts, positions=positions)
    generator = torch.Generator().manual_seed(seed)
    if own is not None:
        prompts = Prompts(prompts.embeds[own], prompts.mask[own], prompts.positions[..., own, :])
        generator = [torch.Generator().manual_seed(i) for i in own]
    return SharedPrefix().sample(policy, prompts, sampling, generator, on_tokens)


def tokens_of(rollout) -> list[list[int]]:
    """Returns each row's tokens without padding."""
    rows = zip(rollout.completion_ids, rollout.completion_mask, strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in rows]


def raise_end_token(policy, boost: float) -> None:
    """Makes the end token likelier by adding to its logit."""
    eos = policy.processor.tokenizer.eos_token_id

    def lift(module, args, logits):
        return logits + boost * torch.nn.functional.one_hot(torch.tensor(eos), logits.shape[-1])

    policy.language_model.lm_head.register_forward_hook(lift)


@pytest.fixture
def kept(monkeypatch) -> list[torch.Tensor]:
    """Gets which of the present rows stay, each time ended rows leave the batch."""
    seen: list[torch.Tensor] = []
    keep = SharedDecoder.keep

    def noted(self, rows):
        seen.append(rows)
        keep(self, rows)

    monkeypatch.setattr(SharedDecoder, "keep", noted)
    return seen


@pytest.mark.parametrize("boost", [0.0, 3.0])
def test_greedy_equals_generate_on_each_prompt_alone(tiny_policy, make_batch, monkeypatch, boost):
    raise_end_token(tiny_policy, boost)
    batch = make_batch(tiny_policy, 8)
    assert (batch.prompt_mask[:, 0] == 0).any()  # some rows are padded
    rollout = run(tiny_policy, batch, **GREEDY)
    with torch.no_grad():
        embeds = tiny_policy.prompts(batch, tiny_policy.encode(batch)).embeds
    for row in range(8):
        alone = embeds[row : row + 1, batch.prompt_mask[row].bool()]
        expected = tiny_policy.language_model.generate(
            inputs_embeds=alone,
            attention_mask=torch.ones(alone.shape[:2], dtype=torch.long),
            do_sample=False,
            max_new_tokens=12,
        )[0]
        got = rollout.completion_ids[row, rollout.completion_mask[row].bool()]
        assert got.tolist() == expected.tolist()


def test_prompts_differ_in_what_they_say(tiny_policy, make_batch):
    """Keeps the test above honest: its prompts do not all get the same completion."""
    rollout = run(tiny_policy, make_batch(tiny_policy, 8), **GREEDY)
    assert len({tuple(row) for row in rollout.completion_ids.tolist()}) > 2


@pytest.mark.slow
@pytest.mark.parametrize("boost", [3.0, 4.0])
@pytest.mark.parametrize("num_generations", [1, 3])
def test_leaving_out_ended_rows_changes_no_completion(
    tiny_policy, make_batch, kept, boost, num_generations
):
    raise_end_token(tiny_policy, boost)
    batch = make_batch(tiny_policy, 5)
    how = {"num_generations": num_generations, "max_completion_length": 20}
    together = run(tiny_policy, batch, own=list(range(5)), **how)
    assert kept  # rows did leave the batch
    kept.clear()
    alone = [run(tiny_policy, batch, own=[i], **how) for i in range(5)]
    assert num_generations > 1 or not kept  # one row leaves with the end of the rollout
    assert together.texts == [text for rollout in alone for text in rollout.texts]
    ids = [row for rollout in alone for row in tokens_of(rollout)]
    assert tokens_of(together) == ids
    assert len({len(row) for row in ids}) > 1


def test_a_row_is_untouched_by_the_rows_beside_it(tiny_policy, make_batch, monkeypatch):
    raise_end_token(tiny_policy, 3.0)
    one, other = make_batch(tiny_policy, 4), make_batch(tiny_policy, 4, seed=1)
    assert torch.equal(one.prompt_ids, other.prompt_ids)
    # Rows 0..3 (prompt 0) get the media of ``one`` in both batches, the others' media differ.
    pixels, sounds = [*other.pixel_values], [*other.input_features]
    pixels[0], sounds[0] = one.pixel_values[0], one.input_features[0]
    mixed = type(one)(**{**vars(one), "pixel_values": pixels, "input_features": sounds})
    a, b = run(tiny_policy, one), run(tiny_policy, mixed)
    assert a.texts[:4] == b.texts[:4]
    assert a.texts[4:12] != b.texts[4:12]


def test_equal_seeds_give_equal_completions(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2)
    a, b, c = (run(tiny_policy, batch, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(a.completion_ids, b.completion_ids)
    assert not torch.equal(a.completion_ids, c.completion_ids)


def test_the_rows_of_a_group_differ_and_lie_together(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 3, kinds=("av",))
    rollout = run(tiny_policy, batch, num_generations=4)
    assert rollout.completion_ids.shape[0] == 12
    assert len(set(rollout.texts[:4])) > 1
    greedy = run(tiny_policy, batch, temperature=0, num_generations=4).completion_ids
    alone = run(tiny_policy, batch, **GREEDY).completion_ids
    assert torch.equal(greedy, alone.repeat_interleave(4, dim=0))  # row b*4 + g is prompt b


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 1.0},
        {"temperature": 0.8},
        {"temperature": 1.5, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.3},
        {"temperature": 0, "num_generations": 4},
    ],
)
def test_tokens_have_at_decoding_the_logps_the_update_sees(tiny_policy, make_batch, how):
    raise_end_token(tiny_policy, 3.0)
    batch = make_batch(tiny_policy, 4)
    rollout = run(tiny_policy, batch, **how)
    with torch.no_grad():
        experience = Experience(
            batch=batch,
            features=tiny_policy.encode(batch),
            prompt_index=torch.arange(4).repeat_interleave(4),
            completion_ids=rollout.completion_ids,
            completion_mask=rollout.completion_mask,
        )
        at_update = completion_scores(
            tiny_policy,
            experience,
            temperature=how["temperature"] or 1.0,
            gradient_checkpointing=False,
            entropy_gradient=False,
        ).logps
    mask = rollout.completion_mask
    assert len(mask.sum(dim=1).unique()) > 1  # completions of unequal length
    assert (rollout.per_token_logps[mask == 0] == 0).all()
    assert (rollout.per_token_logps[mask == 1] < 0).all()
    torch.testing.assert_close(rollout.per_token_logps, at_update, atol=1e-5, rtol=0)


def test_mask_ends_with_the_first_end_token_and_padding_follows(
    tiny_policy, make_batch, monkeypatch
):
    raise_end_token(tiny_policy, 4.0)
    tokenizer = tiny_policy.processor.tokenizer
    rollout = run(tiny_policy, make_batch(tiny_policy, 8))
    assert rollout.truncated.any()
    assert not rollout.truncated.all()
    for ids, mask, truncated in zip(
        rollout.completion_ids.tolist(),
        rollout.completion_mask.tolist(),
        rollout.truncated.tolist(),
        strict=True,
    ):
        length = sum(mask)
        assert mask == [1] * length + [0] * (len(mask) - length)
        assert truncated == (tokenizer.eos_token_id not in ids)
        if truncated:
            assert length == 12
        else:
            assert ids.index(tokenizer.eos_token_id) == length - 1
            assert set(ids[length:]) <= {tokenizer.pad_token_id}


def test_texts_are_the_tokens_before_the_end_token_special_ones_too(
    tiny_policy, make_batch, monkeypatch
):
    raise_end_token(tiny_policy, 4.0)
    tokenizer = tiny_policy.processor.tokenizer
    rollout = run(tiny_policy, make_batch(tiny_policy, 8))
    for ids, mask, text in zip(
        rollout.completion_ids, rollout.completion_mask, rollout.texts, strict=True
    ):
        sampled = [i for i in ids[mask.bool()].tolist() if i != tokenizer.eos_token_id]
        assert text == tokenizer.decode(sampled)
        assert "<|im_end|>" not in text


@pytest.mark.parametrize("token", ["<|pad|>", "<|im_start|>", "<|video|>", "<|audio|>"])
def test_special_tokens_before_the_end_are_seen_by_whoever_judges(tiny_policy, token: str):
    processor = tiny_policy.processor
    tokenizer = processor.tokenizer
    said = "<think>a</think>\n<answer>happy</answer>"
    hidden = f"<think>a</think>{token * 5}\n<answer>hap{token}py</answer>"
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    row = tokenizer.encode(hidden, add_special_tokens=False)
    ids = torch.tensor([[*row, end, pad, pad], [*row, token_id(tokenizer, token), end, pad]])
    texts = processor.decode(ids, torch.ones_like(ids))
    assert texts == [hidden, hidden + token]
    assert not any(parse(text).well_formed for text in texts)
    assert parse(texts[0]).answer == f"hap{token}py"
    plain = torch.tensor([[*tokenizer.encode(said, add_special_tokens=False), end, pad]])
    assert processor.decode(plain, torch.ones_like(plain)) == [said]


def test_a_model_whose_end_token_is_its_padding_reads_as_any_other(tiny_policy):
    tokenizer = copy.deepcopy(tiny_policy.processor.tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    processor = replace(tiny_policy.processor, tokenizer=tokenizer)
    end = tokenizer.eos_token_id
    ids = torch.tensor([[*tokenizer.encode("happy", add_special_tokens=False), end, end, end]])
    assert processor.decode(ids, torch.ones_like(ids)) == ["happy"]
    assert processor.decode(ids[:, :-3], torch.ones_like(ids[:, :-3])) == ["happy"]


def token_id(tokenizer, token: str) -> int:
    return tokenizer.get_vocab()[token]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_length_is_at_most_what_was_asked(tiny_policy, make_batch, length):
    rollout = run(tiny_policy, make_batch(tiny_policy, 2), max_completion_length=length)
    assert rollout.completion_ids.shape == (8, length)
    assert (rollout.completion_mask.sum(dim=1) == length)[rollout.truncated].all()


def test_ends_early_once_every_row_has_ended(tiny_policy, make_batch, monkeypatch):
    raise_end_token(tiny_policy, 1000.0)
    rollout = run(tiny_policy, make_batch(tiny_policy, 3))
    assert rollout.completion_ids.tolist() == [[tiny_policy.processor.tokenizer.eos_token_id]] * 12
    assert not rollout.truncated.any()
    assert rollout.texts == [""] * 12


def test_the_prompt_is_prefilled_once_per_prompt(tiny_policy, make_batch, monkeypatch):
    shapes = []
    tiny_policy.language_model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    batch = make_batch(tiny_policy, 3)
    run(tiny_policy, batch, num_generations=5, max_completion_length=3)
    assert shapes == [(1, batch.prompt_mask.sum()), (15, 1), (15, 1)]


def test_greedy_moves_no_float64_to_the_device(tiny_policy, make_batch):
    """MPS has none."""
    moved: list[torch.dtype] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.Tensor.to:
                moved.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    with Watch():
        run(tiny_policy, make_batch(tiny_policy, 2), **GREEDY)
        assert torch.float64 not in moved
        run(tiny_policy, make_batch(tiny_policy, 2))
        assert torch.float64 in moved


def test_no_gradient_is_kept(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2)
    prompts = tiny_policy.prompts(batch, tiny_policy.encode(batch))
    assert prompts.embeds.requires_grad
    sampling = SamplingConfig(
        num_generations=2, max_completion_length=3, temperature=1.0, top_p=0.9, top_k=50
    )
    rollout = SharedPrefix().sample(tiny_policy, prompts, sampling, torch.Generator(), None)
    assert not rollout.per_token_logps.requires_grad
    assert not rollout.completion_ids.is_inference()  # such tensors could not enter backward


def test_on_tokens_is_told_every_token_once_and_no_padding(tiny_policy, make_batch):
    raise_end_token(tiny_policy, 3.0)
    told = {row: [] for row in range(16)}

    def note(rows, tokens):
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            told[row].append(token)

    rollout = run(tiny_policy, make_batch(tiny_policy, 4), on_tokens=note)
    for row, tokens in told.items():
        assert tokens == rollout.completion_ids[row, rollout.completion_mask[row].bool()].tolist()
    assert len({len(tokens) for tokens in told.values()}) > 1


def test_a_repetition_penalty_ends_repetition(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4)
    plain, penalised = (
        run(tiny_policy, batch, **GREEDY, repetition_penalty=c).completion_ids for c in (1.0, 50.0)
    )
    assert torch.equal(
        plain[:, 0], penalised[:, 0]
    )  # nothing to repeat yet; the prompt is not seen
    assert min(len(set(row)) for row in plain.tolist()) < 12
    assert all(len(set(row)) == 12 for row in penalised.tolist())


def test_positions_of_the_prompt_can_be_given(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4)
    counted = (batch.prompt_mask.cumsum(dim=1) - 1).clamp(min=0)
    same, spread = (
        run(tiny_policy, batch, **GREEDY, positions=p).completion_ids
        for p in (counted, counted * 3)
    )
    assert torch.equal(same, run(tiny_policy, batch, **GREEDY).completion_ids)
    assert not torch.equal(same, spread)
