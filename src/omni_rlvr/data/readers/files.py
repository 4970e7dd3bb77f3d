"""Clips without annotations: a file, a folder or a glob becomes examples that ask one question."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from omni_rlvr.text.terminal import printable
from omni_rlvr.types import Example, UserError

VIDEO = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
AUDIO = (".wav", ".mp3", ".m4a", ".flac", ".ogg", ".opus", ".aac", ".wma")
"""What is taken from a folder; a file or a glob is taken at its word."""


class FileReader:
    """Finds clips by name.

    Args:
        video: Video files, or None. A folder gives the videos directly in it.
        audio: Sound files, or None; with ``video`` they replace the sound of the video of the same
            name but for the suffix (one of each need not share a name).
        question: What is asked about every clip.
    """

    def __init__(self, video: str | None, audio: str | None, question: str) -> None:
        self._video = video
        self._audio = audio
        self._question = question

    def read(self) -> list[Example]:
        """Looks for the files; nothing is read from them.

        Returns:
            Examples in the order of their names, at least one, without gold labels.

        Raises:
            UserError: Nothing was named, nothing is there, or videos and sounds do not pair up.
        """
        if self._video is None and self._audio is None:
            raise UserError(
                "video must be given, e.g. +video=clip.mp4 (a file, a folder or a quoted glob); "
                "or +audio=voice.wav"
            )
        videos = None if self._video is None else find("video", self._video, VIDEO)
        sounds = None if self._audio is None else find("audio", self._audio, AUDIO)
        return [self._example(video, audio) for video, audio in _pairs(videos, sounds)]

    def _example(self, video: Path | None, audio: Path | None) -> Example:
        name = printable(str(video or audio))
        return Example(
            id=name,
            question=self._question,
            answer="",
            target="",
            video=video,
            audio=audio,
            source=f"from {'audio' if video is None else 'video'}="
            f"{self._audio if video is None else self._video}",
        )


def find(key: str, name: str, suffixes: Sequence[str]) -> list[Path]:
    """Finds the files that a name stands for.

    Args:
        key: The option, for messages.
        name: A file, a folder or a glob (``**`` goes through folders).
        suffixes: What is taken from a folder.

    Returns:
        Sorted paths, at least one.

    Raises:
        UserError: There is none.
    """
    path = Path(name).expanduser()
    try:
        if path.is_dir() and name.strip():
            return _in_folder(key, path, suffixes)
        if path.exists() and name.strip():
            return [path]
    except OSError as error:
        raise UserError(f"{key}={name}: cannot be read: {error.strerror}") from error
    if not glob.has_magic(name):
        raise UserError(
            f"{key}={name}: no such file or folder (looked from {Path.cwd()}); "
            f"give a file, a folder or a glob"
        )
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob refuses absolute ones)
    found = sorted(path for path in map(Path, matches) if path.is_file())
    if not found:
        raise UserError(f"{key}={name}: no file matches (looked from {Path.cwd()})")
    return found


def _in_folder(key: str, folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise UserError(
            f"{key}={folder}: no {key} file lies directly in this folder "
            f"({', '.join(suffixes)}); a glob takes other names and folders below, "
            f"e.g. {key}='{folder}/**/*{suffixes[0]}'"
        )
    return found


def _pairs(
    videos: list[Path] | None, sounds: list[Path] | None
) -> list[tuple[Path | None, Path | None]]:
    if sounds is None:
        return [(video, None) for video in videos or []]
    if videos is None:
        return [(None, sound) for sound in sounds]
    if len(videos) == len(sounds) == 1:
        return [(videos[0], sounds[0])]
    by_name = {sound.stem: sound for sound in sounds}
    names = [video.stem for video in videos]
    odd = [p for p in [*videos, *sounds] if p.stem not in by_name or p.stem not in names]
    if odd or len(by_name) < len(sounds) or len(set(names)) < len(names):
        raise UserError(
            f"audio: {len(sounds)} sounds do not pair up with {len(videos)} videos by their names"
            + (f"; {printable(str(odd[0]))} is alone" if odd else "; a name occurs twice")
        )
    return [(video, by_name[video.stem]) for video in videos]
