"""Decode the bytes of an annotation file, whatever editor or spreadsheet saved it.

UTF-8 is read without a byte order mark, UTF-16 and UTF-32 only with one. Any other encoding is an
error that names the line and the likely encoding: decoding by a wrong guess would change the text.
"""

from __future__ import annotations

import codecs
import itertools
import shlex
from pathlib import Path

from omni_rlvr.types import UserError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is a prefix of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_MIN_ZEROS = 0.1
"""Share of zero bytes from which a file may be UTF-16: half for Latin text, less for Chinese."""
_WESTERN = "WINDOWS-1252"
_EASTERN = (
    # Japanese text has kana between its Chinese characters.
    ("shift_jis", "SHIFT_JIS", "\u3041", "\u30ff", 0.3),
    ("euc_jp", "EUC-JP", "\u3041", "\u30ff", 0.3),
    ("euc_kr", "EUC-KR", "\uac00", "\ud7a3", 0.9),
    # GB2312 is the older part of GBK; bytes of Big5 are seldom valid in it.
    ("gb2312", "GBK", "\u3000", "\u9fff", 0.5),
    ("big5", "BIG5", "\u3000", "\u9fff", 0.5),
    ("gb18030", "GB18030", "\u2010", "\u9fff", 0.5),
)
"""(codec, name in messages, first and last character of a script, least share of it among the
non-ASCII characters). The first codec that decodes the text to such a share is the guess."""


def decode(data: bytes, path: Path, *, western: bool = False) -> str:
    """Decode the bytes of an annotation file.

    Args:
        data: The whole file.
        path: The file's path, for messages.
        western: Whether to accept Windows-1252 too, which some data sets are released in.

    Raises:
        UserError: The file is in another encoding; names the line and the likely encoding.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(name)
            except UnicodeDecodeError as error:
                line = _line(data, len(mark) + error.start)
                raise UserError(
                    f"{path}:{line}: the file has the byte order mark of {name.upper()}, but this "
                    f"line is in another encoding ({error.reason}); save the file as UTF-8"
                ) from error
    try:
        text, wrong = data.decode("utf-8"), data.find(b"\0")
    except UnicodeDecodeError as error:
        text, wrong = "", error.start
    if wrong < 0:
        return text
    if data[wrong] == 0 and data.rstrip(b"\0").count(0) < _MIN_ZEROS * len(data):
        raise UserError(
            f"{path}:{_line(data, wrong)}: the line holds zero bytes, as after an incomplete copy; "
            "copy the file again, or remove the zero bytes"
        )
    looks = _looks_like(data)
    if western and looks == _WESTERN:
        return data.decode(looks, errors="replace")
    better = shlex.quote(str(path.with_suffix(f".utf8{path.suffix}")))
    raise UserError(
        f"{path}:{_line(data, wrong)}: is not UTF-8 (byte 0x{data[wrong]:02X}); it looks like "
        f"{looks}; save it as UTF-8: iconv -f {looks} -t UTF-8 {shlex.quote(str(path))} > {better}"
    )


def utf8(data: bytes, path: Path) -> bytes:
    """Convert a file with a byte order mark to UTF-8 without one; other bytes are not checked.

    Raises:
        UserError: The bytes are not in the encoding that the mark names.
    """
    if data.startswith(codecs.BOM_UTF8):
        return data[len(codecs.BOM_UTF8) :]
    is_marked = any(data.startswith(mark) for mark, _ in _MARKS)
    return decode(data, path).encode() if is_marked else data


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1


def _looks_like(data: bytes) -> str:
    even, odd = data[::2].count(0), data[1::2].count(0)
    if min(even, odd) > len(data) // 8:
        return "UTF-32LE" if data[:1] != b"\0" else "UTF-32BE"
    if even or odd:
        return "UTF-16LE" if odd > even else "UTF-16BE"
    high = [byte > 0x7F for byte in data]
    paired = sum(a and b for a, b in itertools.pairwise(high))
    if 2 * paired < sum(high):  # accented letters are single bytes among Latin ones
        return _WESTERN
    for codec, name, first, last, share in _EASTERN:
        try:
            beyond = [c for c in data.decode(codec) if c > "\x7f"]
        except UnicodeDecodeError:
            continue
        if sum(first <= c <= last for c in beyond) >= share * len(beyond):
            return name
    return _WESTERN
