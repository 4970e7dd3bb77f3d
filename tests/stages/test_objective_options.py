"""Every option of the objective does something, its names are those of the code, bad ones are
refused by name.
"""

from __future__ import annotations

import math

import pytest
import torch
from make_grpo import Reward, backward, make_stage, nudge

from omni_rlvr.config.objective import CHOICES, CLIPPED, ObjectiveConfig
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.functional import advantages, kl, objective
from omni_rlvr.types import RewardOutput, UserError

pytestmark = pytest.mark.slow

CISPO = {"loss_type": "cispo", "epsilon_high": 5.0}
SAPO = {"loss_type": "sapo"}
FAR = {"num_iterations": 2}
"""Old log-probs are kept, and the policy moves away from them before the gradient is taken."""

FLIPS = {
    "loss_type": (FAR, "sapo"),
    "epsilon": (FAR, 0.001),
    "epsilon_high": (FAR, 0.001),
    "delta": (FAR, 1.21),
    "sapo_temperature_pos": (FAR | SAPO, 4.0),
    "sapo_temperature_neg": (FAR | SAPO, 4.0),
    "advantage_estimator": ({"scale_rewards": "none"}, "rloo"),
    "scale_rewards": ({}, "batch"),
    "multi_objective_aggregation": ({}, "normalize_then_sum"),
    "beta": ({}, 1.0),
    "kl_estimator": ({}, "k1"),
    "kl_in_reward": ({}, True),
    "entropy_coef": ({}, 0.1),
    "top_entropy_quantile": ({}, 0.3),
    "mask_truncated_completions": ({}, True),
    "max_resample_times": ({}, 2),
    "modality_dropout": ({}, 0.9),
    "contrast_coef": ({"contrast_coef": 0.1, "contrast_modality": "audio"}, 0.5),
    "contrast_modality": ({"contrast_coef": 0.1, "contrast_modality": "audio"}, "video"),
}
"""Option -> what it is flipped on top of, and its other value."""


class Two(Reward):
    """Two terms; the first group has no spread when it is sampled first."""

    weights = {"a": 1.0, "b": 0.5}

    def __call__(self, completions, examples, lengths) -> RewardOutput:
        a = torch.tensor([float((i * 7) % 5) for i in range(len(completions))])
        b = torch.tensor([float(len(set(text)) % 3) for text in completions])
        if len(completions) == 16:
            a[:4] = b[:4] = 0.0
        return RewardOutput(a + 0.5 * b, {"a": a, "b": b})


def gradient(policy, make_batch, **options) -> torch.Tensor:
    start = {name: value.clone() for name, value in policy.state_dict().items()}
    reference = policy.frozen_copy()
    nudge(policy, 0.1)
    stage = make_stage(Two(None), reference=reference, **options)
    batch = make_batch(policy, 4, kinds=("av", "av", "v", "a"))
    prepared = stage.prepare(policy, batch, torch.Generator().manual_seed(0))
    if options.get("num_iterations"):
        nudge(policy, 0.3)
    out = backward(stage, policy, prepared.experience)[0]
    policy.load_state_dict(start)
    return out


WITHOUT: dict[str, torch.Tensor] = {}


@pytest.mark.parametrize("option", FLIPS)
def test_an_option_changes_the_gradient(tiny_policy, make_batch, option):
    base, value = FLIPS[option]
    key = repr(base)
    if key not in WITHOUT:
        WITHOUT[key] = gradient(tiny_policy, make_batch, **base)
    flipped = gradient(tiny_policy, make_batch, **base | {option: value})
    assert (flipped - WITHOUT[key]).norm() > 1e-4 * WITHOUT[key].norm()


def test_every_option_is_flipped():
    assert {*FLIPS} == {*ObjectiveConfig.__dataclass_fields__}


def test_names_are_those_that_the_code_knows():
    assert CHOICES["loss_type"] == objective.LOSS_TYPES
    assert CHOICES["advantage_estimator"] == tuple(advantages.OWN_SCALE)
    assert CHOICES["scale_rewards"] == advantages.SCALES
    assert CHOICES["kl_estimator"] == tuple(kl.ESTIMATORS)
    assert {*CLIPPED} == {*objective.LOSS_TYPES} - {"cispo", "sapo"}


