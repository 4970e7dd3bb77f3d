"""Clips by name: what a file, a folder and a glob stand for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import case_folders
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
    return FileReader(video, audio).read()


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
    assert {(e.question, e.answer, e.target) for e in examples} == {("", "", "")}
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
        ("empty", "file is directly in this folder"),
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


def test_what_is_left_out_of_a_folder_is_named_by_kind(folder: Path) -> None:
    clips = case_folders.odd_entries(folder / "empty")
    for name in ("1.MTS", "2.ts", "3.asf", "4.M4V"):
        (clips / name).touch()
    reader = FileReader("empty", None)
    assert [e.video.name for e in reader.read()] == ["1.MTS", "2.ts", "3.asf", "4.M4V"]
    assert reader.left_out.pop("folders below, which a glob enters (video='empty/**/*')") == [
        "below"
    ]
    assert reader.left_out == case_folders.ODD_ENTRIES


def test_what_a_glob_leaves_out_is_named_too(folder: Path) -> None:
    case_folders.odd_entries(folder / "empty")
    (folder / "empty" / "b.mp4").touch()
    reader = FileReader("empty/*.mp4", None)
    assert [e.video.name for e in reader.read()] == ["b.mp4"]
    assert reader.left_out == {
        "broken links": ["broken.mp4"],
        "pipes, sockets or devices": ["device.mp4", "pipe.mp4"],
        "folders that are named like clips": ["folder.mp4"],
    }


def test_a_folder_without_a_clip_says_what_is_in_it(folder: Path) -> None:
    case_folders.odd_entries(folder / "empty")
    error = refused("empty")
    assert "no video file is directly in this folder; it holds " in error
    assert "1 broken links (broken.mp4)" in error
    assert "1 sound files, which audio=FOLDER takes (voice.WAV)" in error
    error = refused("empty/*.mp4")
    assert "no file matches" in error
    assert "2 pipes, sockets or devices (device.mp4, pipe.mp4)" in error


def test_sounds_that_are_asked_for_are_not_left_out(folder: Path) -> None:
    reader = FileReader("clips/b.mp4", "clips")
    (folder / "clips" / "a.wav").unlink()
    reader.read()
    assert "b.mp4" not in [name for names in reader.left_out.values() for name in names]


def test_a_glob_through_links_takes_each_clip_once(folder: Path) -> None:
    (folder / "clips" / "sub" / "back").symlink_to(folder / "clips")
    (folder / "clips" / "again").symlink_to(folder / "clips" / "sub")
    (folder / "clips" / "disk").symlink_to(folder / "empty")
    (folder / "empty" / "e.mp4").touch()
    names = [str(e.video) for e in read("clips/**/*.mp4")]
    assert names == ["clips/b.mp4", "clips/disk/e.mp4", "clips/sub/d.mp4", "clips/x[1].mp4"]


def test_names_in_another_unicode_form(folder: Path) -> None:
    apart, whole = (normalize(form, "é") for form in ("NFD", "NFC"))
    (folder / "clips" / f"{apart}.mp4").touch()
    (folder / "clips" / f"{whole}.wav").touch()
    for name in (f"clips/{whole}.mp4", f"clips/{whole}*", f"{folder}/clips/{whole}.MP4"):
        assert next(iter(read(name))).video.name == f"{apart}.mp4"
    (example,) = read(f"clips/[{whole}].mp4", f"clips/{apart}.wav")
    assert example.audio.name == f"{whole}.wav"
