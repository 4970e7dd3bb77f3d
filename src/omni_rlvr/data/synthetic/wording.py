"""Put cue values into words: captions for the base model to learn, reasoning for cold start.

A caption describes the cues only. A reasoning target describes the same cues inside ``<think>`` and
gives the label, or a word near it, inside ``<answer>``.
"""

from __future__ import annotations

from collections.abc import Mapping

from omni_rlvr.data.synthetic.emotions import CUES, VISUAL, VOCAL

CAPTION_QUESTIONS: Mapping[tuple[bool, bool], str] = {
    (True, False): "Describe the face.",
    (False, True): "Describe the voice.",
    (True, True): "Describe the face and the voice.",
}
"""(describe the face, describe the voice) -> the question that the base model is trained on."""

NOUNS: Mapping[str, str] = {
    **{cue: cue for cue in CUES},
    **{"melody": "intonation", "energy": "volume", "rate": "pace", "tremor": "tone"},
}
"""The word for each cue; a phrase is value + noun, as in "raised brows"."""

SHADES: Mapping[str, tuple[str, str]] = {
    "happy": ("loud", "cheerful"),
    "sad": ("soft", "sorrowful"),
    "neutral": ("moderate", "calm"),
    "angry": ("loud", "annoyed"),
    "surprise": ("loud", "startled"),
    "disgust": ("soft", "displeased"),
    "fear": ("loud", "anxious"),
}
"""Emotion -> (its usual volume, the word that replaces its label at any other volume)."""


def phrase(cue: str, value: str) -> str:
    """Name one cue value, e.g. ``raised brows`` or ``trembling tone``."""
    return f"{value} {NOUNS[cue]}"


def sentences(cues: Mapping[str, str]) -> str:
    """Describe the given visual cues, then the vocal ones, in the order of ``CUES``."""
    seen = [phrase(cue, cues[cue]) for cue in VISUAL if cue in cues]
    heard = [phrase(cue, cues[cue]) for cue in VOCAL if cue in cues]
    parts = [f"The face shows {', '.join(seen)}."] if seen else []
    return " ".join([*parts, f"The voice has {', '.join(heard)}."] if heard else parts)


def caption(cues: Mapping[str, str], *, seen: bool, heard: bool) -> str:
    """Describe all cues of the modalities that are asked for."""
    asked = {**(VISUAL if seen else {}), **(VOCAL if heard else {})}
    return sentences({cue: value for cue, value in cues.items() if cue in asked})


def free_word(cues: Mapping[str, str], label: str) -> str:
    """Pick the word of an annotator who may use words outside the label list, as in EMER.

    A voice louder or softer than usual for the emotion gets a word of a slightly different
    meaning. RLVR then has something to learn: only the words of the label list are rewarded.
    """
    usual, shade = SHADES[label]
    return label if cues.get("energy", usual) == usual else shade


def reasoning(cues: Mapping[str, str], label: str) -> str:
    """Write a cold-start target: the cues in the think block, the annotator's word as answer."""
    return f"<think>{sentences(cues)}</think>\n<answer>{free_word(cues, label)}</answer>"
