"""Reads a visitor's files: each is checked before it is decoded, read once, and deleted.

Only the outputs of the towers remain of a file, a few small tensors in its owner's session. Another
question about the same clip needs nothing else.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from omni_rlvr.data.collate import Collate
from omni_rlvr.data.loader import move
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.reader import READ, ClipReader
from omni_rlvr.tasks.serve.inputs import ServeInputs
from omni_rlvr.text.terminal import printable
from omni_rlvr.types import Clip, ClipFeatures, Example, MediaError, Sample, UserError

MEASURE = "omni_rlvr.tasks.serve.clip_length:measure_clip"
SESSIONS = 10
"""The folder holds this many times ``task.max_session_mb``."""

GLANCE = ClipRequest(Sampling.count(1), 16_000, want_video=False, want_audio=False)
"""What is read of a file to check it, before the model needs any of it."""

BLOCK = 4096
"""Bytes that a file counts for at least: an empty one takes room on a disk too."""


@dataclass(frozen=True)
class Upload:
    """A visitor's file that was read."""

    path: Path
    """Where it lay, or still lies."""
    duration_s: float
    features: Sequence[ClipFeatures]
    """Of each model: the towers' outputs, None for what the file does not have."""
    notes: Sequence[str] = ()
    """How what a model is shown differs from the file; each is the end of a sentence."""

    @property
    def has_video(self) -> bool:
        """Whether it has a picture."""
        return self.features[0].video is not None

    @property
    def has_audio(self) -> bool:
        """Whether it has sound."""
        return self.features[0].audio is not None


