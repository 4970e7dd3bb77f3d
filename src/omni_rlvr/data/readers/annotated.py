"""Read annotation files in JSON; the form says which keys their rows have.

Every row is validated, but no clip is opened: an error in a row is found before a model is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.formats import FORMS
from omni_rlvr.data.annotations.read import read_json
from omni_rlvr.data.annotations.validate import spellings
from omni_rlvr.media.files import located
from omni_rlvr.types import require

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationReader:
    """Reads rows that each ask one question about a clip and give its answer.

    A row names one video, one sound file, or both. Without an ``id``, the id of an example is the
    path of its clip as written, with ``#2``, ``#3`` appended if the clip is annotated several
    times. An ``id`` that is given twice is an error.

    Args:
        form: "r1_omni", "ms_swift" or "messages": the keys of a row, see
            ``data/annotations/formats``.
        annotations: A ``.json``, ``.jsonl`` or ``.yaml`` file, see ``sources``; relative to
            the working folder or, if it is not there, to ``root``.
        root: The folder that the paths of clips are relative to. No path may lead out of it, but
            symbolic links in it are followed wherever they lead.
        labels: The answers that may occur, compared without regard to case and kept in the spelling
            of this list; None for any.
        seed: The seed of ``random:N`` in a YAML mixture.
    """

    form: str
    annotations: str
    root: str
    labels: Sequence[str] | None
    seed: int

    def __post_init__(self) -> None:
        require(self.form in FORMS, "form", self.form, f"one of {', '.join(FORMS)}")
        if self.labels is not None:
            spellings(self.labels)

    def read(self) -> ExampleTable:
        """Read and validate every annotation.

        Returns:
            Examples in file order, at least one, with unique ids.

        Raises:
            UserError: Something in the files is not as described; the message begins with the file
                and line.
        """
        file = annotation_file(self.annotations, self.root)
        return read_json(file, FORMS[self.form], Path(self.root), self.labels, self.seed)


def annotation_file(annotations: str, root: str) -> Path:
    """Find an annotation file below the working folder, or else below the root."""
    named, below = Path(annotations), Path(root, annotations)
    if located(named).exists() or not located(below).exists():
        return named
    log.info("dataset.annotations: %s is not in %s; %s is read", named, Path.cwd(), below)
    return below
