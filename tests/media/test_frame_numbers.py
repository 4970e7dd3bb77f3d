"""Every frame is the one that was asked for, whatever the container and the order of its frames."""

from __future__ import annotations

from pathlib import Path

import case_picture
import numpy as np
import pytest
from every_case import every_case

from omni_rlvr.media.container import look_into
from omni_rlvr.media.picture import Picture
from omni_rlvr.media.video import read_frames
from omni_rlvr.tasks.attribute.page.playable import playable

X265 = "log-level=none:pools=1:bframes=3:keyint=12"
FILMS = {
    "closed.mp4": ("libx264", 3, "bframes=3:keyint=12:b-adapt=0"),
    "closed.mov": ("libx265", 3, f"{X265}:open-gop=0"),
    "open.mp4": ("libx264", 3, "open-gop=1:bframes=3:keyint=12:b-adapt=0"),
    "open_h265.mp4": ("libx265", 3, f"{X265}:open-gop=1"),
    "refresh.mp4": ("libx264", 0, "intra-refresh=1:keyint=12"),
    "mpeg4.mp4": ("mpeg4", 2, ""),
    "mpeg4.mkv": ("mpeg4", 2, ""),
    "mpeg1.mpg": ("mpeg1video", 0, ""),
    "h264.mpg": ("libx264", 2, ""),
    "mpeg2.ts": ("mpeg2video", 2, ""),
    "h264.avi": ("libx264", 2, ""),
    "mpeg4.avi": ("mpeg4", 2, ""),
    "wmv2.wmv": ("wmv2", 0, ""),
    "h264.flv": ("libx264", 2, ""),
    "h264.h264": ("libx264", 2, ""),
}
EXACT = ("closed.mp4", "closed.mov")
"""Those whose frames decord numbers as they are."""
FAR_APART = (np.arange(0, 50, 7), np.arange(5, 50, 12), np.array([49]))


@every_case("name", FILMS)
def test_frames_and_their_times_are_those_asked_for(name: str, tmp_path: Path) -> None:
    path, picture = _film(name, tmp_path)
    data = path.read_bytes()
    assert picture.decord_agrees == (name in EXACT)
    for indices in FAR_APART:
        frames = read_frames(data, picture, indices, backend="decord")
        levels = [case_picture.film_level(i) for i in indices.tolist()]
        np.testing.assert_allclose(frames[:, 8:, 8:].mean(axis=(1, 2, 3)), levels, atol=4)
    np.testing.assert_allclose(picture.times_s, np.arange(50) / 25, atol=0.002)
    assert picture.duration_s == pytest.approx(2.0, abs=0.002)


@pytest.mark.parametrize("name", ["h264.avi", "h264.mpg"])
def test_a_browser_is_shown_all_frames_of_a_film_without_times(name: str, tmp_path: Path) -> None:
    path, _ = _film(name, tmp_path)
    shown = tmp_path / "shown.mp4"
    shown.write_bytes(playable(path, None, None, sample_rate=16_000).data)
    picture = look_into(shown.read_bytes(), shown).picture
    assert picture is not None
    np.testing.assert_allclose(picture.times_s, np.arange(50) / 25, atol=0.002)


def _film(name: str, folder: Path) -> tuple[Path, Picture]:
    codec, b_frames, settings = FILMS[name]
    path = case_picture.film(folder / name, codec, b_frames=b_frames, settings=settings)
    picture = look_into(path.read_bytes(), path).picture
    assert picture is not None
    return path, picture
