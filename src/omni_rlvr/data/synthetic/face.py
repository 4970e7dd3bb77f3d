"""Draw the animated face of a clip: action units from onset to apex, in one of two drawing styles.

A face is a dozen shapes whose positions move with brow, eye, mouth and nose units. ``cartoon`` is
the style the base model has seen; ``sketch`` (another head shape, other proportions, ink on paper)
makes the out-of-distribution set. Identity, skin, light, position and noise vary from clip to clip;
nothing here knows about emotions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 96
"""Height and width of a frame in pixels."""
_SCALE = 2  # drawn at twice the size and averaged down, which smooths the edges

# The seven units at apex, in face units: (inner brow, outer brow), (eye opening),
# (corner lift, jaw drop, mouth width), (nose wrinkle).
_BROWS = {
    "level": (0.0, 0.0),
    "raised": (0.075, 0.07),
    "lowered": (-0.065, -0.01),
    "slanted": (0.06, -0.045),
}
_EYES = {"open": 0.0, "wide": 0.034, "narrowed": -0.034, "drooping": -0.022}
_MOUTH = {
    "relaxed": (0.0, 0.0, 0.0),
    "smiling": (0.075, 0.012, 0.05),
    "downturned": (-0.065, 0.0, -0.01),
    "gaping": (-0.01, 0.11, -0.035),
}
_NOSE = {"smooth": 0.0, "wrinkled": 1.0}

_SKINS = (
    (255, 224, 196),
    (241, 194, 150),
    (224, 172, 125),
    (198, 142, 100),
    (166, 112, 78),
    (140, 94, 66),
)
_HAIRS = ((30, 24, 20), (70, 44, 26), (120, 80, 40), (190, 150, 80), (150, 60, 30), (140, 140, 145))

_Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Look:
    """Everything of a face that does not carry emotion; lengths in units of the frame's width."""

    style: str
    centre: tuple[float, float]
    size: float
    head: tuple[float, float]
    skin: _Colour
    hair: _Colour
    ground: _Colour
    eye_gap: float
    eye_size: float
    brow_width: float
    mouth_width: float
    resting: np.ndarray
    """[7] offsets of the seven units at rest: a person's own neutral face."""
    light: float
    slope: float
    noise: float


def draw_look(style: str, rng: np.random.Generator) -> Look:
    """Draw an identity and its recording conditions for ``style`` ("cartoon" or "sketch")."""
    sketch = style == "sketch"
    skin = np.array(_SKINS[rng.integers(len(_SKINS))]) + rng.integers(-10, 11, 3)
    if sketch:
        skin = np.full(3, rng.integers(205, 245))
    ground = rng.integers(150, 215, 3) if sketch else rng.integers(60, 220, 3)
    hair = (
        np.full(3, rng.integers(20, 90)) if sketch else np.array(_HAIRS[rng.integers(len(_HAIRS))])
    )
    width = rng.uniform(0.31, 0.36) if sketch else rng.uniform(0.28, 0.34)
    return Look(
        style=style,
        centre=(0.5 + rng.uniform(-0.05, 0.05), 0.52 + rng.uniform(-0.04, 0.04)),
        size=rng.uniform(0.9, 1.08),
        head=(width, rng.uniform(0.36, 0.40) if sketch else rng.uniform(0.38, 0.43)),
        skin=_colour(skin),
        hair=_colour(hair),
        ground=_colour(ground),
        eye_gap=rng.uniform(0.125, 0.15) + 0.015 * sketch,
        eye_size=rng.uniform(0.052, 0.062) + 0.008 * sketch,
        brow_width=rng.uniform(0.016, 0.026) - 0.004 * sketch,
        mouth_width=rng.uniform(0.105, 0.13),
        resting=rng.normal(0.0, [0.010, 0.010, 0.005, 0.010, 0.004, 0.008, 0.10]),
        light=rng.uniform(0.72, 1.15),
        slope=rng.uniform(-0.25, 0.25),
        noise=rng.uniform(3.0, 9.0),
    )


def draw_apex(cues: Mapping[str, str], rng: np.random.Generator) -> np.ndarray:
    """Draw the seven units at apex ([7] float64) for cue values, each of random strength."""
    brows, mouth = _BROWS[cues["brows"]], _MOUTH[cues["mouth"]]
    target = [*brows, _EYES[cues["eyes"]], *mouth, _NOSE[cues["nose"]]]
    strength = np.repeat(rng.uniform(0.55, 1.1, 4), (2, 1, 3, 1))
    return np.array(target) * strength


