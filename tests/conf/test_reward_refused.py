"""A wrong reward is named before the model loads: terms, weights, signatures."""

from __future__ import annotations

from pathlib import Path

import pytest
from flips import GRPO
from hydra.errors import HydraException
from test_options import checkpoint, clips, common, runner

from omni_rlvr.types import UserError

__all__ = ["checkpoint", "clips", "common", "runner"]  # fixtures


def wrong(texts: list[str], labels: list[str]) -> list[float]:
    return []


BAD = {
    "reward=happiness": "happiness",
    "reward.weights.accuracy=much": "reward.weights.accuracy: 'much' is not a number",
    "reward.weights.accuracy=nan": "reward.weights.accuracy=nan is out of range: a finite number",
    "+reward.weights.smile=1": "reward.weights.smile: no such term; reward.terms has",
    "~reward.weights.format": "reward.weights.format is missing",
    "+reward.terms.smile._target_=omni_rlvr.rewards.smile.Smile": "cannot be imported",
    "+reward.terms.smile._target_=test_reward_refused.wrong": "_partial_: true",
}


@pytest.mark.parametrize("override", BAD)
def test_a_wrong_reward_is_named_before_the_model_loads(
    runner, tmp_path: Path, override: str
) -> None:
    with pytest.raises((UserError, HydraException)) as caught:
        runner.build(*GRPO, f"model.path={tmp_path}", override)
    assert BAD[override] in str(caught.value)


def test_a_wrong_signature_is_named_before_the_model_loads(runner, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        runner.build(
            *GRPO,
            f"model.path={tmp_path}",
            "+reward.terms.mine._target_=test_reward_refused.wrong",
            "+reward.terms.mine._partial_=true",
            "+reward.weights.mine=1",
        )
    message = str(caught.value)
    assert message.startswith("reward.terms.mine: test_reward_refused.wrong(texts, labels) is no")
    assert "(completions, examples)" in message
