"""The orientation of a picture: a rotation by a multiple of 90 degrees, possibly mirrored.

A decoded frame carries it as a display matrix, which comes from the container or from the codec's
side data; old mkv files have a tag, ``rotate``, instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_SKEW = 0.02
"""Share of a matrix's large entries up to which small ones count as 0; about one degree."""


@dataclass(frozen=True)
class Orientation:
    """How a decoded frame becomes the one that is shown: transposed first, then mirrored."""

    is_transposed: bool = False
    """Whether rows become columns."""
    is_mirrored_x: bool = False
    """Whether left and right change places, after transposing."""
    is_mirrored_y: bool = False
    """Whether top and bottom change places, after transposing."""

    def upright(self, frame: np.ndarray) -> np.ndarray:
        """Turn a frame [H, W, C]; the result is a view."""
        turned = frame.swapaxes(0, 1) if self.is_transposed else frame
        return turned[:: -1 if self.is_mirrored_y else 1, :: -1 if self.is_mirrored_x else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as shown."""
        return (height, width) if self.is_transposed else (width, height)

    @property
    def is_reflection(self) -> bool:
        """Whether it mirrors the picture, as front cameras do, and is not a rotation alone."""
        return self.is_transposed ^ self.is_mirrored_x ^ self.is_mirrored_y

    @property
    def filters(self) -> list[tuple[str, str | None]]:
        """The FFmpeg filters (name, argument) that do the same, in this order."""
        steps = (
            (self.is_transposed, ("transpose", "cclock_flip")),
            (self.is_mirrored_x, ("hflip", None)),
            (self.is_mirrored_y, ("vflip", None)),
        )
        return [step for is_taken, step in steps if is_taken]


UPRIGHT = Orientation()
_CLOCKWISE = {
    0: UPRIGHT,
    90: Orientation(is_transposed=True, is_mirrored_x=True),
    180: Orientation(is_mirrored_x=True, is_mirrored_y=True),
    270: Orientation(is_transposed=True, is_mirrored_y=True),
}


def of_matrix(matrix: np.ndarray) -> Orientation:
    """Read a display matrix: [9] int32, FFmpeg's ``AV_FRAME_DATA_DISPLAYMATRIX``.

    A pixel (p, q) is shown at (a p + c q + x, b p + d q + y); the matrix is a b u, c d v, x y w.
    A scale in it is ignored, as players do.

    Raises:
        ValueError: The rotation is not a multiple of 90 degrees.
    """
    a, b, _, c, d, *_ = matrix.tolist()
    straight, crossed = (abs(a), abs(d)), (abs(b), abs(c))
    if max(crossed) <= _SKEW * min(straight) and min(straight) > 0:
        return Orientation(is_mirrored_x=a < 0, is_mirrored_y=d < 0)
    if max(straight) <= _SKEW * min(crossed) and min(crossed) > 0:
        return Orientation(is_transposed=True, is_mirrored_x=c < 0, is_mirrored_y=b < 0)
    entries = " ".join(f"{entry / 65536:g}" for entry in (a, b, c, d))
    raise ValueError(f"a display matrix of {entries}")


def of_tags(tags: Mapping[str, str]) -> Orientation:
    """Read the tag ``rotate``, in degrees clockwise, from a stream's tags; upright without it.

    Raises:
        ValueError: It is not a multiple of 90 degrees.
    """
    text = {name.lower(): value for name, value in tags.items()}.get("rotate", "0")
    try:
        return _CLOCKWISE[int(text) % 360]
    except (KeyError, ValueError):
        raise ValueError(f"a tag rotate={text[:20]!r}") from None
