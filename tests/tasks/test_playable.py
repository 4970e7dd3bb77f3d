"""Clips for a browser: kept as they are where every browser plays them, else made small anew."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from every_case import every_case
from make_clips import Recipe, write

from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.tasks.attribute.page import playable as module
from omni_rlvr.tasks.attribute.page.playable import playable
from omni_rlvr.types import MediaError

RATE = 16_000


def sound_of(path: Path) -> np.ndarray | None:
    how = ClipRequest(Sampling.count(1), RATE, want_video=False, want_audio=True)
    return read_clip(path, None, how).waveform


def made(path: Path) -> module.Playable:
    return playable(path, None, sound_of(path), sample_rate=RATE)


def streams(data: bytes) -> dict[str, tuple[str, float]]:
    with av.open(io.BytesIO(data)) as container:
        return {
            s.type: (s.codec_context.name, float(s.duration * s.time_base))
            for s in container.streams
        }


def test_a_file_that_every_browser_plays_is_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Recipe())
    clip = made(path)
    assert (clip.mime, clip.is_cut) == ("video/mp4", False)
    assert clip.data == path.read_bytes()


@every_case(
    ("name", "recipe"),
    [
        ("a.avi", Recipe(picture="mpeg4", sound="mp3")),
        ("a.mkv", Recipe()),
        ("a.webm", Recipe(picture="libvpx-vp9", sound="libopus")),
        ("hevc.mp4", Recipe(picture="libx265")),
    ],
)
def test_others_become_h264_and_aac(tmp_path: Path, name: str, recipe: Recipe) -> None:
    clip = made(write(tmp_path / name, recipe))
    found = streams(clip.data)
    assert {kind: codec for kind, (codec, _) in found.items()} == {"video": "h264", "audio": "aac"}
    assert found["video"][1] == pytest.approx(1.0, abs=0.1)  # 25 frames at 25 a second
    assert found["audio"][1] == pytest.approx(1.0, abs=0.15)


def test_without_sound_there_is_no_track(tmp_path: Path) -> None:
    clip = made(write(tmp_path / "a.mkv", Recipe(sound=None)))
    assert {*streams(clip.data)} == {"video"}


def test_sound_alone_is_a_sound_file(tmp_path: Path) -> None:
    waveform = np.sin(np.arange(RATE) / 10).astype(np.float32)
    clip = playable(None, tmp_path / "never read.wav", waveform, sample_rate=RATE)
    assert clip.mime == "audio/mp4"
    assert {*streams(clip.data)} == {"audio"}


def test_a_sidecar_replaces_the_track(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", Recipe())
    clip = playable(path, tmp_path / "b.wav", np.zeros(RATE // 2, np.float32), sample_rate=RATE)
    assert clip.data != path.read_bytes()
    assert streams(clip.data)["audio"][1] == pytest.approx(0.5, abs=0.15)


def test_large_and_long_clips_are_made_small(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "a.mp4", Recipe(width=640, height=480))
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    small = made(path)
    with av.open(io.BytesIO(small.data)) as container:
        picture = container.streams.video[0]
        assert (picture.width, picture.height) == (320, 240)
    assert not small.is_cut
    monkeypatch.setattr(module, "MAX_S", 0.5)
    cut = made(path)
    assert cut.is_cut
    assert all(end == pytest.approx(0.5, abs=0.15) for _, end in streams(cut.data).values())


def test_a_turned_picture_is_upright(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "a.mp4", Recipe(rotation=90))
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    made_anew = tmp_path / "b.mp4"
    made_anew.write_bytes(made(path).data)
    how = ClipRequest(Sampling.count(1), RATE, want_video=True, want_audio=False)
    before, after = (read_clip(p, None, how).frames[0] for p in (path, made_anew))
    assert before.shape == after.shape == (96, 64, 3)
    assert np.abs(before.astype(float) - after).mean() < 12  # upside down: above 30


@pytest.mark.parametrize("content", [b"", b"not a clip", b"<script>"])
def test_what_is_no_clip_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"a\.mp4"):
        playable(path, None, None, sample_rate=RATE)
