"""Puts cue values into words: captions for the base model to learn, reasoning for cold start.

A caption says what is seen and heard and no more. A reasoning target names the same cues inside
``<think>`` and the label inside ``<answer>``.
"""

from __future__ import annotations

from collections.abc import Mapping

from omni_rlvr.data.synthetic.cues import VISUAL, VOCAL

CAPTION_QUESTION = "Describe the face and the voice."
"""What the base model is asked."""
EMOTION_QUESTION = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the "
    "characters is the most obvious to you?"
)
"""R1-Omni's question (its README)."""


NOUNS: Mapping[str, str] = {
    "brows": "brows",
    "eyes": "eyes",
    "mouth": "mouth",
    "nose": "nose",
    "pitch": "pitch",
    "melody": "intonation",
    "energy": "volume",
    "rate": "pace",
    "tremor": "tone",
}
"""The word for each cue; a phrase is value + noun, as in "raised brows"."""


def phrase(cue: str, value: str) -> str:
    """Names one cue value, e.g. ``raised brows`` or ``trembling tone``."""
    return f"{value} {NOUNS[cue]}"


def face_sentence(cues: Mapping[str, str]) -> str:
    """Says what is seen, in the fixed order of ``VISUAL``."""
    return f"The face shows {', '.join(phrase(cue, cues[cue]) for cue in VISUAL)}."


def voice_sentence(cues: Mapping[str, str]) -> str:
    """Says what is heard, in the fixed order of ``VOCAL``."""
    return f"The voice has {', '.join(phrase(cue, cues[cue]) for cue in VOCAL)}."


def caption(cues: Mapping[str, str], *, seen: bool, heard: bool) -> str:
    """Describes the modalities that are there."""
    sentences = [face_sentence(cues)] if seen else []
    return " ".join([*sentences, voice_sentence(cues)] if heard else sentences)


def reasoning(cues: Mapping[str, str], label: str) -> str:
    """Writes the cold-start target: think block with the cues, then the label in the answer tag."""
    return f"<think>{caption(cues, seen=True, heard=True)}</think>\n<answer>{label}</answer>"
