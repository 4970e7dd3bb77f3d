"""Collating: padding on the right side, media of the rows that have them, nothing lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from omni_rlvr.data.collate import Collate, in_one_storage, pad_rows, write_prompts
from omni_rlvr.functional.masks import position_ids
from omni_rlvr.models.policy import AUDIO_ID, VIDEO_ID
from omni_rlvr.types import Clip, Example, Sample, SkippedClip, VideoShape

QUESTION = "How does this person feel?"


def make_sample(name: str, *, video: bool = True, audio: bool = True, **fields) -> Sample:
    """A clip of 2 random 24 x 40 frames and half a second of sound, or one of both."""
    rng = np.random.default_rng(sum(name.encode()))
    frames = rng.integers(256, size=(2, 24, 40, 3), dtype=np.uint8) if video else None
    waveform = rng.uniform(-1, 1, 8000).astype(np.float32) if audio else None
    fields = {"question": QUESTION, "answer": "happy", "target": "happy"} | fields
    example = Example(id=name, video=None, **fields)
    times_s = np.array([0.1, 0.3]) if video else None
    return Sample(example, Clip(frames, waveform, duration_s=0.5, frame_times_s=times_s))


def shapes(clips) -> list[tuple[int, ...] | None]:
    return [None if clip is None else tuple(clip.shape) for clip in clips]


@pytest.fixture
def processor(tiny_policy):
    return tiny_policy.processor


@pytest.fixture
def collate(processor):
    return Collate(processor, with_target=True)


def test_pad_rows_left_by_hand():
    ids, mask = pad_rows([[5, 6, 7], [8]], pad=0, left=True)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert ids.dtype == mask.dtype == torch.int64


def test_pad_rows_right_by_hand():
    ids, mask = pad_rows([[5], [6, 7], [8, 9, 9]], pad=3, left=False)
    assert ids.tolist() == [[5, 3, 3], [6, 7, 3], [8, 9, 9]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_a_pad_token_inside_a_row_counts():
    _, mask = pad_rows([[0, 5, 0], [5]], pad=0, left=False)
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("left", [True, False])
def test_pad_rows_without_rows_and_with_empty_ones(left):
    assert pad_rows([], pad=0, left=left)[0].shape == (0, 0)
    ids, mask = pad_rows([[], [4]], pad=9, left=left)
    assert ids.tolist() == [[9], [4]]
    assert mask.tolist() == [[0], [1]]


def test_mixed_modalities(collate, processor):
    samples = [
        make_sample("both"),
        make_sample("silent", audio=False, question="Why?"),
        make_sample("blind", video=False),
    ]
    batch = collate(samples)
    assert len(batch) == 3
    assert [e.id for e in batch.examples] == ["both", "silent", "blind"]
    seen, heard = processor.video_shape, processor.audio_shape
    assert batch.video_shapes == [seen, seen, None]
    assert batch.audio_shapes == [heard, None, heard]
    assert shapes(batch.pixel_values) == [(2, 3, 32, 32), (2, 3, 32, 32), None]
    assert shapes(batch.input_features) == [(80, 100), None, (80, 100)]
    assert batch.pixel_values[0].dtype == batch.input_features[0].dtype == torch.float32
    settings = processor.settings
    expected = [(settings.video_tokens, settings.audio_tokens)] * 3
    expected[1], expected[2] = (settings.video_tokens, 0), (0, settings.audio_tokens)
    for row, (video, audio) in enumerate(expected):
        assert (batch.prompt_ids[row] == VIDEO_ID).sum() == video
        assert (batch.prompt_ids[row] == AUDIO_ID).sum() == audio


def test_media_rows_are_those_of_their_clips(collate, processor):
    samples = [make_sample("a", video=False), make_sample("b"), make_sample("c", audio=False)]
    batch = collate(samples)
    for row in (1, 2):
        clip = samples[row].clip
        expected, _ = processor.video(clip.frames, clip.frame_times_s)
        assert torch.equal(batch.pixel_values[row], expected)
    for row in (0, 1):
        expected, _ = processor.audio(samples[row].clip.waveform)
        assert torch.equal(batch.input_features[row], expected)
    assert not torch.equal(batch.pixel_values[1], batch.pixel_values[2])


def test_a_batch_takes_few_file_descriptors_however_many_clips_it_has(collate):
    """A worker hands over a storage, not a tensor."""
    batch = collate([make_sample("a"), make_sample("b", audio=False), make_sample("c")])
    for clips in (batch.pixel_values, batch.input_features):
        storages = {c.untyped_storage().data_ptr() for c in clips if c is not None}
        assert len(storages) == 1


def test_clips_of_unequal_shapes_lie_in_one_storage_too():
    clips = [torch.arange(6.0).view(2, 3), None, torch.arange(4.0), torch.ones(1, 1, 2)]
    for before, after in zip(clips, in_one_storage(clips), strict=True):
        assert (before is None) == (after is None)
        assert before is None or torch.equal(before, after)
    assert in_one_storage([None, None]) == [None, None]


def test_positions_in_time_height_and_width_are_padded_as_ids_are(processor):
    class ThreeAxes:
        pad_token_id = processor.pad_token_id

        def prompt(self, question, video, audio):
            ids = [7] * (len(question) + (0 if video is None else video.num_tokens))
            return ids, torch.arange(len(ids)) + torch.tensor([[0.5], [10], [20]])

    ids, mask, positions = write_prompts(
        ThreeAxes(), ["abc", "d"], [None, VideoShape(1)], [None, None]
    )
    assert mask.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert ids[1].tolist() == [processor.pad_token_id, 7, 7]
    assert positions.tolist() == [
        [[0.5, 1.5, 2.5], [0, 0.5, 1.5]],
        [[10, 11, 12], [0, 10, 11]],
        [[20, 21, 22], [0, 20, 21]],
    ]
    assert positions.dtype == torch.float32


def test_positions_are_counted(collate):
    batch = collate([make_sample("a"), make_sample("b", video=False)])
    assert torch.equal(batch.prompt_positions, position_ids(batch.prompt_mask))


def test_prompts_are_padded_left_and_targets_right(collate, processor):
    samples = [
        make_sample("a", audio=False, target="<answer>sad</answer>", question="Why?"),
        make_sample("b", target="sad"),
    ]
    batch = collate(samples)
    sounds = (None, processor.audio_shape)
    pad = processor.tokenizer.pad_token_id
    for row, sample in enumerate(samples):
        prompt, _ = processor.prompt(sample.example.question, processor.video_shape, sounds[row])
        assert batch.prompt_ids[row, -len(prompt) :].tolist() == prompt
        assert set(batch.prompt_ids[row, : -len(prompt)].tolist()) <= {pad}
        assert batch.prompt_mask[row].sum() == len(prompt)
        target = processor.target_ids(sample.example.target)
        assert target[-1] == processor.tokenizer.eos_token_id
        assert batch.completion_ids[row, : len(target)].tolist() == target
        assert set(batch.completion_ids[row, len(target) :].tolist()) <= {pad}
        assert batch.completion_mask[row].sum() == len(target)
    assert batch.prompt_mask[0, 0] == 0
    assert batch.completion_mask[1, -1] == 0


def test_without_target_there_is_none(processor):
    batch = Collate(processor, with_target=False)([make_sample("a")])
    assert batch.completion_ids is None
    assert batch.completion_mask is None


def test_the_answer_is_not_in_the_prompt(collate, processor):
    batch = collate([make_sample("a", answer="surprise", target="surprise")])
    text = processor.tokenizer.decode(batch.prompt_ids[0].clamp(min=0))  # placeholders aside
    assert "surprise" not in text
    assert QUESTION in text


def test_skipped_clips_are_handed_on_and_leave_no_row(collate):
    lost = [SkippedClip(make_sample(name).example, "torn file") for name in ("x", "y")]
    kept = [make_sample("a"), make_sample("b", video=False)]
    batch = collate([lost[0], kept[0], lost[1], kept[1]])
    assert list(batch.skipped) == lost
    assert [e.id for e in batch.examples] == ["a", "b"]
    assert batch.video_shapes == collate(kept).video_shapes
    assert batch.audio_shapes == collate(kept).audio_shapes
    assert torch.equal(batch.pixel_values[0], collate(kept).pixel_values[0])
    assert torch.equal(batch.prompt_ids, collate(kept).prompt_ids)


def test_a_batch_of_lost_clips_alone_is_empty(collate):
    batch = collate([SkippedClip(make_sample("x").example, "torn file")])
    assert len(batch) == 0
    assert len(batch.skipped) == 1
    assert batch.pixel_values == batch.input_features == []
    assert batch.prompt_ids.shape == batch.prompt_positions.shape == (0, 0)


@pytest.mark.parametrize("missing", ["video", "audio"])
def test_a_modality_no_row_has_is_none(collate, missing):
    batch = collate([make_sample(name, **{missing: False}) for name in "ab"])
    field = {"video": "pixel_values", "audio": "input_features"}[missing]
    assert vars(batch)[field] == vars(batch)[f"{missing}_shapes"] == [None, None]


def test_silence_is_sound(collate):
    sample = make_sample("a")
    silent = Sample(sample.example, replace(sample.clip, waveform=np.zeros(0, np.float32)))
    with_sound = collate([sample]).prompt_ids
    assert torch.equal(collate([silent]).prompt_ids, with_sound)


def test_a_picture_that_is_not_square_is_padded_with_grey(processor):
    # 24 x 40 on a 40 x 40 square of 127 grey: (127 / 255 - 0.5) / 0.5 = -0.004 above and below.
    white = np.full((1, 24, 40, 3), 255, np.uint8)
    pixels, _ = processor.video(white, np.zeros(1))
    assert pixels.shape == (1, 3, 32, 32)
    assert torch.allclose(pixels[0, :, [0, -1]], torch.tensor(-0.0039), atol=1e-3)
    assert torch.allclose(pixels[0, :, 16], torch.tensor(1.0), atol=1e-3)


def test_a_batch_feeds_the_policy(tiny_policy, collate):
    samples = [make_sample("a"), make_sample("b", video=False), make_sample("c", audio=False)]
    batch = collate(samples)
    with torch.no_grad():
        embeds = tiny_policy.prompts(batch, tiny_policy.encode(batch)).embeds
    hidden = tiny_policy.config.text_config.hidden_size
    assert embeds.shape == (*batch.prompt_ids.shape, hidden)
    assert embeds.isfinite().all()
