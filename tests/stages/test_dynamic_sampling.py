"""Refilling groups: which are sampled, how often, and that rows keep together."""

from __future__ import annotations

from dataclasses import replace

import torch
from make_grpo import EQUAL, make_stage

from omni_rlvr.rollout.experience import select_prompts
from omni_rlvr.stages.dynamic_sampling import Scored, resample_groups
from omni_rlvr.types import Features, RewardOutput, Rollout

NAN = float("nan")


def scored(rewards: list[float], width: int, mark: int) -> Scored:
    """Rows with ``mark`` in all that can hold it."""
    num = len(rewards)
    return Scored(
        Rollout(
            completion_ids=torch.full((num, width), mark),
            completion_mask=torch.ones((num, width), dtype=torch.long),
            per_token_logps=torch.full((num, width), float(mark)),
            texts=[f"{mark}.{i}" for i in range(num)],
            truncated=torch.tensor([mark % 2 == 1] * num),
            finite=torch.tensor([mark % 3 != 1] * num),
        ),
        RewardOutput(torch.tensor(rewards).float(), {"a": torch.tensor(rewards).float() + mark}),
    )


def run(first: list[float], rounds: list[list[float]], widths: tuple[int, ...] = (3, 3, 3)):
    asked = []

    def sample(prompts: torch.Tensor) -> Scored:
        asked.append(prompts.tolist())
        k = len(asked)
        return scored(rounds[k - 1], widths[k], k)

    out, num = resample_groups(
        scored(first, widths[0], 0), sample, num_generations=2, max_resample_times=len(rounds)
    )
    return out, num, asked


def test_only_groups_without_spread_are_sampled_and_no_longer_than_needed() -> None:
    # Groups (0 1), (0.1 0.1), (1 1): two are asked again, then one, then it is enough.
    out, num, asked = run([0, 1, 0.1, 0.1, 1, 1], [[2, 2, 3, 4], [5, 6], [9, 9]])
    assert asked == [[1, 2], [1]]
    assert num == 3
    assert out.rewards.rewards.tolist() == [0, 1, 5, 6, 3, 4]
    assert out.rewards.terms["a"].tolist() == [0, 1, 7, 8, 4, 5]
    assert out.rollout.completion_ids[:, 0].tolist() == [0, 0, 2, 2, 1, 1]
    assert out.rollout.texts == ["0.0", "0.1", "2.0", "2.1", "1.2", "1.3"]
    assert out.rollout.truncated.tolist() == [False, False, False, False, True, True]


def test_the_limit_holds_and_the_last_sample_stays() -> None:
    out, num, asked = run([1, 1], [[2, 2], [3, 3]])
    assert asked == [[0], [0]]
    assert num == 2
    assert out.rewards.rewards.tolist() == [3, 3]


def test_none_is_sampled_where_all_have_spread_or_the_limit_is_zero() -> None:
    assert run([0, 1, 0, 2], [[9, 9]])[1:] == (0, [])
    assert run([1, 1], [])[1:] == (0, [])


def test_a_group_that_could_not_be_judged_is_sampled_again() -> None:
    out, _, asked = run([NAN, NAN, 0, 1], [[0, 1]])
    assert asked == [[0]]
    assert out.rewards.rewards.tolist() == [0, 1, 0, 1]


def test_completions_of_other_lengths_fit() -> None:
    for widths in ((2, 5), (5, 2)):
        out, _, _ = run([0, 1, 1, 1], [[0, 1]], widths)
        assert out.rollout.completion_mask.sum(dim=1).tolist() == [widths[0]] * 2 + [widths[1]] * 2
        assert out.rollout.completion_ids.shape == out.rollout.completion_mask.shape == (4, 5)


def test_what_a_prompt_samples_does_not_depend_on_the_prompts_beside_it(tiny_policy, make_batch):
    # Half of all tokens end a completion, so that batches take unequal numbers of steps; rewards
    # are equal, so that each prompt is sampled twice.
    stops = range(0, tiny_policy.language_model.config.vocab_size, 2)
    settings = replace(tiny_policy.processor.settings, stop_ids=list(stops))
    tiny_policy.processor = replace(tiny_policy.processor, settings=settings)
    stage = make_stage(EQUAL, max_resample_times=1, length=12)
    whole = make_batch(tiny_policy, 4, kinds=("t",))

    def sampled(prompts: list[int]) -> list[str]:
        batch, _ = select_prompts(whole, Features.none(4), torch.tensor(prompts))
        generators = [torch.Generator().manual_seed(place) for place in prompts]
        rows = stage.prepare(tiny_policy, batch, generators).completions
        return [str(row["completion"]) for row in rows]

    together = sampled([0, 1, 2, 3])
    assert len({len(text) for text in together}) > 3
    assert sampled([0, 2]) + sampled([1, 3]) == [
        text for b in (0, 2, 1, 3) for text in together[4 * b : 4 * b + 4]
    ]
