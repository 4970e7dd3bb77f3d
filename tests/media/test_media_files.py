"""Where media files are: one walk for links and circles, one list of suffixes, other spellings."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from unicodedata import normalize

import pytest
from every_case import every_case

from omni_rlvr.media import files
from omni_rlvr.media.container import read_bytes
from omni_rlvr.media.files import (
    expanded,
    has_suffix,
    in_words,
    located,
    matching,
    oddity,
    video_name,
    walk,
)
from omni_rlvr.types import MediaError, UserError

NFC, NFD = normalize("NFC", "café"), normalize("NFD", "café")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def below(root: Path, paths: list[Path]) -> list[str]:
    return [str(path.relative_to(root)) for path in paths]


def test_a_walk_enters_links_and_ends_in_circles(tmp_path: Path) -> None:
    disk = touch(tmp_path / "disk", "1.mp4", "deep/2.mp4")
    root = touch(tmp_path / "root", "own/3.mp4")
    (root / "linked").symlink_to(disk)  # another disk
    (root / "own" / "self").symlink_to(root / "own")  # a circle
    (root / "own" / "up").symlink_to(tmp_path)  # a folder that holds all
    (root / "a_link").symlink_to(root / "own")  # sorted before the folder itself
    (root / "file.mp4").symlink_to(disk / "1.mp4")
    (disk / "deep" / "back").symlink_to(root)  # a circle over the disk
    found = walk(root)
    assert below(root, found.files) == [
        "file.mp4", "linked/1.mp4", "linked/deep/2.mp4", "own/3.mp4"
    ]  # fmt: skip
    ((why, left_out),) = found.left_out.items()
    assert why == "links to folders that are read already"
    assert sorted(below(root, [Path(p) for p in left_out])) == [
        "a_link", "linked/deep/back", "own/self", "own/up"
    ]  # fmt: skip


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch) -> None:
    root, scandir = touch(tmp_path, "a/1.mp4", "locked/2.mp4"), os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    found = walk(root)
    assert below(root, found.files) == ["a/1.mp4"]
    assert found.left_out == {"folders that cannot be read": [str(root / "locked")]}
    assert in_words(found.left_out) == f"1 folders that cannot be read ({root / 'locked'})"


def test_a_walk_of_nothing(tmp_path: Path) -> None:
    assert walk(tmp_path / "nowhere").files == []
    assert walk(tmp_path).files == []


def test_a_glob_goes_through_links_and_compares_in_one_form(tmp_path: Path, monkeypatch) -> None:
    root = touch(tmp_path / "clips", "a/1.mp4", ".hidden/2.mp4", f"{NFD}/{NFD}.mp4", "b.mp4")
    (root / "linked").symlink_to(touch(tmp_path / "disk", "x/3.mp4"))
    (root / "linked" / "back").symlink_to(root)
    wanted = ["a/1.mp4", "b.mp4", f"{NFD}/{NFD}.mp4", "linked/x/3.mp4"]
    assert below(root, matching(f"{root}/**/*.mp4")) == sorted(wanted)
    assert below(root, matching(f"{root}/**/{NFC}.mp4")) == [f"{NFD}/{NFD}.mp4"]
    assert below(root, matching(f"{root}/{NFC}/*")) == [f"{NFD}/{NFD}.mp4"]
    assert len(matching(f"{root}/**")) > len(wanted)  # folders too
    monkeypatch.chdir(root)
    assert matching("*.mp4") == [Path("b.mp4")]
    assert matching("[ab]/*") == [Path("a/1.mp4")]
    assert matching("../*/x/*.mp4") == [Path("../disk/x/3.mp4")]
    assert matching(".hid*/*") == [Path(".hidden/2.mp4")]


@every_case("there", [NFC, NFD])
@every_case("asked", [NFC, NFD])
def test_a_name_in_another_unicode_form_is_found(tmp_path: Path, there: str, asked: str) -> None:
    path = touch(tmp_path, f"{there}/{there}.mp4") / there / f"{there}.mp4"
    assert located(tmp_path / asked / f"{asked}.mp4") == path


@every_case(
    ("asked", "there", "found"),
    [
        ("1.mp4", ["1.MP4"], "1.MP4"),
        ("1.MOV", ["1.mov"], "1.mov"),
        ("1.mp4", ["1.mp4", "1.MP4"], "1.mp4"),  # the very name comes first
        ("1.mp4", ["1.MP4", "1.Mp4"], "1.mp4"),  # which one is not for us to say
        ("1.mp4", ["1.mkv"], "1.mp4"),  # another file
        ("A.mp4", ["a.mp4"], "A.mp4"),
        ("list.TXT", ["list.txt"], "list.TXT"),  # no media
    ],
)
def test_the_case_of_a_suffix_is_forgiven(tmp_path: Path, asked: str, there, found: str) -> None:
    assert located(touch(tmp_path, *there) / asked) == tmp_path / found


def test_another_spelling_is_said_once_a_folder(tmp_path: Path, caplog) -> None:
    touch(tmp_path, "1.MP4", "2.MP4")
    with caplog.at_level(logging.WARNING):
        assert located(tmp_path / "1.mp4").name == "1.MP4"
        assert located(tmp_path / "2.mp4").name == "2.MP4"
    assert [record.getMessage().count("'1.MP4' for '1.mp4'") for record in caplog.records] == [1]


def test_a_folder_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    os.utime(tmp_path, ns=(0, 1))
    assert located(tmp_path / "1.mp4").name == "1.mp4"
    touch(tmp_path, "1.MP4")
    assert located(tmp_path / "1.mp4").name == "1.MP4"


@every_case(
    ("there", "found"),
    [
        ([], "x/1.mp4"),
        (["x/1.MKV"], "x/1.MKV"),
        (["x/1.mts", "x/1.wav"], "x/1.mts"),
        (["x/1.avi", "x/1.mp4"], "x/1.mp4"),
        (["x/1.txt"], "x/1.mp4"),
    ],
)
def test_a_name_without_a_suffix_gets_that_of_its_video(tmp_path: Path, there, found: str) -> None:
    assert video_name(touch(tmp_path, *there), "x/1") == found


def test_there_is_one_list_of_suffixes() -> None:
    both = (*files.VIDEO, *files.AUDIO)
    assert len(set(both)) == len(both)
    assert all(has_suffix(f"A.{suffix[1:].upper()}", both) for suffix in both)
    package = Path(files.__file__).parents[1]
    others = [
        path.name
        for path in package.rglob("*.py")
        if sum(f'"{suffix}"' in path.read_text() for suffix in (".avi", ".mkv", ".flac", ".mov"))
    ]
    assert others == ["files.py"]


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "file.mp4")
    (tmp_path / "broken.mp4").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    said = {path.stem: oddity(path) for path in tmp_path.iterdir()}
    assert said == {
        "file": None,
        "broken": "broken links",
        "loop": "broken links",
        "pipe": "pipes, sockets or devices",
        "folder": "folders",
        "device": "pipes, sockets or devices",
    }


def test_home_and_variables_expand(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUNS", "/disk/runs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()  # what an earlier command may have made
    (tmp_path / "~x.mp4").touch()
    (tmp_path / "$RUNS.mp4").touch()
    for name, wanted in (
        ("~", "/home/me"),
        ("~/runs", "/home/me/runs"),
        ("$RUNS/1", "/disk/runs/1"),
        ("a$RUNS", "a/disk/runs"),
        ("~root/x", f"{os.path.expanduser('~root')}/x"),  # noqa: PTH111
        ("~x.mp4", "~x.mp4"),
        ("$RUNS.mp4", "$RUNS.mp4"),
        ("a~b/$5", "a~b/$5"),
        ("plain", "plain"),
    ):
        assert expanded(name, "video") == wanted
    with pytest.raises(UserError, match=r"^dataset\.root=~nobody_such/x: there is no user"):
        expanded("~nobody_such/x", "dataset.root")
    with pytest.raises(UserError, match=r"^video=\$NO_SUCH/x: .*NO_SUCH is not set"):
        expanded("$NO_SUCH/x", "video")


@every_case(
    ("asked", "words"),
    [
        ("clips/a.mov", "a.mov: no such file (but 'a.mp4' is there)"),
        ("clips/a", "a: no such file (but 'a.mp4' is there)"),
        ("clips\\a.mp4", "no such file (but '{}/clips/a.mp4' is there)"),
        ("clips/a.mp4 ", "no such file (but '{}/clips/a.mp4' is there)"),
        ("clips/a.mp4\n", "no such file (but '{}/clips/a.mp4' is there)"),
        ("clips/b.mp4", "b.mp4: no such file; check the path and dataset.root"),
        ("gone/a.mp4", "a.mp4: no such file; check the path and dataset.root"),
    ],
)
def test_what_may_be_meant_is_named(tmp_path: Path, asked: str, words: str) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"a")
    with pytest.raises(MediaError, match=re.escape(words.format(tmp_path))):
        read_bytes(tmp_path / asked)
