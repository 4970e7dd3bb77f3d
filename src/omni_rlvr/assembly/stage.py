"""Build the stage of a training run, with the reward and the reference policy that it needs."""

from __future__ import annotations

from omni_rlvr.assembly.composed import Clips, Composed
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.data.annotations.example_table import distinct
from omni_rlvr.models.policy import Policy
from omni_rlvr.rewards.gold import check_gold
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.stages.base import Given, Stage
from omni_rlvr.stages.table import STAGES, name_of
from omni_rlvr.types import require

ROLLOUT = "omni_rlvr.rollout.shared_prefix.SharedPrefix"
"""The ``_target_`` of the default, conf/rollout/shared_prefix.yaml."""


def check_rollout(composed: Composed) -> None:
    """Refuse a rollout option if nothing is sampled, because it would have no effect."""
    probe = (composed.place.config["callbacks"] or {}).get("probe") or {}
    reasons = probe.get("lead") == "own_reasoning" or probe.get("lexicon") is not None
    if composed.stage.samples or reasons or composed.task.evaluate_after.splits:
        return
    target = composed.place.config["rollout"]["_target_"]
    require(
        target == ROLLOUT,
        "rollout._target_",
        target,
        f"left alone with stage={name_of(composed.stage)}, which samples nothing "
        "(task.evaluate_after.splits=[test] or callbacks=probe would)",
    )


def build_reward(composed: Composed, clips: Clips) -> Mixture | None:
    """Build the reward of a stage that samples, and check that it rewards the gold answers.

    This comes before the model is loaded, which is slow.
    """
    if not composed.stage.samples:
        return None
    reward = make(composed.cfg.reward)
    check_gold(reward, distinct(clips.examples[clips.dataset.train_split]))
    return reward


def build_stage(
    composed: Composed, policy: Policy, reward: Mixture | None, engine: RolloutEngine
) -> Stage:
    """Build the stage for the policy that it starts from."""
    config = composed.stage
    given = Given(
        reward=reward,
        reference=policy.frozen_copy() if config.needs_reference else None,
        engine=engine,
    )
    return STAGES[name_of(config)].build(config, given)
