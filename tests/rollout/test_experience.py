"""Cutting an experience into rows must change nothing a row sees, whatever its prompt holds."""

from __future__ import annotations

import itertools

import pytest
import torch
from every_case import every_case

from omni_rlvr.config.stage import LoopConfig
from omni_rlvr.rollout.experience import by_length, completion_scores, micro_batches, select
from omni_rlvr.types import Batch, Experience, Features

SIZES = (6, 2, 4, 1, 5, 3, 6, 2)


def make_experience(policy, batch, *, per_prompt: int = 2) -> Experience:
    """Random completions of unequal length, random values beside them."""
    generator = torch.Generator().manual_seed(0)
    n = len(batch) * per_prompt
    sizes = torch.tensor([SIZES[i % len(SIZES)] for i in range(n)]).unsqueeze(1)
    mask = (torch.arange(6) < sizes).long()
    ids = torch.randint(5, policy.config.text_config.vocab_size, (n, 6), generator=generator)
    pad = policy.processor.tokenizer.pad_token_id
    with torch.no_grad():
        features = policy.encode(batch)
    return Experience(
        batch=batch,
        features=features,
        prompt_index=torch.arange(len(batch)).repeat_interleave(per_prompt),
        completion_ids=torch.where(mask.bool(), ids, pad),
        completion_mask=mask,
        advantages=torch.randn(n, generator=generator),
        old_per_token_logps=torch.randn(n, 6, generator=generator),
        ref_per_token_logps=torch.randn(n, 6, generator=generator),
    )


def logps_of(policy, experience: Experience) -> torch.Tensor:
    with torch.no_grad():
        return completion_scores(
            policy,
            experience,
            temperature=1.0,
            gradient_checkpointing=False,
            entropy_gradient=False,
        ).logps


def check_rows(policy, experience: Experience, rows: list[int]) -> Experience:
    """The chosen rows have the log-probs, and everything else, that they have in the whole."""
    part = select(experience, torch.tensor(rows))
    whole, some = (logps_of(policy, e) for e in (experience, part))
    for place, row in enumerate(rows):
        length = int(experience.completion_mask[row].sum())
        torch.testing.assert_close(some[place, :length], whole[row, :length], atol=1e-5, rtol=0)
        for name in ("completion_ids", "old_per_token_logps", "ref_per_token_logps"):
            got, expected = (vars(e)[name] for e in (part, experience))
            assert torch.equal(got[place, :length], expected[row, :length])
        assert part.completion_mask[place].sum() == length
        assert part.advantages[place] == experience.advantages[row]
        got = part.batch.examples[part.prompt_index[place]]
        assert got is experience.batch.examples[experience.prompt_index[row]]
    return part


@pytest.mark.parametrize(
    "rows",
    [[0], [3], [5], [7], [0, 1], [6, 7, 0], [7, 6, 5, 4, 3, 2, 1, 0], [2, 2, 5, 2], list(range(8))],
)
def test_rows_see_what_they_see_in_the_whole(tiny_policy, make_batch, rows):
    check_rows(tiny_policy, make_experience(tiny_policy, make_batch(tiny_policy, 4)), rows)


@pytest.mark.parametrize("kinds", list(itertools.permutations(("av", "v", "a", "t")))[::5])
def test_any_order_of_modalities(tiny_policy, make_batch, kinds):
    experience = make_experience(tiny_policy, make_batch(tiny_policy, 4, kinds=kinds))
    for rows in ([7, 2, 0], [1, 4], [6]):
        check_rows(tiny_policy, experience, rows)


def test_two_prompts_of_one_modality_keep_their_own_media(tiny_policy, make_batch):
    experience = make_experience(
        tiny_policy, make_batch(tiny_policy, 4, kinds=("v", "v", "a", "a"))
    )
    part = check_rows(tiny_policy, experience, [7, 3, 2, 4])
    # Prompts 1, 2, 3 are left, as 0, 1, 2: one picture (the second), two sounds.
    assert part.batch.video_shapes == experience.batch.video_shapes[1:]
    assert part.batch.audio_shapes == experience.batch.audio_shapes[1:]
    assert part.features.video == experience.features.video[1:]
    assert part.features.audio == experience.features.audio[1:]
    assert part.prompt_index.tolist() == [2, 0, 0, 1]


def test_a_picture_matters(tiny_policy, make_batch):
    """Keeps the tests above honest: with another clip's picture the log-probs are far off."""
    experience = make_experience(tiny_policy, make_batch(tiny_policy, 2, kinds=("v", "v")))
    part = select(experience, torch.tensor([0]))
    wrong = select(experience, torch.tensor([2]))
    swapped = type(part)(**{**vars(part), "features": wrong.features})
    right, other = (logps_of(tiny_policy, e) for e in (part, swapped))
    assert (right - other).abs().max() > 1e-2


def test_media_are_not_carried_along(tiny_policy, make_batch):
    experience = make_experience(tiny_policy, make_batch(tiny_policy, 4, targets=["happy"]))
    part = select(experience, torch.tensor([0]))
    for name in ("completion_ids", "completion_mask"):
        assert vars(part.batch)[name] is None
    assert part.batch.pixel_values == part.batch.input_features == [None]


