"""A prompt without a modality is the prompt of a clip that never had it."""

from __future__ import annotations

import torch
from make_shapes import StretchingProcessor, clip_of, without_parts

from omni_rlvr.data.collate import Collate
from omni_rlvr.stages.modality_dropout import drop_modalities, without_modalities
from omni_rlvr.types import Features

KINDS = ("av", "v", "a", "t")


def rows_with(shapes) -> set[int]:
    return {row for row, shape in enumerate(shapes) if shape is not None}


def flags(*rows: int) -> torch.Tensor:
    return torch.tensor([i in rows for i in range(4)])


def test_the_prompt_is_that_of_a_clip_without_it(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4, kinds=KINDS)
    features = tiny_policy.encode(batch)
    got, left = without_modalities(
        batch, features, tiny_policy.processor, video=flags(0, 1, 2), audio=flags(2)
    )
    wanted = make_batch(tiny_policy, 4, kinds=("a", "t", "t", "t"))
    assert torch.equal(got.prompt_ids, wanted.prompt_ids)
    assert torch.equal(got.prompt_mask, wanted.prompt_mask)
    assert torch.equal(got.prompt_positions, wanted.prompt_positions)
    assert got.video_shapes == got.pixel_values == left.video == [None] * 4
    assert got.audio_shapes == [batch.audio_shapes[0], None, None, None]
    assert got.input_features == [batch.input_features[0], None, None, None]
    assert left.audio == [features.audio[0], None, None, None]
    # Features that are left are those that the smaller batch would have had.
    again = tiny_policy.encode(got)
    torch.testing.assert_close(again.audio[0], left.audio[0])
    torch.testing.assert_close(
        tiny_policy.prompts(got, again).embeds, tiny_policy.prompts(got, left).embeds
    )


def test_nothing_dropped_is_the_same_batch(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4, kinds=KINDS)
    got, _ = without_modalities(
        batch, Features.none(4), tiny_policy.processor, video=flags(), audio=flags()
    )
    assert torch.equal(got.prompt_ids, batch.prompt_ids)
    assert got.pixel_values == batch.pixel_values
    assert got.input_features == batch.input_features


def test_one_of_two_is_dropped_as_often_as_asked(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 200, kinds=("av",))
    generator = torch.Generator().manual_seed(0)
    got, _ = drop_modalities(
        batch, Features.none(200), tiny_policy.processor, probability=0.5, generator=generator
    )
    video, audio = rows_with(got.video_shapes), rows_with(got.audio_shapes)
    num_video, num_audio = len(video), len(audio)
    assert video | audio == set(range(200))
    assert 70 < 400 - num_video - num_audio < 130  # 100 expected, std 7
    assert 25 < 200 - num_video < 80  # 50 of each
    assert 25 < 200 - num_audio < 80


def test_a_prompt_with_one_modality_keeps_it(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 3, kinds=("v", "a", "t"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        got, _ = drop_modalities(
            batch, Features.none(3), tiny_policy.processor, probability=0.99, generator=generator
        )
        assert got is batch


def test_the_generator_decides(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 20, kinds=("av",))
    rows = [
        drop_modalities(
            batch,
            Features.none(20),
            tiny_policy.processor,
            probability=0.5,
            generator=torch.Generator().manual_seed(seed),
        )[0].video_shapes
        for seed in (0, 0, 1)
    ]
    assert rows[0] == rows[1] != rows[2]


def test_of_clips_that_differ_in_length_it_is_the_prompt_of_clips_without_it():
    samples = [
        clip_of("ann", num_frames=4, step_s=0.25, sound_s=0.8),
        clip_of("bob", num_frames=2, step_s=1.3, sound_s=2.1),
        clip_of("cy", num_frames=6),
        clip_of("di", sound_s=0.3),
    ]
    processor = StretchingProcessor()
    batch = Collate(processor, with_target=False)(samples)
    features = Features(batch.pixel_values, batch.input_features)
    for video, audio in (
        ([False] * 4, [True] * 4),
        ([True] * 4, [False] * 4),
        ([True, False, False, True], [False, True, False, False]),
    ):
        flags = torch.tensor(video), torch.tensor(audio)
        got, left = without_modalities(batch, features, processor, video=flags[0], audio=flags[1])
        anew = Collate(processor, with_target=False)(
            without_parts(samples, video=video, audio=audio)
        )
        for name in ("prompt_ids", "prompt_mask", "prompt_positions"):
            assert torch.equal(vars(got)[name], vars(anew)[name])
        assert got.prompt_positions.dtype == torch.float32
        assert (got.video_shapes, got.audio_shapes) == (anew.video_shapes, anew.audio_shapes)
        assert same_tensors(left.video, anew.pixel_values)
        assert same_tensors(left.audio, anew.input_features)


def same_tensors(ours, theirs) -> bool:
    return all(
        a is None if b is None else torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )
