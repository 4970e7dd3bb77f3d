"""The options of the training objective: loss, advantages, KL, masks and modality terms.

The names are those of TRL, or of ms-swift where TRL has no such option. ``GrpoConfig`` inherits
these fields, so that on the command line they are ``stage.loss_type`` and so on. This file imports
no torch, because the command line reads it before anything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from omni_rlvr.types import field_check

CHOICES = {
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo"),
    "advantage_estimator": ("grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline"),
    "scale_rewards": ("group", "batch", "none"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "kl_estimator": ("k1", "k2", "k3"),
    "contrast_modality": ("video", "audio"),
}
"""Option -> the values that it can have."""
OPTIONAL = ("scale_rewards", "contrast_modality")
"""Of these options, those that can also be null."""
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo")
"""The loss types that clip the probability ratio."""
CISPO_EPSILON_HIGH = 5.0
"""The upper bound of a token's weight in cispo if ``epsilon_high`` is null."""


@dataclass
class ObjectiveConfig:
    """The objective; the defaults are R1-Omni's (arXiv 2503.05379)."""

    loss_type: str = "grpo"
    """The surrogate loss and how it is normalised: grpo, bnpo, dr_grpo, dapo, gspo, cispo or sapo.
    The table in functional/objective.py compares them."""
    epsilon: float = 0.2
    """How far below 1 the probability ratio is clipped; cispo and sapo do not clip it."""
    epsilon_high: float | None = None
    """How far above 1 the probability ratio is clipped; null takes ``epsilon``. With cispo it is
    the upper bound of a token's weight, 1 or more, and null takes 5 as in ScaleRL (arXiv
    2510.13786), which TRL advises."""
    delta: float | None = None
    """The upper bound of the probability ratio where the advantage is negative (two-sided
    clipping), greater than 1 + epsilon_high; null sets no bound."""
    sapo_temperature_pos: float = 1.0
    """The temperature tau > 0 of sapo where the advantage is positive."""
    sapo_temperature_neg: float = 1.05
    """The temperature tau > 0 of sapo where the advantage is zero or negative."""
    advantage_estimator: str = "grpo"
    """The baseline that is subtracted from a reward: the mean of its group (grpo), the mean of the
    other rewards of its group (rloo), the mean of the batch (reinforce_plus_plus), or again the
    mean of its group (reinforce_plus_plus_baseline, which differs from grpo in its scale)."""
    scale_rewards: str | None = None
    """What advantages are divided by: the standard deviation of the group ("group"), that of the
    batch ("batch"), or nothing ("none"). null takes what belongs to the estimator: group for grpo,
    none for rloo, batch for both reinforce_plus_plus."""
    multi_objective_aggregation: str = "sum_then_normalize"
    """"sum_then_normalize" adds up the reward terms and normalises the sum; "normalize_then_sum"
    normalises each term within its group before they are added up (GDPO, arXiv 2601.05242)."""
    beta: float = 0.04
    """The weight of the KL divergence from the reference policy; with 0 no reference is loaded."""
    kl_estimator: str = "k3"
    """The estimator of the KL divergence: k1, k2 or k3. In the loss, the gradient of k1 is zero on
    average, so k1 is for ``kl_in_reward``."""
    kl_in_reward: bool = False
    """Whether beta times the KL of a completion is subtracted from its reward, instead of being
    added to the loss."""
    entropy_coef: float = 0.0
    """The weight of an entropy bonus: the mean entropy of the policy at each token, in nats."""
    top_entropy_quantile: float = 1.0
    """The share of the batch's tokens that have a surrogate loss: those with the highest entropy at
    rollout (arXiv 2506.01939); 1 takes all tokens."""
    mask_truncated_completions: bool = False
    """Whether completions without an end token are left out of the loss."""
    max_resample_times: int = 0
    """How many times at most a group whose rewards are all equal is sampled again (dynamic
    sampling); 0 is off."""
    modality_dropout: float = 0.0
    """The probability that a group with video and audio is sampled and trained without one of the
    two."""
    contrast_coef: float = 0.0
    """The weight gamma of a term that makes the KL divergence from the same policy without
    ``contrast_modality`` larger (PAPO, arXiv 2507.06448, where it is 0.01 to 0.02); 0 is off."""
    contrast_modality: str | None = None
    """"video" or "audio": the modality that is left out for ``contrast_coef``; null if that is 0.
    """

    @property
    def upper_clip(self) -> float:
        """The value of ``epsilon_high``, with null resolved."""
        if self.epsilon_high is not None:
            return self.epsilon_high
        return CISPO_EPSILON_HIGH if self.loss_type == "cispo" else self.epsilon

    def __post_init__(self) -> None:
        check = field_check(self, "stage")
        for key, names in CHOICES.items():
            value = vars(self)[key]
            known = value in names or (value is None and key in OPTIONAL)
            check(key, known, f"one of {', '.join(names)}")
        for key in ("beta", "entropy_coef", "contrast_coef"):
            check(key, 0 <= vars(self)[key] < math.inf, "0 or more")
        with_kl = not self.kl_in_reward or self.beta > 0
        check("kl_in_reward", with_kl, "it needs stage.beta greater than 0")
        check("top_entropy_quantile", 0 < self.top_entropy_quantile <= 1, "in (0, 1]")
        check("max_resample_times", self.max_resample_times >= 0, "0 (off) or more")
        check("modality_dropout", 0 <= self.modality_dropout < 1, "in [0, 1)")
        check(
            "contrast_modality",
            (self.contrast_coef > 0) == (self.contrast_modality is not None),
            f"video or audio if, and only if, stage.contrast_coef={self.contrast_coef:g} is not 0",
        )
        self._check_clips()
        self._check_advantages()

    def _check_clips(self) -> None:
        check, high = field_check(self, "stage"), self.upper_clip
        check("epsilon", 0 < self.epsilon < 1, "in (0, 1)")
        check("epsilon_high", high > 0, "greater than 0, or null")
        check(
            "epsilon_high",
            self.loss_type != "cispo" or high >= 1,
            "1 or more with stage.loss_type=cispo, where it bounds the weight itself, e.g. 5",
        )
        if self.delta is not None:
            wanted = f"greater than 1 + epsilon_high = {1 + high:g}, or null"
            check("delta", 1 + high < self.delta < math.inf, wanted)
            wanted = f"null with stage.loss_type={self.loss_type}, which clips no ratio"
            check("delta", self.loss_type in CLIPPED, wanted)
        for key in ("sapo_temperature_pos", "sapo_temperature_neg"):
            check(key, 0 < vars(self)[key] < math.inf, "greater than 0")

    def _check_advantages(self) -> None:
        check = field_check(self, "stage")
        check(
            "scale_rewards",
            self.advantage_estimator != "reinforce_plus_plus" or self.scale_rewards != "group",
            "batch, none or null with stage.advantage_estimator=reinforce_plus_plus",
        )
        if self.multi_objective_aggregation == "normalize_then_sum":
            wanted = (
                "left alone with stage.multi_objective_aggregation=normalize_then_sum, which "
                "has its own normalisation"
            )
            check("advantage_estimator", self.advantage_estimator == "grpo", wanted)
            check("scale_rewards", self.scale_rewards in (None, "group"), wanted)
            check("kl_in_reward", not self.kl_in_reward, wanted)