class Uploads:
    """The folder that files come into, and what reads them. Not for several threads at once."""

    def __init__(self, parts: ServeInputs, folder: Path, device: torch.device):
        """Take an empty folder that nobody else writes to."""
        self.task, self.models, self.device = parts.task, parts.models, device
        self.folder = folder.resolve()
        dataset = parts.clips.dataset
        self.measure, self.reader = (
            ClipReader(
                dataset.decode_timeout_s, dataset.max_clips_per_process, function, dataset.limits
            )
            for function in (MEASURE, READ)
        )
        self.lock = threading.Lock()  # of the three below
        self.num_coming = 0
        self.coming: Counter[str] = Counter()
        self.owned: defaultdict[str, set[str]] = defaultdict(set)

    def holds(self, path: str) -> bool:
        """Whether a path is, letter by letter, that of a file in the folder."""
        try:
            real = Path(path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a zero byte
            return False
        return str(real) == path and self.folder in real.parents and real.is_file()

    def reserve(self, visitor: str, size: int) -> None:
        """Make room for a file of ``size`` bytes before any of it is read.

        Args:
            visitor: whose it will be, e.g. a browser session; "" for the page's own copies.
            size: in bytes.

        Raises:
            UserError: it is too large, or the visitor or all visitors together hold too much.
        """
        assert self.task.max_session_mb is not None  # resolved where it was checked
        one = self.task.max_session_mb * 1e6
        self._refuse_large("The file", size)
        here = [str(path) for path in self.folder.rglob("*")]
        with self.lock:
            own = self.coming[visitor] + _bytes(self.owned.get(visitor, ()))
            if visitor and own + size > one:
                raise UserError(
                    f"Your files here would take more than {one / 1e6:g} MB; ask about them, or "
                    "wait until they go."
                )
            if self.coming.total() + _bytes(here) + size > SESSIONS * one:
                raise UserError("This page holds as many files as it may; try again later.")
            self.coming[visitor] += size
            self.num_coming += 1

    def release(self, visitor: str, size: int, paths: Sequence[str]) -> None:
        """End what ``reserve`` began: the files at ``paths`` now count as the visitor's."""
        with self.lock:
            self.coming[visitor] -= size
            self.num_coming -= 1
            self.owned[visitor].update(paths)
            for owner, owned in [*self.owned.items()]:
                owned.intersection_update([path for path in owned if self.holds(path)])
                if not owned:
                    del self.owned[owner]
            self.coming = +self.coming  # without those at zero
            if self.num_coming == 0:  # what was cut off in the middle lies in no folder of its own
                for path in [path for path in self.folder.iterdir() if path.is_file()]:
                    path.unlink(missing_ok=True)

    def take(self, path: Path, *, as_sound: bool) -> Upload:
        """Read a file and run the towers on it.

        Args:
            path: in the folder.
            as_sound: whether only its sound is wanted.

        Raises:
            UserError: it is too large, too long, or cannot be read; one sentence, with its name.
        """
        video, audio = (None, path) if as_sound else (path, None)
        name = shown_name(path)
        if not path.is_file():
            raise UserError(f"{name} is not here any more; add it again.")
        self._refuse_large(name, path.stat().st_size)
        try:
            seen = self.measure.read(video, audio, GLANCE)
            if seen.duration_s > self.task.max_clip_s:
                raise UserError(
                    f"{name} is {seen.duration_s:.0f} s long; this page takes clips "
                    f"of up to {self.task.max_clip_s:g} s."
                )
            if seen.frames is None and seen.waveform is None:
                raise UserError(f"{name} has neither picture nor sound.")
            features, notes = self._features(video, audio, seen)
        except MediaError as error:
            raise UserError(f"{printable(str(error).replace(str(path), name))}.") from error
        return Upload(path, seen.duration_s, features, notes)

    def _refuse_large(self, what: str, size: int) -> None:
        if size > self.task.max_upload_mb * 1e6:
            raise UserError(
                f"{what} has {size / 1e6:.1f} MB; this page takes files of up to "
                f"{self.task.max_upload_mb:g} MB."
            )

    @torch.no_grad()
    def _features(
        self, video: Path | None, audio: Path | None, seen: Clip
    ) -> tuple[list[ClipFeatures], list[str]]:
        clips: dict[ClipRequest, Clip] = {}
        features = []
        for model in self.models:
            processor = model.policy.processor
            request = ClipRequest(
                processor.sampling,
                processor.sample_rate,
                want_video=seen.frames is not None,
                want_audio=seen.waveform is not None,
                window_s=processor.window_s,
            )
            if request not in clips:  # two models mostly want the same
                clips[request] = self.reader.read(video, audio, request)
            sample = Sample(Example("", "", "", "", video, audio), clips[request])
            batch = move(Collate(processor, with_target=False)([sample]), self.device)
            made = model.policy.encode(batch)
            shapes = batch.video_shapes[0], batch.audio_shapes[0]
            features.append(ClipFeatures(made.video[0], made.audio[0], *shapes))
        notes = [note.text for clip in clips.values() for note in clip.notes]
        return features, list(dict.fromkeys(notes))

    def delete(self, path: Path) -> None:
        """Delete a file of the folder, and the folder it had for itself."""
        if self.folder not in path.resolve().parents:
            return
        path.unlink(missing_ok=True)
        if path.parent.resolve() != self.folder:
            with contextlib.suppress(OSError):  # not empty, or gone
                path.parent.rmdir()

    def sweep(self) -> None:
        """Delete what has lain here longer than ``task.keep_upload_s``."""
        oldest = time.time() - self.task.keep_upload_s
        for path in [p for p in self.folder.rglob("*") if p.is_file()]:
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ctime < oldest:
                    self.delete(path)

    def close(self) -> None:
        """Stop the readers and delete the folder."""
        self.measure.close()
        self.reader.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _bytes(paths: Iterable[str]) -> int:
    """Add up the sizes of files; a file that was deleted meanwhile counts as 0."""
    total = 0
    for path in paths:
        with contextlib.suppress(OSError):
            total += max(Path(path).stat().st_size, BLOCK)
    return total


def shown_name(path: Path) -> str:
    """Give a file's name as its owner knows it; it may hold anything, HTML too."""
    return printable(path.name)
