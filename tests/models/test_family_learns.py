"""A cold start and RLVR teach the tiny models of large families to answer by what they perceive."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from omni_rlvr.config.sampling import SamplingConfig, SamplingOptions, greedy
from omni_rlvr.config.stage import GrpoConfig, SftConfig
from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.data.collate import Collate
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.families import family_of
from omni_rlvr.rollout.experience import select
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.stages.sft import SftStage
from omni_rlvr.types import Batch, Clip, Example, RewardOutput, Sample

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MODELS = ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "qwen2_audio")


@pytest.fixture(scope="module", params=MODELS)
def untouched(request):
    """The tiny policy of a family, which no test may change."""
    return family_of(request.param).tiny(0, request.param)


@pytest.fixture
def policy(untouched):
    """A tiny policy of one's own, all of it frozen, in eval mode."""
    return copy.deepcopy(untouched, {id(untouched.processor): untouched.processor})


@pytest.fixture
def folder(untouched, tmp_path: Path) -> Path:
    """A checkpoint of the tiny policy, the base of adapters."""
    untouched.save(tmp_path / "base")
    return tmp_path / "base"


def clips(policy, seed: int, num_clips: int = 8) -> Batch:
    """Noisy clips, dark or bright, with a low or a high tone.

    Dark or bright is what decides, whatever is heard; for a model that does not see, the tone.
    """
    random, made, sees = np.random.default_rng(seed), [], "video" in policy.towers()
    for i in range(num_clips):
        bright, high = i % 2, i // 2 % 2
        noise = random.integers(0, 60, (2, 56, 56, 3))
        frames = (noise + 180 * bright).astype(np.uint8)
        times = np.arange(8_000) / 16_000
        tone = np.sin(2 * np.pi * (2_000 if high else 200) * times) * 0.3
        wave = (tone + 0.02 * random.standard_normal(len(times))).astype(np.float32)
        clip = Clip(frames if sees else None, wave, 1.0, np.arange(2) / 2)
        label = "ab"[bright if sees else high]
        made.append(Sample(Example(f"{i}", "Which emotion?", label, label, video=None), clip))
    return Collate(policy.processor, with_target=True)(made)


def right(completions, examples, lengths) -> RewardOutput:
    scores = [float(c == e.answer) for c, e in zip(completions, examples, strict=True)]
    return RewardOutput(torch.tensor(scores), {"accuracy": torch.tensor(scores)})


@torch.no_grad()
def accuracy(policy, batch: Batch, sampling: SamplingConfig) -> float:
    """Share of right answers to clips that were not trained on."""
    prompts = policy.prompts(batch, policy.encode(batch))
    generator = torch.Generator().manual_seed(0)
    texts = SharedPrefix().sample(policy, prompts, sampling, generator, None).texts
    examples = [e for e in batch.examples for _ in range(sampling.num_generations)]
    return sum(t == e.answer for t, e in zip(texts, examples, strict=True)) / len(texts)


def steps(policy, stage, batch: Batch, lr: float) -> Iterator[None]:
    """Train for as long as steps are taken."""
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer, generator = torch.optim.AdamW(trained, lr=lr), torch.Generator().manual_seed(0)
    while True:
        experience = stage.prepare(policy.train(), batch, generator).experience
        for minibatch in stage.minibatches(experience):
            optimizer.zero_grad()
            for rows in stage.micro_batches(minibatch):
                stage.loss(policy, select(minibatch, rows), minibatch).loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
        yield


GREEDY = greedy(max_completion_length=3)
# As it is, a label has a probability of 0.2 to 0.4 at most while the head is frozen, as with LoRA:
# its rows are short, as random ones are, and the norm before it bounds what they are multiplied by.
# So a right answer and its end would be sampled one time in twelve, whatever adapters learn.
SAMPLING = SamplingOptions(max_completion_length=3, temperature=0.25)
GRPO = GrpoConfig(sampling=SAMPLING, num_generations=8, beta=0.0)


@pytest.fixture(params=["full", "lora"])
def learner(request, policy, folder):
    """A policy in which all weights or adapters train, and the rate of its cold start."""
    torch.manual_seed(0)  # adapters are drawn
    lora = request.param == "lora"
    apply(
        policy, TrainableConfig(lora=LoraConfig(enabled=lora, **{"r": 8} if lora else {})), folder
    )
    return policy, 5e-3 if lora else 1e-3


def test_a_cold_start_raises_the_accuracy(learner):
    policy, lr = learner
    seen, unseen = clips(policy, 0), clips(policy, 1)
    assert accuracy(policy, unseen, GREEDY) == 0  # it does not even answer with a label
    for _ in islice(steps(policy, SftStage(SftConfig()), seen, lr), 16):
        pass
    assert accuracy(policy, unseen, GREEDY) >= 0.9


def test_rlvr_raises_the_accuracy_of_a_cold_start(learner):
    """Of sampled answers, after a cold start that ended as soon as a good part was right."""
    policy, lr = learner
    seen, unseen = clips(policy, 0), clips(policy, 1)
    sampling = GRPO.sampling_of(len(unseen))
    for _ in islice(steps(policy, SftStage(SftConfig()), seen, lr / 6), 48):
        if (before := accuracy(policy, unseen, sampling)) >= 0.3:
            break
    assert 0.3 <= before <= 0.75
    stage = GrpoStage(GRPO, right, None, SharedPrefix())
    for _ in islice(steps(policy, stage, seen, 4e-4), 30):
        pass
    assert accuracy(policy, unseen, sampling) >= before + 0.2
