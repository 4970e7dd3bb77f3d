"""Find media files: by suffix, by a walk through folders, and under names spelled differently.

Every reader and task that looks for files uses this file. A walk follows links to folders but
enters each folder once, so that circular links do no harm, and lists the folders that it could not
enter. No file is opened here.
"""

from __future__ import annotations

import functools
import glob
import logging
import os
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from unicodedata import normalize

from omni_rlvr.types import UserError

log = logging.getLogger(__name__)

VIDEO = (
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".m2v",
    ".ts", ".mts", ".m2ts", ".vob", ".mxf", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv",
    ".dv", ".rm", ".rmvb",
)  # fmt: skip
AUDIO = (
    ".wav", ".w64", ".mp3", ".mp2", ".m4a", ".aac", ".flac", ".ogg", ".oga", ".opus", ".wma",
    ".aif", ".aiff", ".aifc", ".au", ".caf", ".amr", ".ac3", ".mka", ".weba",
)  # fmt: skip
"""Suffixes of media files, in any case of letters. No other file lists suffixes."""
SUFFIX = f"(?i)({'|'.join(re.escape(suffix) for suffix in (*VIDEO, *AUDIO))})$"
"""Pattern, for ``re`` and for Arrow, that matches such a suffix at the end of a name."""
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_SHOWN = 3
"""Number of names that a message shows of each kind."""
_WARNED: set[Path] = set()
"""Folders for which ``located`` has logged its warning."""


@dataclass
class Walk:
    """The files and folders below a folder."""

    files: list[Path] = field(default_factory=list)
    """Paths of everything but folders, sorted; each begins with the folder that was walked."""
    folders: list[Path] = field(default_factory=list)
    """Every folder that was entered, the first being the folder that was walked."""
    left_out: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Reason -> the folders that were not entered for this reason."""


def walk(top: Path) -> Walk:
    """List everything below a folder, linked folders included.

    Each folder is entered once, by its own path rather than a link if it is below ``top``. A link
    to a folder that contains ``top`` is circular and not followed.
    """
    found = Walk()
    entered = {identity for folder in (top, *top.absolute().parents, *top.resolve().parents)
               if (identity := _identity(folder)) is not None}  # fmt: skip
    folders, links = [top], list[Path]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        if folder is not top:
            identity = _identity(folder)
            if identity in entered:
                found.left_out["links to folders that are read already"].append(str(folder))
                continue
            if identity is not None:
                entered.add(identity)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            found.left_out["folders that cannot be read"].append(str(folder))
            continue
        found.folders.append(folder)
        for entry in entries:
            path = folder / entry.name
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_symlink() and os.path.isdir(path):  # noqa: PTH112 (raises for no link)
                links.append(path)
            else:
                found.files.append(path)
    found.files.sort()
    return found


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        about = folder.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def matching(pattern: str) -> list[Path]:
    """Return every path that a glob matches, sorted; ``**`` follows links as ``walk`` does.

    Names are compared in Unicode NFC. As in a shell, a wildcard does not match hidden names.
    """
    path = Path(pattern)
    found = [Path(path.anchor)]
    parts = path.parts[1:] if path.anchor else path.parts
    for part in (*parts, "*") if parts and parts[-1] == "**" else parts:
        found = [below for folder in found for below in _below(folder, part)]
    return sorted(set(found))


def _below(folder: Path, part: str) -> Iterator[Path]:
    if part == "**":
        for below in walk(folder).folders:
            if not any(name.startswith(".") for name in below.relative_to(folder).parts):
                yield below
    elif glob.has_magic(part):
        for name in _names(folder):
            hidden = name.startswith(".") and not part.startswith(".")
            if not hidden and fnmatchcase(normalize("NFC", name), normalize("NFC", part)):
                yield folder / name
    elif os.path.lexists(path := located(folder / part)):
        yield path


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 (names, not paths)
    except OSError:
        return []


def expanded(name: str, key: str) -> str:
    """Replace ``~``, ``~user`` and ``$VARIABLE`` in a path as a shell does.

    A name that exists as it is written stays as it is, except ``~`` and ``~/...``.

    Args:
        name: The path.
        key: The option that holds it, for messages.

    Raises:
        UserError: There is no such user or variable.
    """
    is_home = name == "~" or name.startswith("~/")
    if not is_home and os.path.lexists(name):
        return name
    if name.startswith("~"):
        user, home = name, os.path.expanduser(name)  # noqa: PTH111 (Path would raise)
        if home == user:
            user = name.split("/")[0]
            raise UserError(
                f"{key}={name}: there is no user {user[1:]!r}; for a file write ./{user}"
            )
        name = home
    for variable in _VARIABLE.findall(name):
        if variable not in os.environ:
            raise UserError(
                f"{key}={name}: the environment variable {variable} is not set; set it, or give "
                "the path itself"
            )
    return _VARIABLE.sub(lambda match: os.environ[match[1]], name)


def oddity(path: Path) -> str | None:
    """Say why a path is not a readable file, as a plural noun for counts; None if it is one."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "broken links" if path.is_symlink() else "files that cannot be read"
    if stat.S_ISDIR(mode):
        return "folders"
    if not stat.S_ISREG(mode):
        return "pipes, sockets or devices"
    return None if os.access(path, os.R_OK) else "files that cannot be read"


