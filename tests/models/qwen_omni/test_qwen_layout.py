"""Order and positions of a clip's tokens are those of transformers, and tell the time rightly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from make_qwen import Case, batch_of, by_transformers, rope_of

from omni_rlvr.models.policy import AUDIO_ID, VIDEO_ID
from omni_rlvr.models.qwen_omni.generations import QWEN2_5, QWEN3
from omni_rlvr.models.qwen_omni.layout import Timing, lay_out, picture_positions, time_axis_error_s
from omni_rlvr.types import AudioShape, VideoShape


@pytest.mark.slow  # 300 clips, each laid out by transformers too
def test_order_and_positions_of_random_clips_are_those_of_transformers(untouched):
    """300 clips of any number of frames, rate and length of sound, one of them without sound."""
    random, processor, config = np.random.default_rng(0), untouched.processor, untouched.config
    thinker = untouched.thinker()
    for _ in range(300):
        num_frames, fps = int(random.integers(1, 15)), float(random.uniform(0.4, 5))
        sound_s = float(random.uniform(0.1, 8)) if random.random() < 0.9 else 0.0
        case = Case(num_frames, fps, sound_s, size=(56, 56))
        batch, inputs = batch_of(processor, [case]), by_transformers(processor, case)
        ids = batch.prompt_ids.clone()
        ids[ids == VIDEO_ID] = config.video_token_id
        ids[ids == AUDIO_ID] = config.audio_token_id
        assert torch.equal(ids, inputs["input_ids"])
        places, _ = rope_of(thinker, case, inputs)
        if num_frames == 1:  # one frame says nothing of a rate
            continue
        torch.testing.assert_close(batch.prompt_positions[:, 0], places, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fps", [0.5, 1.0, 2.0, 2.5, 4.0])
def test_rates_at_which_picture_and_sound_meet_exactly(untouched, fps):
    case = Case(8, fps, 5.0, size=(56, 56))
    batch, inputs = (
        batch_of(untouched.processor, [case]),
        by_transformers(untouched.processor, case),
    )
    places, _ = rope_of(untouched.thinker(), case, inputs)
    assert torch.equal(batch.prompt_positions[:, 0], places)


def test_there_are_as_many_placeholders_as_features(untouched):
    random = np.random.default_rng(1)
    for _ in range(20):
        num_frames, sound_s = int(random.integers(1, 9)), float(random.uniform(0.01, 8))
        size = tuple(int(n) for n in random.integers(30, 200, 2))
        batch = batch_of(untouched.processor, [Case(num_frames, 2.0, sound_s, size=size)])
        with torch.no_grad():
            features = untouched.encode(batch)
        assert (batch.prompt_ids == VIDEO_ID).sum() == len(features.video[0])
        assert (batch.prompt_ids == AUDIO_ID).sum() == len(features.audio[0])


def test_every_length_of_sound_gives_the_tokens_that_the_tower_gives(untouched):
    tower = untouched.audio_tower
    for num_frames in [*range(10, 30), *range(95, 106), *range(195, 206), 299, 300, 301, 1234]:
        size = torch.tensor([num_frames])
        with torch.no_grad():
            out = tower(torch.zeros(128, num_frames), feature_lens=size).last_hidden_state
        assert len(out) == untouched.generation.audio_tokens(num_frames)


def test_positions_of_an_interleaved_clip_by_hand():
    # two steps of one token, a second apart, and 26 tokens of sound behind three tokens of text.
    # Qwen2.5: both brackets at 3, the clip from 4; 2 s are one block, so both pictures come first
    video, audio = VideoShape(2, (2, 1, 1), 1.0), AudioShape(26)
    kinds, places = lay_out(Timing(QWEN2_5, 25), 3, [(video, audio)], 2)
    assert kinds.tolist() == [0, 0, 0, 3, 5, 1, 1, *[2] * 26, 6, 4, 0, 0]
    time = places[0].tolist()
    assert time == [0, 1, 2, 3, 3, 4, 29, *range(4, 30), 30, 30, 31, 32]
    assert places[1].tolist() == [0, 1, 2, 3, 3, 4, 4, *range(4, 30), 30, 30, 31, 32]
    # Qwen3: brackets at 3 and 4, the clip from 5; the second picture comes before the sound of 13
    kinds, places = lay_out(Timing(QWEN3, 13), 3, [(video, audio)], 2)
    assert kinds.tolist() == [0, 0, 0, 3, 5, 1, *[2] * 13, 1, *[2] * 13, 6, 4, 0, 0]
    expected = [0, 1, 2, 3, 4, 5, *range(5, 18), 18, *range(18, 31), 31, 32, 33, 34]
    assert places[0].tolist() == expected


def test_fractions_of_positions_are_kept_and_cut_by_generation():
    video = VideoShape(4, (4, 1, 1), 2 / 1.9)
    # 13 * 2 / 1.9 = 13.684..., 25 * 2 / 1.9 = 26.315...
    assert picture_positions(Timing(QWEN3, 13), video) == pytest.approx(
        [0, 13.6842, 27.3684, 41.0526], abs=1e-4
    )
    assert picture_positions(Timing(QWEN2_5, 25), video).tolist() == [0, 26, 52, 78]


@pytest.mark.parametrize("generation", [QWEN2_5, QWEN3])
def test_the_time_axis_of_a_clip_is_right_to_less_than_a_step(generation):
    timing, random = (
        Timing(generation, 25 if generation is QWEN2_5 else 13),
        np.random.default_rng(2),
    )
    for _ in range(300):
        num_frames = 2 * int(random.integers(1, 20))
        # frames of a file with an unsteady rate stand up to a twentieth of a step aside
        steps = np.arange(num_frames) + random.uniform(-0.05, 0.05, num_frames)
        times_s = (steps - steps[0]) / random.uniform(0.5, 4)
        step_s = 2 * (times_s[-1] - times_s[0]) / (num_frames - 1)
        video = VideoShape(num_frames // 2, (num_frames // 2, 1, 1), step_s)
        error_s = time_axis_error_s(timing, video, times_s)
        assert error_s < 1 / timing.positions_per_s + 0.1 * step_s < step_s


def test_a_wrong_rate_or_a_picture_that_starts_late_shows_in_the_certificate():
    timing, times_s = Timing(QWEN2_5, 25), np.arange(8) / 2
    right = VideoShape(4, (4, 1, 1), 1.0)
    assert time_axis_error_s(timing, right, times_s) == 0
    # at half the rate the last of four steps stands for 1.5 s, and is seen at 3 s
    wrong = VideoShape(4, (4, 1, 1), 0.5)
    assert time_axis_error_s(timing, wrong, times_s) == pytest.approx(1.5, abs=0.04)
    assert time_axis_error_s(timing, right, times_s + 0.7) == pytest.approx(0.7)
