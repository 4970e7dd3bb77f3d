"""task=prepare: IEMOCAP's clips, cut from its split screens, and what cannot be cut."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from make_iemocap import level, recording, write_iemocap
from official_trees import composed, read

from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.pool import in_children
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.record import read_json
from omni_rlvr.tasks.build import build
from omni_rlvr.types import Clip, MediaError, UserError

pytestmark = pytest.mark.slow  # clips are cut

FIRST, LAST = "Ses01F_impro05", "Ses05M_script01_1b"


ONE = ("dataset.num_workers=1",)  # a child takes longer to start than to cut these clips


def prepare(root: Path, run_dir: Path, *overrides: str) -> dict:
    """Runs the task; returns prepare.json."""
    run_dir.mkdir(exist_ok=True)
    cfg = composed("task=prepare", "dataset=iemocap", f"dataset.root={root}", *ONE, *overrides)
    build(cfg, run_dir, None).run()
    return read_json(run_dir / "prepare.json")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with its clips."""
    root = write_iemocap(tmp_path_factory.mktemp("iemocap"))
    told = prepare(root, root / "run", "dataset.num_workers=2")
    assert told == {"made": 4, "kept": 0, "failed": {}}
    return root


@pytest.fixture
def tree(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(prepared, tmp_path / "tree")


def seen(path: Path, num_frames: int) -> Clip:
    """Reads a clip with the sound that is in it."""
    how = ClipRequest(Sampling.count(num_frames), 16_000, want_video=True, want_audio=True)
    return read_clip(path, None, how)


@pytest.mark.parametrize(
    ("name", "colour", "frames"),
    [
        (f"{FIRST}_F000", "red", range(5, 13)),  # 0.5 to 1.3 s at 10 frames a second
        (f"{FIRST}_M001", "blue", range(10, 20)),
        (f"{LAST}_M001", "red", range(25, 30)),  # M is on the left in a dialogue named M
        (f"{LAST}_F000", "blue", range(2, 8)),  # frame 2, seen from 0.2 s on, is there at 0.25 s
    ],
)
def test_a_clip_is_the_speakers_half_in_its_time(
    prepared: Path, name: str, colour: str, frames: range
) -> None:
    clip = seen(prepared / "clips" / f"{name}.mp4", len(frames))
    assert clip.frames is not None
    assert clip.frames.shape == (len(frames), 30, 50, 3)
    inner = clip.frames[:, 4:-4, 8:-8].astype(float)
    shown, other = (inner[..., c].mean(axis=(1, 2)) for c in ((0, 2), (2, 0))[colour == "blue"])
    np.testing.assert_allclose(shown, [level(i) for i in frames], atol=3)  # half of a step
    assert other.max() < 12


def test_the_times_of_frames_start_with_the_clip(prepared: Path) -> None:
    whole = seen(prepared / "clips" / f"{FIRST}_F000.mp4", 8)
    between = seen(prepared / "clips" / f"{LAST}_F000.mp4", 6)
    np.testing.assert_allclose(whole.frame_times_s, np.arange(8) / 10, atol=1e-3)
    np.testing.assert_allclose(between.frame_times_s, [0, 0.05, 0.15, 0.25, 0.35, 0.45], atol=1e-3)


@pytest.mark.parametrize("name", [f"{FIRST}_F000", f"{FIRST}_M001", f"{LAST}_M001"])
def test_its_sound_is_the_utterances(prepared: Path, name: str) -> None:
    heard = seen(prepared / "clips" / f"{name}.mp4", 1).waveform
    (wav,) = prepared.glob(f"Session*/sentences/wav/*/{name}.wav")
    how = ClipRequest(Sampling.count(1), 16_000, want_video=False, want_audio=True)
    official = read_clip(None, wav, how).waveform
    assert heard is not None
    assert official is not None
    assert abs(len(heard) - len(official)) <= 2048  # AAC's frames are whole
    n = min(len(heard), len(official))
    assert np.corrcoef(heard[:n], official[:n])[0, 1] > 0.98


def test_the_reader_reads_these_clips(prepared: Path) -> None:
    examples = read("iemocap", prepared, "all")
    assert [e.video.name for e in examples] == [
        f"{FIRST}_F000.mp4", f"{FIRST}_M001.mp4", f"{LAST}_F000.mp4", f"{LAST}_M001.mp4",
    ]  # fmt: skip
    assert all(e.video.is_file() and seen(e.video, 2).frames is not None for e in examples)
    assert sorted(p.name for p in (prepared / "clips").iterdir()) == [
        e.video.name for e in examples
    ]


@pytest.mark.slow
def test_what_is_there_is_kept_unless_it_is_older_or_asked_for(
    tree: Path, capsys: pytest.CaptureFixture
) -> None:
    clips = sorted((tree / "clips").iterdir())
    before = [p.stat().st_mtime_ns for p in clips]
    assert prepare(tree, tree / "run") == {"made": 0, "kept": 4, "failed": {}}
    assert "clips: 0 made, 4 were there, 0 failed" in capsys.readouterr().out
    assert [p.stat().st_mtime_ns for p in clips] == before
    (wav,) = tree.glob(f"Session*/sentences/wav/*/{FIRST}_F000.wav")
    later = before[0] + 10**9
    os.utime(wav, ns=(later, later))
    assert prepare(tree, tree / "run")["made"] == 1
    assert [p.stat().st_mtime_ns == t for p, t in zip(clips, before, strict=True)] == [
        False, True, True, True,
    ]  # fmt: skip
    assert prepare(tree, tree / "run", "task.overwrite=true") == {
        "made": 4, "kept": 0, "failed": {},
    }  # fmt: skip


def overwrite_frames(path: Path, frames: range) -> None:
    """Puts zeros where the data of these frames starts."""
    data = bytearray(path.read_bytes())
    movie = data.index(b"movi")
    starts = [i for i in range(movie, len(data)) if data[i : i + 4] == b"00dc"]
    for frame in frames:
        data[starts[frame] + 8 : starts[frame] + 40] = bytes(32)
    path.write_bytes(data)


def test_what_cannot_be_cut_is_named_and_the_rest_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    early, late = ("F000", "ang", 0.5, 0.9), ("M001", "sad", 1.0, 2.0)
    names = [f"Ses01F_impro0{n}" for n in range(1, 7)]
    turns = dict.fromkeys(names, (early, late))
    turns[names[2]] = (early, ("M001", "sad", 1.0, 9.0))
    turns[names[4]] = (early, late, ("F002", "neu", 1.4, 1.5), ("F003", "neu", 2.0, 2.4))
    tree = write_iemocap(tmp_path / "tree", turns)
    recording(tree, names[0]).unlink()
    recording(tree, names[1]).write_bytes(b"RIFF" + bytes(2000))
    next(tree.rglob(f"{names[3]}_M001.wav")).unlink()
    overwrite_frames(recording(tree, names[4]), range(12, 14))
    with pytest.raises(
        UserError, match=r"8 of 14 clips could not be made; .*prepare.json lists them"
    ):
        prepare(tree, tmp_path / "run")
    told = read_json(tmp_path / "run" / "prepare.json")
    whys = {
        f"{names[0]}_F000": "impro01.avi: no such file",
        f"{names[0]}_M001": "impro01.avi: no such file",
        f"{names[1]}_F000": "impro02.avi: ",
        f"{names[1]}_M001": "impro02.avi: ",
        f"{names[2]}_M001": "impro03.avi: its picture ends at 3.00 s, before 1 to 9 s",
        f"{names[3]}_M001": "impro04_M001.wav: no such file",
        f"{names[4]}_M001": "impro05.avi: its picture is damaged near 1.20 s",
        f"{names[4]}_F002": "impro05.avi: its picture is damaged near 1.40 s",  # no key frame yet
    }
    assert told["made"] == 6
    assert {*told["failed"]} == {*whys}
    assert [
        (name, told["failed"][name]) for name in whys if whys[name] not in told["failed"][name]
    ] == []
    printed = capsys.readouterr().out
    assert all(why in printed for why in whys.values())
    assert f"failed: {names[0]}_F000 and 1 more: " in printed
    there = {path.stem for path in (tree / "clips").iterdir()}
    assert there == {f"{name}_{turn[0]}" for name in names for turn in turns[name]} - {*whys}
    assert read_json(tmp_path / "run" / "run.json")["status"] == "failed"


def test_without_any_recording_there_is_no_folder_of_clips(tree: Path) -> None:
    shutil.rmtree(tree / "clips")
    for path in tree.rglob("*.avi"):
        path.unlink()
    with pytest.raises(UserError, match="4 of 4 clips could not be made"):
        prepare(tree, tree / "run")
    assert not (tree / "clips").exists()  # or the reader would expect clips


def test_a_data_set_with_nothing_to_prepare_says_so(tmp_path: Path) -> None:
    cfg = composed("task=prepare", "dataset=cremad", f"dataset.root={tmp_path}")
    with pytest.raises(UserError, match="dataset=cremad has nothing to prepare"):
        build(cfg, tmp_path, None)
    cfg = composed("task=prepare", "dataset=iemocap", f"dataset.root={tmp_path}")
    with pytest.raises(UserError, match="no clip of iemocap is listed there"):
        build(cfg, tmp_path, None)


def test_leaving_early_ends_a_child_at_its_work() -> None:
    asked, ends = threading.Event(), []

    def do(index: int, reader: ClipReader) -> None:
        if index == 1:
            asked.set()
        try:
            reader.call((60 * index,), {}, "a nap")
        except MediaError as error:
            ends.append(str(error))

    work = in_children(2, do, make_reader=lambda: ClipReader(90, 9, "time:sleep"), num_workers=1)
    next(work)
    asked.wait()
    work.close()
    assert [end for end in ends if "SIGKILL" in end] == ends != []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["avi/DivX/{}.mp4", "avi/{}.MKV", "mp4/{}.mp4"])
def test_recordings_in_another_container_are_found_and_cut_alike(
    prepared: Path, tree: Path, place: str
) -> None:
    clip = "clips/Ses01F_impro05_M001.mp4"
    for dialogue in (FIRST, LAST):
        released = recording(tree, dialogue)
        copied = tree / f"Session{int(dialogue[3:5])}" / "dialog" / place.format(dialogue)
        copied.parent.mkdir(exist_ok=True)
        with av.open(str(released)) as source, av.open(str(copied), "w") as out:
            picture = source.streams.video[0]
            stream = out.add_stream_from_template(picture)
            for packet in source.demux(picture):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
        released.unlink()
    shutil.rmtree(tree / "clips")
    assert prepare(tree, tree / "run") == {"made": 4, "kept": 0, "failed": {}}
    then, now = seen(prepared / clip, 4).frames, seen(tree / clip, 4).frames
    assert then is not None
    assert now is not None
    np.testing.assert_allclose(now, then, atol=3)