def in_words(left_out: Mapping[str, Sequence[str]]) -> str:
    """Count and name what was left out, e.g. ``2 broken links (a.mp4, b.mp4); 1 ...``."""
    texts = []
    for why, names in left_out.items():
        more = ", ..." if len(names) > _SHOWN else ""
        texts.append(f"{len(names)} {why} ({', '.join(names[:_SHOWN])}{more})")
    return "; ".join(texts)


def has_suffix(name: str, suffixes: Iterable[str]) -> bool:
    """Tell whether a name ends in one of the suffixes, in any case of letters."""
    return os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122 (a name, not a path)


def located(path: Path) -> Path:
    """Find a path whose spelling differs from the one on disk.

    Names may differ in their Unicode form (NFC or NFD) and in the case of a media suffix.

    Returns:
        The path as it is spelled on disk; the path as given if it exists, or if no name on disk, or
        more than one, corresponds to it.
    """
    if os.path.lexists(path) or path.parent == path:
        return path
    folder = located(path.parent)
    try:
        names = _spelled(folder, folder.stat().st_mtime_ns).get(_key(path.name), [])
    except OSError:
        return path
    if len(names) != 1:
        return path
    if folder not in _WARNED:
        _WARNED.add(folder)
        log.warning(
            "%s: names on disk differ from those in the list or command in the case of the suffix "
            "or in the Unicode form, e.g. %r for %r; they are read nevertheless",
            folder,
            names[0],
            path.name,
        )
    return folder / names[0]


def like(path: Path) -> str:
    """Name a similar path that exists, for a message on a missing path; "" if there is none."""
    meant = Path("/".join(part.strip() for part in str(path).replace("\\", "/").split("/")))
    if meant != path:
        found = located(meant)
        return f" (but {str(found)!r} is there)" if found.exists() else ""
    stem = path.stem if has_suffix(path.name, (*VIDEO, *AUDIO)) else path.name
    name = _of_stem(path.parent, stem, (*VIDEO, *AUDIO))
    return "" if name is None else f" (but {name!r} is there)"


def video_of(folders: Iterable[Path], stem: str) -> Path | None:
    """Find a video by its name without suffix in the first folder that has one; None if none."""
    for folder in folders:
        if (name := _of_stem(folder, stem, VIDEO)) is not None:
            return folder / name
    return None


def video_name(folder: Path, name: str) -> str:
    """Find the file name of a clip that a list names without a suffix; ``.mp4`` if none exists."""
    stem = os.path.basename(name)  # noqa: PTH119 (a name, not a path)
    found = _of_stem((folder / name).parent, stem, VIDEO)
    return f"{name}{VIDEO[0]}" if found is None else f"{name[: len(name) - len(stem)]}{found}"


def _of_stem(folder: Path, stem: str, suffixes: Iterable[str]) -> str | None:
    """Find a file by its name without suffix; None if there is none."""
    try:
        there = _spelled(folder, folder.stat().st_mtime_ns)
    except OSError:
        return None
    keys = (normalize("NFC", stem) + suffix for suffix in suffixes)
    return next((there[key][0] for key in keys if key in there), None)


@functools.lru_cache(maxsize=64)
def _spelled(folder: Path, changed_ns: int) -> dict[str, list[str]]:
    """Map each ``_key`` to the names in a folder that have it.

    Args:
        folder: The folder.
        changed_ns: When the folder last changed; a change makes another key of the cache.
    """
    found: dict[str, list[str]] = {}
    for name in _names(folder):
        found.setdefault(_key(name), []).append(name)
    return found


def _key(name: str) -> str:
    stem, suffix = os.path.splitext(normalize("NFC", name))  # noqa: PTH122 (a name, not a path)
    return stem + (suffix.lower() if has_suffix(name, (*VIDEO, *AUDIO)) else suffix)
