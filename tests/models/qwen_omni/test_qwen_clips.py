"""What is shown of a clip: frames, pixels, sound of any length; and the certificate of its time."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from make_qwen import Case, batch_of, by_transformers
from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.resize import FrameSize
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.loading.load import load_policy, sound_window_s, time_axis
from omni_rlvr.tasks.dataset.check import Finding, worst_time_axis
from omni_rlvr.types import Example, UserError


def film(path: Path, num_frames: int, fps: int, height: int, width: int) -> Path:
    """A film of moving noise without sound."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.bit_rate = 4_000_000
        for _ in range(num_frames):
            noise = random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
            picture = noise.repeat(8, axis=0).repeat(8, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def request(processor) -> ClipRequest:
    return ClipRequest(
        processor.sampling,
        processor.sample_rate,
        want_video=True,
        want_audio=False,
        window_s=processor.window_s,
        frame_size=processor.frame_size,
    )


@pytest.mark.parametrize("factor", [28, 32])
def test_sizes_are_those_of_the_reference(factor):
    random = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(n) for n in random.integers(10, 1500, 2))
        least = int(random.integers(1, 40)) * factor**2
        most = least * int(random.integers(2, 30))
        want = smart_resize(height, width, factor, least, most)
        rule = FrameSize(factor, least, most)
        assert rule.of(height, width) in (want, (max(want[0], factor), max(want[1], factor)))
        if want[0] * want[1] <= most:  # the reference leaves narrow strips larger
            assert rule.of(*want) == want  # what was resized stays as it is


def test_frames_are_resized_where_they_are_decoded(untouched, tmp_path):
    """By Pillow there, by torchvision in transformers' processor: a grey level or two apart."""
    path = film(tmp_path / "film.mp4", 12, 4, 240, 320)
    processor = untouched.processor
    clip = read_clip(path, None, request(processor))
    height, width = clip.frames.shape[1:3]
    assert (height, width) == processor.frame_size.of(240, 320) != (240, 320)
    assert len(clip.frames) == 6  # 3 s at 2 a second
    whole = read_clip(
        path, None, ClipRequest(processor.sampling, 16_000, want_video=True, want_audio=False)
    )
    ours, shape = processor.video(clip.frames, clip.frame_times_s)
    theirs, their_shape = processor.video(whole.frames, whole.frame_times_s)
    assert shape == their_shape
    grey = 1 / 255 / 0.26  # a level, over the smallest standard deviation of the processor
    assert (ours - theirs).abs().max() < 3 * grey


def test_a_strip_is_refused_by_name(tmp_path):
    rule = FrameSize(28, 28**2, 100 * 28**2)
    with pytest.raises(ValueError, match="more than 200 times as long"):
        rule.of(16, 3300)


def test_least_and_most_pixels_hold_and_small_crops_keep_their_size(untouched):
    factor = untouched.generation.factor
    side = 3 * factor
    for least, most, wanted in ((4, 100, 9), (16, 100, 16), (1, 4, 4)):
        processor = untouched.processor.changed(
            min_pixels=least * factor**2, max_pixels=most * factor**2
        )
        _, shape = processor.video(np.zeros((2, side, side, 3), np.uint8), np.array([0, 0.5]))
        assert shape.num_tokens == wanted  # transformers' own least size would make it 144


@pytest.mark.parametrize(
    ("num_frames", "fps", "wanted"),
    [(1, 4, 2), (5, 4, 4), (12, 4, 6), (100, 4, 16)],
)
def test_frames_are_even_in_number_and_keep_their_true_rate(
    untouched, tmp_path, num_frames, fps, wanted
):
    path = film(tmp_path / "film.mp4", num_frames, fps, 64, 64)
    clip = read_clip(path, None, request(untouched.processor))
    assert len(clip.frames) == wanted
    _, shape = untouched.processor.video(clip.frames, clip.frame_times_s)
    assert shape.grid[0] == wanted // 2
    # from the first frame to the last, in equal steps; a single frame says nothing of a rate
    last_s = (num_frames - 1) / fps
    step_s = 2 * last_s / (wanted - 1) if num_frames > 1 else 1.0
    assert shape.seconds_per_grid == pytest.approx(step_s)


