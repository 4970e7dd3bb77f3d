"""What tests of adapters share: settings, policies with adapters, their logits and checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.models.prefix.scoring import Rows, completion_logits

TARGETS = ("happy", "<answer>sad</answer>")


def config(**changes) -> TrainableConfig:
    parts = {name: changes.pop(name) for name in [*changes] if name.endswith("jector")}
    return TrainableConfig(lora=LoraConfig(enabled=True, **{"r": 4, **changes}), **parts)


def logits(policy, batch) -> torch.Tensor:
    with torch.no_grad():
        rows = Rows(
            policy.prompts(batch, policy.encode(batch)),
            torch.arange(len(batch)),
            batch.completion_ids,
            batch.completion_mask,
        )
        return completion_logits(policy.language_model, rows)


def move(policy) -> None:
    """Changes every weight that trains, as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))


@pytest.fixture
def base(tiny_policy, tmp_path) -> Path:
    tiny_policy.save(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def batch(tiny_policy, make_batch):
    return make_batch(tiny_policy, 4, targets=TARGETS)


def adapted(base: Path, **changes):
    policy = load_policy(str(base), "float32", None)
    apply(policy, config(**changes), base)
    return policy


@pytest.fixture
def saved(base, batch) -> tuple[Path, torch.Tensor]:
    """A checkpoint of a policy whose adapter and projectors have moved, and its logits."""
    policy = adapted(base)
    move(policy)
    policy.save(base.with_name("saved"))
    return base.with_name("saved"), logits(policy, batch)
