"""Write a report: gather runs, make tables, test, draw, and put all of it on one page.

The page is one HTML file that needs nothing beside it: style, script and pictures are inside. It
consists of sections, and a section of blocks of HTML. A click on the head of a column sorts its
table.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd
from markupsafe import Markup
from rich.console import Console

from omni_rlvr.assembly.compare import completed
from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.config.tasks import ReportTask
from omni_rlvr.folders import whole_files
from omni_rlvr.record import SCORES
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.tasks.report import baseline as paired_tests
from omni_rlvr.tasks.report import columns, figures, frames
from omni_rlvr.tasks.report.columns import MODEL, SEED, Row, differing
from omni_rlvr.tasks.report.drawing import model_colours, spared
from omni_rlvr.tasks.report.gain import differences, gain_parts
from omni_rlvr.tasks.report.gather import Complete, RunData, check_labels, gather, runs_below
from omni_rlvr.tasks.report.plots import MAX_NAME
from omni_rlvr.tasks.report.text_tables import (
    gain_sentence,
    plain_table,
    resolution_text,
    summary_table,
)
from omni_rlvr.text.templates import macros, templates
from omni_rlvr.types import UserError, require

Settings = Mapping[str, Sequence[RunData]]
"""Name of a setting -> its runs, which are one line, bar or panel of a figure."""

BASELINE = re.compile(r"[\w.]+:[\w.-]+", re.ASCII)
"""A baseline that can be typed without quotes."""
BLOCKS = Path(__file__).with_name("blocks.html")
"""Makes the blocks of the page, and escapes every text in them."""
TABLES = {
    "settings": (
        "Settings",
        "Percent, mean ± sample standard deviation over the runs of a setting; of a single run, "
        "its 95 % interval over clips.",
    ),
    "comparisons": (
        "Settings against the baseline",
        "WAR difference in points, run by run on the same clips, averaged over runs; 95 % interval "
        "by resampling clips. Seeds are averaged, not resampled: it speaks of these models.",
    ),
    "comparisons_runs": (
        "Runs against the baseline",
        "WAR difference in points with its 95 % paired bootstrap interval; p is McNemar's exact "
        "test, p Holm the same after correction for the number of rows.",
    ),
    "runs": ("Runs", "One row a run; the columns are the keys of the config that differ."),
}
"""Tables in the order of the page: title and small print."""


@dataclass(frozen=True)
class ReportInputs:
    """All that a report needs."""

    place: Place
    task: ReportTask
    runs: Sequence[str]
    """Folders or globs."""
    html: bool
    """Whether to write the page of what each modality did instead."""


def build(composed: Composed) -> ReportInputs:
    """Take the runs that are named; they are looked for when the report runs."""
    config = composed.place.config
    runs = named_runs(config["runs"])
    return ReportInputs(composed.place, composed.task, runs, bool(config["html"]))


def named_runs(runs: Any) -> list[str]:
    """List what is gathered: a list as it is; a text split at its commas, unless it is a folder.

    Raises:
        UserError: No runs are named.
    """
    if isinstance(runs, list):
        return [str(place) for place in runs]
    require(runs is not None, "runs", runs, "task=report needs runs=FOLDER, a glob, or '[a,b]'")
    text = str(runs)
    return [text] if Path(text).exists() else [part for part in text.split(",") if part]


def write_all(
    folder: Path,
    places: Sequence[str],
    complete: Complete,
    task: ReportTask,
) -> list[Path]:
    """Print the table of settings; write all tables, figures and ``report.html``.

    Args:
        folder: where they go; it exists.
        places: runs, folders of runs, or globs of either.
        complete: makes configs of earlier versions comparable.
        task: The options of the report.

    Returns:
        The files that a reader opens first.

    Raises:
        UserError: nothing to gather, different label lists or test sets, or no such baseline.
    """
    baseline, num_resamples = task.baseline, task.num_resamples
    runs = columns.in_order(gather(places, complete))
    if not task.allow_different_labels:
        check_labels(runs)
    keys, values = differing(runs)
    pairs = paired_tests.pair_with_baseline(runs, keys, values, baseline) if baseline else []
    counted = columns.settings_of(runs)
    own_keys, own_values = differing(counted)
    frame = frames.runs_table(counted, own_keys, own_values)
    tables = {
        "settings": frames.settings_table(frame, own_keys),
        "runs": frames.runs_table(runs, keys, values),
    }
    if pairs:
        paired = paired_tests.paired_splits(pairs)
        shared = [key for key in own_keys if key in keys]
        tables["comparisons"] = paired_tests.compare_settings(
            paired, shared, num_resamples=num_resamples
        )
        tables["comparisons_runs"] = paired_tests.compare_runs(paired, num_resamples=num_resamples)
    settings = _by_setting(counted, own_keys, own_values)
    notes = {
        "settings": _resolutions(settings),
        "runs": _resolutions_of_runs(runs),
        "comparisons_runs": [text for pair in pairs for text in _gains(pair)],
    }
    sections: dict[str, list[Markup]] = {}
    for name, (title, text) in TABLES.items():
        if name in tables:
            below = notes.get(name, [])
            frames.write_table(tables[name], folder / name, below)
            title = f"{title} {baseline}" if name.startswith("comparisons") else title
            small_print = [note(line) for line in (text, *below)]
            sections[title] = [table(*frames.printed(tables[name])), *small_print]
    shown = _shown(settings, {pair.baseline.name for pair in pairs}, task.max_groups)
    trained = {run.name: [run] for run in runs if run.finished and run not in counted}
    models = {id(run): row.get(MODEL) for run, row in zip(counted, own_values, strict=True)}
    colours = _colours(shown, trained, models)
    draw = Drawing(folder / "figures")
    draw("Learning curves", "curves.png", figures.curves, {**shown, **trained}, colours)
    for split in frames.splits_of(counted):
        draw("Scores", f"scores_{split}.png", figures.score_dots, settings, split, colours)
        for file, heat in figures.heat_tables(frame, own_keys, split).items():
            draw("Scores", file, figures.heat_map, heat, split)
        draw("Recall per class", f"recall_{split}.png", figures.recalls, shown, split, colours)
        draw("Confusion", f"confusion_{split}.png", figures.confusions, shown, split)
    left_out = len(settings) - len(shown)
    for title, blocks in draw.sections.items():
        if blocks and left_out and title != "Scores":
            blocks.append(note(f"{left_out} settings are left out here: task.max_groups."))
    intro = f"{len(runs)} runs, {len(tables['settings'])} settings. {_provenance(runs)}"
    if pairs:
        tested = {run.name for pair in pairs for run in (pair.run, pair.baseline)}
        alone = [run.name for run in runs if run.finished and run.name not in tested]
        if alone:
            intro += f" Without a run of the baseline to test against: {', '.join(alone)}."
    page = folder / "report.html"
    write_page(page, "Runs side by side", intro, {**sections, **draw.sections})
    show(settings, tables["settings"], notes["settings"])
    if pairs:
        Console().print(f"WAR against {baseline}", markup=False, highlight=False)
        Console().print(plain_table(*frames.printed(tables["comparisons"])))
    return [page, *(folder / f"{name}.csv" for name in tables)]


def _by_setting(runs: Sequence[RunData], keys: Sequence[str], values: Sequence[Row]) -> Settings:
    """Group runs by the name of their setting."""
    by = [key for key in keys if key != SEED]
    settings: dict[str, list[RunData]] = {}
    names = columns.setting_names(values, by, limit=MAX_NAME)
    for run, name in zip(runs, names, strict=True):
        settings.setdefault(name, []).append(run)
    return settings


def _resolutions(settings: Settings) -> list[str]:
    """Say for each split how far apart settings must be."""
    runs = [run for own in settings.values() for run in own]
    return _limits(
        {
            split: {
                name: {run.record["seed"]: run.correct(split) for run in own if split in run.scores}
                for name, own in settings.items()
            }
            for split in frames.splits_of(runs)
        }
    )


def _resolutions_of_runs(runs: Sequence[RunData]) -> list[str]:
    """Say the same of single runs, whatever their seeds."""
    done = [run for run in runs if run.finished]
    return _limits(
        {
            split: {run.name: {0: run.correct(split)} for run in done if split in run.scores}
            for split in frames.splits_of(done)
        }
    )


def _limits(splits: Mapping[str, Mapping[str, Mapping[int, Mapping[str, bool]]]]) -> list[str]:
    found = {split: paired_tests.resolution(rows) for split, rows in splits.items()}
    return [resolution_text(split, limit) for split, limit in found.items() if limit is not None]


def _gains(pair: paired_tests.Pair) -> list[str]:
    """Say for each split what a run gains over its baseline, if both scored labels."""
    names, said = (pair.baseline.name, pair.run.name), []
    for split in pair.run.scores:
        rows = [run.answers(split) for run in (pair.baseline, pair.run)]
        if all(row and "outcome" in row[0] for row in rows):
            said.append(gain_sentence(names, split, gain_parts(*rows), differences(*rows)))
    return said


def write_page(path: Path, title: str, intro: str, sections: Mapping[str, list[Markup]]) -> None:
    """Write a page of sections, title -> blocks; sections without blocks are left out."""
    kept = {name: blocks for name, blocks in sections.items() if blocks}
    page = templates(BLOCKS.parent).get_template("page.html")
    path.write_text(page.render(title=title, intro=intro, sections=kept), encoding="utf-8")


def note(text: str) -> Markup:
    """Make small print."""
    return Markup(macros(BLOCKS).note(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Make a table that can be sorted; columns of words are aligned on the left."""
    columns = zip(*rows, strict=True)
    words = [any(cell[:1].isalpha() for cell in column) for column in columns]
    return Markup(macros(BLOCKS).table(header, rows, words or [False] * len(header)))


