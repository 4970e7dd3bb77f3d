"""Find clips without annotations, by a file, a folder or a glob."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from pathlib import Path

from omni_rlvr.media.files import (
    AUDIO,
    VIDEO,
    expanded,
    has_suffix,
    in_words,
    located,
    matching,
    oddity,
)
from omni_rlvr.text.parse import nfc
from omni_rlvr.text.terminal import printable
from omni_rlvr.types import Example, UserError

_SUFFIXES = {"video": VIDEO, "audio": AUDIO}
"""Suffixes of the files taken from a folder; a file named itself or by a glob may have any."""
_CLIP_FOLDERS = "folders that are named like clips"
_OTHER = {"video": "audio", "audio": "video"}


@dataclass
class FileReader:
    """Finds clips by name.

    Args:
        video: Video files, or None. A folder stands for the videos directly in it.
        audio: Sound files, or None. With ``video``, each replaces the sound of the video that has
            its name but for the suffix; a single video and a single sound may differ in name.
    """

    video: str | None
    audio: str | None
    left_out: dict[str, list[str]] = field(init=False, default_factory=dict)
    """Reason -> the names of the files and folders that were left out for this reason."""

    def read(self) -> list[Example]:
        """Find the files, without opening them; ``left_out`` names those that are not taken.

        Returns:
            Examples in the order of their names, at least one, without questions and gold labels.

        Raises:
            UserError: No file is named or found, or videos and sounds do not match by name.
        """
        if self.video is None and self.audio is None:
            raise UserError(
                "video must be given, e.g. +video=clip.mp4 (a file, a folder or a quoted glob); "
                "or +audio=voice.wav"
            )
        left_out: dict[str, list[str]] = {}
        videos = None if self.video is None else find("video", self.video, left_out)
        sounds = None if self.audio is None else find("audio", self.audio, left_out)
        taken = {printable(path.name) for path in (*(videos or ()), *(sounds or ()))}
        others = {why: [n for n in names if n not in taken] for why, names in left_out.items()}
        self.left_out = {why: names for why, names in others.items() if names}
        return [self._example(video, audio) for video, audio in _pairs(videos, sounds)]

    def _example(self, video: Path | None, audio: Path | None) -> Example:
        name = printable(str(video or audio))
        return Example(
            id=name,
            question="",
            answer="",
            target="",
            video=video,
            audio=audio,
            source=f"from {'audio' if video is None else 'video'}="
            f"{self.audio if video is None else self.video}",
        )


def find(key: str, name: str, left_out: dict[str, list[str]]) -> list[Path]:
    """Find the files that a name stands for.

    Args:
        key: The option, "video" or "audio".
        name: A file, a folder or a glob (``**`` goes through folders).
        left_out: Reason -> names; the names of files that are not taken are added to it.

    Returns:
        Sorted paths, at least one.

    Raises:
        UserError: There is none.
    """
    name = expanded(name, key)
    path = located(Path(name)) if name.strip() and "\0" not in name else None
    try:
        if path is not None and path.is_dir():
            return _in_folder(key, path, left_out)
    except OSError as error:
        raise UserError(f"{key}={name}: cannot be read: {error.strerror}") from error
    if path is not None and os.path.lexists(path):
        return [path]
    if not glob.has_magic(name):
        raise UserError(
            f"{key}={name}: no such file or folder (looked from {Path.cwd()}); "
            f"give a file, a folder or a glob"
        )
    found = []
    for path in matching(name):
        odd = oddity(path)
        if odd is None:
            found.append(path)
        elif has_suffix(path.name, VIDEO + AUDIO):
            _leave_out(path, _CLIP_FOLDERS if odd == "folders" else odd, left_out)
        elif odd != "folders":  # a glob such as ** matches folders too
            _leave_out(path, odd, left_out)
    if not found:
        raise UserError(
            f"{key}={name}: no file matches (looked from {Path.cwd()})"
            + (f"; {in_words(left_out)}" if left_out else "")
        )
    return found


def _in_folder(key: str, folder: Path, left_out: dict[str, list[str]]) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        why = _not_taken(key, path)
        if why is None:
            found.append(path)
        else:
            _leave_out(path, why, left_out)
    if not found:
        there = f"; it holds {in_words(left_out)}" if left_out else ", it is empty"
        raise UserError(
            f"{key}={folder}: no {key} file is directly in this folder{there}; for other names or "
            f"folders below use a glob, e.g. {key}='{folder}/**/*{_SUFFIXES[key][0]}'"
        )
    return found


def _leave_out(path: Path, why: str, left_out: dict[str, list[str]]) -> None:
    left_out.setdefault(why, []).append(printable(path.name))


def _not_taken(key: str, path: Path) -> str | None:
    """Say why an entry of a folder is not one of its clips; None if it is one."""
    other = _OTHER[key]
    if path.name.startswith("."):
        return "hidden files"
    odd = oddity(path)
    if has_suffix(path.name, _SUFFIXES[key]):
        return _CLIP_FOLDERS if odd == "folders" else odd
    if odd == "folders":
        return f"folders below, which a glob enters ({key}='{path.parent}/**/*')"
    if has_suffix(path.name, _SUFFIXES[other]):
        return f"{'sound' if other == 'audio' else 'video'} files, which {other}=FOLDER takes"
    return f"files whose suffix is not that of {'a video' if key == 'video' else 'a sound'}"


def _pairs(
    videos: list[Path] | None, sounds: list[Path] | None
) -> list[tuple[Path | None, Path | None]]:
    if sounds is None:
        return [(video, None) for video in videos or []]
    if videos is None:
        return [(None, sound) for sound in sounds]
    if len(videos) == len(sounds) == 1:
        return [(videos[0], sounds[0])]
    by_name = {_stem(sound): sound for sound in sounds}
    names = [_stem(video) for video in videos]
    odd = [p for p in [*videos, *sounds] if _stem(p) not in by_name or _stem(p) not in names]
    if odd or len(by_name) < len(sounds) or len(set(names)) < len(names):
        raise UserError(
            f"audio: {len(sounds)} sounds do not pair up with {len(videos)} videos by their names"
            + (f"; {printable(str(odd[0]))} is alone" if odd else "; a name occurs twice")
        )
    return [(video, by_name[_stem(video)]) for video in videos]


def _stem(path: Path) -> str:
    """Return the name without its suffix, in Unicode NFC."""
    return nfc(path.stem)
