"""Compares a data set with what its release says of itself: counts, and clips that are unusable.

Everything is gathered while the clips are opened, then shown as tables and written to check.json.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from omni_rlvr.assembly.composed import Clips, Composed, Place
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.splits import TOTAL, num_left_out, published_of, read_clips
from omni_rlvr.config.dataset import DatasetConfig, lacks_file
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.config.tasks import CheckTask
from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.dataset import clip_reader
from omni_rlvr.data.readers.synthetic import SyntheticReader
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.pool import in_children
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.models.loading.load import sound_window_s, time_axis
from omni_rlvr.models.policy import TimeAxis
from omni_rlvr.pointers import follow
from omni_rlvr.record import write_json
from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.text.parse import normalise_label
from omni_rlvr.text.progress import progress_bar
from omni_rlvr.types import ClipNote, Example, Interrupted, MediaError, UserError

log = logging.getLogger(__name__)

CAUSES = {"cut_sound": " (model= and model.path= say what model hears them)"}
MAX_LABELS = 40
"""More labels than these are not shown one by one."""
PROBE = "omni_rlvr.tasks.dataset.inspection:hear_clip"
INSPECT = "omni_rlvr.tasks.dataset.inspection:inspect_clip"
"""What a worker's child calls: to open a clip and hear its sound, or to decode all of it."""
_NUM_FRAMES = 8
"""Frames that are sampled as training would, where a clip is decoded; R1-Omni's number."""


@dataclass(frozen=True)
class CheckInputs:
    """All that checking a data set needs."""

    place: Place
    clips: Clips
    task: CheckTask
    window_s: float | None
    """Seconds of sound that the model takes; None for any number."""
    time_axis: TimeAxis | None = None
    """What certifies the time axis of the model's clips; None where positions tell no time."""


def build(composed: Composed) -> CheckInputs:
    """Read the splits: those of the task, or else all that are there."""
    task, dataset = composed.task, composed.dataset
    clips = read_clips(composed, task.splits or _there(dataset))
    model = composed.cfg.model
    options = (make(model.options) if "options" in model else None) or LoadOptions()
    if model.path is not None and not follow(Path(model.path)).exists():
        log.warning(
            "model.path=%s is no folder here: a sound window of 30 s is assumed, and the time axis "
            "is not checked; download the model first",
            model.path,
        )
    certificate = time_axis(model.path, model.base, options) if clips.modality.video else None
    window_s = sound_window_s(model.path, model.base)
    return CheckInputs(composed.place, clips, task, window_s, certificate)


def _there(dataset: DatasetConfig) -> list[str]:
    """Name the splits that have an annotation file, and no clips that are still to be made.

    Raises:
        UserError: All clips would have to be made, which nobody asked for.
    """
    splits = [split for split in dataset.splits if not lacks_file(dataset, split)]
    readers = {split: make(dataset.splits[split]) for split in splits}
    missing = {
        split: reader.num_clips
        for split, reader in readers.items()
        if isinstance(reader, SyntheticReader) and not reader.is_made()
    }
    if not missing:
        return splits
    counts = ", ".join(f"{split} {number:,}" for split, number in missing.items())
    told = (
        f"dataset={dataset.name}: clips that are not made yet are not checked ({counts}); "
        f"task.splits=[{next(reversed(missing))}] makes and checks them"
    )
    if len(missing) == len(splits):
        raise UserError(f"{told}; another data set is chosen by dataset=NAME")
    log.warning(told)
    return [split for split in splits if split not in missing]


@dataclass
class SplitReport:
    """What was found of one split."""

    split: str
    counts: dict[str, int]
    """Our label -> examples, with ``total``."""
    published: dict[str, Any]
    """The same as published: a number, or [least, most]."""
    left_out: dict[str, int]
    bad: list[dict[str, Any]] = field(default_factory=list)
    """id, path, annotation, reason, and whether the release is known for it."""
    without_sound: list[str] = field(default_factory=list)
    without_picture: list[str] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)
    """Clip's id, kind and text of each note on a clip."""
    duration_s: dict[str, float] = field(default_factory=dict)
    """min, median and max over the clips that open."""
    time_axis: dict[str, Any] | None = None
    """id, apart_s and step_s of the clip whose picture and sound of one position are furthest
    apart; None without a model that tells the time, or without clips that have both."""