@pytest.mark.slow  # minutes of sound are encoded
@pytest.mark.parametrize("seconds", [31, 301])
def test_sound_beyond_the_windows_of_others_is_heard_to_its_end(untouched, seconds):
    case = Case(sound_s=seconds)
    log_mel, shape = untouched.processor.audio(case.sound)
    assert log_mel.shape == (128, 100 * seconds)
    # 25 tokens a second in Qwen2.5, 13 in Qwen3
    assert shape.num_tokens == untouched.processor.timing.positions_per_s * seconds
    with torch.no_grad():
        (features,) = untouched.encode(batch_of(untouched.processor, [case])).audio
        # the towers read 8 s at a time (Qwen3), or 2 s (Qwen2.5): nothing after that changes it
        first = untouched.encode(
            _with_sound(batch_of(untouched.processor, [case]), log_mel[:, :800])
        )
    assert len(features) == shape.num_tokens
    torch.testing.assert_close(features[: len(first.audio[0])], first.audio[0], atol=1e-5, rtol=0)


def _with_sound(batch, log_mel: torch.Tensor):
    batch.input_features[0] = log_mel
    return batch


def test_a_sound_is_processed_as_if_alone(untouched):
    """Lengths that are no multiple of 160 samples, beside a longer one; as transformers, alone."""
    cases = [Case(sound_s=s) for s in (2.0, 32_001 / 16_000, 32_159 / 16_000, 5.0)]
    batch = batch_of(untouched.processor, cases)
    for case, log_mel in zip(cases, batch.input_features, strict=True):
        inputs = by_transformers(untouched.processor, case)
        there = inputs["feature_attention_mask"][0].bool()
        assert torch.equal(log_mel, inputs["input_features"][0][:, there])


@pytest.mark.parametrize("num_samples", [1, 159, 400, 1_599])
def test_the_shortest_sounds_have_tokens(untouched, num_samples):
    log_mel, shape = untouched.processor.audio(np.full(num_samples, 0.1, np.float32))
    assert log_mel.isfinite().all()
    assert shape.num_tokens == untouched.generation.audio_tokens(10) == 2


def test_the_certificate_needs_no_weights(untouched, folder):
    for file in folder.glob("*.safetensors"):
        file.write_bytes(b"")
    axis = time_axis(str(folder), None, LoadOptions(fps=1.0))
    assert axis.sampling == Sampling.rate(1.0, at_least=4, at_most=16, multiple_of=2)
    error_s, step_s = axis.time_axis_error_s(np.arange(8) * 1.0)
    assert step_s == 2.0
    assert error_s < 0.04  # half of a position of Qwen3; 0 in Qwen2.5


def test_an_adapter_has_the_certificate_of_its_base_and_settings_of_its_own(folder, tmp_path):
    policy = load_policy(str(folder), "float32", None, LoadOptions(fps=1.0))
    apply(policy, TrainableConfig(lora=LoraConfig(enabled=True, r=2)), folder)
    policy.save(tmp_path / "ours")
    peft = tmp_path / "ours" / "adapters" / "language_model"  # as a peer would have saved it
    moved = folder.rename(tmp_path / "moved")
    for ours, fps in ((tmp_path / "ours", 1.0), (peft, 2.0)):
        axis = time_axis(str(ours), str(moved), LoadOptions())
        assert axis.sampling == Sampling.rate(fps, at_least=4, at_most=16, multiple_of=2)
        assert sound_window_s(str(ours), str(moved)) is None
    with pytest.raises(UserError, match=r"its base .* is not at .*; set model\.base=DIR"):
        time_axis(str(tmp_path / "ours"), None, LoadOptions())


def test_the_certificate_names_the_worst_clip(untouched):
    def finding(index, times_s, **changes):
        fields = {"has_picture": True, "has_sound": True, "duration_s": 4.0, "reason": None}
        return Finding(index, **fields | changes, frame_times_s=times_s)

    steady, late = np.arange(8) / 2, np.arange(8) / 2 + 0.3
    examples = [Example(name, "", "", "", None) for name in ("steady", "late", "silent")]
    findings = [finding(0, steady), finding(1, late), finding(2, late + 5, has_sound=False)]
    worst = worst_time_axis(examples, findings, untouched.processor)
    assert worst == {"id": "late", "apart_s": pytest.approx(0.3, abs=0.04), "step_s": 1.0}
    assert json.dumps(worst)
    assert worst_time_axis(examples, findings[2:], untouched.processor) is None


def test_models_that_count_tokens_have_no_certificate(tiny_policy, tmp_path):
    tiny_policy.save(tmp_path / "tiny")
    assert time_axis(str(tmp_path / "tiny"), None, LoadOptions()) is None
    assert time_axis(None, None, LoadOptions()) is None
