"""Writes a report: gathers, tabulates, compares, draws, and puts all of it on one page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from omni_rlvr.assembly.compare import completed
from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.config.tasks import ReportTask
from omni_rlvr.folders import whole_files
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.tasks.report import figures, html
from omni_rlvr.tasks.report.baseline import (
    Pair,
    compare_runs,
    compare_settings,
    pair_with_baseline,
    paired_splits,
)
from omni_rlvr.tasks.report.columns import (
    MODEL,
    SEED,
    Row,
    differing,
    in_order,
    setting_names,
    settings_of,
)
from omni_rlvr.tasks.report.drawing import model_colours, spared
from omni_rlvr.tasks.report.frames import (
    printed,
    runs_table,
    settings_table,
    splits_of,
    write_table,
)
from omni_rlvr.tasks.report.gather import Complete, RunData, check_labels, gather
from omni_rlvr.tasks.report.plots import MAX_NAME


@dataclass(frozen=True)
class ReportInputs:
    """All that a report needs."""

    place: Place
    task: ReportTask
    runs: Sequence[str]
    """Folders or globs."""
    html: bool
    """Whether it is the page of what each modality did."""


def build(composed: Composed) -> ReportInputs:
    """Take the runs that are named; they are looked for when the report runs."""
    config = composed.place.config
    runs = named_runs(config["runs"])
    return ReportInputs(composed.place, composed.task, runs, bool(config["html"]))


def named_runs(runs: Any) -> list[str]:
    """List what is gathered: a list as it is; a text split at its commas, unless it is a folder."""
    if isinstance(runs, list):
        return [str(place) for place in runs]
    text = str(runs)
    return [text] if Path(text).exists() else [part for part in text.split(",") if part]


def write_all(
    folder: Path,
    places: Sequence[str],
    complete: Complete,
    *,
    baseline: str,
    allow_different_labels: bool,
    num_resamples: int,
    max_groups: int,
) -> list[Path]:
    """Writes tables, figures and ``report.html``; returns the files a reader starts from.

    Args:
        folder: where they go; it exists.
        places: runs, folders of runs, or globs of either.
        complete: makes configs of earlier versions comparable.
        baseline: a run's name or COLUMN:VALUE; empty for no tests.
        allow_different_labels: whether scores over different label lists may stand side by side.
        num_resamples: of the bootstrap intervals.
        max_groups: most settings in a figure with a panel or colour a setting.

    Raises:
        UserError: nothing to gather, different label lists or test sets, or no such baseline.
    """
    runs = in_order(gather(places, complete))
    if not allow_different_labels:
        check_labels(runs)
    keys, values = differing(runs)
    pairs = pair_with_baseline(runs, keys, values, baseline) if baseline else []
    counted = settings_of(runs)
    own_keys, own_values = differing(counted)
    frame = runs_table(counted, own_keys, own_values)
    tables = {
        "settings": settings_table(frame, own_keys),
        "runs": runs_table(runs, keys, values),
    }
    if pairs:
        paired = paired_splits(pairs)
        shared = [key for key in own_keys if key in keys]
        tables["comparisons"] = compare_settings(paired, shared, num_resamples=num_resamples)
        tables["comparisons_runs"] = compare_runs(paired, num_resamples=num_resamples)
    for name, content in tables.items():
        write_table(content, folder / name)
    settings = _settings(counted, own_keys, own_values)
    shown, left_out = _shown(settings, pairs, max_groups)
    trained = {run.name: [run] for run in runs if run.finished and run not in counted}
    models = {id(run): row.get(MODEL) for run, row in zip(counted, own_values, strict=True)}
    colours = _colours(shown, trained, models)
    groups = Groups(settings, shown, {**shown, **trained}, colours)
    pictures = _pictures(folder / "figures", frame, own_keys, groups)
    sections = [*_table_sections(tables, baseline), *_figure_sections(pictures, left_out)]
    intro = f"{len(runs)} runs, {len(tables['settings'])} settings. {_provenance(runs)}"
    if pairs:
        tested = {run.name for pair in pairs for run in (pair.run, pair.baseline)}
        alone = [run.name for run in runs if run.finished and run.name not in tested]
        if alone:
            intro += f" Without a run of the baseline to test against: {', '.join(alone)}."
    html.write_page(folder / "report.html", "Runs side by side", intro, sections)
    return [folder / "report.html", *(folder / f"{name}.csv" for name in tables)]


def _settings(
    runs: Sequence[RunData], keys: Sequence[str], values: Sequence[Row]
) -> dict[str, list[RunData]]:
    by = [key for key in keys if key != SEED]
    names = setting_names(values, by, limit=MAX_NAME)
    out: dict[str, list[RunData]] = {}
    for run, name in zip(runs, names, strict=True):
        out.setdefault(name, []).append(run)
    return out


@dataclass(frozen=True)
class Groups:
    """What figures show: name -> runs that are one line, bar or panel."""

    every: Mapping[str, list[RunData]]
    """All settings."""
    shown: Mapping[str, list[RunData]]
    """The settings that every figure can hold."""
    trained: Mapping[str, list[RunData]]
    """These, and the runs that trained what the others evaluate."""
    colours: Mapping[str, Any]


def _colours(
    shown: Mapping[str, list[RunData]],
    trained: Mapping[str, list[RunData]],
    models: Mapping[int, Any],
) -> dict[str, Any]:
    """Colour the settings; a run that trained a setting's model has that setting's colour."""
    of_model = {models[id(run)]: name for name, runs in shown.items() for run in reversed(runs)}
    owner = {name: of_model.get(run.folder.name) for name, (run,) in trained.items()}
    colours = model_colours([*shown, *(name for name in trained if owner[name] is None)])
    return colours | {name: colours[of] for name, of in owner.items() if of is not None}


def _shown(
    settings: Mapping[str, list[RunData]], pairs: Sequence[Pair], most: int
) -> tuple[dict[str, list[RunData]], int]:
    """Keeps the baseline's settings and the best by WAR on the first split; counts the rest."""
    bases = {pair.baseline.name for pair in pairs}

    def rank(item: tuple[str, list[RunData]]) -> tuple[bool, float]:
        scores = [next(iter(run.scores.values()))["war"] for run in item[1] if run.scores]
        is_base = any(run.name in bases for run in item[1])
        return not is_base, -sum(scores) / len(scores) if scores else 1.0

    kept = dict(sorted(settings.items(), key=rank)[:most])
    return {name: settings[name] for name in settings if name in kept}, len(settings) - len(kept)


