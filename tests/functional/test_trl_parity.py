"""Loss types and advantages against TRL's own code, called on the same tensors: 1e-6.

TRL calls gspo ``loss_type=grpo`` with ``importance_sampling_level=sequence``; its bnpo, dapo and
cispo count one process' tokens, here the minibatch's.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from every_case import every_case
from make_trl import bare, trl_advantages, trl_loss
from torch import Tensor

from omni_rlvr.functional.advantages import compute_advantages, gdpo_advantages
from omni_rlvr.functional.objective import (
    LOSS_TYPES,
    MinibatchCounts,
    Tokens,
    policy_objective,
    top_entropy_mask,
)

NAN = math.nan
SETTINGS = {
    "epsilon": 0.2,
    "epsilon_high": 0.28,
    "delta": None,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "beta": 0.04,
    "entropy_coef": 0.0,
}
MAX_LENGTH = 11
VARIANTS = {
    "first update": {"first_update": True},
    "later update": {},
    "without KL": {"beta": 0.0},
    "equal clips": {"epsilon_high": 0.2},
    "wide clips": {"epsilon": 0.05, "epsilon_high": 2.0},
    "tiny clips": {"epsilon": 3e-4, "epsilon_high": 4e-4},
    "delta": {"delta": 1.35},
    "top entropy": {"top_entropy_quantile": 0.3},
    "entropy bonus": {"entropy_coef": 0.1},
    "bonus on top entropy": {"entropy_coef": 0.1, "top_entropy_quantile": 0.5},
    "masked row": {"masked_row": True},
    "other temperatures": {"sapo_temperature_pos": 0.7, "sapo_temperature_neg": 2.0},
    "everything": {"beta": 0.5, "delta": 1.5, "entropy_coef": 0.01, "top_entropy_quantile": 0.8},
}


def random_tokens(seed: int, *, first_update: bool, masked_row: bool) -> Tokens:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    logps, sizes = -4 * draw(8, 7), torch.randint(1, 8, (8, 1), generator=generator)
    mask = (torch.arange(7) < sizes).long()
    if masked_row:
        mask[3] = 0
    return Tokens(
        logps=logps.requires_grad_(),
        mask=mask,
        advantages=4 * draw(8) - 2,
        old_logps=None if first_update else logps.detach() + 1.6 * (draw(8, 7) - 0.5),
        ref_logps=logps.detach() + draw(8, 7) - 0.5,
        entropy=(3 * draw(8, 7)).requires_grad_(),
    )


def gradients(loss: Tensor, tokens: Tokens) -> list[Tensor]:
    grads = torch.autograd.grad(loss, [tokens.logps, tokens.entropy], allow_unused=True)
    return [torch.zeros(8, 7) if g is None else g for g in grads]


@every_case("variant", VARIANTS)
@every_case("loss_type", LOSS_TYPES)
def test_value_and_gradient_of_every_loss_type(loss_type, variant):
    changes = dict(VARIANTS[variant])
    made = {key: changes.pop(key, False) for key in ("first_update", "masked_row")}
    quantile = changes.pop("top_entropy_quantile", 1.0)
    settings = SETTINGS | changes | {"loss_type": loss_type}
    if loss_type == "cispo":
        settings["epsilon_high"] += 1
    for seed in range(3):
        tokens = random_tokens(seed, **made)
        num = tokens.mask.sum()
        theirs, logged = trl_loss(
            tokens,
            num_rollout_tokens=float(num + 5),
            top_entropy_quantile=quantile,
            max_completion_length=MAX_LENGTH,
            **settings,
        )
        keep = top_entropy_mask(
            tokens.entropy.detach(), tokens.mask, quantile=quantile, counted=None
        )
        ours, metrics = policy_objective(
            replace(tokens, policy_mask=keep if quantile < 1 else None),
            MinibatchCounts(8, num, keep.sum(), num, num + 5, MAX_LENGTH),
            kl_estimator="k3",
            contrast_coef=0.0,
            **settings,
        )
        assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
        for a, b in zip(gradients(ours, tokens), gradients(theirs, tokens), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        for name in {*metrics} & {*logged}:
            if name != "policy_loss":  # TRL logs it with the KL in it
                assert metrics[name].item() == pytest.approx(logged[name], abs=1e-6), name
        assert {"entropy"} <= {*metrics} & {*logged}
        clips = [{n for n in names if "clip" in n} for names in (metrics, logged)]
        assert clips[0] >= clips[1] or loss_type == "sapo"


def test_the_variants_do_clip():
    # So that clipping is compared, and not only the plain gradient.
    tokens = random_tokens(0, first_update=False, masked_row=False)
    num = tokens.mask.sum()
    for loss_type in ("grpo", "gspo"):
        _, metrics = policy_objective(
            tokens,
            MinibatchCounts(8, num, num, num, num, MAX_LENGTH),
            kl_estimator="k3",
            contrast_coef=0.0,
            loss_type=loss_type,
            **SETTINGS,
        )
        assert metrics["clip_ratio/region_mean"] > 0.1


REWARDS = {
    "plain": [0.0, 1, 1, 2, 0, 0, 0, 1],
    "a group without spread": [0.7, 0.7, 0.7, 0.7, 0, 1, 0, 1],
    "no spread at all": [0.1] * 8,
    "tiny spread": [1.0, 1 + 1e-6, 1, 1, 2, 2, 2 + 2e-6, 2],
    "not judged": [0.0, NAN, 1, 2, NAN, NAN, NAN, NAN],
}


@every_case("rewards", REWARDS)
@every_case("scale", ["group", "batch", "none"])
def test_group_relative_advantages(rewards, scale):
    values = torch.tensor(REWARDS[rewards])
    theirs = trl_advantages(
        values.unsqueeze(1), num_generations=4, weights=[1.0], scale_rewards=scale
    )
    ours = compute_advantages(values, num_generations=4, estimator="grpo", scale_rewards=scale)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@every_case("rewards", REWARDS)
def test_leave_one_out_advantages(rewards):
    values = torch.tensor(REWARDS[rewards])
    theirs = trl_advantages(values.unsqueeze(1), num_generations=4, weights=[1.0], rloo=True)
    ours = compute_advantages(values, num_generations=4, estimator="rloo", scale_rewards=None)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_leave_one_out_with_the_kl_in_the_reward():
    generator = torch.Generator().manual_seed(0)
    rewards, logps, ref = (torch.rand(s, generator=generator) for s in ((8,), (8, 2), (8, 2)))
    theirs = trl_advantages(
        rewards.unsqueeze(1),
        num_generations=4,
        weights=[1.0],
        rloo=True,
        beta=0.3,
        logps=logps,
        ref_logps=ref,
    )
    penalised = rewards - 0.3 * (logps - ref).sum(dim=1)
    ours = compute_advantages(penalised, num_generations=4, estimator="rloo", scale_rewards=None)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_reinforce_plus_plus_with_a_baseline_is_leave_one_out_normalised():
    # TRL has no REINFORCE++; its RLOO with normalize_advantages is G/(G-1) times the same before
    # both are divided by their std, so they differ by the 1e-4 beside the std alone.
    rewards = torch.rand(32, generator=torch.Generator().manual_seed(0))
    theirs = trl_advantages(
        rewards.unsqueeze(1), num_generations=8, weights=[1.0], rloo=True, normalize_advantages=True
    )
    ours = compute_advantages(
        rewards, num_generations=8, estimator="reinforce_plus_plus_baseline", scale_rewards=None
    )
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    "terms",
    [
        [[0.0, 1], [1, 0], [1, 1], [0, 0], [0, 1], [0, 1], [1, 1], [0, 3]],
        [[0.0, NAN], [1, 0], [1, 1], [0, 0], [0, 1], [NAN, NAN], [1, 1], [0, 3]],
        [[0.0, 0.7], [1, 0.7], [1, 0.7], [0, 0.7], [1, 1], [1, 2], [1, 3], [1, 3]],
    ],
)
def test_gdpo(terms):
    values, weights = torch.tensor(terms), [1.0, 0.5]
    theirs = trl_advantages(
        values, num_generations=4, weights=weights, aggregation="normalize_then_sum"
    )
    ours = gdpo_advantages(values, torch.tensor(weights), num_generations=4)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_a_first_rloo_update_is_trls_up_to_a_constant():
    # TRL's RLOO loss has the log-prob of the whole completion, a sum of its tokens; dr_grpo divides
    # that by max_completion_length, which an optimizer such as Adam does not see.
    tokens = random_tokens(0, first_update=True, masked_row=False)
    trainer = bare(
        "RLOO",
        epsilon_low=0.2,
        epsilon_high=0.2,
        aux_loss_enabled=False,
        _get_per_token_logps_and_entropies=lambda *a, **k: (tokens.logps, tokens.entropy, None),
    )
    ids = torch.zeros_like(tokens.mask)
    inputs = dict.fromkeys(("prompt_ids", "prompt_mask", "completion_ids"), ids) | {
        "completion_mask": tokens.mask,
        "advantages": tokens.advantages,
        "old_logps": (tokens.logps * tokens.mask).sum(dim=1).detach(),
    }
    theirs = gradients(trainer._compute_loss(trainer.model, inputs), tokens)[0]
    num = tokens.mask.sum()
    ours, _ = policy_objective(
        replace(tokens, ref_logps=None),
        MinibatchCounts(8, num, num, num, num, MAX_LENGTH),
        kl_estimator="k1",
        contrast_coef=0.0,
        loss_type="dr_grpo",
        **SETTINGS,
    )
    torch.testing.assert_close(gradients(ours, tokens)[0] * MAX_LENGTH, theirs, atol=1e-6, rtol=0)