def picture(path: Path, caption: str) -> Markup:
    """Put a PNG into the page, with its caption."""
    return Markup(macros(BLOCKS).picture(base64.b64encode(path.read_bytes()).decode(), caption))


class Drawing:
    """Draw figures into a folder and put them, with their captions, into sections of a page."""

    def __init__(self, folder: Path) -> None:
        """Start with the sections in the order of the page, all empty."""
        self.folder = folder
        self.sections: dict[str, list[Markup]] = {
            title: [] for title in ("Scores", "Learning curves", "Recall per class", "Confusion")
        }

    def __call__(
        self, section: str, file: str, figure: Callable[..., str | None], *shown: Any
    ) -> None:
        """Draw one figure of what is shown; the function returns its caption, or None."""
        path = self.folder / file
        with spared(path):
            if caption := figure(*shown, path):
                self.sections[section].append(picture(path, caption))


def _colours(shown: Settings, trained: Settings, models: Mapping[int, Any]) -> dict[str, Any]:
    """Colour the settings; a run that trained a setting's model has that setting's colour."""
    of_model = {models[id(run)]: name for name, runs in shown.items() for run in reversed(runs)}
    owner = {name: of_model.get(run.folder.name) for name, (run,) in trained.items()}
    colours = model_colours([*shown, *(name for name in trained if owner[name] is None)])
    return colours | {name: colours[of] for name, of in owner.items() if of is not None}


