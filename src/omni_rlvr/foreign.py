"""Recognise files that are not what their names promise, e.g. pointers, web pages, archives.

Downloads and clones leave such files. Only the first bytes are read. Each reader names the kinds
that its own files cannot be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES = 4096
"""Number of bytes at the start of a file that are read."""
NO_LIST = ("pointer", "page", "archive", "picture", "data", "zeros")
"""Kinds that an annotation file cannot be: it is text, and may be JSON."""
NO_WEIGHTS = ("pointer", "page", "picture")
"""Kinds that a checkpoint file cannot be: it may be JSON, text, or pickled weights in a zip."""

_AGAIN = "download it again, and check whether its address is right and whether it needs a login"
_UNPACK = "unpack it, and name what is in it"
_NAME_CLIP = "name the clip that belongs there"
_NAME_FILE = "name the file that belongs there"
_MAGIC = (
    (0, b"PK\x03\x04", "archive", "a zip archive", _UNPACK),
    (0, b"\x1f\x8b", "archive", "a gzip archive", _UNPACK),
    (0, b"BZh", "archive", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\x00", "archive", "an xz archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "archive", "a zstd archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "archive", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "archive", "a rar archive", _UNPACK),
    (257, b"ustar", "archive", "a tar archive", _UNPACK),
    (0, b"\x89PNG\r\n", "picture", "a picture (PNG)", _NAME_CLIP),
    (4, b"ftypheic", "picture", "a picture (HEIC)", _NAME_CLIP),
    (4, b"ftypmif1", "picture", "a picture (HEIF)", _NAME_CLIP),
    (4, b"ftypavif", "picture", "a picture (AVIF)", _NAME_CLIP),
    (0, b"%PDF-", "data", "a PDF document", _NAME_FILE),
    (0, b"\x93NUMPY", "data", "a NumPy array", _NAME_FILE),
    (0, b"\x89HDF\r\n", "data", "an HDF5 file", _NAME_FILE),
    (0, b"PAR1", "data", "a Parquet table", _NAME_FILE),
    (0, b"SQLite format 3\x00", "data", "an SQLite data base", _NAME_FILE),
)
_LFS = re.compile(rb"version https?://(?:git-lfs|hawser)\.github\.com/spec/")
_SIZE = re.compile(rb"^size (\d+)$", re.MULTILINE)
_TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True)
class Foreign:
    """A kind of file, in words for a message."""

    kind: str
    """pointer, page, json, text, archive, picture, data or zeros."""
    what: str
    """E.g. ``a zip archive``."""
    remedy: str
    """What to do about it."""

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def recognise(head: bytes) -> Foreign | None:
    """Tell what a file is from its first bytes; None for what is not known here.

    Args:
        head: ``HEAD_BYTES`` of it, or all of a smaller file.
    """
    if _LFS.match(head):
        size = _SIZE.search(head)
        stands_for = f" of {int(size[1]):,} bytes" if size else ""
        what = f"a Git-LFS pointer, not the file itself{stands_for}"
        return Foreign("pointer", what, "run 'git lfs pull' in its clone")
    if head.startswith(b"/annex/objects/"):
        what = "a git-annex pointer, not the file itself"
        return Foreign("pointer", what, "run 'git annex get' on it in its clone")
    for start, magic, kind, what, remedy in _MAGIC:
        if head.startswith(magic, start):
            return Foreign(kind, what, remedy)
    if head and not head.strip(b"\x00"):
        what = "nothing but zero bytes at its start, as a download or copy that broke off leaves"
        return Foreign("zeros", what, "download or copy it again")
    return _recognise_text(head)


def recognise_file(path: Path, kinds: tuple[str, ...]) -> Foreign | None:
    """Tell what a file on disk is, if it is of one of these kinds.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        found = recognise(file.read(HEAD_BYTES))
    return found if found is not None and found.kind in kinds else None


def _recognise_text(head: bytes) -> Foreign | None:
    """Tell what kind of text the bytes are; None if they are no text."""
    try:
        text = head.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        if error.start < HEAD_BYTES - 4:  # the last character may be cut off at HEAD_BYTES
            return None
        text = head[: error.start].decode("utf-8-sig").strip()
    if not text or _CONTROL.search(head):
        return None
    begins = text[:200].lower()
    if begins.startswith(("<!doctype html", "<html", "<head", "<body")) or "<html" in begins:
        title = _TITLE.search(text)
        named = f" ('{_short(title[1])}')" if title else ""
        return Foreign("page", f"a web page (HTML){named}", _AGAIN)
    if begins.startswith(("<?xml", "<error")):
        return Foreign("page", f"an XML text ('{_short(text)}')", _AGAIN)
    if begins.startswith(("{", "[")):
        return Foreign("json", f"JSON text ('{_short(text)}')", _AGAIN)
    return Foreign("text", f"text ('{_short(text)}')", _NAME_FILE)


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 60 else f"{words[:57]}..."