@dataclass(frozen=True)
class Finding:
    """What is known of a clip after opening it."""

    index: int
    has_picture: bool
    has_sound: bool
    duration_s: float
    reason: str | None
    """Why it cannot be used, or None."""
    notes: tuple[ClipNote, ...] = ()
    """How what a model is shown differs from the file."""
    frame_times_s: np.ndarray | None = None
    """When the frames are shown that training would sample; None without a picture."""


def probe_clips(
    examples: Sequence[Example],
    clips: Clips,
    function: str,
    *,
    window_s: float | None,
    sampling: Sampling | None = None,
) -> Generator[Finding, None, None]:
    """Open the clips of examples, several at a time, each worker in a child process of its own.

    A clip is bad if it lacks the picture, or the sound where pictures are not used.

    Args:
        examples: The examples whose clips are opened.
        clips: The options for reading clips.
        function: What a child process calls: ``PROBE`` or ``INSPECT``.
        window_s: The most seconds of sound that a model takes; None for any number.
        sampling: Which frames a model is shown; None for eight.

    Returns:
        One finding for each example, in any order. Closing it (Ctrl-C does) stops the workers.
    """
    used, sampling = clips.modality, sampling or Sampling.count(_NUM_FRAMES)
    request = ClipRequest(sampling, 16_000, used.video, used.audio, window_s=window_s)
    yield from in_children(
        len(examples),
        lambda index, reader: _open(examples[index], index, reader, request),
        make_reader=lambda: clip_reader(clips.dataset, function),
        num_workers=max(1, min(clips.dataset.num_workers, len(examples))),
    )


def _open(example: Example, index: int, reader: ClipReader, request: ClipRequest) -> Finding:
    try:
        clip = reader.read(example.video, example.audio, request)
    except MediaError as error:
        return Finding(index, False, False, 0.0, str(error))
    has_video, has_audio = clip.frames is not None, clip.waveform is not None
    reason = None
    if not ((request.want_video and has_video) or (request.want_audio and has_audio)):
        wanted = "sound" if request.want_audio else "picture"
        reason = f"{example.video or example.audio} has no {wanted}, the only modality in use"
    times_s, notes = clip.frame_times_s, clip.notes
    return Finding(index, has_video, has_audio, clip.duration_s, reason, notes, times_s)


def _check_split(split: str, parts: CheckInputs, on_clip: Callable[[int], None]) -> SplitReport:
    """Open or decode the clips of a split as reading would, and report what was found.

    Args:
        split: The split.
        parts: The clips, and how they are checked.
        on_clip: Called with 1 after each clip, for a progress bar.
    """
    examples = parts.clips.examples[split]
    function = INSPECT if parts.task.decode == "all" else PROBE
    findings = []
    probing = probe_clips(
        examples,
        parts.clips,
        function,
        window_s=parts.window_s,
        sampling=None if parts.time_axis is None else parts.time_axis.sampling,
    )
    try:
        for finding in probing:
            findings.append(finding)
            on_clip(1)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped while checking {split}, after {len(findings)} of {len(examples)} clips"
        ) from None
    finally:
        probing.close()
    report = gather(split, parts.clips, findings)
    if parts.time_axis is not None and parts.clips.modality.audio:
        report.time_axis = worst_time_axis(examples, findings, parts.time_axis)
    return report


def worst_time_axis(
    examples: Sequence[Example], findings: Iterable[Finding], axis: TimeAxis
) -> dict[str, Any] | None:
    """Find the clip whose picture and sound are furthest apart; None if no clip has both."""
    worst: dict[str, Any] | None = None
    for finding in findings:
        if finding.has_sound and finding.frame_times_s is not None:
            error_s, step_s = axis.time_axis_error_s(finding.frame_times_s)
            if worst is None or error_s > worst["apart_s"]:
                name = examples[finding.index].id
                worst = {"id": name, "apart_s": round(error_s, 4), "step_s": round(step_s, 4)}
    return worst


