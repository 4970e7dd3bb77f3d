"""Read uploaded files: each is checked before it is decoded, read once, and deleted.

Only the outputs of the towers are kept, a few small tensors in the session of the visitor; further
questions about the same clip use them.
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
from omni_rlvr.data.dataset import clip_reader
from omni_rlvr.data.loader import move
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.reader import READ
from omni_rlvr.tasks.clips import clip_request
from omni_rlvr.tasks.serve.inputs import ServeInputs
from omni_rlvr.text.terminal import printable
from omni_rlvr.types import Clip, ClipFeatures, Example, MediaError, Sample, UserError

MEASURE = "omni_rlvr.tasks.serve.clip_length:measure_clip"
SESSIONS = 10
"""The folder may hold this many times ``task.max_session_mb``."""

GLANCE = ClipRequest(Sampling.count(1), 16_000, want_video=False, want_audio=False)
"""What to read of a file to check it, before it is read for the models."""

BLOCK = 4096
"""The least bytes that a file counts for, since small files take a block of the disk too."""


@dataclass(frozen=True)
class Upload:
    """An uploaded file that was read."""

    path: Path
    """Its path; the file may be deleted by now."""
    duration_s: float
    features: Sequence[ClipFeatures]
    """For each model, the outputs of its towers; None for a modality that the file lacks."""
    notes: Sequence[str] = ()
    """How the model's input differs from the file; each note follows the file's name."""

    @property
    def has_video(self) -> bool:
        """Whether it has a picture."""
        return self.features[0].video is not None

    @property
    def has_audio(self) -> bool:
        """Whether it has sound."""
        return self.features[0].audio is not None


class Uploads:
    """The folder of uploads and the readers of its files; ``take`` is not thread-safe."""

    def __init__(self, parts: ServeInputs, folder: Path, device: torch.device):
        """Use an empty folder that nobody else writes to."""
        self.task, self.models, self.device = parts.task, parts.models, device
        self.folder = folder.resolve()
        self.measure, self.reader = (
            clip_reader(parts.clips.dataset, function) for function in (MEASURE, READ)
        )
        self.lock = threading.Lock()  # of the three below
        self.num_coming = 0
        self.coming: Counter[str] = Counter()
        self.owned: defaultdict[str, set[str]] = defaultdict(set)

    def holds(self, path: str) -> bool:
        """Tell whether a path is exactly that of a file in the folder, without links or dots."""
        try:
            real = Path(path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a zero byte
            return False
        return str(real) == path and self.folder in real.parents and real.is_file()

    def reserve(self, visitor: str, size: int) -> None:
        """Reserve room for a file before any of it is received.

        Args:
            visitor: The session that the file belongs to; "" for the page's own copies.
            size: The size of the file in bytes.

        Raises:
            UserError: The file is too large, or this visitor or all visitors hold too much.
        """
        assert self.task.max_session_mb is not None  # set when the config was checked
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
        """End a reservation: from now on the files at ``paths`` count as the visitor's."""
        with self.lock:
            self.coming[visitor] -= size
            self.num_coming -= 1
            self.owned[visitor].update(paths)
            for owner, owned in [*self.owned.items()]:
                owned.intersection_update([path for path in owned if self.holds(path)])
                if not owned:
                    del self.owned[owner]
            self.coming = +self.coming  # without those at zero
            if self.num_coming == 0:  # interrupted uploads leave files directly in the folder
                for path in [path for path in self.folder.iterdir() if path.is_file()]:
                    path.unlink(missing_ok=True)

    def take(self, path: Path, *, as_sound: bool) -> Upload:
        """Read a file and run the towers on it.

        Args:
            path: The path of the file, in the folder.
            as_sound: Whether only its sound is wanted.

        Raises:
            UserError: The file is too large, too long, or cannot be read.
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
            if all(one.video is None and one.audio is None for one in features):
                raise UserError(f"{name} has nothing that the model takes: it has no sound.")
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
            processor, towers = model.policy.processor, model.policy.towers()
            there = {
                "video": seen.frames is not None and "video" in towers,
                "audio": seen.waveform is not None and "audio" in towers,
            }
            request = clip_request(processor, **there)
            if request not in clips:  # two models mostly need the same
                clips[request] = self.reader.read(video, audio, request)
            sample = Sample(Example("", "", "", "", video, audio), clips[request])
            batch = move(Collate(processor, with_target=False)([sample]), self.device)
            made = model.policy.encode(batch)
            shapes = batch.video_shapes[0], batch.audio_shapes[0]
            features.append(ClipFeatures(made.video[0], made.audio[0], *shapes))
        notes = [note.text for clip in clips.values() for note in clip.notes]
        return features, list(dict.fromkeys(notes))

    def delete(self, path: Path) -> None:
        """Delete a file, and its folder if that is then empty."""
        if self.folder not in path.resolve().parents:
            return
        path.unlink(missing_ok=True)
        if path.parent.resolve() != self.folder:
            with contextlib.suppress(OSError):  # not empty, or gone
                path.parent.rmdir()

    def sweep(self) -> None:
        """Delete files that are older than ``task.keep_upload_s``."""
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
    """Return the name of a file for display; it is not escaped, and may contain HTML."""
    return printable(path.name)
