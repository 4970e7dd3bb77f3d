"""Synthetic clips on disk: the same for a seed, whatever made them, whole or not there at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from omni_rlvr.data.dataset import ClipDataset
from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.data.readers.synthetic import SyntheticReader
from omni_rlvr.data.synthetic import generate
from omni_rlvr.data.synthetic.emotions import LABELS, VISUAL, VOCAL
from omni_rlvr.data.synthetic.generate import (
    ANNOTATIONS,
    balanced_labels,
    content_hash,
    ensure_split,
    make_clip,
)
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.types import Clip, Example, Sample, SkippedClip, UserError

pytestmark = pytest.mark.slow  # clips are made

NUM_CLIPS = 24
SECONDS = 2.0


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished split, made by two processes; some clips have no picture, some no sound."""
    root = tmp_path_factory.mktemp("data")
    return ensure_split(root, "rlvr", num_clips=NUM_CLIPS, seed=0, num_workers=2)


@pytest.fixture(scope="module")
def examples(split: Path) -> list[Example]:
    """Its annotations, as any R1-Omni file is read."""
    return list(AnnotationReader("r1_omni", str(split / ANNOTATIONS), str(split), LABELS, 0).read())


def clip_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "clips").iterdir()}


# ---- the same bytes


def test_a_clip_follows_from_seed_split_and_number(tmp_path: Path) -> None:
    def make(split: str, seed: int, index: int, label: str = "sad") -> tuple[dict, bytes]:
        row = make_clip(tmp_path, split, seed, index, label)
        return row, (tmp_path / Path(str(row.get("video", row.get("audio")))).name).read_bytes()

    for case in (("cold_start", 0, 0), ("cold_start", 0, 5), ("ood", 0, 1), ("caption", 3, 2)):
        first = make(*case)
        np.random.seed(1)  # a global generator is neither read nor moved
        assert make(*case) == first
    plain = make("test", 0, 0)[1]
    others = [("test", 1, 0), ("test", 0, 1), ("rlvr", 0, 0), ("ood", 0, 0)]
    assert all(make(*case)[1] != plain for case in others)


@pytest.mark.slow
def test_any_number_of_processes_makes_the_same(split: Path, tmp_path: Path) -> None:
    one = ensure_split(tmp_path, "rlvr", num_clips=NUM_CLIPS, seed=0, num_workers=1)
    assert json.loads((one / ANNOTATIONS).read_text()) == json.loads(
        (split / ANNOTATIONS).read_text()
    )
    assert clip_bytes(one) == clip_bytes(split)
    assert one.relative_to(tmp_path) == split.relative_to(split.parents[1])


def test_the_version_of_the_data_names_the_seed() -> None:
    names = [content_hash(seed) for seed in (0, 1, 2, 0)]
    assert names[3] == names[0]
    assert len(set(names)) == 3
    assert all(len(name) == 12 and int(name, 16) >= 0 for name in names)


@pytest.mark.parametrize(("split", "num_clips"), [("cold_start", 580), ("test", 500), ("ood", 3)])
def test_labels_are_balanced_to_within_one(split: str, num_clips: int) -> None:
    labels = balanced_labels(split, num_clips, 0)
    counts = Counter({**dict.fromkeys(LABELS, 0), **Counter(labels)})
    assert len(labels) == num_clips
    assert max(counts.values()) - min(counts.values()) <= 1
    assert labels == balanced_labels(split, num_clips, 0)
    assert labels != balanced_labels(split, num_clips, 1)
    assert labels != sorted(labels)  # the order tells nothing


# ---- what the annotations say


@pytest.mark.slow
def test_annotations_are_read_as_any_r1_omni_file(split: Path, examples: list[Example]) -> None:
    assert len(examples) == NUM_CLIPS
    assert [e.answer for e in examples] == balanced_labels("rlvr", NUM_CLIPS, 0)
    for example in examples:
        path = example.video or example.audio
        assert path is not None
        assert path.is_file()
        assert path.parent == split / "clips"
        assert example.target == example.answer
    reader = SyntheticReader("rlvr", str(split.parents[1]), LABELS, NUM_CLIPS, 0, 1)
    assert list(reader.read()) == list(examples)


def test_a_label_that_is_not_listed_is_refused(split: Path) -> None:
    reader = AnnotationReader("r1_omni", str(split / ANNOTATIONS), str(split), LABELS[:3], 0)
    with pytest.raises(UserError, match="is not one of the labels"):
        reader.read()


# ---- what the clips hold


