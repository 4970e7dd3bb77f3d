"""A data set held against what its release says of itself: counts, and clips that cannot be used.

Everything is gathered while the clips are opened, then shown as tables and written to check.json.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.compute as pc
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from omni_rlvr.assembly.composed import Clips, Composed, Place
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.splits import TOTAL, num_left_out, published_of, read_clips
from omni_rlvr.config.dataset import DatasetConfig, ModalityConfig, lacks_file
from omni_rlvr.config.tasks import CheckTask
from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.readers.synthetic import SyntheticReader
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.models.loading.load import sound_window_s
from omni_rlvr.record import write_json
from omni_rlvr.tasks.dataset.open_clips import INSPECT, PROBE, Finding, probe_clips
from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.training.progress import progress_bar
from omni_rlvr.types import Example, Interrupted, UserError

log = logging.getLogger(__name__)

CAUSES = {"cut_sound": " (model= and model.path= say what model hears them)"}
MAX_LABELS = 40
"""More labels than these are not shown one by one."""


@dataclass(frozen=True)
class CheckInputs:
    """All that checking a data set needs."""

    place: Place
    clips: Clips
    task: CheckTask
    window_s: float
    """Seconds of sound that the model takes."""


def build(composed: Composed) -> CheckInputs:
    """Read the splits: those of the task, or else all that are there."""
    task, dataset = composed.task, composed.dataset
    clips = read_clips(composed, task.splits or _there(dataset))
    window_s = sound_window_s(composed.place.config["model"]["path"])
    return CheckInputs(composed.place, clips, task, window_s)


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

    @property
    def differs(self) -> list[str]:
        """Labels whose count is not what was published."""
        return [k for k, wanted in self.published.items() if not _fits(self.counts[k], wanted)]


def check_split(
    split: str,
    examples: Sequence[Example],
    dataset: DatasetConfig,
    modality: ModalityConfig,
    decode: str,
    window_s: float,
    on_clip: Callable[[], object],
) -> SplitReport:
    """Open or decode a split's clips as reading would and report.

    Args:
        split: Its name.
        examples: All of them.
        dataset: Limits of reading, and what was published.
        modality: What of a clip is used.
        decode: "frame" or "all", see ``CheckTask``.
        window_s: Most seconds of sound that the model takes.
        on_clip: Called after each clip, for a progress bar.
    """
    published = published_of(split, dataset)
    findings = []
    probing = probe_clips(
        examples,
        make_reader=lambda: ClipReader(
            dataset.decode_timeout_s,
            dataset.max_clips_per_process,
            INSPECT if decode == "all" else PROBE,
            dataset.limits,
        ),
        num_workers=max(1, min(dataset.num_workers, len(examples))),
        want_video=modality.video,
        want_audio=modality.audio,
        window_s=window_s,
    )
    try:
        for finding in probing:
            findings.append(finding)
            on_clip()
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped while checking {split}, after {len(findings)} of {len(examples)} clips"
        ) from None
    finally:
        probing.close()
    return gather(split, examples, findings, published, dataset.known_bad)


def conclude(
    reports: Sequence[SplitReport],
    dataset: DatasetConfig,
    decode: str,
    max_listed: int,
    folder: Path,
) -> None:
    """Print the reports and write check.json.

    Raises:
        UserError: Clips are bad and ``dataset.on_bad_media`` is "raise".
    """
    write_json(folder / "check.json", {report.split: vars(report) for report in reports})
    Console().print(report_tables(reports, dataset.published_source, max_listed))
    num_bad = sum(len(report.bad) for report in reports)
    if num_bad and dataset.on_bad_media == "raise":
        num_clips = sum(report.counts[TOTAL] for report in reports)
        raise UserError(
            f"{num_bad} of {num_clips} clips are bad, all in {folder / 'check.json'}; mend them, "
            "or dataset.on_bad_media=skip leaves them out"
        )
    how = (
        ""
        if decode == "all"
        else " (all sound, one frame each; task.decode=all decodes clips whole)"
    )
    print(f"checked: {folder / 'check.json'}{how}")


def gather(
    split: str,
    examples: Sequence[Example],
    findings: Iterable[Finding],
    published: Mapping[str, Any],
    known_bad: Sequence[str],
) -> SplitReport:
    """Gather a split's report from its findings.

    Args:
        split: Its name.
        examples: All of them.
        findings: One an example, in any order.
        published: As ``published_counts`` gives it.
        known_bad: Ids of clips that the release itself is known to have broken.
    """
    report = SplitReport(split, _counts(examples), {}, num_left_out(examples))
    report.published = dict(published)
    report.counts |= {k: 0 for k in report.published if k not in report.counts}
    durations = []
    for finding in sorted(findings, key=lambda finding: finding.index):
        if (
            finding.reason is None
            and finding.has_picture
            and finding.has_sound
            and not finding.notes
        ):
            durations.append(finding.duration_s)
            continue  # most clips: no Example is made
        example = examples[finding.index]
        if finding.reason is not None:
            report.bad.append(
                {
                    "id": example.id,
                    "path": str(example.video or example.audio),
                    "annotation": example.source,
                    "reason": finding.reason,
                    "known": example.id in known_bad,
                }
            )
        report.notes += [{"id": example.id, **vars(note)} for note in finding.notes]
        if finding.has_picture or finding.has_sound:
            durations.append(finding.duration_s)
            if not finding.has_sound:
                report.without_sound.append(example.id)
            if not finding.has_picture:
                report.without_picture.append(example.id)
    if durations:
        spread = (min(durations), median(durations), max(durations))
        names = ("min", "median", "max")
        report.duration_s = {n: round(s, 2) for n, s in zip(names, spread, strict=True)}
    return report


def report_tables(reports: Sequence[SplitReport], source: str, max_listed: int) -> Group:
    """Lay the reports out for a terminal: counts, clips, then the first bad clips.

    Args:
        reports: One a split.
        source: Where the published numbers stand.
        max_listed: Most bad clips to show a split.
    """
    parts: list[Any] = [_count_table(reports)]
    if source and any(report.published for report in reports):
        parts.append(Text(f" published: {source}", style="dim"))
    parts.append(_clip_table(reports))
    for report in reports:
        for name, number in report.left_out.items():
            parts.append(Text(f" {report.split}: {number} rows left out, {name}"))
        for clip in report.bad[:max_listed]:
            known = " (known of this release)" if clip["known"] else ""
            parts.append(Text(f" bad {report.split} {clip['id']}{known}: {clip['reason']}"))
        if len(report.bad) > max_listed:
            parts.append(Text(f" ... and {len(report.bad) - max_listed} more in {report.split}"))
        for kind, number in Counter(note["kind"] for note in report.notes).items():
            parts.append(
                Text(f" {report.split}: clips with {kind}: {number}{CAUSES.get(kind, '')}")
            )
        for note in report.notes[:max_listed]:
            parts.append(Text(f" {note['kind']} {report.split} {note['id']}: {note['text']}"))
        if len(report.notes) > max_listed:
            more = len(report.notes) - max_listed
            parts.append(Text(f" ... and {more} more in {report.split}, all in check.json"))
    return Group(*parts)


def _count_table(reports: Sequence[SplitReport]) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1))
    for name in ("split", "label", "clips", "published", ""):
        table.add_column(name, justify="right" if name in ("clips", "published") else "left")
    for report in reports:
        shown = dict(list(report.counts.items())[:MAX_LABELS])
        if len(report.counts) > len(shown):
            shown = {TOTAL: report.counts[TOTAL]}  # open vocabulary: check.json has them all
        for place, (label, count) in enumerate(shown.items()):
            wanted = report.published.get(label)
            verdict = "" if wanted is None else "ok" if _fits(count, wanted) else "differs"
            table.add_row(
                *(Text(cell) for cell in (
                    "" if place else report.split, label, f"{count:,}", _number(wanted), verdict
                )),
                end_section=place + 1 == len(shown),
            )  # fmt: skip
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
    """Checks the splits and leaves check.json; bad clips are an error unless they are skipped."""
    reports, clips, task = [], parts.clips, parts.task
    with recorded(parts.place, device="cpu") as record:
        for split, examples in clips.examples.items():
            with progress_bar(f"checking {split}", len(examples)) as progress:
                advance = partial(progress.advance, progress.task_ids[0])
                reports.append(
                    check_split(
                        split,
                        examples,
                        clips.dataset,
                        clips.modality,
                        task.decode,
                        parts.window_s,
                        advance,
                    )
                )
        conclude(reports, clips.dataset, task.decode, task.max_listed, parts.place.run_dir)
        record.finish("finished")
