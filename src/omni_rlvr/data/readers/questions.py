"""Question records as Video-R1 writes them: a question about a clip, its type and its solution.

``{problem, problem_type, options, solution: "<answer>B</answer>", path or video, data_type}``:
the layout of Video-R1-260k, IntentTrain, IntentBench, AVQA-R1 and of HumanOmniV2's records of
Daily-Omni and WorldSense. ``process``, the reasoning, may stand before the solution. Each row is
validated, and nothing is read from the clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.read import Record, read_json
from omni_rlvr.data.annotations.rows import Row
from omni_rlvr.data.readers.annotated import annotation_file
from omni_rlvr.text.parse import parse
from omni_rlvr.text.questions import (
    ABSOLUTE,
    CHOICE,
    KIND,
    KINDS,
    NUM_OPTIONS,
    NUMBER,
    RELATIVE,
    SEVERAL,
    TEXT,
    YES_NO,
    read_answer,
)
from omni_rlvr.types import UserError

KIND_OF = {
    "multiple choice": CHOICE,
    "emer_ov_mc": SEVERAL,
    "judge": YES_NO,
    "numerical": NUMBER,
    "regression": NUMBER,
    "free-form": TEXT,
    "OCR": TEXT,
}
"""``problem_type`` -> kind of question."""


class QuestionReader:
    """Reads question records.

    Args:
        annotations: A ``.json``, ``.jsonl`` or ``.yaml`` file, see ``sources``; relative to
            the working folder or, if it is not there, to ``root``.
        root: The folder that the paths of clips are relative to.
        ask: Kind of question -> the instruction appended to its questions on a new line.
        abs_tolerance: The largest absolute error at which a number is correct, in its unit.
        rel_tolerance: ``problem_type`` -> the largest error as a share of the gold number.
        seed: The seed of ``random:N`` in a YAML mixture.

    Raises:
        UserError: ``ask`` or ``rel_tolerance`` has an unknown key.
    """

    def __init__(
        self,
        *,
        annotations: str,
        root: str,
        ask: Mapping[str, str],
        abs_tolerance: float,
        rel_tolerance: Mapping[str, float],
        seed: int,
    ) -> None:
        for key, given, known in (
            ("ask", ask, KINDS), ("rel_tolerance", rel_tolerance, KIND_OF)
        ):  # fmt: skip
            if odd := sorted({*given} - {*known}):
                raise UserError(
                    f"dataset.layout.{key}.{odd[0]}: unknown key; known: {', '.join(known)}"
                )
        self._annotations, self._root, self._seed = annotations, root, seed
        self._ask, self._absolute, self._relative = ask, abs_tolerance, rel_tolerance

    def read(self) -> ExampleTable:
        """Read and validate every record.

        Returns:
            Examples in file order; ``cues`` say what kind of question each asks.

        Raises:
            UserError: A row is invalid; the message begins with the file and line.
        """
        file = annotation_file(self._annotations, self._root)
        return read_json(file, self._record, Path(self._root), None, self._seed)

    def _record(self, row: Row) -> Record:
        value = row.value
        problem, named = (_text(row, key) for key in ("problem", "problem_type"))
        if named not in KIND_OF:
            raise UserError(
                f"{row.source}: problem_type is {named!r}, not one of {', '.join(KIND_OF)}"
            )
        kind = KIND_OF[named]
        options = value.get("options") or []
        if not isinstance(options, list) or not all(isinstance(text, str) for text in options):
            raise UserError(f"{row.source}: options is {options!r}, not a list of strings")
        if kind in (CHOICE, SEVERAL) and not 2 <= len(options) <= 26:
            raise UserError(
                f"{row.source}: a question of type {named!r} has {len(options)} options; it needs "
                "2 to 26"
            )
        cues = {KIND: kind}
        if kind in (CHOICE, SEVERAL):
            cues[NUM_OPTIONS] = str(len(options))
        if kind == NUMBER:
            cues[ABSOLUTE] = str(self._absolute)
            cues[RELATIVE] = str(self._relative.get(named, 0.0))
        solution = _text(row, "solution")
        parsed = parse(solution)
        answer = parsed.answer if parsed.bare is None else parsed.bare
        if answer is None or read_answer(answer, cues) is None:
            raise UserError(
                f"{row.source}: the solution {solution!r} is no answer to a question of type "
                f"{named!r}{f' with {len(options)} options' if options else ''}"
            )
        process = value.get("process")
        target = f"{process}\n{solution}" if isinstance(process, str) and process else solution
        lines = [problem.strip()]
        lines += ["Options:", *options] if options else []
        lines += [self._ask[kind]] if self._ask.get(kind) else []
        video, audio = _media(row)
        return Record("\n".join(lines), target, video, audio, None, cues)


def _text(row: Row, key: str) -> str:
    text: Any = row.value.get(key)
    if isinstance(text, int | float) and not isinstance(text, bool) and key == "solution":
        text = str(text)
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{row.source}: {key} is {text!r}, not a string with text")
    return text


def _media(row: Row) -> tuple[str | None, str | None]:
    """Return the row's video and sound file; ``path`` is one of them, as ``data_type`` says."""
    paths: dict[str, str | None] = {}
    for key in ("video", "audio", "path"):
        path = row.value.get(key)
        if path is not None and (not isinstance(path, str) or not path.strip()):
            raise UserError(f"{row.source}: {key} is {path!r}, not the path of a clip")
        paths[key] = None if path is None else path.removeprefix("./")
    kind = row.value.get("data_type", "video")
    if kind not in ("video", "audio"):
        raise UserError(
            f"{row.source}: data_type is {kind!r}; only rows about video or audio can be read; "
            "remove this one"
        )
    if paths["path"] is not None and paths[kind] is None:
        paths[kind] = paths["path"]
    return paths["video"], paths["audio"]
