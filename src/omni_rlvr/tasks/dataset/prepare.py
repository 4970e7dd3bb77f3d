"""Cut the clips of a data set from its recordings; clips that exist are kept."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.config.dataset import DatasetConfig
from omni_rlvr.config.tasks import PrepareTask
from omni_rlvr.data.cutting import Attempt, Cut, CutReader, cut_all, is_there
from omni_rlvr.record import write_json
from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.text.progress import progress_bar
from omni_rlvr.text.terminal import printable
from omni_rlvr.types import Interrupted, UserError

MAX_LISTED = 10
"""Number of reasons that are printed at most; prepare.json has all."""


@dataclass(frozen=True)
class PrepareInputs:
    """All that cutting a data set's clips needs."""

    place: Place
    dataset: DatasetConfig
    task: PrepareTask
    cuts: Sequence[Cut]
    """One for each clip of all splits."""


def build(composed: Composed) -> PrepareInputs:
    """Read the annotations of all splits.

    Raises:
        UserError: an annotation is wrong, or this data set has nothing to prepare.
    """
    dataset = composed.dataset
    cuts: dict[Cut, None] = {}
    for config in dataset.splits.values():
        reader = make(config)
        if not isinstance(reader, CutReader):
            raise UserError(
                f"dataset={dataset.name} has nothing to prepare: its clips are read as they are; "
                "task=check opens them"
            )
        cuts.update(dict.fromkeys(reader.cuts()))
    if not cuts:
        raise UserError(
            f"dataset.root={dataset.root}: no clip of {dataset.name} is listed there; for its "
            f"layout see conf/dataset/{dataset.name}.yaml"
        )
    return PrepareInputs(composed.place, dataset, composed.task, list(cuts))


def run(parts: PrepareInputs) -> None:
    """Make the clips that are missing or out of date, and write prepare.json.

    Raises:
        UserError: Some clips could not be made; all others were.
        Interrupted: Ctrl-C; the same command continues.
    """
    wanted = [cut for cut in parts.cuts if parts.task.overwrite or not is_there(cut)]
    num_kept = len(parts.cuts) - len(wanted)
    with recorded(parts.place, device="cpu"):
        attempts = _cut(parts, wanted) if wanted else []
        failed = {a.cut.clip.stem: a.failure for a in attempts if a.failure is not None}
        num_made = len(attempts) - len(failed)
        file = parts.place.run_dir / "prepare.json"
        write_json(file, {"made": num_made, "kept": num_kept, "failed": failed})
        reasons = list(dict.fromkeys(failed.values()))
        for why in reasons[:MAX_LISTED]:
            names = [name for name, reason in failed.items() if reason == why]
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            print(printable(f"failed: {names[0]}{more}: {why}"))
        if len(reasons) > MAX_LISTED:
            print(f"... and {len(reasons) - MAX_LISTED} more reasons")
        print(f"clips: {num_made} made, {num_kept} were there, {len(failed)} failed")
        if failed:
            raise UserError(
                f"{len(failed)} of {len(parts.cuts)} clips could not be made; {file} lists them; "
                "correct what it names and run the command again: it makes the missing clips"
            )


def _cut(parts: PrepareInputs, wanted: list[Cut]) -> list[Attempt]:
    attempts: list[Attempt] = []
    with (
        _workshop(wanted[0].clip.parent) as folder,
        progress_bar("cutting clips", len(wanted)) as advance,
        closing(cut_all(wanted, folder, parts.dataset)) as cutting,
    ):
        try:
            for done in cutting:
                attempts += done
                advance(len(done))
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {len(attempts)} of {len(wanted)} clips; the same command continues"
            ) from None
    return attempts


@contextlib.contextmanager
def _workshop(clips: Path) -> Iterator[Path]:
    """Yield a folder for unfinished clips; delete it, and an empty folder of clips, afterwards."""
    try:
        clips.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".unfinished-", dir=clips)
    except OSError as error:
        raise UserError(f"{clips}: clips cannot be written there ({error.strerror})") from error
    try:
        with folder as name:
            yield Path(name)
    finally:
        with contextlib.suppress(OSError):  # there are clips in it
            clips.rmdir()