def conclude(reports: Sequence[SplitReport], parts: CheckInputs) -> None:
    """Print the reports and write check.json.

    Raises:
        UserError: Clips are bad and ``dataset.on_bad_media`` is "raise".
    """
    dataset, task, file = parts.clips.dataset, parts.task, parts.place.run_dir / "check.json"
    write_json(file, {report.split: vars(report) for report in reports})
    tables = report_tables(reports, dataset.published_source, task.max_listed)
    absent = untrained_labels(reports, dataset)
    Console().print(Group(tables, *(Text(f" {line}") for line in absent)))
    num_bad = sum(len(report.bad) for report in reports)
    if num_bad and dataset.on_bad_media == "raise":
        num_clips = sum(report.counts[TOTAL] for report in reports)
        raise UserError(
            f"{num_bad} of {num_clips} clips are bad, all in {file}; mend them, "
            "or dataset.on_bad_media=skip leaves them out"
        )
    partly = " (all sound, one frame each; task.decode=all decodes clips whole)"
    print(f"checked: {file}{'' if task.decode == 'all' else partly}")


def gather(split: str, clips: Clips, findings: Iterable[Finding]) -> SplitReport:
    """Gather the report of a split from its findings, one for each example, in any order."""
    examples, published = clips.examples[split], published_of(split, clips.dataset)
    counts = _counts(examples)
    counts |= {label: 0 for label in published if label not in counts}
    report = SplitReport(split, counts, dict(published), num_left_out(examples))
    durations = []
    for finding in sorted(findings, key=lambda finding: finding.index):
        opens = finding.has_picture or finding.has_sound
        if opens:
            durations.append(finding.duration_s)
        has_both = finding.has_picture and finding.has_sound
        if has_both and finding.reason is None and not finding.notes:
            continue  # most clips: no Example is made
        example = examples[finding.index]
        if finding.reason is not None:
            row = {"id": example.id, "path": str(example.video or example.audio)}
            row |= {"annotation": example.source, "reason": finding.reason}
            report.bad.append({**row, "known": example.id in clips.dataset.known_bad})
        report.notes += [{"id": example.id, **vars(note)} for note in finding.notes]
        if opens and not finding.has_sound:
            report.without_sound.append(example.id)
        if opens and not finding.has_picture:
            report.without_picture.append(example.id)
    if durations:
        spread = {"min": min(durations), "median": median(durations), "max": max(durations)}
        report.duration_s = {name: round(seconds, 2) for name, seconds in spread.items()}
    return report


def report_tables(reports: Sequence[SplitReport], source: str, max_listed: int) -> Group:
    """Lay the reports out for a terminal: counts, clips, then the first bad clips.

    Args:
        reports: One a split.
        source: Where the published numbers stand.
        max_listed: Most bad clips to show a split.
    """
    head: list[Any] = [_count_table(reports)]
    if source and any(report.published for report in reports):
        head.append(Text(f" published: {source}", style="dim"))
    lines = []
    for report in reports:
        split, bad, notes = report.split, report.bad, report.notes
        lines += [f"{split}: {num} rows left out, {why}" for why, num in report.left_out.items()]
        for clip in bad[:max_listed]:
            known = " (known of this release)" if clip["known"] else ""
            lines.append(f"bad {split} {clip['id']}{known}: {clip['reason']}")
        if len(bad) > max_listed:
            lines.append(f"... and {len(bad) - max_listed} more in {split}")
        for kind, number in Counter(note["kind"] for note in notes).items():
            lines.append(f"{split}: clips with {kind}: {number}{CAUSES.get(kind, '')}")
        lines += [f"{n['kind']} {split} {n['id']}: {n['text']}" for n in notes[:max_listed]]
        if (worst := report.time_axis) is not None:
            verdict = "" if worst["apart_s"] < worst["step_s"] else "; that is wrong"
            lines.append(
                f"{split}: time axis: picture and sound of one position are at most "
                f"{worst['apart_s']:.2f} s apart ({worst['id']}, whose picture has a step of "
                f"{worst['step_s']:.2f} s{verdict})"
            )
        if len(notes) > max_listed:
            lines.append(f"... and {len(notes) - max_listed} more in {split}, all in check.json")
    return Group(*head, _clip_table(reports), *(Text(f" {line}") for line in lines))