def test_the_defaults_are_r1_omnis():
    config = GrpoConfig()
    assert (config.loss_type, config.beta, config.kl_estimator) == ("grpo", 0.04, "k3")
    assert (config.advantage_estimator, config.scale_rewards) == ("grpo", None)
    assert (config.num_generations, config.num_iterations, config.num_minibatches) == (8, 1, 1)


def test_what_no_upper_clip_stands_for():
    assert GrpoConfig().upper_clip == 0.2
    assert GrpoConfig(epsilon=0.1).upper_clip == 0.1
    assert GrpoConfig(epsilon=0.1, epsilon_high=0.3).upper_clip == 0.3
    assert GrpoConfig(loss_type="cispo").upper_clip == 5.0  # ScaleRL's, arXiv 2510.13786


REFUSED = [
    ({"loss_type": "ppo"}, "stage.loss_type='ppo'"),
    (CISPO | {"epsilon_high": 0.28}, "stage.epsilon_high=0.28"),
    ({"delta": 1.2}, "stage.delta=1.2"),
    ({"delta": 1.4, "epsilon_high": 0.5}, "stage.delta=1.4"),
    ({"delta": math.inf}, "stage.delta=inf"),
    (CISPO | {"delta": 8.0}, "stage.delta=8.0"),
    (SAPO | {"delta": 8.0}, "stage.delta=8.0"),
    (SAPO | {"sapo_temperature_pos": 0.0}, "stage.sapo_temperature_pos=0.0"),
    (SAPO | {"sapo_temperature_neg": math.nan}, "stage.sapo_temperature_neg=nan"),
    ({"advantage_estimator": "gae"}, "stage.advantage_estimator='gae'"),
    ({"scale_rewards": "std"}, "stage.scale_rewards='std'"),
    (
        {"advantage_estimator": "reinforce_plus_plus", "scale_rewards": "group"},
        "stage.scale_rewards='group'",
    ),
    ({"multi_objective_aggregation": "gdpo"}, "stage.multi_objective_aggregation='gdpo'"),
    (
        {"multi_objective_aggregation": "normalize_then_sum", "advantage_estimator": "rloo"},
        "stage.advantage_estimator='rloo'",
    ),
    (
        {"multi_objective_aggregation": "normalize_then_sum", "scale_rewards": "none"},
        "stage.scale_rewards='none'",
    ),
    (
        {"multi_objective_aggregation": "normalize_then_sum", "kl_in_reward": True},
        "stage.kl_in_reward=True",
    ),
    ({"beta": math.nan}, "stage.beta=nan"),
    ({"kl_estimator": "k4"}, "stage.kl_estimator='k4'"),
    ({"kl_in_reward": True, "beta": 0.0}, "stage.kl_in_reward=True"),
    ({"entropy_coef": -0.1}, "stage.entropy_coef=-0.1"),
    ({"top_entropy_quantile": 0.0}, "stage.top_entropy_quantile=0.0"),
    ({"top_entropy_quantile": 1.1}, "stage.top_entropy_quantile=1.1"),
    ({"max_resample_times": -1}, "stage.max_resample_times=-1"),
    ({"modality_dropout": 1.0}, "stage.modality_dropout=1.0"),
    ({"contrast_coef": 0.1}, "stage.contrast_modality=None"),
    ({"contrast_modality": "video"}, "stage.contrast_modality='video'"),
    ({"contrast_modality": "smell", "contrast_coef": 0.1}, "stage.contrast_modality='smell'"),
    ({"contrast_modality": "video", "contrast_coef": -1.0}, "stage.contrast_coef=-1.0"),
]


@pytest.mark.parametrize(("options", "start"), REFUSED)
def test_what_is_refused_is_named(options, start):
    with pytest.raises(UserError) as caught:
        GrpoConfig(**options)
    assert str(caught.value).startswith(f"{start} is out of range: ")
    assert "\n" not in str(caught.value)
