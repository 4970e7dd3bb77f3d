"""Make a split of the synthetic data set on disk: real .mp4 clips and an R1-Omni annotation file.

A split is in ``<root>/<content hash>/<split>_<number of clips>/``; the hash covers the seed and
``VERSION``, so a finished folder is never out of date and never made twice. Clip i depends on
(seed, split, i) alone, so any number of processes can make clips. A split is written to a temporary
folder, which is renamed when complete.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np

from omni_rlvr.data.synthetic import emotions, face, voice, wording
from omni_rlvr.folders import set_usual_mode
from omni_rlvr.text.progress import progress_bar
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.types import UserError

VERSION = 1
"""Must be raised with every change to the pictures, the sound or the annotations of clips."""
NUM_FRAMES, FPS = 20, 10
"""Frames of a clip, and frames per second: two seconds."""

ANNOTATIONS = "annotations.json"


@dataclass(frozen=True)
class SplitSpec:
    """What a split is made of."""

    target: str
    """What the assistant's turn is: "caption", "reasoning" or "label"."""
    style: str
    """Drawing style: "cartoon" or "sketch"."""
    voice: str
    """Kind of speaker: "usual" or "other"."""
    one_modality: float
    """Share of clips without a sound track, and as many without a picture."""


SPLITS = {
    "caption": SplitSpec("caption", "cartoon", "usual", 0.0),
    "cold_start": SplitSpec("reasoning", "cartoon", "usual", 1 / 6),
    "rlvr": SplitSpec("label", "cartoon", "usual", 1 / 6),
    "test": SplitSpec("label", "cartoon", "usual", 0.0),
    "ood": SplitSpec("label", "sketch", "other", 0.0),
}


def content_hash(seed: int) -> str:
    """Name a version of the data, by its seed and ``VERSION``, with 12 hex digits."""
    return hashlib.sha256(f"{seed} {NUM_FRAMES} {FPS} {VERSION}".encode()).hexdigest()[:12]


def split_folder(root: Path, split: str, num_clips: int, seed: int) -> Path:
    """Name the folder of a split, see ``ensure_split``."""
    return root / content_hash(seed) / f"{split}_{num_clips}"


def ensure_split(root: Path, split: str, *, num_clips: int, seed: int, num_workers: int) -> Path:
    """Return the folder of a split, making it first if it is not there.

    Args:
        root: The folder for all versions of the data set.
        split: A key of ``SPLITS``.
        num_clips: The number of clips; labels are balanced to within one.
        seed: The seed of the data set.
        num_workers: The number of processes that make clips.

    Returns:
        A folder with ``annotations.json`` and ``clips/``.

    Raises:
        UserError: The split is unknown, or the folder cannot be written.
    """
    if split not in SPLITS:
        raise UserError(
            f"dataset.split={split!r} is not a synthetic split; choose one of {', '.join(SPLITS)}"
        )
    folder = split_folder(root, split, num_clips, seed)
    if (folder / ANNOTATIONS).exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial_folder = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"cannot write the synthetic clips to {folder.parent}: {error.strerror}; "
            "set paths.data_root"
        ) from error
    try:
        set_usual_mode(partial_folder)
        make_clips(partial_folder, split, num_clips, seed, num_workers)
        os.replace(partial_folder, folder)
    except OSError:
        if not (folder / ANNOTATIONS).exists():
            raise  # else another process finished first, with the same clips
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return folder


def make_clips(folder: Path, split: str, num_clips: int, seed: int, num_workers: int) -> None:
    """Fill an empty folder with the clips and the annotations of a split; see ``ensure_split``."""
    (folder / "clips").mkdir()
    labels = balanced_labels(split, num_clips, seed)
    make = partial(make_clip, folder / "clips", split, seed)
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with (
        progress_bar(f"making {split} clips", num_clips) as advance,
        ProcessPoolExecutor(num_workers, mp_context=spawn) as pool,
    ):
        for row in pool.map(make, range(num_clips), labels, chunksize=16):
            rows.append(row)
            advance(1)
    spec = {"split": split, "seed": seed, **asdict(SPLITS[split])}
    (folder / "spec.json").write_text(json.dumps(spec, indent=1))
    (folder / ANNOTATIONS).write_text(json.dumps(rows, indent=1))


