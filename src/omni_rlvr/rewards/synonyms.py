"""Synonyms of labels: spellings that the config maps to a label."""

from __future__ import annotations

from collections.abc import Mapping

from omni_rlvr.text.parse import listed_labels, normalise_label
from omni_rlvr.types import UserError


def canonical(label: str, synonyms: Mapping[str, str]) -> str:
    """Normalise a label and replace a synonym by what it means, once."""
    label = normalise_label(label)
    return synonyms.get(label, label)


def label_set(text: str, synonyms: Mapping[str, str]) -> set[str]:
    """Return the labels of ``happy, sad`` or ``["happy", "sad"]``, each as in ``canonical``."""
    return {canonical(label, synonyms) for label in listed_labels(text)}


def checked_synonyms(synonyms: Mapping[str, str], reward: str) -> dict[str, str]:
    """Normalise both sides of every pair.

    Args:
        synonyms: Spelling -> label.
        reward: Name of the term that uses them, for messages.

    Raises:
        UserError: ``synonyms`` is not a mapping of strings, a spelling has two labels, or a label
            is itself a spelling of another.
    """
    if not isinstance(synonyms, Mapping):
        raise UserError(
            f"{reward} reward, synonyms: {synonyms!r} is not a mapping; write spelling: label "
            "pairs, or {} for none"
        )
    pairs: dict[str, str] = {}
    for spelling, label in synonyms.items():
        if not isinstance(spelling, str) or not isinstance(label, str):
            raise UserError(
                f"{reward} reward, synonyms.{spelling}: {spelling!r}: {label!r} is not a pair of "
                "strings; quote it"
            )
        key, value = normalise_label(spelling), normalise_label(label)
        if key in pairs and pairs[key] != value:
            raise UserError(
                f"{reward} reward, synonyms.{spelling}: maps to {label!r} and to "
                f"{pairs[key]!r}; keep one"
            )
        pairs[key] = value
    for spelling, label in pairs.items():
        if label in pairs and pairs[label] != label:
            raise UserError(
                f"{reward} reward, synonyms.{spelling}: maps to {label!r}, which maps on to "
                f"{pairs[label]!r}; map {spelling!r} to {pairs[label]!r} itself"
            )
    return pairs