def test_a_prompt_without_media_has_no_features(tiny_policy, make_batch):
    experience = make_experience(tiny_policy, make_batch(tiny_policy, 4))
    part = select(experience, torch.tensor([6]))  # prompt 3 is text only
    assert part.features == Features.none(1)


def test_padding_no_row_needs_is_cut(tiny_policy, make_batch):
    experience = make_experience(tiny_policy, make_batch(tiny_policy, 4))
    part = select(experience, torch.tensor([6, 7]))
    assert part.completion_ids.shape == (2, 6)  # SIZES[6] = 6
    part = select(experience, torch.tensor([7, 3]))  # lengths 2 and 1
    for name in ("completion_ids", "completion_mask", "old_per_token_logps", "ref_per_token_logps"):
        assert vars(part)[name].shape == (2, 2)
    lengths = experience.batch.prompt_mask.sum(dim=1)
    assert part.batch.prompt_ids.shape == (2, lengths[[3, 1]].max())
    assert (part.batch.prompt_mask.sum(dim=1) == lengths[[1, 3]]).all()


def test_a_part_of_a_part_is_the_part(tiny_policy, make_batch):
    experience = make_experience(tiny_policy, make_batch(tiny_policy, 4))
    twice = select(select(experience, torch.tensor([6, 2, 5, 0])), torch.tensor([2, 0]))
    once = select(experience, torch.tensor([5, 6]))
    a, b = (logps_of(tiny_policy, e) for e in (twice, once))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_what_is_not_there_stays_away(tiny_policy, make_batch):
    experience = make_experience(tiny_policy, make_batch(tiny_policy, 2))
    fields = ("advantages", "old_per_token_logps", "ref_per_token_logps")
    bare = type(experience)(**{**vars(experience), **dict.fromkeys(fields)})
    part = select(bare, torch.tensor([1]))
    assert all(vars(part)[name] is None for name in fields)


def test_junk_beyond_the_mask_changes_no_log_prob(tiny_policy, make_batch):
    experience = make_experience(tiny_policy, make_batch(tiny_policy, 4))
    mask = experience.completion_mask.bool()
    junk = torch.where(mask, experience.completion_ids, 99)
    other = type(experience)(**{**vars(experience), "completion_ids": junk})
    a, b = (logps_of(tiny_policy, e) for e in (experience, other))
    assert torch.equal(a[mask], b[mask])


def lengths_only(prompts: list[int], owners: list[int], sizes: list[int]) -> Experience:
    """An experience of which only the numbers of tokens matter."""
    ones = [(torch.arange(9) < torch.tensor(n).unsqueeze(1)).long() for n in (prompts, sizes)]
    nothing = [None] * len(prompts)
    batch = Batch(nothing, ones[0], ones[0], ones[0], nothing, nothing, nothing, nothing)
    index = torch.tensor(owners)
    return Experience(batch, Features.none(len(prompts)), index, ones[1], ones[1])


@every_case(
    ("max_rows", "max_tokens", "expected"),
    [
        (2, 0, [[0, 1], [2, 3], [4]]),  # no budget: by number alone
        (9, 0, [[0, 1, 2, 3, 4]]),
        # Prompts of 4 and 2 tokens. 4 + 1 + 3 = 8; row 2 would make 10.
        (9, 9, [[0, 1], [2, 3], [4]]),  # then 4 + 2 + (2 + 1) = 9; row 4 alone: 2 + 5
        (9, 10, [[0, 1, 2], [3, 4]]),  # 4 + 1 + 3 + 2 = 10; 2 + 1 + 5 = 8
        (1, 10, [[0], [1], [2], [3], [4]]),
        (9, 3, [[0], [1], [2], [3], [4]]),  # only row 3 fits; the others are on their own
        (9, 99, [[0, 1, 2, 3, 4]]),
    ],
)
def test_micro_batches_by_hand(max_rows, max_tokens, expected):
    experience = lengths_only([4, 2], [0, 0, 0, 1, 1], [1, 3, 2, 1, 5])
    limits = LoopConfig(micro_batch_size=max_rows, max_tokens_per_micro_batch=max_tokens)
    parts = micro_batches(experience, torch.arange(5), limits)
    assert [rows.tolist() for rows in parts] == expected


def test_only_the_rows_given_are_split():
    experience = lengths_only([4, 2], [0, 0, 0, 1, 1], [1, 3, 2, 1, 5])
    limits = LoopConfig(micro_batch_size=9, max_tokens_per_micro_batch=7)
    some = micro_batches(experience, torch.tensor([4, 1]), limits)
    assert [rows.tolist() for rows in some] == [[4], [1]]
    for budget in (0, 7):
        none = torch.zeros(0, dtype=torch.long)
        limits = LoopConfig(micro_batch_size=9, max_tokens_per_micro_batch=budget)
        assert micro_batches(experience, none, limits) == []


def test_by_length_by_hand():
    experience = lengths_only([4, 2], [0, 0, 0, 1, 1], [1, 3, 2, 1, 5])
    assert by_length(experience).tolist() == [3, 0, 2, 1, 4]  # 5, 7, 6, 3, 7
