"""Read annotation files in JSON: one class, and a form that says how their rows are laid out.

Everything is validated while reading and nothing is read from the clips: a wrong line is found
before a model is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.formats import FORMS
from omni_rlvr.data.annotations.read import read_json
from omni_rlvr.data.annotations.validate import spellings
from omni_rlvr.media.files import located
from omni_rlvr.types import require

log = logging.getLogger(__name__)


class AnnotationReader:
    """Reads rows that ask one question about a clip and give its answer.

    A row is about at most one video and one sound file, and at least one of them. An ``id`` that is
    left out is the clip's path as written, with ``#2``, ``#3`` added where a clip is annotated
    again; an ``id`` that is given twice is refused.

    Args:
        form: "r1_omni", "ms_swift" or "messages": what keys a row has, see
            ``data/annotations/formats``.
        annotations: A ``.json``, ``.jsonl`` or ``.yaml`` file, see ``sources.parts``; relative to
            the working folder, or to ``root`` where it is not found there.
        root: The folder that clips are relative to; a path cannot leave it (links below it are the
            owner's, and followed).
        labels: The answers that may occur, matched but for case, kept in this spelling; None for
            any.
        seed: Decides what ``random:N`` of a YAML mixture draws.
    """

    def __init__(
        self, form: str, annotations: str, root: str, labels: Sequence[str] | None, seed: int
    ) -> None:
        require(form in FORMS, "form", form, f"one of {', '.join(FORMS)}")
        if labels is not None:
            spellings(labels)
        self._form = FORMS[form]
        self._annotations = Path(annotations)
        self._root = Path(root)
        self._labels = labels
        self._seed = seed

    def read(self) -> ExampleTable:
        """Read and validate every annotation.

        Returns:
            Examples in file order, at least one, with unique ids.

        Raises:
            UserError: Something in the files is not as described; the message begins with the file
                and line.
        """
        return read_json(self._file(), self._form, self._root, self._labels, self._seed)

    def _file(self) -> Path:
        """Return the annotation file: below the working folder, or else below the root."""
        below = self._root / self._annotations
        if located(self._annotations).exists() or not located(below).exists():
            return self._annotations
        log.info(
            "dataset.annotations: %s is not in %s; %s is read", self._annotations, Path.cwd(), below
        )
        return below
