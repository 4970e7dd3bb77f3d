"""A picture is shown upright: turned and mirrored as its file says, by either back end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import case_picture
import numpy as np
import pytest
from every_case import every_case
from make_clips import Recipe, write

from omni_rlvr.data.cutting import Cut
from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.container import look_into
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.orientation import of_matrix, of_tags
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.tasks.attribute.page.playable import playable
from omni_rlvr.tasks.dataset.split_screen import cut_clips
from omni_rlvr.types import MediaError

SILENT = Recipe(sound=None, times_ms=(0, 40, 80))
WANTED = ClipRequest(Sampling.count(2), 16_000, want_video=True, want_audio=False)
each_matrix = pytest.mark.parametrize("matrix", case_picture.SHOWN)


def packed(a: float, b: float, c: float, d: float) -> np.ndarray:
    return np.array([65536 * x for x in (a, b, 0, c, d, 0, 0, 0, 1 << 14)], np.int32)


def seen(path: Path, backend: str = "decord") -> tuple[tuple[int, int], str]:
    """Height, width, and the corner that is red."""
    frame = read_clip(path, None, replace(WANTED, backend=backend)).frames[0].astype(int)
    middle = (frame.shape[0] // 2, frame.shape[1] // 2)
    red = np.argwhere(frame[..., 0] - frame[..., 1] > 100).mean(axis=0)
    corner = ("t" if red[0] < middle[0] else "b") + ("l" if red[1] < middle[1] else "r")
    return frame.shape[:2], corner


@each_matrix
def test_each_of_the_eight(matrix: tuple[int, ...]) -> None:
    pixels = np.array([[1, 2], [3, 4], [5, 6]])
    orientation = of_matrix(packed(*matrix))
    assert orientation.upright(pixels).tolist() == case_picture.SHOWN[matrix]
    a, b, c, d = matrix
    assert orientation.is_reflection == (a * d - b * c < 0)  # the determinant
    height, width = orientation.upright(pixels).shape
    assert orientation.size(2, 3) == (width, height)


@each_matrix
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_frames_and_what_is_played_are_upright(
    tmp_path: Path, ending: str, matrix: tuple[int, ...]
) -> None:
    path = write(tmp_path / f"clip.{ending}", replace(SILENT, matrix=matrix))
    wanted = ((64, 96) if matrix[0] else (96, 64), case_picture.corner_shown(matrix))
    assert seen(path, "decord") == seen(path, "av") == wanted
    played = tmp_path / "played.mp4"
    played.write_bytes(playable(path, None, None, sample_rate=16_000).data)
    assert seen(played) == wanted
    assert look_into(played.read_bytes(), played).picture.orientation == of_tags({})


@pytest.mark.parametrize(("degrees", "corner"), [("90", "tr"), ("-180", "br"), ("270", "bl")])
def test_the_tag_of_old_files(tmp_path: Path, degrees: str, corner: str) -> None:
    path = write(tmp_path / "clip.mkv", replace(SILENT, rotate_tag=degrees))
    assert seen(path, "decord")[1] == seen(path, "av")[1] == corner


@every_case(
    ("message", "corner"), [("rotate=90", "bl"), ("flip=horizontal", "tr"), ("rotate=180", "br")]
)
@every_case("ending", ["mp4", "mkv"])
def test_what_the_codec_itself_says(tmp_path: Path, ending: str, message: str, corner: str) -> None:
    """The bitstream filter turns counter-clockwise."""
    source = write(tmp_path / "plain.mp4", SILENT)
    path = case_picture.with_codec_message(tmp_path / f"clip.{ending}", source, message)
    assert seen(path, "decord")[1] == seen(path, "av")[1] == corner


def test_phone_video_is_still_read_by_decord(tmp_path: Path) -> None:
    for matrix, is_known in (((0, 1, -1, 0), True), ((0, 1, 1, 0), False)):
        path = write(tmp_path / "clip.mp4", replace(SILENT, matrix=matrix))
        assert look_into(path.read_bytes(), path).picture.decord_agrees == is_known


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        (Recipe(rotation=45), r"a display matrix of 0\.707\d* -0\.707"),
        (Recipe(matrix=(0, 0, 0, 0)), "a display matrix of 0 0 0 0"),
        (Recipe(matrix=(1, 0, 1, 0)), "a display matrix of 1 0 1 0"),
    ],
)
def test_another_angle_is_refused_where_the_picture_is_read(tmp_path: Path, recipe, why) -> None:
    path = write(tmp_path / "clip.mp4", recipe)
    for read in (read_clip, lambda *a, **k: playable(path, None, None, sample_rate=16_000)):
        with pytest.raises(MediaError, match=rf"clip\.mp4: its picture has {why}.*multiple of 90"):
            read(path, None, WANTED)
    sound = read_clip(path, None, replace(WANTED, want_video=False, want_audio=True))
    assert len(sound.waveform) > 15_000


def test_a_matrix_and_a_tag_that_are_none() -> None:
    assert of_matrix(packed(0.9999, 0.0001, -0.0001, 0.9999)) == of_tags({})
    assert of_matrix(packed(2, 0, 0, -1)) == of_matrix(packed(1, 0, 0, -1))
    for text in ("45", "upside down"):
        with pytest.raises(ValueError, match=f"a tag rotate='{text}'"):
            of_tags({"ROTATE": text})


@each_matrix
def test_halves_are_cut_from_the_picture_as_it_is_shown(
    tmp_path: Path, matrix: tuple[int, ...]
) -> None:
    source = write(tmp_path / "both.mp4", Recipe(matrix=matrix))
    sound = write(tmp_path / "sound.m4a", Recipe(picture=None))
    cuts = [
        Cut(source, half, 0.0, 0.1, sound, tmp_path / f"{half}.mp4") for half in ("left", "right")
    ]
    (tmp_path / "new").mkdir()
    assert cut_clips(cuts, tmp_path / "new") == [None, None]
    corner = case_picture.corner_shown(matrix)
    with_red = tmp_path / ("left.mp4" if corner[1] == "l" else "right.mp4")
    height, width = (64, 96) if matrix[0] else (96, 64)
    assert seen(with_red)[0] == (height, width // 2)
    frames = {c.half: read_clip(c.clip, None, WANTED).frames[0].astype(int) for c in cuts}
    red = {half: (f[..., 0] - f[..., 1] > 100).mean(axis=1) for half, f in frames.items()}
    rows = red[with_red.stem] > 0.5  # [height]
    assert rows[height // 4] == (corner[0] == "t")
    assert rows[3 * height // 4] == (corner[0] == "b")
    assert red["right" if with_red.stem == "left" else "left"].max() < 0.5