def _shown(settings: Settings, bases: set[str], most: int) -> Settings:
    """Keep the baseline's settings and the best by WAR on the first split."""

    def rank(name: str) -> tuple[bool, float]:
        scores = [next(iter(run.scores.values()))["war"] for run in settings[name] if run.scores]
        is_base = any(run.name in bases for run in settings[name])
        return not is_base, -sum(scores) / len(scores) if scores else 1.0

    kept = sorted(settings, key=rank)[:most]
    return {name: settings[name] for name in settings if name in kept}


def _provenance(runs: Sequence[RunData]) -> str:
    """Name the code and the unfinished runs behind the numbers."""
    commits = sorted({str(run.record["commit"]) for run in runs})
    text = f"Code: {', '.join(commits)}."
    unfinished = [run.name for run in runs if not run.finished]
    if unfinished:
        text += f" Not finished, and in no mean: {', '.join(unfinished)}."
    return text


def show(settings: Settings, frame: pd.DataFrame, notes: Sequence[str]) -> None:
    """Print the scores of settings; where no run was evaluated, the end of their training.

    Args:
        settings: The runs.
        frame: Their table, from ``frames.settings_table``.
        notes: What is printed below.
    """
    models = {}
    for name, runs in settings.items():
        done = [run for run in runs if run.finished]
        scores = {s: [r.scores[s] for r in done if s in r.scores] for s in frames.splits_of(done)}
        if len(settings) == len(done) == 1:  # nothing differs that it could be named by
            name = done[0].record["config"]["name"]
        elif len(done) > 1:
            name = f"{name} ({len(done)} runs)"
        models[name] = {split: _mean(found) for split, found in scores.items()}
    evaluated = any(models.values())
    told = summary_table({"models": models}) if evaluated else plain_table(*frames.printed(frame))
    Console().print(told)
    Console().print(*notes, sep="\n", markup=False, highlight=False)


