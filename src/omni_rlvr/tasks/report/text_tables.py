"""Lay out tables for a terminal or Markdown: what trains, scores of models and of modalities.

The same cells go to a terminal (rich, at most 80 columns) and to Markdown. ``summary.summarise``
makes the summaries, in percent and points. Nothing is computed here but shares of counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from omni_rlvr.models.adapters.trainable import Count
from omni_rlvr.tasks.report.baseline import Resolution
from omni_rlvr.tasks.report.cells import markdown

SPLITS = {"ood": "OOD"}
"""Split -> the name that is shown, if that differs."""

ORACLE = "oracle *"
ORACLE_NOTE = "* given the true cue values, not the clip"
ABSENT = "-"
PARTS = {
    "recognition": "recognition",
    "unparseable": "fewer unparseable",
    "outside": "fewer outside the list",
    "another_label": "fewer another label",
    "won": "right though not chosen",
}
"""The five differences that a gain consists of."""

_NAMES = {
    "sft_labels": "SFT labels",
    "rlvr": "RLVR",
    "video_audio": "video + audio",
}


def display_name(key: str) -> str:
    """Turn a key into the name that is shown: ``rlvr`` -> ``RLVR``; ``key=value`` stays."""
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
    """Lay out cells of text for a terminal."""
    return _rich(header, rows, rule_before=None)


def _scored_without_reasoning(models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Name the models whose labels were chosen after the prompt, with the share of their clips."""
    shares = {
        name: max(found.get("chosen_after_prompt", 0.0) for found in splits.values())
        for name, splits in models.items()
    }
    said = [f"{display_name(name)} {share:.1f} %" for name, share in shares.items() if share]
    return f" (at most {', '.join(said)} of the clips)." if said else "."


def split_name(split: str) -> str:
    """Turn the key of a split into the name that is shown."""
    return SPLITS.get(split, split)


def _tables(summary: Mapping[str, Any], gap: str) -> list[tuple[list[str], list[list[str]]]]:
    """Make header and rows of each table: models by split, differences, modalities."""
    models = summary["models"]
    chosen = f"WAR, chosen{gap}from the list [95%]"
    columns = {
        "WAR [95%]": lambda scores: _interval(scores, "war"),
        chosen: lambda scores: _interval(scores, "chosen_war"),
        "UAR": lambda scores: _percent(scores.get("uar")),
        f"weighted{gap}F1": lambda scores: _percent(scores.get("weighted_f1")),
        "format": lambda scores: _percent(scores.get("format")),
    }
    tables = []
    for split in dict.fromkeys(split for splits in models.values() for split in splits):
        scores = [splits.get(split, {}) for splits in models.values()]
        cells = {title: [cell(one) for one in scores] for title, cell in columns.items()}
        shown = {title: column for title, column in cells.items() if set(column) != {ABSENT}}
        lines = [list(row) for row in zip(map(display_name, models), *shown.values(), strict=True)]
        if oracle := summary.get("oracle", {}).get(split):
            lines.append([ORACLE, _percent(oracle["war"]), *[ABSENT] * (len(shown) - 1)])
        tables.append(([f"on {split_name(split)}", *shown], lines))
    if differences := summary.get("differences"):
        found = {
            f"{display_name(name)}, {split_name(split)}": gaps
            for name, splits in differences.items()
            for split, gaps in splits.items()
        }
        head, gaps = [f"{display_name(summary['gain']['to'])} minus", "WAR [95%]"], found.values()
        lines = [[name, _gap(one, "war")] for name, one in found.items()]
        if any("chosen_war" in one for one in gaps):
            head.append(chosen)
            lines = [[*line, _gap(o, "chosen_war")] for line, o in zip(lines, gaps, strict=True)]
        tables.append((head, lines))
    if summary.get("modality"):
        modalities = summary["modality"].items()
        rows = [[display_name(name), _interval(scores, "war")] for name, scores in modalities]
        tables.append((["modality", "WAR"], rows))
    return tables


