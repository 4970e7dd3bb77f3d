"""Label scores under subsets: against clips that never had the modality, and where one decides."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from make_shapes import StretchingProcessor, clip_of

from omni_rlvr.data.collate import Collate
from omni_rlvr.functional.shapley import interaction, shapley_values
from omni_rlvr.rollout.label_scoring import BARE, TAGGED, label_logps
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.tasks.attribute import subset_scores as module
from omni_rlvr.tasks.attribute.subset_scores import Method, SubsetScorer
from omni_rlvr.types import Batch, Features

LABELS = ("happy", "sad", "neutral")
METHOD = Method(LABELS, "drop", "direct", max_completion_length=6, num_prompts=4, swap=True)
KIND = {0: "t", 1: "a", 2: "v", 3: "av"}


def labelled(batch, labels=LABELS):
    """The same clips with labels in turn."""
    examples = [replace(e, answer=labels[i % len(labels)]) for i, e in enumerate(batch.examples)]
    return replace(batch, examples=examples)


def scored(policy, batch, method=METHOD, *, seed=0):
    with torch.no_grad():
        features = policy.encode(batch)
    generator = torch.Generator().manual_seed(seed)
    return SubsetScorer(policy, SharedPrefix(), method).score(batch, features, generator)


@pytest.mark.parametrize("subset", [0, 1, 2, 3])
def test_left_out_is_as_if_it_never_was_there(tiny_policy, make_batch, subset: int):
    batch = labelled(make_batch(tiny_policy, 4, ("av",)))
    alone = make_batch(tiny_policy, 4, (KIND[subset],))
    with torch.no_grad():
        whole = tiny_policy.encode(batch)
        features = Features(
            video=whole.video if subset & 2 else [None] * 4,
            audio=whole.audio if subset & 1 else [None] * 4,
        )
        prompts = tiny_policy.prompts(alone, features)
    expected = label_logps(tiny_policy, prompts, slots=[BARE] * 4, labels=LABELS)
    got = scored(tiny_policy, batch).logps[:, subset]
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


def test_a_clip_without_sound_owes_it_nothing(tiny_policy, make_batch):
    logps = scored(tiny_policy, labelled(make_batch(tiny_policy, 3, ("v",)))).logps
    assert torch.equal(logps[:, 0], logps[:, 1])
    assert torch.equal(logps[:, 2], logps[:, 3])
    assert not torch.equal(logps[:, 0], logps[:, 2])
    phi = shapley_values(logps.log_softmax(dim=-1)[:, :, 0])
    assert phi[:, 0].tolist() == [0.0, 0.0, 0.0]


def test_towers_run_once_a_clip(tiny_policy, make_batch, monkeypatch):
    batch = labelled(make_batch(tiny_policy, 3, ("av",)))
    with torch.no_grad():
        features = tiny_policy.encode(batch)
    monkeypatch.setattr(tiny_policy, "encode", None)
    scorer = SubsetScorer(tiny_policy, SharedPrefix(), METHOD)
    scorer.score(batch, features, torch.Generator())


def test_absent_is_what_the_option_says(tiny_policy, make_batch):
    batch = labelled(make_batch(tiny_policy, 6, ("av",)))
    results = {
        "drop": scored(tiny_policy, batch).logps,
        "silence_grey": scored(tiny_policy, batch, replace(METHOD, absent="silence_grey")).logps,
        "other_clip": scored(tiny_policy, batch, replace(METHOD, absent="other_clip")).logps,
    }
    for other in ("silence_grey", "other_clip"):
        torch.testing.assert_close(results[other][:, 3], results["drop"][:, 3], atol=1e-4, rtol=0)
        assert not torch.allclose(results[other][:, :3], results["drop"][:, :3], atol=1e-3)
    # a grey picture with silence is the same whoever's place it takes
    asks_the_same = results["silence_grey"][[0, 4], 0]
    torch.testing.assert_close(asks_the_same[0], asks_the_same[1], atol=1e-5, rtol=0)


def test_other_clip_takes_what_the_swap_takes(tiny_policy, make_batch):
    batch = labelled(make_batch(tiny_policy, 6, ("av",)))
    scores = scored(tiny_policy, batch, replace(METHOD, absent="other_clip"))
    rows = [picture for picture, _ in scores.pairs]
    assert rows == list(range(6))
    # "video alone" with another clip's sound is the swap
    torch.testing.assert_close(scores.logps[:, 2], scores.swaps, atol=1e-5, rtol=0)


def test_a_clip_without_a_donor_has_no_values(tiny_policy, make_batch):
    batch = labelled(make_batch(tiny_policy, 3, ("av",)), labels=("happy",))
    scores = scored(tiny_policy, batch, replace(METHOD, absent="other_clip"))
    assert scores.logps[:, :3].isnan().all()
    assert scores.logps[:, 3].isfinite().all()
    assert scores.pairs == []
    assert scores.swaps.shape == (0, 3)


def test_leads_differ_and_own_reasoning_is_the_policys(tiny_policy, make_batch):
    tiny_policy.processor = replace(
        tiny_policy.processor,
        settings=replace(tiny_policy.processor.settings, instruction="in <answer> </answer> tags"),
    )
    batch = labelled(make_batch(tiny_policy, 3, ("av",)))
    direct, empty, own = (
        scored(tiny_policy, batch, replace(METHOD, lead=lead))
        for lead in ("direct", "empty_think", "own_reasoning")
    )
    assert not torch.allclose(direct.logps, empty.logps, atol=1e-3)
    assert direct.texts is None
    assert len(own.texts) == 3
    # random weights write no answer tag: what they would say is scored where the prompt asks for it
    torch.testing.assert_close(own.logps, direct.logps, atol=1e-4, rtol=0)


def test_the_label_is_scored_behind_the_reasoning_that_was_written(
    tiny_policy, make_batch, monkeypatch
):
    batch = labelled(make_batch(tiny_policy, 2, ("av",)))
    reasoned = "<think>a smile</think><answer>"
    slot = replace(TAGGED, text=reasoned)
    monkeypatch.setattr(module, "reply_slots", lambda *_, otherwise: [slot] * len(otherwise))
    method = replace(METHOD, lead="own_reasoning", swap=False)
    with torch.no_grad():
        prompts = tiny_policy.prompts(batch, tiny_policy.encode(batch))
    expected = label_logps(tiny_policy, prompts, slots=[slot] * 2, labels=LABELS)
    got = scored(tiny_policy, batch, method).logps[:, 3]
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)


def test_the_prompt_text_is_a_player_if_asked(tiny_policy, make_batch):
    batch = labelled(make_batch(tiny_policy, 3, ("av",)))
    logps = scored(tiny_policy, batch, replace(METHOD, num_players=3)).logps
    assert logps.shape == (3, 8, 3)
    torch.testing.assert_close(logps[:, 4:], scored(tiny_policy, batch).logps, atol=1e-4, rtol=0)
    assert not torch.allclose(logps[:, :4], logps[:, 4:], atol=1e-3)


@pytest.mark.parametrize(("decides", "place"), [("audio", 0), ("video", 1)])
def test_where_one_modality_decides_it_gets_all(
    tiny_policy, make_batch, monkeypatch, decides: str, place: int
):
    """The label's logit is 5 where the deciding modality says so, whatever the other one holds."""
    batch = labelled(make_batch(tiny_policy, 9, ("av",)))
    says = [*(torch.eye(3).repeat(3, 1) * 5)]  # 9 of [3]: the features are the label
    noise = [*torch.randn(9, 3, generator=torch.Generator().manual_seed(0))]
    features = Features(**{**{"video": noise, "audio": noise}, decides: says})

    def make_prompts(policy, batch, media, **limits):
        return torch.stack([torch.zeros(3) if f is None else f for f in vars(media)[decides]])

    monkeypatch.setattr(module, "make_prompts", make_prompts)
    monkeypatch.setattr(
        module, "label_logps", lambda policy, prompts, slots, labels: prompts.log_softmax(-1)
    )
    scorer = SubsetScorer(tiny_policy, SharedPrefix(), METHOD)
    scores = scorer.score(batch, features, torch.Generator())
    gold = torch.arange(9) % 3
    values = scores.logps[torch.arange(9), :, gold]
    phi = shapley_values(values)
    # v = log 1/3 without it, and log e^5 / (e^5 + 2) with it
    gained = torch.tensor(5.0).exp() / (torch.tensor(5.0).exp() + 2)
    torch.testing.assert_close(
        phi[:, place], (3 * gained).log().double().expand(9), atol=1e-5, rtol=0
    )
    assert phi[:, 1 - place].abs().max() < 1e-6
    assert interaction(values, 0, 1).abs().max() < 1e-6
    # every swap answers with the label of the clip that gave the deciding modality
    giver = [pair[0 if decides == "video" else 1] for pair in scores.pairs]
    assert scores.swaps.argmax(dim=1).tolist() == [i % 3 for i in giver]
    assert len(giver) == 9


