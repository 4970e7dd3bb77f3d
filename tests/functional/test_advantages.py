"""Group-relative advantages by hand, what must change none, and the reference's numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from every_case import every_case
from safetensors.torch import load_file

from omni_rlvr.functional.advantages import (
    OWN_SCALE,
    compute_advantages,
    gdpo_advantages,
    penalised,
    zero_spread,
)

PARITY = Path(__file__).parents[1] / "fixtures" / "parity_A"
NAN = math.nan


def advantages(
    rewards, *, num_generations: int, scale_rewards: str | None = None, estimator: str = "grpo"
) -> torch.Tensor:
    return compute_advantages(
        torch.as_tensor(rewards, dtype=torch.float32),
        num_generations=num_generations,
        estimator=estimator,
        scale_rewards=scale_rewards,
    )


def test_by_hand():
    # Mean (0 + 1 + 1 + 2) / 4 = 1; squares 1 + 0 + 0 + 1 = 2, variance 2/3, std 0.8165.
    # Advantages -1, 0, 0, 1 over 0.8165 + 0.0001.
    std = math.sqrt(2 / 3) + 1e-4
    got = advantages([0, 1, 1, 2], num_generations=4)
    assert got.tolist() == pytest.approx([-1 / std, 0, 0, 1 / std], abs=1e-6)
    assert got.dtype == torch.float32


def test_each_group_has_its_own_mean_and_spread():
    # Groups (0, 2) and (10, 14): std sqrt(2) and sqrt(8).
    a, b = 1 / (math.sqrt(2) + 1e-4), 2 / (math.sqrt(8) + 1e-4)
    got = advantages([0, 2, 10, 14], num_generations=2)
    assert got.tolist() == pytest.approx([-a, a, -b, b], abs=1e-6)


def test_without_scaling_only_the_mean_goes():
    # Means 1 and 12.
    got = advantages([0, 2, 10, 14], num_generations=2, scale_rewards="none")
    assert got.tolist() == [-1, 1, -2, 2]


@pytest.mark.parametrize("scale_rewards", ["group", "none"])
def test_a_constant_on_a_group_changes_no_advantage(scale_rewards):
    rewards = torch.randint(5, (6, 8), generator=torch.Generator().manual_seed(0)).float()
    shift = torch.tensor([[0.0], [1], [-2], [16], [0.5], [-64]])
    got, expected = (
        advantages(r.flatten(), num_generations=8, scale_rewards=scale_rewards)
        for r in (rewards + shift, rewards)
    )
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_group_is_untouched_by_the_others():
    rewards = torch.rand(4 * 8, generator=torch.Generator().manual_seed(0))
    alone = [advantages(group, num_generations=8) for group in rewards.split(8)]
    assert torch.equal(advantages(rewards, num_generations=8), torch.cat(alone))


def test_order_within_a_group_changes_nothing():
    rewards = torch.rand(8, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    got = advantages(rewards[order], num_generations=8)
    torch.testing.assert_close(got, advantages(rewards, num_generations=8)[order])


def test_advantages_of_a_group_add_up_to_zero():
    rewards = torch.rand(10, 6, generator=torch.Generator().manual_seed(0))
    sums = advantages(rewards.flatten(), num_generations=6).view(10, 6).sum(dim=1)
    torch.testing.assert_close(sums, torch.zeros(10), atol=1e-5, rtol=0)


@every_case("scale_rewards", ["group", "none"])
@every_case("value", [0.0, 1.0, 0.1, 0.7, 1 / 3, -1.1, 1e-8, 1e8])
def test_equal_rewards_give_exactly_zero(value, scale_rewards):
    # The float32 mean of seven or eleven 0.1 is not 0.1: what is left over must not be scaled up.
    for size in (2, 3, 7, 8, 11, 16):
        got = advantages([value] * size, num_generations=size, scale_rewards=scale_rewards)
        assert got.tolist() == [0.0] * size


def test_some_mean_of_equal_rewards_does_round():
    rows = [torch.full((n,), v) for n in range(2, 17) for v in (0.1, 0.7, 1 / 3)]
    assert any(row.sum() / len(row) != row[0] for row in rows)


def test_a_reward_that_could_not_be_judged_is_left_out():
    # Of (0, NaN, 2): mean 1, std sqrt(2), as of the group (0, 2); the unjudged row learns nothing.
    a = 1 / (math.sqrt(2) + 1e-4)
    assert advantages([0, NAN, 2], num_generations=3).tolist() == pytest.approx(
        [-a, 0, a], abs=1e-6
    )
    none = advantages([0, NAN, 2], num_generations=3, scale_rewards="none")
    assert none.tolist() == [-1, 0, 1]


@pytest.mark.parametrize("group", [[NAN, NAN, NAN], [NAN, 0.7, NAN], [0.1, NAN, 0.1]])
def test_too_few_judged_or_all_equal_is_exactly_zero(group):
    assert advantages(group, num_generations=3).tolist() == [0.0, 0.0, 0.0]


def test_zero_spread_by_hand():
    groups = torch.tensor([[1.0, 1], [0, 1], [NAN, 1], [NAN, NAN]])
    assert zero_spread(groups).tolist() == [True, False, True, True]


def test_nearly_equal_rewards_are_damped_by_the_constant():
    # (1, 1 + 2e-5): std 1.4e-5 is far below 1e-4, so advantages stay below 0.5 instead of 0.71.
    got = advantages([1.0, 1.0 + 2e-5], num_generations=2)
    assert 0 < got[1] < 0.5


def test_scaled_by_the_batch_by_hand():
    # Groups (0, 2) and (10, 14): centred -1, 1, -2, 2. Batch mean 6.5: squares 42.25 + 20.25 +
    # 12.25 + 56.25 = 131, over 3: std 6.608.
    std = math.sqrt(131 / 3) + 1e-4
    got = advantages([0, 2, 10, 14], num_generations=2, scale_rewards="batch")
    assert got.tolist() == pytest.approx([-1 / std, 1 / std, -2 / std, 2 / std], abs=1e-6)


def test_leave_one_out_by_hand():
    # 0 - (1 + 5)/2, 1 - (0 + 5)/2, 5 - (0 + 1)/2.
    got = advantages([0, 1, 5], num_generations=3, estimator="rloo")
    assert got.tolist() == pytest.approx([-3, -1.5, 4.5], abs=1e-6)
    # Of (0, NaN, 2) each has only the other: -2 and 2. One alone has no baseline, so nothing.
    got = advantages([0, NAN, 2], num_generations=3, estimator="rloo")
    assert got.tolist() == [-2, 0, 2]
    assert advantages([NAN, 7, NAN], num_generations=3, estimator="rloo").tolist() == [0, 0, 0]


def test_reinforce_plus_plus_by_hand():
    # Mean 6.5 and std 6.608 of the whole batch, as above.
    std = math.sqrt(131 / 3) + 1e-4
    got = advantages([0, 2, 10, 14], num_generations=2, estimator="reinforce_plus_plus")
    expected = [(r - 6.5) / std for r in (0, 2, 10, 14)]
    assert got.tolist() == pytest.approx(expected, abs=1e-6)
    # With the group's baseline: -1, 1, -2, 2, whose std is sqrt(10 / 3).
    std = math.sqrt(10 / 3) + 1e-4
    got = advantages([0, 2, 10, 14], num_generations=2, estimator="reinforce_plus_plus_baseline")
    assert got.tolist() == pytest.approx([-1 / std, 1 / std, -2 / std, 2 / std], abs=1e-6)


@every_case("estimator", OWN_SCALE)
@every_case("value", [0.1, 0.7, 1 / 3])
def test_equal_rewards_give_exactly_zero_with_every_estimator(estimator, value):
    for scale in (None, "batch", "none"):
        got = advantages([value] * 21, num_generations=7, estimator=estimator, scale_rewards=scale)
        assert got.tolist() == [0.0] * 21


@every_case(
    ("estimator", "scale"),
    [(e, s) for e in OWN_SCALE for s in (None, "group", "batch", "none")
     if (e, s) != ("reinforce_plus_plus", "group")],
)  # fmt: skip
def test_a_tiny_spread_never_blows_up(estimator, scale):
    # What rounding leaves of equal rewards: 1e-8 over a floor of 1e-4.
    rewards = torch.full((16,), 0.1) + 1e-8 * torch.arange(16)
    got = advantages(rewards, num_generations=8, estimator=estimator, scale_rewards=scale)
    assert got.abs().max() < 2e-3


def test_a_group_scale_needs_the_groups_baseline():
    with pytest.raises(ValueError, match="no meaning"):
        advantages(
            [0, 1], num_generations=2, estimator="reinforce_plus_plus", scale_rewards="group"
        )
    with pytest.raises(ValueError, match="estimator='remax' is none of grpo, rloo"):
        advantages([0, 1], num_generations=2, estimator="remax")


def gdpo(terms, weights, num_generations: int) -> torch.Tensor:
    return gdpo_advantages(
        torch.tensor(terms), torch.tensor(weights), num_generations=num_generations
    )


def test_gdpo_by_hand():
    # One group. Term a = (0, 1, 1), mean 2/3, std sqrt(1/3); term b = (0, 0, 3), mean 1, std
    # sqrt(3). Normalised a: -1.1547, 0.5774, 0.5774; b: -0.5774, -0.5774, 1.1547. Weights 1, 2:
    # -2.3094, -0.5774, 2.8868, mean 0, std sqrt((5.3333 + 0.3333 + 8.3333) / 2) = sqrt(7).
    got = gdpo([[0.0, 0], [1, 0], [1, 3]], [1.0, 2], 3)
    expected = [x / math.sqrt(7) for x in (-2.3094, -0.57735, 2.88675)]
    assert got.tolist() == pytest.approx(expected, abs=1e-3)


def test_gdpo_tells_apart_what_a_sum_does_not():
    # (1, 0, 0) and (0, 1, 1): sums are all 1. The rare success counts more.
    terms = [[1.0, 0], [0, 1], [0, 1]]
    assert advantages([sum(t) for t in terms], num_generations=3).tolist() == [0, 0, 0]
    assert gdpo([*terms, [0, 0]], [1.0, 1], 4)[0] > gdpo([*terms, [0, 0]], [1.0, 1], 4)[1] > 0


def test_gdpo_without_spread_is_exactly_zero():
    even, odd = [[0.1, 0.7]] * 7, [[0.1, 0.7]] * 6 + [[0.5, 0.7]]
    assert gdpo(even, [1.0, 1], 7).tolist() == [0.0] * 7
    got = gdpo(even + odd, [1.0, 0.5], 7)
    assert got[:7].tolist() == [0.0] * 7
    assert got[7:].abs().min() > 0.1
    # Only the first term has spread, and its weight is 0.
    assert gdpo(odd, [0.0, 1], 7).tolist() == [0.0] * 7
    assert gdpo(odd, [0.0, 0], 7).tolist() == [0.0] * 7


def test_gdpo_leaves_out_what_could_not_be_judged():
    got = gdpo([[0.0, NAN], [2, NAN], [NAN, NAN]], [1.0, 1], 3)
    assert got[2] == 0
    assert got[:2].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-3)
    assert gdpo([[NAN, NAN]] * 3, [1.0, 1], 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("bad", ["std", "", "Group"])
def test_unknown_scaling_is_named(bad):
    with pytest.raises(ValueError, match=f"scale_rewards='{bad}'"):
        advantages([0, 1], num_generations=2, scale_rewards=bad)


def test_rows_that_are_no_whole_groups_are_refused():
    with pytest.raises(ValueError, match="3 rewards do not make groups of 2"):
        advantages([0, 1, 2], num_generations=2)


@pytest.mark.parametrize("case", ["s0", "s1"])
def test_advantages_of_the_reference(case):
    data = load_file(PARITY / "grpo.safetensors")
    got = advantages(data[f"{case}.rewards"], num_generations=8)
    torch.testing.assert_close(got, data[f"{case}.advantages"], atol=1e-6, rtol=0)
    summed = data[f"{case}.rewards_per_func"].sum(dim=1)
    assert torch.equal(summed, data[f"{case}.rewards"])


def test_advantages_of_the_reference_end_to_end():
    data = load_file(PARITY / "grpo.safetensors")
    got = advantages(data["e2e.rewards_per_func"].sum(dim=1), num_generations=8)
    torch.testing.assert_close(got, data["e2e.advantages"], atol=1e-6, rtol=0)


@every_case("scale", [1.0, 1e30, 3e38])
@every_case("estimator", ["grpo", "rloo", "reinforce_plus_plus"])
def test_large_rewards_have_the_advantages_of_small_ones(estimator: str, scale: float) -> None:
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.5, -1.0, 1.0, 0.0, 1.0]) * scale
    got = compute_advantages(rewards, num_generations=4, estimator=estimator, scale_rewards="batch")
    # mean and std by hand in float64, where squares of 3e38 are no trouble; the floor of 1e-4 only
    # counts at scale 1
    wide = rewards.double()
    groups = wide.view(1, -1) if estimator == "reinforce_plus_plus" else wide.view(-1, 4)
    centred = groups - groups.mean(dim=1, keepdim=True)
    if estimator == "rloo":
        centred = centred * 4 / 3
    wanted = (centred / (wide.std() + 1e-4)).view(-1)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=1e-12)
    assert got[2] == 0 or estimator == "reinforce_plus_plus"  # 0.5 is the mean of its group


def test_gdpo_of_large_scores() -> None:
    terms = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    weights = torch.tensor([1.0, 2.0])
    small = gdpo_advantages(terms, weights, num_generations=2)
    large = gdpo_advantages(terms * 1e37, weights, num_generations=2)
    torch.testing.assert_close(large, small, rtol=1e-3, atol=1e-3)  # up to the floor of 1e-4


def test_an_infinite_reward_is_no_tie_and_no_silent_zero() -> None:
    rewards = torch.tensor([torch.inf, torch.inf, 1.0, 0.0])
    assert zero_spread(rewards.view(-1, 2)).tolist() == [False, False]
    got = compute_advantages(rewards, num_generations=2, estimator="grpo", scale_rewards=None)
    assert got[:2].isnan().all()
    assert got[2:].isfinite().all()


def test_a_penalty_within_its_rounding_breaks_no_tie() -> None:
    rewards = torch.tensor([2.0, 2.0, 2.0, 1.0, 0.0, 1.0])
    penalty = torch.tensor([1e-3, 1e-3 + 8e-6, 1e-3, 0.1, 0.2, 0.3])
    precision = torch.full((6,), 5e-6)
    off = penalised(rewards, penalty, precision, num_generations=3)
    assert zero_spread(off.view(-1, 3)).tolist() == [True, False]
    assert off[0].item() == pytest.approx(2 - (1e-3 + 8e-6 / 3))  # the group's mean
    torch.testing.assert_close(off[3:].float(), torch.tensor([0.9, -0.2, 0.7]))
    real = penalised(rewards, 2 * penalty, precision, num_generations=3)  # now 1.6e-5 apart
    assert zero_spread(real.view(-1, 3)).tolist() == [False, False]
    unjudged = rewards.clone()
    unjudged[0] = torch.nan
    assert penalised(unjudged, penalty, precision, num_generations=3)[0].isnan()