def _notes(summary: Mapping[str, Any]) -> list[str]:
    scores = [found for splits in summary["models"].values() for found in splits.values()]
    notes = ["WAR: accuracy of the generated answers. UAR: mean recall over classes. In percent."]
    if any("chosen_war" in found for found in scores):
        notes.append(
            "Chosen from the list: accuracy of the label that is most likely behind the model's "
            "own reasoning; after the prompt, where a reply has no answer in tags"
            + _scored_without_reasoning(summary["models"])
        )
    if any("war_std" in found for found in scores):
        notes.append("±: sample standard deviation over the runs of a row.")
    if unshared := summary.get("unshared"):
        counts = ", ".join(f"{n} of {split_name(split)}" for split, n in unshared.items())
        notes.append(
            f"Some models lack an answer to clips that others have ({counts}); two models are "
            "compared on the clips that both answered."
        )
    if summary.get("oracle"):
        notes.append(ORACLE_NOTE)
    if gain := summary.get("gain"):
        names = (gain["from"], gain["to"])
        notes += [
            gain_sentence(names, split, parts, summary["differences"][gain["from"]][split])
            for split, parts in gain["parts"].items()
        ]
    for split, found in summary.get("resolution", {}).items():
        notes.append(resolution_text(split, Resolution(**found)))
    if summary.get("seconds"):
        steps = [f"{display_name(k)} {_clock(s)}" for k, s in summary["seconds"].items()]
        notes.append("time: " + ", ".join(steps))
    return notes


def gain_sentence(
    names: tuple[str, str],
    split: str,
    parts: Mapping[str, float],
    found: Mapping[str, Mapping[str, float]],
) -> str:
    """Say what a model gains over another on a split: by recognition, and by vocabulary.

    Args:
        names: The first model, and the one that gains.
        split: Where both were evaluated.
        parts: From ``gain.gain_parts``.
        found: From ``gain.differences``.
    """
    first, second = map(display_name, names)
    text = f"On {split_name(split)}, {second} changes WAR of {first} by {_gap(found, 'war')} points"
    if "recognition" not in parts:
        return f"{text}."
    points = {name: 100 * parts[name] / parts["num_clips"] for name in PARTS}
    return (
        f"{text}, and WAR, chosen from the list, by {_gap(found, 'chosen_war')}: the latter is "
        f"recognition, the other {vocabulary_text(points)}."
    )


def vocabulary_text(points: Mapping[str, float]) -> str:
    """Say how many points of a gain are not recognition, and how they are made up."""
    others = {words: points[name] for name, words in PARTS.items() if name != "recognition"}
    said = [f"{words} {share:+.1f}" for words, share in others.items() if abs(share) >= 0.05]
    details = f" ({', '.join(said)})" if said else ""
    return f"{sum(others.values()):+.1f} points are vocabulary{details}"


def resolution_text(split: str, found: Resolution) -> str:
    """Say which differences between rows of a table may be chance."""
    how = f"{found.num_clips} clips, "
    how += f"{found.num_seeds} seeds" if found.num_seeds > 1 else "one seed: others may differ more"
    if found.left_out:
        how += f"; {found.left_out} rows of other seeds or clips, or of lower WAR, are left out"
    return (
        f"On {split_name(split)}, two rows that differ by less than {found.points:.1f} points of "
        f"WAR may differ by chance (half the widest 95 % interval of such a difference; {how})."
    )


def _interval(scores: Mapping[str, Any], name: str) -> str:
    if (spread := scores.get(f"{name}_std")) is not None:
        return f"{_percent(scores[name])} ± {_percent(spread)}"
    interval = scores.get(f"{name}_ci")
    if interval is None:
        return _percent(scores.get(name))
    return f"{_percent(scores[name])} [{_percent(interval[0])}, {_percent(interval[1])}]"


def _gap(found: Mapping[str, Mapping[str, float]], name: str) -> str:
    if name not in found:
        return ABSENT
    return "{difference:+.1f} [{low:+.1f}, {high:+.1f}]".format(**found[name])


def _percent(value: float | None) -> str:
    return ABSENT if value is None or value != value else f"{value:.1f}"


def _clock(seconds: float) -> str:
    """Format seconds: 42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _rich(header: Sequence[str], rows: Sequence[Sequence[str]], rule_before: str | None) -> Table:
    # Cells are Text, not markup, in which "[95%]" would be a tag. The box separates columns by one
    # blank; with more padding, "100.0 [100.0, 100.0]" would not fit twice into 80 columns.
    table = Table(box=box.SIMPLE, padding=0)
    for i, title in enumerate(header):
        column: dict[str, Any] = {"justify": "right", "no_wrap": True}
        if i == 0:  # names are broken where a line has no room, and never cut
            column = {"justify": "left", "overflow": "fold"}
        table.add_column(Text(title), vertical="bottom", **column)
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
