"""Tall frames are resized height first, whichever Pillow is installed."""

from __future__ import annotations

import numpy as np
from every_case import every_case
from PIL import Image

from omni_rlvr.media.resize import shrink_tall

BICUBIC = Image.Resampling.BICUBIC


def frames(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


@every_case(
    ("height", "width", "first"),
    [
        (36, 12, True),  # 12 rows too many, columns missing
        (30, 26, True),  # 6 > 2 * 2
        (28, 26, False),  # 4 is not more than 2 * 2
        (24, 12, False),  # the height stays
        (12, 36, False),
        (20, 10, False),  # the height grows
    ],
)
def test_the_height_goes_first_where_it_shrinks_twice_as_much(height, width, first):
    tall = frames(height, width)
    shrunk = shrink_tall(tall, 24, 24, BICUBIC)
    assert shrunk.shape == ((2, 24, width, 3) if first else tall.shape)


def test_the_second_pass_is_the_other_axis_alone():
    tall = frames(60, 20)
    shrunk = shrink_tall(tall, 24, 24, BICUBIC)
    for before, after in zip(tall, shrunk, strict=True):
        columns = Image.fromarray(before).resize((20, 24), BICUBIC)
        rows_first = Image.fromarray(before).resize((24, 60), BICUBIC).resize((24, 24), BICUBIC)
        both = np.asarray(Image.fromarray(after).resize((24, 24), BICUBIC))
        assert (both == np.asarray(columns.resize((24, 24), BICUBIC))).all()
        assert (both != np.asarray(rows_first)).any()  # so the order shows
