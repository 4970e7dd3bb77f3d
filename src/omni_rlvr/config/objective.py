"""What a person tunes of the objective: its loss, advantages, KL, masks and modality terms.

Names are TRL's, or ms-swift's where TRL has none. ``GrpoConfig`` takes these fields in, so they are
spelled ``stage.loss_type`` and so on. Each default lives here and nowhere else; no torch is
imported.
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
"""Option -> the names it takes."""
OPTIONAL = ("scale_rewards", "contrast_modality")
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo")
"""Loss types with a clipped ratio."""
CISPO_EPSILON_HIGH = 5.0
"""The most a weight of cispo may be, where ``epsilon_high`` is null."""


@dataclass
class ObjectiveConfig:
    """The objective; the defaults are R1-Omni's (arXiv 2503.05379)."""

    loss_type: str = "grpo"
    """Surrogate and normaliser: grpo, bnpo, dr_grpo, dapo, gspo, cispo or sapo; functional/
    objective.py has the table."""
    epsilon: float = 0.2
    """Lower clip range of the probability ratio; cispo and sapo have none."""
    epsilon_high: float | None = None
    """Upper clip range; null takes ``epsilon``. With cispo the most a weight may be, 1 or more,
    and null takes ScaleRL's 5 (arXiv 2510.13786), as TRL advises."""
    delta: float | None = None
    """Bound on the ratio where the advantage is negative (two-sided clip), above 1 + epsilon_high;
    null sets none."""
    sapo_temperature_pos: float = 1.0
    """sapo's tau > 0 where the advantage is positive."""
    sapo_temperature_neg: float = 1.05
    """sapo's tau > 0 elsewhere."""
    advantage_estimator: str = "grpo"
    """Baseline of a reward: grpo (mean of its group), rloo (mean of the others of its group),
    reinforce_plus_plus (mean of the batch) or reinforce_plus_plus_baseline (mean of its group)."""
    scale_rewards: str | None = None
    """What advantages are divided by: "group" the group's std, "batch" the batch's, "none" nothing;
    null takes the estimator's own: grpo group, rloo none, both reinforce_plus_plus batch."""
    multi_objective_aggregation: str = "sum_then_normalize"
    """"normalize_then_sum" normalises each reward term in its group before they are added up (GDPO,
    arXiv 2601.05242)."""
    beta: float = 0.04
    """Weight of the KL to the reference; 0 loads no reference."""
    kl_estimator: str = "k3"
    """k1, k2 or k3. k1 in the loss has a gradient of zero mean: it is for the reward."""
    kl_in_reward: bool = False
    """Takes beta times the KL of the whole completion off its reward, and none off the loss."""
    entropy_coef: float = 0.0
    """Weight of the mean entropy of the policy's tokens, in nats, as a bonus."""
    top_entropy_quantile: float = 1.0
    """Share of the batch's tokens, those of highest entropy at rollout, whose surrogate counts
    (arXiv 2506.01939); 1 takes all."""
    mask_truncated_completions: bool = False
    """Completions without an end token teach nothing."""
    max_resample_times: int = 0
    """Times that groups of equal rewards are sampled again (dynamic sampling); 0 is off."""
    modality_dropout: float = 0.0
    """Probability that a whole group is asked without its video or without its audio, where it has
    both."""
    contrast_coef: float = 0.0
    """gamma, weight of the KL from the policy without ``contrast_modality``, which is made larger
    (PAPO, arXiv 2507.06448; 0.01 to 0.02 there); 0 is off."""
    contrast_modality: str | None = None
    """"video" or "audio": what the other policy of ``contrast_coef`` is not shown."""

    @property
    def upper_clip(self) -> float:
        """What ``epsilon_high`` stands for."""
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