def read(
    examples: list[Example], *, video: bool = True, audio: bool = True
) -> list[Sample | SkippedClip]:
    with ClipReader(60.0, 1000) as reader:
        request = ClipRequest(Sampling.count(4), 16_000, want_video=video, want_audio=audio)
        dataset = ClipDataset(examples, reader, request, cache=None)
        return [dataset[i] for i in range(len(dataset))]


def parts(clip: Clip) -> tuple[bool, bool]:
    return clip.frames is not None, clip.waveform is not None


def test_a_clip_has_the_modalities_that_its_annotation_has(examples: list[Example]) -> None:
    seen = Counter()
    for example, item in zip(examples, read(examples), strict=True):
        assert isinstance(item, Sample)
        clip = item.clip
        has = bool(VISUAL.keys() & example.cues), bool(VOCAL.keys() & example.cues)
        assert parts(clip) == has
        assert (example.video is not None) is has[0]
        if clip.frames is not None:
            assert clip.frames.shape == (4, 96, 96, 3)
            assert clip.frames.std() > 10  # a drawing
        if clip.waveform is not None:
            assert len(clip.waveform) / 16_000 == pytest.approx(SECONDS, abs=0.13)
            assert clip.waveform.std() > 1e-3  # a voice
        assert clip.duration_s == pytest.approx(SECONDS, abs=0.13)
        seen[has] += 1
    assert seen.keys() == {(True, True), (True, False), (False, True)}


@pytest.mark.parametrize(("modality", "missing"), [("video", "picture"), ("audio", "sound")])
def test_a_clip_without_the_only_modality_is_left_out(
    examples: list[Example], modality: str, missing: str
) -> None:
    other = {"video": "audio", "audio": "video"}[modality]
    cues = {"video": VISUAL, "audio": VOCAL}[modality]
    for item in read(examples, **{other: False}):
        if cues.keys() & item.example.cues:
            assert isinstance(item, Sample)
            assert parts(item.clip) == (modality == "video", modality == "audio")
        else:
            assert isinstance(item, SkippedClip)
            assert f"has no {missing}, the only modality in use" in item.reason
            assert item.example.source in item.reason


# ---- finished or not there


def test_a_finished_split_is_not_made_again(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "make_clip", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(generate, "make_clips", lambda *_: pytest.fail("made again"))
    again = ensure_split(split.parents[1], "rlvr", num_clips=NUM_CLIPS, seed=0, num_workers=1)
    assert again == split


@pytest.mark.slow
def test_a_killed_generation_leaves_nothing_finished(tmp_path: Path) -> None:
    how = {"num_clips": 20, "seed": 0, "num_workers": 1}
    program = (
        "from pathlib import Path\n"
        "from omni_rlvr.data.synthetic.generate import ensure_split\n"
        f"if __name__ == '__main__': ensure_split(Path({str(tmp_path)!r}), 'rlvr', **{how})\n"
    )
    script = tmp_path / "make.py"
    script.write_text(program)
    process = subprocess.Popen(
        [sys.executable, str(script)], start_new_session=True, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("*/.rlvr-*/clips/*"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    assert not list(tmp_path.glob("*/rlvr*"))
    assert not list(tmp_path.rglob(ANNOTATIONS))
    folder = ensure_split(tmp_path, "rlvr", **how)
    rows = json.loads((folder / ANNOTATIONS).read_text())
    named = {Path(row.get("video") or row["audio"]).name for row in rows}
    assert len(rows) == len(named) == 20
    assert named == set(clip_bytes(folder))


def test_a_failed_generation_gives_its_room_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(folder: Path, *_: object) -> None:
        (folder / "half").write_text("half a clip")
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "make_clips", stop)
    with pytest.raises(KeyboardInterrupt):
        ensure_split(tmp_path, "test", num_clips=2, seed=0, num_workers=1)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_another_process_that_was_first_is_taken_at_its_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = tmp_path / content_hash(0) / "test_2"

    def be_late(folder: Path, *_: object) -> None:
        for place in (finished, folder):
            place.mkdir(exist_ok=True)
            (place / ANNOTATIONS).write_text("[]")

    monkeypatch.setattr(generate, "make_clips", be_late)
    assert ensure_split(tmp_path, "test", num_clips=2, seed=0, num_workers=1) == finished
    assert [path.name for path in finished.parent.iterdir()] == ["test_2"]


def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write .*data/.*paths\.data_root") as caught:
        ensure_split(tmp_path / "data", "test", num_clips=2, seed=0, num_workers=1)
    assert "\n" not in str(caught.value)


def test_an_unknown_split_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'tset' .*caption, cold_start, rlvr, test, ood"):
        ensure_split(tmp_path, "tset", num_clips=2, seed=0, num_workers=1)
    assert not list(tmp_path.iterdir())