def render(look: Look, apex: np.ndarray, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the clip from onset to apex.

    Args:
        look: who is drawn, and how.
        apex: [7] units at apex, from ``draw_apex``.
        num_frames: F.
        rng: draws the onset, the duration of the rise, sway and pixel noise.

    Returns:
        [F, SIZE, SIZE, 3] uint8 RGB.
    """
    onset, rise = rng.uniform(0.0, 0.2), rng.uniform(0.2, 0.5)
    phase = rng.uniform(0, 2 * np.pi, 2)
    ramp = np.linspace(0.85, 1.15, SIZE)[None, :] ** (look.slope * 4)
    frames = np.empty((num_frames, SIZE, SIZE, 3), np.uint8)
    for i in range(num_frames):
        t = i / max(num_frames - 1, 1)
        x = np.clip((t - onset) / rise, 0.0, 1.0)
        units = look.resting + apex * (x * x * (3 - 2 * x))
        sway = 0.008 * np.sin(2 * np.pi * t + phase)
        drawn = np.asarray(_draw(look, units, sway), np.float32)
        picture = drawn * (look.light * ramp)[..., None]
        picture += rng.standard_normal((SIZE, SIZE, 1), np.float32) * look.noise
        frames[i] = np.clip(picture, 0, 255)
    return frames


def _colour(values: np.ndarray) -> _Colour:
    red, green, blue = (int(v) for v in np.clip(values, 0, 255))
    return red, green, blue


def _draw(look: Look, units: np.ndarray, sway: np.ndarray) -> Image.Image:
    image = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), look.ground)
    x, y = (np.array(look.centre) + sway) * SIZE * _SCALE
    ink = (25, 20, 20) if look.style == "sketch" else (50, 24, 22)
    drawing = _Drawing(ImageDraw.Draw(image), look, units, x, y, SIZE * _SCALE * look.size, ink)
    drawing.head()
    for side in (-1.0, 1.0):
        drawing.eye(side)
    drawing.nose()
    drawing.mouth()
    return image.reduce(_SCALE)


@dataclass(frozen=True)
class _Drawing:
    """A picture of a face in which the parts are drawn one over the other."""

    pen: ImageDraw.ImageDraw
    look: Look
    units: np.ndarray
    """[7] units of this frame."""
    x: float
    """Centre of the face, in pixels."""
    y: float
    k: float
    """Pixels of a face unit."""
    ink: _Colour

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Turn face units into pixels."""
        return self.x + x * self.k, self.y + y * self.k

    def head(self) -> None:
        pen, look, at, k = self.pen, self.look, self.at, self.k
        w, h = look.head
        if look.style == "sketch":
            corners, width = [at(-w, -h), at(w, h)], int(0.014 * k)
            pen.rounded_rectangle(corners, 0.12 * k, look.skin, self.ink, width)
            for x in np.linspace(-w, w, 9):  # strokes of hair
                pen.line([at(x, -h), at(0.8 * x, -h - 0.07)], fill=look.hair, width=width)
            return
        pen.ellipse([at(-w - 0.03, -h - 0.05), at(w + 0.03, h * 0.4)], fill=look.hair)
        pen.ellipse([at(-w, -h), at(w, h)], fill=look.skin)
        pen.chord([at(-w, -h - 0.02), at(w, h * 0.35)], 205, 335, fill=look.hair)

    def eye(self, side: float) -> None:
        pen, look, at = self.pen, self.look, self.at
        inner, outer, opening = self.units[:3]
        x, y = side * look.eye_gap, -0.06
        half_w, half_h = look.eye_size, max(0.006, 0.038 + opening)
        white = look.skin if look.style == "sketch" else (250, 250, 250)
        corners = [at(x - half_w, y - half_h), at(x + half_w, y + half_h)]
        pen.ellipse(corners, fill=white, outline=self.ink, width=2)
        iris = min(0.024, half_h)
        pen.ellipse([at(x - iris, y - iris), at(x + iris, y + iris)], fill=(20, 20, 30))
        brow_y = -0.165
        points = [
            at(x - side * 0.065, brow_y - inner),
            at(x, brow_y - 0.012 - (inner + outer) / 2),
            at(x + side * 0.065, brow_y - outer),
        ]
        hair, width = _colour(np.array(look.hair) * 0.35), int(look.brow_width * self.k * 1.3)
        pen.line(points, fill=hair, width=width, joint="curve")

    def nose(self) -> None:
        pen, at, ink = self.pen, self.at, self.ink
        wrinkle = float(np.clip(self.units[6], 0.0, 1.2))
        bridge = [at(0.0, -0.02), at(-0.03, 0.085), at(0.015, 0.09)]
        pen.line(bridge, fill=ink, width=int(0.012 * self.k))
        if wrinkle > 0.15:
            width = max(1, int(0.016 * self.k * wrinkle))
            for y in (-0.085, -0.055, -0.025):
                pen.line([at(-0.03, y), at(0.0, y + 0.012), at(0.03, y)], fill=ink, width=width)
            for side in (-1.0, 1.0):
                pen.line([at(side * 0.05, 0.06), at(side * 0.095, 0.13)], fill=ink, width=width)

    def mouth(self) -> None:
        pen, at = self.pen, self.at
        lift, jaw, wide = self.units[3], max(0.0, self.units[4]), self.units[5]
        half = self.look.mouth_width + wide
        x = np.linspace(-1, 1, 15)
        y = 0.215 + lift * (0.5 - x * x)
        top = [at(half * a, b - 0.25 * jaw * (1 - a * a)) for a, b in zip(x, y, strict=True)]
        low = [at(half * a, b + 1.0 * jaw * (1 - a * a) + 0.012) for a, b in zip(x, y, strict=True)]
        inside = (40, 10, 15) if jaw > 0.015 else self.ink
        lip = self.ink if self.look.style == "sketch" else (125, 30, 40)
        pen.polygon(top + low[::-1], fill=inside)
        for edge in (top, low):
            pen.line(edge, fill=lip, width=int(0.02 * self.k))
