"""The generative model of the synthetic data set (which cues emotions show) and its exact oracle.

A clip has a value for each of nine cues, drawn independently given its label. Four cues are visible
(action units of the face, after FACS prototypes) and five are audible (after Scherer's vocal
profiles). Some pairs of emotions look alike and differ in sound (fear and surprise, anger and
disgust, sadness and neutral), others sound alike and differ in looks (joy and surprise, anger and
fear, sadness and disgust), so that neither modality is enough. ``face`` and ``voice`` render cues.

Reference: Ekman and Friesen, Facial Action Coding System (1978); Scherer, "Vocal communication of
emotion" (2003).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LABELS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
"""The seven DFEW emotions, in the order of its label ids 1..7."""

VISUAL: Mapping[str, tuple[str, ...]] = {
    "brows": ("level", "raised", "lowered", "slanted"),
    "eyes": ("open", "wide", "narrowed", "drooping"),
    "mouth": ("relaxed", "smiling", "downturned", "gaping"),
    "nose": ("smooth", "wrinkled"),
}
VOCAL: Mapping[str, tuple[str, ...]] = {
    "pitch": ("middle", "high", "low"),
    "melody": ("flat", "lively"),
    "energy": ("moderate", "loud", "soft"),
    "rate": ("even", "fast", "slow"),
    "tremor": ("steady", "trembling"),
}
CUES: Mapping[str, tuple[str, ...]] = {**VISUAL, **VOCAL}

SPREAD = 0.04
"""Share of each distribution that is spread evenly over all values, as people vary."""

# P(value | emotion) in percent: a tuple for each cue, its values in the order of CUES.
_SEEN = {
    "happy": ((62, 32, 3, 3), (50, 8, 38, 4), (8, 84, 2, 6), (92, 8)),
    "surprise": ((8, 86, 2, 4), (10, 86, 2, 2), (12, 6, 3, 79), (96, 4)),
    "fear": ((6, 78, 2, 14), (8, 88, 2, 2), (14, 2, 12, 72), (93, 7)),
    "angry": ((9, 3, 85, 3), (12, 5, 81, 2), (24, 2, 66, 8), (66, 34)),
    "disgust": ((14, 2, 81, 3), (13, 2, 79, 6), (18, 2, 72, 8), (36, 64)),
    "sad": ((30, 2, 4, 64), (26, 2, 8, 64), (40, 2, 56, 2), (95, 5)),
    "neutral": ((64, 4, 4, 28), (62, 3, 5, 30), (70, 6, 22, 2), (97, 3)),
}
_HEARD = {
    "happy": ((18, 78, 4), (10, 90), (30, 66, 4), (28, 68, 4), (95, 5)),
    "surprise": ((14, 83, 3), (7, 93), (34, 61, 5), (38, 57, 5), (90, 10)),
    "fear": ((13, 84, 3), (86, 14), (28, 60, 12), (9, 88, 3), (22, 78)),
    "angry": ((26, 70, 4), (76, 24), (8, 90, 2), (12, 86, 2), (66, 34)),
    "disgust": ((22, 4, 74), (84, 16), (34, 10, 56), (16, 4, 80), (90, 10)),
    "sad": ((17, 6, 77), (90, 10), (16, 2, 82), (13, 2, 85), (66, 34)),
    "neutral": ((84, 6, 10), (56, 44), (84, 6, 10), (86, 6, 8), (97, 3)),
}


def cue_probabilities(cue: str) -> np.ndarray:
    """Return P(value | label) of one cue: [labels, values] float64, rows in ``LABELS`` order."""
    place = list(CUES).index(cue)
    table = np.array([(*_SEEN[label], *_HEARD[label])[place] for label in LABELS]) / 100.0
    return (1 - SPREAD) * table + SPREAD / table.shape[1]


def draw_cues(label: str, rng: np.random.Generator) -> dict[str, str]:
    """Draw a value for every cue given the label, independently."""
    row = LABELS.index(label)
    return {
        cue: str(rng.choice(values, p=cue_probabilities(cue)[row])) for cue, values in CUES.items()
    }


def posterior(cues: Mapping[str, str]) -> np.ndarray:
    """Compute the oracle's P(label | cues) for balanced labels from true cue values.

    P(y | c) ~ prod_k P(c_k | y). Leaving a cue out of ``cues`` marginalises over it.

    Args:
        cues: cue name -> value; any subset of ``CUES``.

    Returns:
        [labels] float64, sums to one, in the order of ``LABELS``.
    """
    log_p = np.zeros(len(LABELS))
    for cue, value in cues.items():
        log_p += np.log(cue_probabilities(cue)[:, CUES[cue].index(value)])
    p = np.exp(log_p - log_p.max())
    return p / p.sum()


def oracle_label(cues: Mapping[str, str]) -> str:
    """Return the most probable label given true cue values: the best that any classifier can do."""
    return LABELS[int(posterior(cues).argmax())]
