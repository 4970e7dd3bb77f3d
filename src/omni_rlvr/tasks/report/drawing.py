"""Settings that all pictures share: literal text, fonts that have its characters, and colours.

Names of classes, runs and splits come from users: a dollar sign does not begin mathematics, and a
character that no font of this machine has is written as ``\\uXXXX``. A picture that cannot be drawn
does not end the run.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unicodedata import category, east_asian_width

import matplotlib as mpl
import seaborn as sns
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

log = logging.getLogger(__name__)

DPI = 150
INK = "0.25"
PALETTE = "colorblind"
NUM_DIFFERENT = 10
"""Number of colours of the palette; for more models, hues are evenly spaced."""
FONT = "DejaVu Sans"
"""The font that comes with matplotlib; other fonts are used only for what it lacks."""
NO_TEXT = re.compile(r"cm[a-z]+\d|STIX(Size|NonUni)|Last Resort|.*Color Emoji")
"""Fonts of mathematical signs, boxes and coloured emoji, which are not used for text."""
REGULAR = 400
"""Weight of a font that is neither light nor bold."""
CHAR_IN = 0.0085
"""Mean width of a character, in inches a point of font size."""

P = ParamSpec("P")
T = TypeVar("T")


def plain_text(draw: Callable[P, T]) -> Callable[P, T]:
    """Make a function draw every text literally: ``$a^b$`` is five characters."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context({"text.parse_math": False, "text.usetex": False}):
            return draw(*args, **kwargs)

    return drawn


def model_colours(names: Iterable[str]) -> dict[str, Any]:
    """Give each model a colour, to be used in all pictures.

    Args:
        names: All models of the run or report, each once or more; the first comes first.
    """
    different = list(dict.fromkeys(names))
    palette = PALETTE if len(different) <= NUM_DIFFERENT else "husl"
    return dict(zip(different, sns.color_palette(palette, len(different)), strict=True))


@contextlib.contextmanager
def spared(path: Path) -> Iterator[None]:
    """Log a picture that cannot be drawn in the block, and go on without it."""
    try:
        yield
    except Exception as error:  # any error of a library: the numbers are written anyway
        log.warning("%s: the picture was not drawn: %s: %s", path, type(error).__name__, error)
        path.unlink(missing_ok=True)  # may be half written, on a full disk


def save(figure: Figure, path: Path, *, dpi: float = DPI, tight: bool = True) -> Figure:
    """Write a figure, after choosing fonts that have all characters of its texts.

    Args:
        figure: With texts in any script.
        path: The picture; its suffix names the format. Its folder is made.
        dpi: Pixels an inch.
        tight: Whether to fit the borders to what is drawn.
    """
    _make_readable(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi, bbox_inches="tight" if tight else None)
    return figure


def width_of(texts: Iterable[str], *, size: float) -> float:
    """Estimate the width of the longest line of some texts at a font size, in inches."""
    lines = [line for text in texts for line in text.splitlines()]
    # a wide character (of CJK) counts twice
    widths = [sum(1 + (east_asian_width(sign) in "WF") for sign in line) for line in lines]
    return CHAR_IN * size * max(widths, default=0)


def shortened(names: Sequence[str], *, limit: int) -> list[str]:
    """Cut names that are longer than a limit in their middle; different names stay different.

    Args:
        names: Different names.
        limit: Most characters of a name, 8 or more.
    """
    out: list[str] = []
    for name in names:
        short, number = _cut(name, limit), 2
        while short in out:
            short, number = f"{_cut(name, limit - 4)} ({number})", number + 1
        out.append(short)
    return out


def _cut(name: str, limit: int) -> str:
    tail = limit // 2
    return name if len(name) <= limit else f"{name[: limit - tail - 1]}…{name[-tail:]}"


def _make_readable(figure: Figure) -> None:
    """Set fonts that have all characters of the texts; escape and log those that no font has."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    axes = [part for part in figure.findobj(Axes) if isinstance(part, Axes)]
    ticks = [axis for part in axes for axis in (part.xaxis, part.yaxis)]
    named = [axis for axis in ticks if isinstance(axis.get_major_formatter(), NAMES)]
    signs = {sign for text in texts for sign in text.get_text()}
    for axis in named:
        signs |= {sign for text in axis.get_ticklabels() for sign in text.get_text()}
    odd = frozenset(sign for sign in signs if sign != "\n" and not has_sign(FONT, sign))
    if not odd:
        return
    fonts = fonts_for(odd)
    lacking = frozenset(sign for sign in odd if not any(has_sign(font, sign) for font in fonts))
    tell_lacking(lacking)
    # characters without a glyph become \uXXXX; invisible ones are left out
    escapes = {
        ord(sign): "" if category(sign) in ("Cf", "Mn") else sign.encode("unicode_escape").decode()
        for sign in lacking
    }
    for text in texts:
        text.set_text(text.get_text().translate(escapes))
        text.set_fontfamily([FONT, *fonts])
    for axis in named:
        label = partial(_tick_label, axis.get_major_formatter(), escapes)
        axis.set_major_formatter(FuncFormatter(label))
        axis.set_tick_params(labelfontfamily=[FONT, *fonts])


NAMES = (FixedFormatter, FuncFormatter)
"""Formatters of ticks that have names and not numbers."""


def _tick_label(formatter: Any, escapes: dict[int, str], value: float, place: int) -> str:
    return str(formatter(value, place)).translate(escapes)


@cache
def tell_lacking(lacking: frozenset[str]) -> None:
    """Warn about characters that no font of this machine has, once for the same characters."""
    seen = "".join(sorted(s for s in lacking if category(s) not in ("Cf", "Mn", "Cc")))
    if seen:
        log.warning(
            "pictures: no font of this machine has %s, written as \\uXXXX; install a font "
            "that has these characters, e.g. one of the Noto fonts",
            seen.encode("utf-8", "replace").decode(),
        )


@cache
def fonts_for(signs: frozenset[str]) -> tuple[str, ...]:
    """Find installed fonts that together have some characters, the most useful ones first."""
    left, fonts = set(signs), []
    names = sorted({f.name for f in font_manager.fontManager.ttflist if not NO_TEXT.match(f.name)})
    while left:
        best = max(names, key=lambda name: sum(has_sign(name, sign) for sign in left), default=None)
        if best is None or not any(has_sign(best, sign) for sign in left):
            break
        fonts.append(best)
        left -= {sign for sign in left if has_sign(best, sign)}
    return tuple(fonts)


@cache
def _glyphs(font: str) -> frozenset[int]:
    """Return the code points that a font has; none of one that cannot be read."""
    entries = [entry for entry in font_manager.fontManager.ttflist if entry.name == font]
    upright = min(entries, key=lambda e: (e.style != "normal", abs(int(e.weight) - REGULAR)))
    try:
        return frozenset(FT2Font(upright.fname).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()


def has_sign(font: str, sign: str) -> bool:
    """Tell whether an installed font has a character."""
    return ord(sign) in _glyphs(font)