def _mean(scores: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Average the scores of runs, with their standard deviation; those of one run stay."""
    if len(scores) == 1:
        return scores[0]
    out = {}
    for name in (*SCORES, "chosen_after_prompt"):
        values = [one[name] for one in scores if one.get(name) is not None]
        if values:
            out[name] = mean(values)
            out |= {f"{name}_std": stdev(values)} if len(values) > 1 else {}
    return out


@dataclass(frozen=True)
class SweepTable:
    """What the table of a sweep says that the next commands are made of."""

    best: Path | None
    """The folder of the run with the highest WAR on its first split; None without scores."""
    baseline: str
    """``task.baseline`` for the setting of the first run; empty if there is none to test."""
    seeds: Sequence[int]
    """Those of the runs."""


def write_sweep_table(home: Path, folders: Sequence[Path], complete: Complete) -> SweepTable | None:
    """Put runs into one table: sweep.* with a row a setting, sweep_runs.* with a row a run.

    Runs that neither train nor are evaluated have no row; there is no table if none has one.

    Raises:
        UserError: their scores are over different label lists.
    """
    places = [str(folder) for folder in folders if next(runs_below(folder), None) is not None]
    if not places:
        return None
    runs = columns.in_order(gather(places, complete))
    check_labels(runs)
    alone = _resolutions_of_runs(runs)
    frames.write_table(frames.runs_table(runs, *differing(runs)), home / "sweep_runs", alone)
    counted = columns.settings_of(runs)
    keys, values = differing(counted)
    settings = frames.settings_table(frames.runs_table(counted, keys, values), keys)
    by_name = _by_setting(counted, keys, values)
    notes = _resolutions(by_name)
    files = frames.write_table(settings, home / "sweep", notes)
    show(by_name, settings, notes)
    print(f"table: {files[2]}")
    scored = [run for run in counted if run.scores]
    best = max(scored, key=lambda run: next(iter(run.scores.values()))["war"], default=None)
    return SweepTable(
        None if best is None else best.folder,
        _first_setting(counted, keys, values) if scored else "",
        sorted({run.record["seed"] for run in runs}),
    )


def _first_setting(runs: Sequence[RunData], keys: Sequence[str], values: Sequence[Row]) -> str:
    """Write the setting of the first run as a baseline; empty if nothing can be tested with it."""
    for key in keys:
        baseline = f"{key}:{values[0][key]}"
        if key != SEED and BASELINE.fullmatch(baseline):
            with contextlib.suppress(UserError):
                paired_tests.pair_with_baseline(runs, keys, values, baseline)
                return baseline
    return ""


def run(parts: ReportInputs) -> None:
    """Gather runs and write tables, figures and one HTML page into the run's folder."""
    place, task = parts.place, parts.task
    with recorded(place, device="cpu"), whole_files(place.run_dir) as folder:
        if parts.html:
            from omni_rlvr.tasks.attribute.page.clip_page import write_clip_page

            made = [folder / "modalities.html"]
            write_clip_page(made[0], parts.runs)
        else:
            made = write_all(folder, parts.runs, completed, task)
        files = [place.run_dir / file.relative_to(folder) for file in made]
    move_latest(place)
    print("written:", *(str(file) for file in files), sep="\n  ")
