"""Clips by name: what a file, a folder and a glob stand for, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_rlvr.data.readers.files import FileReader
from omni_rlvr.types import Example, UserError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with files of several kinds."""
    names = "b.mp4 a.MP4 c.mkv a.wav b.wav notes.txt .hidden.mp4 sub/d.mp4 sub/d.wav x[1].mp4"
    for name in names.split():
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).touch()
    (tmp_path / "clips" / "folder.mp4").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(video: str | None = None, audio: str | None = None) -> list[Example]:
    return FileReader(video, audio, "What?").read()


def refused(video: str | None = None, audio: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        read(video, audio)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("clips/b.mp4", ["b.mp4"]),
        ("clips/notes.txt", ["notes.txt"]),  # a file is taken at its word
        ("clips", ["a.MP4", "b.mp4", "c.mkv", "x[1].mp4"]),
        ("clips/", ["a.MP4", "b.mp4", "c.mkv", "x[1].mp4"]),
        ("clips/*.mp4", ["b.mp4", "x[1].mp4"]),  # and no folder
        ("clips/**/*.mp4", ["b.mp4", "sub/d.mp4", "x[1].mp4"]),
        ("clips/[ab].*", ["a.MP4", "a.wav", "b.mp4", "b.wav"]),
        ("clips/x[1].mp4", ["x[1].mp4"]),  # a file of this very name comes first
    ],
)
def test_videos_by_name(folder: Path, name: str, found: list[str]) -> None:
    examples = read(video=name)
    assert [e.video for e in examples] == [Path("clips") / f for f in found]
    assert all(e.audio is None for e in examples)
    assert [e.id for e in examples] == [str(e.video) for e in examples]
    assert {(e.question, e.answer, e.target) for e in examples} == {("What?", "", "")}
    assert examples[0].source == f"from video={name}"


def test_an_absolute_glob_and_the_home_folder(folder: Path, monkeypatch) -> None:
    assert len(read(video=f"{folder}/clips/*.mp4")) == 2
    monkeypatch.setenv("HOME", str(folder))
    assert len(read(video="~/clips/*.mp4")) == len(read(video="~/clips")) // 2 == 2


def test_sounds_alone(folder: Path) -> None:
    examples = read(audio="clips")
    assert [e.audio for e in examples] == [Path("clips/a.wav"), Path("clips/b.wav")]
    assert all(e.video is None for e in examples)


def test_one_video_and_one_sound_belong_together_whatever_their_names(folder: Path) -> None:
    (example,) = read("clips/c.mkv", "clips/a.wav")
    assert (example.video, example.audio) == (Path("clips/c.mkv"), Path("clips/a.wav"))


def test_many_pair_up_by_name(folder: Path) -> None:
    pairs = [(e.video, e.audio) for e in read("clips/[ab].[mM][pP]4", "clips")]
    assert pairs == [
        (Path(f"clips/{video}"), Path(f"clips/{sound}"))
        for video, sound in (("a.MP4", "a.wav"), ("b.mp4", "b.wav"))
    ]
    assert refused("clips", "clips").endswith("; clips/c.mkv is alone")
    assert "a name occurs twice" in refused("clips/[ab].[mM][pP]4", "clips/[ab].*")


@pytest.mark.parametrize("key", ["video", "audio"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.mp4", "no such file or folder"),
        ("nowhere/*.mp4", "no file matches"),
        ("empty", "file lies directly in this folder"),
        ("", "no such file or folder"),
        (" ", "no such file or folder"),
        ("a\0b", "no such file or folder"),
    ],
)
def test_nothing_there_is_named(folder: Path, key: str, name: str, message: str) -> None:
    error = refused(**{key: name})
    assert error.startswith(f"{key}={name}")
    assert message in error


def test_nothing_asked_for_says_what_to_give() -> None:
    assert refused().startswith("video must be given, e.g. +video=clip.mp4")


def test_a_name_that_is_no_text_stays_a_path(folder: Path) -> None:
    odd = Path("clips/odd\udcff.mp4")
    odd.touch()
    (example,) = read(video="clips/odd*")
    assert example.video == odd
    assert example.id == "clips/odd\ufffd.mp4"