def _pictures(
    folder: Path,
    frame: pd.DataFrame,
    keys: Sequence[str],
    groups: Groups,
) -> dict[str, list[figures.Picture]]:
    """Draw everything that the runs have something to show for."""
    every, shown, colours = groups.every, groups.shown, groups.colours
    out: dict[str, list[figures.Picture]] = {"Scores": [], "Learning curves": []}
    out |= {"Recall per class": [], "Confusion": []}

    def draw(section: str, file: str, make: Callable[[Path], figures.Picture | None]) -> None:
        with spared(folder / file):
            picture = make(folder / file)
            out[section] += [picture] if picture else []

    draw("Learning curves", "curves.png", lambda p: figures.curves(groups.trained, p, colours))
    for split in splits_of([run for runs in every.values() for run in runs]):
        draw(
            "Scores",
            f"scores_{split}.png",
            partial(figures.score_dots, every, split, colours=colours),
        )
        out["Scores"] += figures.heat_maps(frame, keys, split, folder)
        draw(
            "Recall per class",
            f"recall_{split}.png",
            partial(figures.recalls, shown, split, colours=colours),
        )
        draw("Confusion", f"confusion_{split}.png", partial(figures.confusions, shown, split))
    return out


TABLES = {
    "settings": (
        "Settings",
        "Percent, mean ± sample standard deviation over the runs of a setting.",
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


def _table_sections(tables: Mapping[str, pd.DataFrame], baseline: str) -> list[html.Section]:
    out = []
    for name, (title, text) in TABLES.items():
        if name in tables:
            title = f"{title} {baseline}" if name.startswith("comparisons") else title
            out.append(html.Section(title, [html.table(*printed(tables[name])), html.note(text)]))
    return out


def _figure_sections(
    pictures: Mapping[str, list[figures.Picture]], left_out: int
) -> list[html.Section]:
    out = []
    for title, content in pictures.items():
        blocks = [html.picture(item.path, item.caption) for item in content]
        if blocks and left_out and title != "Scores":
            blocks.append(html.note(f"{left_out} settings are left out here: task.max_groups."))
        out.append(html.Section(title, blocks))
    return out


def _provenance(runs: Sequence[RunData]) -> str:
    """Says what code and how many unfinished runs are behind the numbers."""
    commits = sorted({str(run.record["commit"]) for run in runs})
    text = f"Code: {', '.join(commits)}."
    unfinished = [run.name for run in runs if not run.finished]
    if unfinished:
        text += f" Not finished, and in no mean: {', '.join(unfinished)}."
    return text


def run(parts: ReportInputs) -> None:
    """Gathers runs and writes tables, figures and one HTML page into the run's folder."""
    place = parts.place
    with recorded(place, device="cpu") as record:
        with whole_files(place.run_dir) as folder:
            made = _page(parts, folder) if parts.html else _tables(parts, folder)
            files = [place.run_dir / file.relative_to(folder) for file in made]
        record.finish("finished")
    move_latest(place)
    print("written:", *(str(file) for file in files), sep="\n  ")


def _page(parts: ReportInputs, folder: Path) -> list[Path]:
    from omni_rlvr.tasks.attribute.page.clip_page import write_clip_page

    path = folder / "modalities.html"
    write_clip_page(path, parts.runs)
    return [path]


def _tables(parts: ReportInputs, folder: Path) -> list[Path]:
    task = parts.task
    return write_all(
        folder,
        parts.runs,
        completed,
        baseline=task.baseline,
        allow_different_labels=task.allow_different_labels,
        num_resamples=task.num_resamples,
        max_groups=task.max_groups,
    )
