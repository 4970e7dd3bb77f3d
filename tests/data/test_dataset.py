"""A clip that cannot be read becomes a SkippedClip of its own example; nothing takes its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from every_case import every_case

from omni_rlvr.data.dataset import ClipDataset
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.types import Clip, Example, MediaError, Sample, SkippedClip

FRAMES = np.zeros((2, 4, 4, 3), np.uint8)
SOUND = np.zeros(9, np.float32)
CONTENTS = {
    "both.mp4": (FRAMES, SOUND),
    "silent.mp4": (FRAMES, None),
    "blind.m4a": (None, SOUND),
    "nothing.mp4": (None, None),
}


class FakeReader:
    """Knows what is in files by their names, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[ClipRequest] = []

    def read(self, video, audio, request: ClipRequest) -> Clip:
        self.asked.append(request)
        name = (video or audio).name
        if name == "torn.mp4":
            raise MediaError(f"{name}: is truncated, 5 bytes are missing at its end")
        if name == "bug.mp4":
            raise RuntimeError("a fault of ours")
        frames, sound = CONTENTS[name]
        return Clip(
            frames if request.want_video else None,
            sound if request.want_audio else None,
            duration_s=1.0,
        )


def dataset(*names: str, video: bool = True, audio: bool = True) -> ClipDataset:
    examples = [
        Example(f"id{i}", "?", "happy", "happy", video=Path(name), source=f"train.json[{i}]")
        for i, name in enumerate(names)
    ]
    request = ClipRequest(Sampling.count(2), 16_000, want_video=video, want_audio=audio)
    return ClipDataset(examples, FakeReader(), request, cache=None)


def test_a_clip_that_can_be_read_is_a_sample() -> None:
    data = dataset("silent.mp4", "both.mp4")
    assert len(data) == 2
    item = data[1]
    assert isinstance(item, Sample)
    assert item.example is data.examples[1]
    assert item.clip.frames is FRAMES
    assert data.reader.asked == [ClipRequest(Sampling.count(2), 16_000, True, True)]


def test_a_torn_clip_is_skipped_with_its_reason_and_place() -> None:
    data = dataset("both.mp4", "torn.mp4", "both.mp4")
    item = data[1]
    assert isinstance(item, SkippedClip)
    assert item.example is data.examples[1]
    assert item.reason == (
        "torn.mp4: is truncated, 5 bytes are missing at its end (annotation train.json[1])"
    )
    assert len(data.reader.asked) == 1  # no other clip was read for it


@every_case(
    ("name", "video", "audio", "missing"),
    [
        ("silent.mp4", False, True, "sound"),
        ("blind.m4a", True, False, "picture"),
        ("nothing.mp4", False, True, "sound"),
        ("nothing.mp4", True, False, "picture"),
    ],
)
def test_a_clip_without_the_only_modality_is_skipped(name, video, audio, missing) -> None:
    item = dataset(name, video=video, audio=audio)[0]
    assert isinstance(item, SkippedClip)
    assert f"{name} has no {missing}, the only modality in use" in item.reason
    assert "train.json[0]" in item.reason


@pytest.mark.parametrize("name", ["silent.mp4", "blind.m4a"])
def test_one_modality_is_enough_where_both_are_used(name) -> None:
    assert isinstance(dataset(name)[0], Sample)


def test_a_fault_of_ours_is_no_bad_clip() -> None:
    with pytest.raises(RuntimeError, match="a fault of ours"):
        dataset("bug.mp4")[0]