@pytest.mark.slow
def test_how_many_prompts_go_together_changes_no_value(tiny_policy, make_batch):
    batch = labelled(make_batch(tiny_policy, 5, ("av", "v")))
    one, all_ = (
        scored(tiny_policy, batch, replace(METHOD, num_prompts=num, lead="own_reasoning"))
        for num in (1, 99)
    )
    torch.testing.assert_close(one.logps, all_.logps, atol=2e-4, rtol=0)
    torch.testing.assert_close(one.swaps, all_.swaps, atol=2e-4, rtol=0)
    assert one.texts == all_.texts


def test_a_blank_has_the_shape_of_what_it_stands_in_for(monkeypatch):
    """With grey and silence every subset's prompt is as long as the whole clip's."""
    samples = [
        clip_of("ann", num_frames=4, sound_s=0.8),
        clip_of("bob", num_frames=2, sound_s=2.1),
        clip_of("cy", num_frames=4),
    ]
    encoded = []

    def encode(batch: Batch) -> Features:
        encoded.append(batch)
        return Features(batch.pixel_values, batch.input_features)

    policy = SimpleNamespace(processor=StretchingProcessor(), dtype=torch.float32, encode=encode)
    batch = Collate(policy.processor, with_target=False)(samples)
    features = Features(batch.pixel_values, batch.input_features)
    seen = []

    def make_prompts(policy, asked, shown, **limits):
        seen.append((asked, shown))
        return asked

    monkeypatch.setattr(module, "make_prompts", make_prompts)
    monkeypatch.setattr(module, "prompt_slot", lambda processor, question: BARE)
    monkeypatch.setattr(
        module, "label_logps", lambda policy, asked, **how: torch.zeros(len(asked), len(LABELS))
    )
    method = replace(METHOD, absent="silence_grey", swap=False, num_prompts=99)
    SubsetScorer(policy, SharedPrefix(), method).score(batch, features, torch.Generator())
    whole = dict(zip(("ann", "bob", "cy"), batch.prompt_mask.sum(dim=1).tolist(), strict=True))
    for asked, shown in seen:
        for example, length in zip(asked.examples, asked.prompt_mask.sum(dim=1), strict=True):
            assert length == whole[example.id]
        for shape, clip in zip(asked.video_shapes, shown.video, strict=True):
            assert len(clip) == shape.num_tokens
    # one picture a shape (4 and 2 frames), one sound a shape (0.8 s and 2.1 s), each encoded once
    assert len(encoded) == 4
    pictures = [clip for _, shown in seen for clip in shown.video]
    assert sum(bool((clip == 0).all()) for clip in pictures) == 5  # 2 + 2 + 1 subsets
