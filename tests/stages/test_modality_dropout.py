"""A prompt without a modality is the prompt of a clip that never had it."""

from __future__ import annotations

import torch

from omni_rlvr.stages.modality_dropout import drop_modalities, without
from omni_rlvr.types import Features

KINDS = ("av", "v", "a", "t")


NOTHING = Features(None, None)


def flags(*rows: int) -> torch.Tensor:
    return torch.tensor([i in rows for i in range(4)])


def test_the_prompt_is_that_of_a_clip_without_it(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4, kinds=KINDS)
    features = tiny_policy.encode(batch)
    got, left = without(
        batch, features, tiny_policy.processor, video=flags(0, 1, 2), audio=flags(2)
    )
    wanted = make_batch(tiny_policy, 4, kinds=("a", "t", "t", "t"))
    assert torch.equal(got.prompt_ids, wanted.prompt_ids)
    assert torch.equal(got.prompt_mask, wanted.prompt_mask)
    assert got.video_rows.tolist() == []
    assert got.pixel_values is None
    assert left.video is None
    assert got.audio_rows.tolist() == [0]
    assert torch.equal(got.input_features, batch.input_features[:1])
    assert torch.equal(left.audio, features.audio[:1])
    # Features that are left are those that the smaller batch would have had.
    again = tiny_policy.encode(got)
    torch.testing.assert_close(again.audio, left.audio)
    torch.testing.assert_close(
        tiny_policy.prompts(got, again).embeds, tiny_policy.prompts(got, left).embeds
    )


def test_nothing_dropped_is_the_same_batch(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4, kinds=KINDS)
    got, _ = without(
        batch, Features(None, None), tiny_policy.processor, video=flags(), audio=flags()
    )
    assert torch.equal(got.prompt_ids, batch.prompt_ids)
    assert torch.equal(got.pixel_values, batch.pixel_values)
    assert torch.equal(got.input_features, batch.input_features)


def test_one_of_two_is_dropped_as_often_as_asked(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 200, kinds=("av",))
    generator = torch.Generator().manual_seed(0)
    got, _ = drop_modalities(
        batch, NOTHING, tiny_policy.processor, probability=0.5, generator=generator
    )
    num_video, num_audio = len(got.video_rows), len(got.audio_rows)
    assert {*got.video_rows.tolist()} | {*got.audio_rows.tolist()} == set(range(200))
    assert 70 < 400 - num_video - num_audio < 130  # 100 expected, std 7
    assert 25 < 200 - num_video < 80  # 50 of each
    assert 25 < 200 - num_audio < 80


def test_a_prompt_with_one_modality_keeps_it(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 3, kinds=("v", "a", "t"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        got, _ = drop_modalities(
            batch, NOTHING, tiny_policy.processor, probability=0.99, generator=generator
        )
        assert got is batch


def test_the_generator_decides(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 20, kinds=("av",))
    rows = [
        drop_modalities(
            batch,
            NOTHING,
            tiny_policy.processor,
            probability=0.5,
            generator=torch.Generator().manual_seed(seed),
        )[0].video_rows.tolist()
        for seed in (0, 0, 1)
    ]
    assert rows[0] == rows[1] != rows[2]
