"""Lay out tables for a terminal or Markdown: what trains, scores of models and of modalities.

The same cells go to a terminal (rich, at most 80 columns) and to Markdown. A summary holds percent
already: ``models`` {name: {test|ood: {war, uar, format, war_ci}}}, and where known ``oracle``
{test|ood: {war}}, ``modality`` {video|audio|video_audio: {war}} and ``seconds`` {step: s}. Nothing
is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from omni_rlvr.models.adapters.trainable import Count
from omni_rlvr.tasks.report.cells import markdown

SPLITS = {"test": "test", "ood": "OOD"}
"""The splits of a summary, in the order they are shown."""

ORACLE = "oracle *"
ORACLE_NOTE = "* given the true cue values, not the clip"
ABSENT = "-"

_NAMES = {
    "sft_labels": "SFT labels",
    "rlvr": "RLVR",
    "video_audio": "video + audio",
}


def display_name(key: str) -> str:
    """Turn a name into the words a reader sees: ``rlvr`` -> ``RLVR``; ``key=value`` stays."""
    return key if "=" in key else _NAMES.get(key, key.replace("_", " "))


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Lay out a summary for a terminal of 80 columns.

    Args:
        summary: Scores in percent; see the head of this file.

    Returns:
        A grid of the table of models, then (where known) that of modalities, then the notes.
    """
    grid = Table.grid()
    grid.add_column()
    for header, rows in _tables(summary, gap="\n"):
        grid.add_row(_rich(header, rows, rule_before=ORACLE))
    for note in _notes(summary):
        grid.add_row(Text(f" {note}", style="dim"))
    return grid


def summary_markdown(summary: Mapping[str, Any]) -> str:
    """Write a summary as Markdown, the same cells as ``summary_table``.

    Args:
        summary: Scores in percent; see the head of this file.

    Returns:
        Pipe tables and notes, blocks parted by an empty line, with a newline at the end.
    """
    blocks = [markdown(*table) for table in _tables(summary, gap=" ")]
    return "\n\n".join([*blocks, *_notes(summary)]) + "\n"


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Lay out cells that are texts already for a terminal."""
    return _rich(header, rows, rule_before=None)


def _tables(summary: Mapping[str, Any], gap: str) -> list[tuple[list[str], list[list[str]]]]:
    """Give header and rows of the table of models and, where known, of that of modalities."""
    columns = [
        f"{s}{gap}{name}" for s in SPLITS.values() for name in ("WAR [95%]", "UAR", "format")
    ]
    models = dict(summary["models"])
    if summary.get("oracle"):
        models[ORACLE] = summary["oracle"]
    rows = []
    for name, splits in models.items():
        cells = [display_name(name)]
        for scores in (splits.get(split, {}) for split in SPLITS):
            cells += [_war(scores), _percent(scores.get("uar")), _percent(scores.get("format"))]
        rows.append(cells)
    tables = [(["model", *columns], rows)]
    if summary.get("modality"):
        modalities = summary["modality"].items()
        rows = [[display_name(name), _war(scores)] for name, scores in modalities]
        tables.append((["modality", "WAR"], rows))
    return tables


def _notes(summary: Mapping[str, Any]) -> list[str]:
    notes = ["WAR: accuracy. UAR: mean recall over classes. All in percent."]
    if summary.get("oracle"):
        notes.append(ORACLE_NOTE)
    if summary.get("seconds"):
        steps = [f"{display_name(k)} {_clock(s)}" for k, s in summary["seconds"].items()]
        notes.append("time: " + ", ".join(steps))
    return notes


def _war(scores: Mapping[str, Any]) -> str:
    interval = scores.get("war_ci")
    if interval is None:
        return _percent(scores.get("war"))
    return f"{_percent(scores['war'])} [{_percent(interval[0])}, {_percent(interval[1])}]"


def _percent(value: float | None) -> str:
    return ABSENT if value is None or value != value else f"{value:.1f}"


def _clock(seconds: float) -> str:
    """Format seconds as a person reads them at a glance: 42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _rich(header: Sequence[str], rows: Sequence[Sequence[str]], rule_before: str | None) -> Table:
    # Cells are Text, not markup: "[95%]" is no tag. The box separates columns by one blank; with
    # more padding, "100.0 [100.0, 100.0]" would not fit twice into 80 columns.
    table = Table(box=box.SIMPLE, padding=0)
    for i, title in enumerate(header):
        table.add_column(
            Text(title), justify="right" if i else "left", no_wrap=True, vertical="bottom"
        )
    for i, row in enumerate(rows):
        last_before_rule = i + 1 < len(rows) and rows[i + 1][0] == rule_before
        table.add_row(*(Text(cell) for cell in row), end_section=last_before_rule)
    return table


def trainable_table(counts: Sequence[Count]) -> Table:
    """Lay out which weights train for a terminal: one row a part."""
    table = Table("part", box=box.SIMPLE_HEAD)
    table.add_column("weights", justify="right")
    table.add_column("trained", justify="right")
    for one in counts:
        table.add_row(one.part, f"{one.num_weights:,}", f"{one.num_trained:,}")
    table.add_section()
    total = sum(one.num_weights for one in counts)
    trained = sum(one.num_trained for one in counts)
    table.add_row("all", f"{total:,}", f"{trained:,} ({trained / total:.2%})")
    return table
