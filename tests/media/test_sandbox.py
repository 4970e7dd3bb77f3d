"""Reading in a child: same results; after a hang or crash a MediaError, and the next read works."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from make_clips import Recipe, write
from torch.utils.data import DataLoader

from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.limits import Limits
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.types import MediaError

OPTIONS = ClipRequest(Sampling.count(8), 16000, want_video=True, want_audio=True)
FAULTY = '''
"""Stands in for a decoder; the file's name says what to do."""
import os, signal, time
from omni_rlvr.types import Clip, MediaError

def act(video, audio, request):
    print("junk on stdout", flush=True)
    os.write(1, b"more junk")
    match video:
        case "hang":
            time.sleep(600)
        case "deaf hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True: pass
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "leave":
            os._exit(3)
        case "fault":
            raise KeyError("a bug")
    return Clip(frames=None, waveform=None, duration_s=float(os.getpid()))
'''


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("clips") / "clip.mp4", Recipe())


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    (tmp_path / "faulty_decoder.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    with ClipReader(1.0, 1000, function="faulty_decoder:act") as reader:
        yield reader


def same(ours, theirs) -> bool:
    return np.array_equal(ours.frames, theirs.frames) and np.array_equal(
        ours.waveform, theirs.waveform
    )


@pytest.mark.slow  # processes are started
def test_same_as_direct(clip_path, tmp_path):
    with ClipReader(30.0, 100) as reader:
        assert same(reader.read(clip_path, None, OPTIONS), read_clip(clip_path, None, OPTIONS))
        with pytest.raises(MediaError, match=r"gone\.mp4: no such file"):
            reader.read(tmp_path / "gone.mp4", None, OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("video", "message"),
    [
        ("hang", r"^hang: .*dataset\.decode_timeout_s=1 s"),
        ("deaf hang", r"^deaf hang: .*dataset\.decode_timeout_s=1 s"),
        ("segfault", r"^segfault: .*SIGSEGV"),
        ("leave", r"^leave: .*exit code 3"),
    ],
)
def test_hang_or_crash_then_go_on(faulty, video, message):
    before = faulty.read("fine", None, OPTIONS).duration_s
    start = time.monotonic()
    with pytest.raises(MediaError, match=message):
        faulty.read(video, None, OPTIONS)
    assert time.monotonic() - start < 4
    with pytest.raises(ProcessLookupError):
        os.kill(int(before), 0)
    assert faulty.read("fine", None, OPTIONS).duration_s != before


def test_a_fault_of_ours_is_no_bad_clip(faulty):
    with pytest.raises(RuntimeError, match=r"(?s)fault.*KeyError: 'a bug'"):
        faulty.read("fault", None, OPTIONS)
    with pytest.raises(RuntimeError, match="did not start"):
        ClipReader(1.0, 1, function="no_such_module:f").read("x", None, OPTIONS)


@pytest.mark.parametrize(
    ("function", "args", "said"),
    [
        ("av:open", ("gone.mp4",), "FileNotFoundError"),  # its own class
        ("av:open", ("clip.mp4", "x"), "ValueError: mode must be"),  # raised in compiled code
        ("numpy:rot90", ([1],), "ValueError: Axes must be"),
    ],
)
def test_what_a_media_library_raises_is_the_clips_error(function, args, said):
    with (
        ClipReader(30.0, 9, function=function) as reader,
        pytest.raises(MediaError, match=rf"^clip\.mp4: a media library failed on it .*{said}"),
    ):
        reader.call(args, {}, "clip.mp4")


def test_what_does_not_fit_into_memory_is_the_clips_error():
    with (
        ClipReader(30.0, 9, "numpy:zeros", Limits(max_memory_gb=2)) as reader,
        pytest.raises(MediaError, match=r"^clip\.mp4: .* memory than dataset\.max_memory_gb=2 "),
    ):
        reader.call((1 << 50,), {}, "clip.mp4")


def test_child_is_replaced_after_so_many_clips(tmp_path, faulty):
    with ClipReader(5.0, 2, function="faulty_decoder:act") as reader:
        pids = [reader.read("fine", None, OPTIONS).duration_s for _ in range(4)]
    assert pids[0] == pids[1] != pids[2] == pids[3]


def test_child_ends_with_its_parent(faulty, tmp_path):
    """The parent is killed, so that no clean-up of Python's can help."""
    program = (
        "from omni_rlvr.media.frame_sampling import Sampling\n"
        "from omni_rlvr.media.request import ClipRequest\n"
        "from omni_rlvr.media.sandbox.reader import ClipReader; import os\n"
        "reader = ClipReader(1.0, 9, function='faulty_decoder:act')\n"
        f"print(int(reader.read('fine', None, {OPTIONS}).duration_s), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert gone_within(int(done.stdout), 5.0)


def gone_within(pid: int, limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_reader_travels(clip_path):
    reader = ClipReader(30.0, 100)
    copy = pickle.loads(pickle.dumps(reader))
    with copy:
        copy.read(clip_path, None, OPTIONS)
        with pickle.loads(pickle.dumps(copy)) as third:
            third.read(clip_path, None, OPTIONS)


class Clips:
    """A data set that reads in a child of whichever process it lives in."""

    def __init__(self, path) -> None:
        self.path = path
        self.reader = ClipReader(60.0, 100)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i):
        return self.reader.read(self.path, None, OPTIONS)


def as_is(clips):
    return clips


@pytest.mark.slow
@pytest.mark.parametrize("used_before", [False, True])
def test_inside_a_loader_worker(clip_path, used_before):
    """Forked workers start their own child, even when the parent already has one."""
    dataset = Clips(clip_path)
    expected = read_clip(clip_path, None, OPTIONS)
    if used_before:
        assert same(dataset[0], expected)
    loader = DataLoader(
        dataset, batch_size=1, num_workers=2, collate_fn=as_is, multiprocessing_context="fork"
    )
    assert all(same(clip, expected) for batch in loader for clip in batch)
    assert same(dataset[0], expected)  # the parent's child still works
    dataset.reader.close()


def test_the_child_is_light():
    code = "import sys, omni_rlvr.media.clip as c; print([m for m in sys.modules if m == 'torch'])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