def balanced_labels(split: str, num_clips: int, seed: int) -> list[str]:
    """Return ``num_clips`` labels in random order, each label equally often to within one."""
    labels = [emotions.LABELS[i % len(emotions.LABELS)] for i in range(num_clips)]
    return [str(x) for x in np.random.default_rng([seed, _split_number(split)]).permutation(labels)]


def make_clip(folder: Path, split: str, seed: int, index: int, label: str) -> dict[str, object]:
    """Draw, synthesise and write clip ``index``; return its annotation row."""
    spec = SPLITS[split]
    rng = np.random.default_rng([seed, _split_number(split), index])
    values = emotions.draw_cues(label, rng)
    if split == "caption":
        # all values of a cue are equally likely, so that the base model learns cues, not emotions
        values = {cue: str(rng.choice(options)) for cue, options in emotions.CUES.items()}
    look, speaker = face.draw_look(spec.style, rng), voice.draw_speaker(spec.voice, rng)
    frames = face.render(look, face.draw_apex(values, rng), NUM_FRAMES, rng)
    sound = voice.synthesise(speaker, values, NUM_FRAMES / FPS, rng)
    lone = spec.one_modality
    missing = rng.choice(["nothing", "picture", "sound"], p=[1 - 2 * lone, lone, lone])
    seen, heard = missing != "picture", missing != "sound"
    name = f"{index:06d}.{'mp4' if seen else 'm4a'}"
    write_clip(
        folder / name, frames if seen else None, FPS, sound if heard else None, voice.SAMPLE_RATE
    )
    there = {**(emotions.VISUAL if seen else {}), **(emotions.VOCAL if heard else {})}
    values = {cue: value for cue, value in values.items() if cue in there}
    return {
        "video" if seen else "audio": f"clips/{name}",
        "conversations": _turns(spec.target, values, label),
        "cues": values,
    }


def _turns(target: str, values: dict[str, str], label: str) -> list[dict[str, str]]:
    seen = any(cue in values for cue in emotions.VISUAL)
    heard = any(cue in values for cue in emotions.VOCAL)
    question, answer = EMOTION_QUESTION, label
    if target == "caption":
        question = wording.CAPTION_QUESTIONS[seen, heard]
        answer = wording.caption(values, seen=True, heard=True)
    elif target == "reasoning":
        answer = wording.reasoning(values, label)
    media = "<video>\n" * seen + "<audio>\n" * heard
    return [
        {"from": "human", "value": f"{media}{question}"},
        {"from": "gpt", "value": answer},
    ]


def _split_number(split: str) -> int:
    return list(SPLITS).index(split)


def write_clip(
    path: Path,
    frames: np.ndarray | None,
    fps: int,
    waveform: np.ndarray | None,
    sample_rate: int,
) -> None:
    """Encode a clip; the same input gives the same bytes.

    Args:
        path: where to write; its ending names the container.
        frames: [F, H, W, 3] uint8 RGB, or None for a clip without picture.
        fps: frames per second.
        waveform: [S] float32 mono in [-1, 1], or None for a clip without sound track.
        sample_rate: of the waveform, Hz.
    """
    options = {"preset": "superfast", "crf": "23", "threads": "1"}
    with av.open(str(path), "w") as container:
        video = audio = None
        if frames is not None:
            video = container.add_stream("libx264", rate=fps, options=options)
            video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        if waveform is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")
        if video is not None and frames is not None:
            for picture in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            sound = av.AudioFrame.from_ndarray(waveform[None, :], format="fltp", layout="mono")
            sound.sample_rate = sample_rate
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
