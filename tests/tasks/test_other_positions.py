"""A policy whose positions do not count tokens is asked everywhere as it is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omni_rlvr.config.sampling import SamplingOptions, greedy
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.config.tasks import EvaluateTask
from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.rollout.encode import encode
from omni_rlvr.rollout.experience import completion_scores
from omni_rlvr.rollout.label_scoring import TAGGED, label_logps
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.tasks.attribute.probe import ModalityProbe, game_metrics
from omni_rlvr.tasks.attribute.subset_scores import Method, SubsetScorer
from omni_rlvr.tasks.evaluate import answered
from omni_rlvr.tasks.predict import predict
from omni_rlvr.types import Features, Prompts, RewardOutput

pytestmark = pytest.mark.slow  # every task runs twice

LABELS, LENGTH = ("happy", "sad", "neutral"), 6
KIND = {0: "t", 1: "a", 2: "v", 3: "av"}


class Spread(OmniModel):
    """A policy whose tokens stand two positions apart."""

    def prompts(self, batch, features):
        counted = super().prompts(batch, features)
        return replace(counted, positions=counted.positions * 2)


@pytest.fixture
def spread(tiny_policy):
    tiny_policy.__class__ = Spread
    return tiny_policy


@torch.no_grad()
def plain_logps(policy, prompts: Prompts, row: int, ids: list[int]) -> torch.Tensor:
    """[t + 1, V]: a plain forward over one prompt without padding and t tokens behind it."""
    here, tail = prompts.mask[row].bool(), torch.tensor(ids, dtype=torch.long)
    places = prompts.positions[row, here]
    later = places.max() + 1 + torch.arange(len(ids))
    behind = policy.language_model.get_input_embeddings()(tail)
    logits = policy.language_model(
        inputs_embeds=torch.cat([prompts.embeds[row, here], behind]).unsqueeze(0),
        position_ids=torch.cat([places, later]).unsqueeze(0),
    ).logits[0]
    return logits[len(places) - 1 :].log_softmax(dim=-1)


def plain_greedy(policy, prompts: Prompts, row: int) -> str:
    ids: list[int] = []
    while len(ids) < LENGTH and not (ids and ids[-1] in policy.processor.stop_ids):
        ids.append(int(plain_logps(policy, prompts, row, ids)[-1].argmax()))
    return policy.processor.decode(torch.tensor([ids]), torch.ones(1, len(ids)))[0]


def plain_labels(policy, prompts: Prompts) -> torch.Tensor:
    """[B, L]: each label behind ``<answer>``, token by token."""

    def tokens(text: str) -> list[int]:
        return policy.processor.tokenizer.encode(text, add_special_tokens=False)

    def score(row: int, label: str) -> float:
        given, scored = tokens(TAGGED.text), tokens(label + TAGGED.closing)
        logps = plain_logps(policy, prompts, row, given + scored)[len(given) :]
        return sum(logps[t, token].item() for t, token in enumerate(scored))

    return torch.tensor(
        [[score(row, label) for label in LABELS] for row in range(len(prompts.mask))]
    )


def prompts_of(policy, batch) -> Prompts:
    with torch.no_grad():
        return policy.prompts(batch, policy.encode(batch))


def some_of(features: Features, subset: int) -> Features:
    nothing = Features.none(len(features.video))
    return Features(
        features.video if subset & 2 else nothing.video,
        features.audio if subset & 1 else nothing.audio,
    )


def asked_for_tags(policy, batch):
    """The same batch, its questions asking for tags; and labels in turn."""
    policy.processor = replace(
        policy.processor,
        settings=replace(policy.processor.settings, instruction="in <answer> </answer> tags"),
    )
    labels = [LABELS[i % 3] for i in range(len(batch))]
    examples = [replace(e, answer=a) for e, a in zip(batch.examples, labels, strict=True)]
    return replace(batch, examples=examples)


def test_positions_matter_to_this_policy(spread, make_batch):
    batch = make_batch(spread, 3, ("av",))
    prompts = prompts_of(spread, batch)
    counted = replace(prompts, positions=prompts.positions // 2)
    difference = plain_labels(spread, prompts) - plain_labels(spread, counted)
    assert difference.abs().min() > 0.01


def test_it_is_trained_so(spread, make_batch):
    batch = make_batch(spread, 3)

    def reward(completions, examples, lengths) -> RewardOutput:
        rewards = torch.arange(len(completions)).float()
        return RewardOutput(rewards, {"only": rewards})

    sampling = SamplingOptions(max_completion_length=LENGTH)
    config = GrpoConfig(sampling=sampling, num_generations=2, beta=0.0)
    stage = GrpoStage(config, reward, None, SharedPrefix())
    whole = stage.prepare(spread, batch, torch.Generator().manual_seed(0)).experience
    with torch.no_grad():
        got = completion_scores(
            spread, whole, temperature=1.0, gradient_checkpointing=False, entropy_gradient=False
        ).logps
    prompts = prompts_of(spread, batch)
    for row, (ids, mask) in enumerate(
        zip(whole.completion_ids, whole.completion_mask, strict=True)
    ):
        said = ids[mask.bool()]
        logps = plain_logps(spread, prompts, int(whole.prompt_index[row]), said.tolist())
        expected = logps[:-1].gather(1, said.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(got[row, : len(said)], expected, atol=1e-5, rtol=0)


def test_it_is_evaluated_so(spread, make_batch):
    batch = make_batch(spread, 4)
    task = EvaluateTask(max_completion_length=LENGTH)
    rows = answered(spread, SharedPrefix(), batch, encode(spread, batch), ("happy", "sad"), task)
    prompts = prompts_of(spread, batch)
    expected = [plain_greedy(spread, prompts, row) for row in range(4)]
    assert [row["completion"] for row in rows] == expected


def test_it_predicts_so(spread, make_batch):
    batch = make_batch(spread, 4)
    said = predict(
        spread,
        SharedPrefix(),
        batch,
        encode(spread, batch),
        LABELS,
        answer_form="tags",
        sampling=greedy(max_completion_length=LENGTH),
        generator=torch.Generator(),
        on_tokens=None,
    )
    prompts = prompts_of(spread, batch)
    expected = plain_labels(spread, prompts).softmax(dim=-1)
    got = torch.tensor([list(one.probabilities.values()) for one in said])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert [one.completion for one in said] == [
        plain_greedy(spread, prompts, row) for row in range(4)
    ]


def test_its_labels_are_scored_so_behind_leads_of_any_length(spread, make_batch):
    prompts = prompts_of(spread, make_batch(spread, 4))
    assert (prompts.mask[:, 0] == 0).any()
    long = replace(TAGGED, ids=spread.processor.target_ids("<think>A smile.</think>")[:-1])
    got = label_logps(spread, prompts, slots=[TAGGED, long, TAGGED, TAGGED], labels=LABELS)
    expected = plain_labels(spread, prompts)
    rows = [0, 2, 3]
    torch.testing.assert_close(got[rows], expected[rows], atol=1e-5, rtol=0)


@pytest.mark.parametrize("lead", ["direct", "own_reasoning"])
@pytest.mark.parametrize("subset", [0, 1, 2, 3])
def test_it_is_attributed_so(spread, make_batch, lead: str, subset: int):
    batch = asked_for_tags(spread, make_batch(spread, 3, ("av",)))
    alone = make_batch(spread, 3, (KIND[subset],))
    with torch.no_grad():
        features = spread.encode(batch)
        left = some_of(features, subset)
        prompts = spread.prompts(alone, left)
    method = Method(LABELS, "drop", lead, max_completion_length=4, num_prompts=4)
    scorer = SubsetScorer(spread, SharedPrefix(), method)
    got = scorer.score(batch, features, torch.Generator()).logps[:, subset]
    torch.testing.assert_close(got, plain_labels(spread, prompts), atol=2e-4, rtol=0)


def test_it_is_probed_so(spread, make_batch):
    batch = asked_for_tags(spread, make_batch(spread, 3, ("av",)))
    probe = ModalityProbe(
        every_n_steps=1, num_clips=3, labels=LABELS, lead="direct", reader=None, lexicon=None,
        max_completion_length=4,
    )  # fmt: skip
    with torch.no_grad():
        probe.batch, probe.features = batch, spread.encode(batch)
    got = probe.probe(spread, SharedPrefix())
    expected = []
    for subset, kind in KIND.items():
        left = some_of(probe.features, subset)
        with torch.no_grad():
            prompts = spread.prompts(make_batch(spread, 3, (kind,)), left)
        expected.append(plain_labels(spread, prompts).double().log_softmax(dim=-1))
    for name, value in game_metrics(torch.stack(expected, dim=1), torch.arange(3)).items():
        assert got[f"modality/{name}"] == pytest.approx(value, abs=2e-4)
