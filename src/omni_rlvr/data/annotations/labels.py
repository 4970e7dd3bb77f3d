"""Translate a data set's official labels (words, codes or class numbers) to our label words.

The map is in the data set's YAML, in the order of the official classes. Rows whose label maps to
null are left out of the data set, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.text.parse import nfc, normalise_label
from omni_rlvr.types import UserError


@dataclass(frozen=True)
class Labels:
    """The translated labels of many rows."""

    words: pa.Array
    """One string a row; null where the row is left out."""
    left_out: Mapping[str, int]
    """Official label -> rows left out."""


class LabelMap:
    """Official label -> our word.

    If the first label is a whole number, all labels are class numbers in the order of the map. They
    count from ``base``, or else from what the file shows: with K classes, a label K means that they
    count from 1 (a 0 is then a clip without a single label, and left out), and a 0 without a K that
    they count from 0. A file with neither is ambiguous, which is an error.

    Args:
        words: Official word -> our word, or None to leave such rows out; in official order.
        base: The number of the first class, 0 or 1; None to infer it from the file.
    """

    def __init__(self, words: Mapping[str, str | None], base: int | None) -> None:
        self._map = {
            normalise_label(word): None if ours is None else nfc(ours)
            for word, ours in words.items()
        }
        if not self._map or not any(self._map.values()):
            raise UserError(f"dataset.label_maps: {dict(words)} maps no label to a word")
        self._base = base

    @property
    def ours(self) -> list[str]:
        """Our words, each once, in the order of the map."""
        return label_words(self._map)

    def apply(self, column: pa.ChunkedArray, where: Callable[[int], str]) -> Labels:
        """Translate a column of official labels.

        Args:
            column: One label a row, as text.
            where: Says where a row stands, for messages.

        Raises:
            UserError: A label is not in the map, or it is unclear what a number stands for.
        """
        encoded = pc.utf8_trim_whitespace(column).combine_chunks().dictionary_encode()
        official = encoded.dictionary.to_pylist()
        numbers = _is_number(official[0])
        if not numbers and self._base is not None:
            raise UserError(
                f"dataset.label_base={self._base}: the labels are words ({official[0]!r} at "
                f"{where(0)}), not class numbers; leave the option out"
            )
        known = self._numbered(official, where) if numbers else self._map
        for index, label in enumerate(official):
            if normalise_label(label) not in known:
                row = pc.index(encoded.indices, index).as_py()
                raise UserError(
                    f"{where(row)}: unknown label {label!r}; known: {', '.join(known)}; correct "
                    "it, or add it to dataset.label_maps"
                )
        ours = pa.array([known[normalise_label(label)] for label in official], pa.string())
        counts = np.bincount(encoded.indices.to_numpy(), minlength=len(official)).tolist()
        left_out = {
            label: count
            for label, word, count in zip(official, ours.to_pylist(), counts, strict=True)
            if word is None
        }
        return Labels(ours.take(encoded.indices), left_out)

    def _numbered(
        self, official: Sequence[str], where: Callable[[int], str]
    ) -> dict[str, str | None]:
        """Return the map for class numbers, spelled as in the file (``01`` too)."""
        found = {int(label) for label in official if _is_number(label)}
        base = self._base
        if base is None:
            if not found & {0, len(self._map)}:
                raise UserError(
                    f"{where(0)}: class numbers from {min(found)} to {max(found)} may count from 0 "
                    f"or from 1, there being {len(self._map)} classes; set dataset.label_base=0 or "
                    "dataset.label_base=1"
                )
            base = 1 if len(self._map) in found else 0
        classes: dict[int, str | None] = dict(enumerate(self._map.values(), start=base))
        classes = classes if base == 0 else {0: None, **classes}
        spelled = {str(number): word for number, word in classes.items()}
        for label in filter(_is_number, official):
            if int(label) in classes:
                spelled[label] = classes[int(label)]
        return spelled


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit()


def label_words(label_map: Mapping[str, str | None]) -> list[str]:
    """Return the words that a map translates to, each once, in its order."""
    return list(dict.fromkeys(word for word in label_map.values() if word is not None))
