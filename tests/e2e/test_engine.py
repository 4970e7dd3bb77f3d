"""The engine that ``rollout=`` names samples wherever something is sampled, and no other does."""

from __future__ import annotations

import pytest

from omni_rlvr.rollout.hf import Generate
from omni_rlvr.rollout.shared_prefix import SharedPrefix

SFT = ("stage=sft", "stage.max_steps=1", "stage.batch_size=3")
ATTRIBUTE = (
    "task=attribute",
    "task.splits=[train]",
    "task.max_clips=4",
    "task.max_completion_length=4",
    "task.num_resamples=10",
    "task.swap=false",
)
CALLERS = {
    "training": ("stage=grpo", "stage.max_steps=1", "stage.batch_size=2",
                 "stage.num_generations=2", "stage.sampling.max_completion_length=4"),
    "evaluation": ("task=evaluate", "task.max_completion_length=4", "task.num_resamples=10"),
    "evaluation after training": (*SFT, "task.evaluate_after.splits=[test]",
                                  "task.evaluate_after.max_completion_length=4"),
    "prediction": ("task=predict", "task.max_completion_length=4"),
    "reasoning of subsets": (*ATTRIBUTE, "task.lead=own_reasoning"),
    "reasoning of whole clips": (*ATTRIBUTE, "task.lead=direct", "task.num_reasoned=2"),
    "samples of a page": (*ATTRIBUTE, "task.lead=direct", "task.num_reasoned=0",
                          "task.num_chosen=1", "task.num_generations=2"),
    "probe": (*SFT, "callbacks=probe", "callbacks.probe.num_clips=2",
              "callbacks.probe.lead=own_reasoning", "callbacks.probe.lexicon=null",
              "callbacks.probe.max_completion_length=4"),
    "reasoning of a probe": (*SFT, "callbacks=probe", "callbacks.probe.num_clips=2",
                             "callbacks.probe.lead=direct",
                             "callbacks.probe.max_completion_length=4"),
}  # fmt: skip


@pytest.mark.parametrize("caller", CALLERS)
def test_every_caller_takes_the_engine_that_is_configured(
    runner, clips, monkeypatch, caller
) -> None:
    asked, sample = [], Generate.sample

    def noted(self, policy, prompts, sampling, generator, on_tokens):
        asked.append(sampling)
        return sample(self, policy, prompts, sampling, generator, on_tokens)

    monkeypatch.setattr(Generate, "sample", noted)
    monkeypatch.setattr(SharedPrefix, "sample", lambda *_: pytest.fail("not this engine"))
    clip = (f"+video={clips}/clips/000000.mp4",) if caller == "prediction" else ()
    runner(*CALLERS[caller], *clip, "rollout=hf")
    assert asked
    assert {how.max_completion_length for how in asked} == {4}


def test_an_engine_is_told_of_every_update(runner, monkeypatch) -> None:
    told = []
    monkeypatch.setattr(SharedPrefix, "sync", lambda self, policy: told.append(policy))
    runner(*CALLERS["training"], "stage.max_steps=3")
    assert len(told) == 1 + 3  # the weights that a run starts from, and each step's