def untrained_labels(reports: Sequence[SplitReport], dataset: DatasetConfig) -> list[str]:
    """Say which labels of the list no training example has, and which other splits have them."""
    train = next((report for report in reports if report.split == dataset.train_split), None)
    if train is None:
        return []
    trained = {normalise_label(label) for label, number in train.counts.items() if number}
    absent = {normalise_label(label): label for label in dataset.labels}
    absent = {word: label for word, label in absent.items() if word not in trained}
    if not absent:
        return []
    lines = [f"{train.split}: no example has these of dataset.labels: {_listed(absent.values())}"]
    for report in reports:
        found = {absent.get(normalise_label(word)): n for word, n in report.counts.items() if n}
        clips = [f"{label} ({number:,})" for label, number in found.items() if label is not None]
        if clips:
            lines.append(f"{report.split}: clips of labels that {train.split} lacks: ")
            lines[-1] += _listed(clips)
    return lines


def _listed(texts: Collection[str]) -> str:
    more = f", and {len(texts) - MAX_LABELS} more" if len(texts) > MAX_LABELS else ""
    return f"{', '.join(list(texts)[:MAX_LABELS])}{more}"


def _count_table(reports: Sequence[SplitReport]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1))
    compared = ("published", "") if any(report.published for report in reports) else ()
    for name in ("split", "label", "clips", *compared):
        table.add_column(name, justify="right" if name in ("clips", "published") else "left")
    for report in reports:
        shown = dict(list(report.counts.items())[:MAX_LABELS])
        if len(report.counts) > len(shown):
            shown = {TOTAL: report.counts[TOTAL]}  # open vocabulary: check.json has them all
        for place, (label, count) in enumerate(shown.items()):
            wanted = report.published.get(label)
            verdict = "" if wanted is None else "ok" if _fits(count, wanted) else "differs"
            cells = ["" if place else report.split, label, f"{count:,}"]
            cells += [_number(wanted), verdict] if compared else []
            table.add_row(*map(Text, cells), end_section=place + 1 == len(shown))
    return table


def _clip_table(reports: Sequence[SplitReport]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1))
    for name in ("split", "bad clips", "without sound", "without picture", "seconds"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for report in reports:
        lengths = " / ".join(f"{s:.1f}" for s in report.duration_s.values()) or "-"
        numbers = (len(report.bad), len(report.without_sound), len(report.without_picture))
        table.add_row(report.split, *(f"{n:,}" for n in numbers), lengths)
    table.columns[-1].header = "seconds (min / median / max)"
    return table


def _counts(examples: Sequence[Example]) -> dict[str, int]:
    if isinstance(examples, ExampleTable):
        counted = pc.value_counts(examples.columns["answer"].cast("string")).to_pylist()
        counts = {row["values"]: row["counts"] for row in counted}
    else:
        counts = dict(Counter(example.answer for example in examples))
    return {TOTAL: len(examples), **dict(sorted(counts.items(), key=lambda item: -item[1]))}


def _fits(count: int, wanted: Any) -> bool:
    return wanted[0] <= count <= wanted[1] if isinstance(wanted, list) else count == wanted


def _number(wanted: Any) -> str:
    if wanted is None:
        return ""
    return " to ".join(f"{n:,}" for n in wanted) if isinstance(wanted, list) else f"{wanted:,}"


def run(parts: CheckInputs) -> None:
    """Check the splits and write check.json; bad clips are an error unless they are skipped."""
    reports, clips = [], parts.clips
    with recorded(parts.place, device="cpu"):
        for split, examples in clips.examples.items():
            with progress_bar(f"checking {split}", len(examples)) as advance:
                reports.append(_check_split(split, parts, advance))
        conclude(reports, parts)
