"""What is computed of a clip is what transformers computes of the raw frames and sound."""

from __future__ import annotations

import pytest
import torch
from make_qwen import CASES, Case, batch_of, by_transformers, joined, prompts_of, rope_of

from omni_rlvr.config.sampling import greedy
from omni_rlvr.models.prefix.scoring import first_positions
from omni_rlvr.rollout.shared_prefix import SharedPrefix

TOLERANCE = 1e-5
ROWS = [case for case in CASES.values() if case.interleaved] + [Case(8, 3.0, 4.7)]
"""Nine mixed rows that one batch can hold."""


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", CASES)
def test_a_forward_pass_is_that_of_transformers_on_raw_inputs(untouched, name):
    case, thinker = CASES[name], untouched.thinker()
    inputs = by_transformers(untouched.processor, case)
    want = thinker(**inputs, use_audio_in_video=case.is_joint).logits
    prompts = prompts_of(untouched, batch_of(joined(untouched.processor, case), [case]))
    got = untouched.language_model(inputs_embeds=prompts.embeds, position_ids=prompts.positions)
    assert want.std() > 0.1
    torch.testing.assert_close(got.logits, want, atol=TOLERANCE, rtol=0)


def test_rows_padded_on_the_left_are_as_if_alone(untouched):
    assert len(ROWS) == 9
    together = prompts_of(untouched, batch_of(untouched.processor, ROWS))
    assert together.mask.sum(dim=1).unique().numel() > 5  # of many lengths
    logits = untouched.language_model(
        inputs_embeds=together.embeds,
        attention_mask=together.mask,
        position_ids=together.positions,
    ).logits
    for row, case in zip(logits, ROWS, strict=True):
        alone = prompts_of(untouched, batch_of(untouched.processor, [case]))
        want = untouched.language_model(inputs_embeds=alone.embeds, position_ids=alone.positions)
        got = row[-alone.embeds.shape[1] :]
        torch.testing.assert_close(got, want.logits[0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("order", [1, -1])
def test_silent_and_sounding_clips_share_a_batch_in_either_order(untouched, order):
    cases = [Case(4, 2.0, 2.0), Case(6, 2.0)][::order]
    batch = batch_of(untouched.processor, cases)
    for i, case in enumerate(cases):
        places, _ = rope_of(untouched.thinker(), case, by_transformers(untouched.processor, case))
        there = batch.prompt_mask[i].bool()
        torch.testing.assert_close(batch.prompt_positions[:, i, there], places, atol=0, rtol=0)


def test_two_clips_of_a_batch_have_their_own_rates(untouched):
    batch = batch_of(untouched.processor, [Case(6, 2.0, 3.0), Case(6, 1.3, 3.0)])
    seconds = [shape.seconds_per_grid for shape in batch.video_shapes]
    assert seconds == pytest.approx([1.0, 2 / 1.3])
    assert not torch.equal(batch.prompt_positions[:, 0], batch.prompt_positions[:, 1])


@pytest.mark.slow
def test_greedy_tokens_are_those_that_generate_gives(untouched):
    sampling = greedy(max_completion_length=12)
    stops, pad = untouched.processor.stop_ids, untouched.processor.pad_token_id
    for case in CASES.values():
        inputs = by_transformers(untouched.processor, case)
        want = untouched.thinker().generate(
            **inputs,
            use_audio_in_video=case.is_joint,
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=pad,
        )[0, inputs["input_ids"].shape[1] :]
        prompts = prompts_of(untouched, batch_of(joined(untouched.processor, case), [case]))
        rollout = SharedPrefix().sample(untouched, prompts, sampling, torch.Generator(), None)
        assert torch.equal(rollout.completion_ids[0, : len(want)], want)


def test_a_completion_goes_on_from_the_rope_delta(untouched):
    for case in CASES.values():
        inputs = by_transformers(untouched.processor, case)
        _, delta = rope_of(untouched.thinker(), case, inputs)
        batch = batch_of(joined(untouched.processor, case), [case])
        first = first_positions(batch.prompt_positions)
        assert first.item() == pytest.approx(delta + inputs["input_ids"].shape[1], abs=1e-4)
