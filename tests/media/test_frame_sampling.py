"""The sampling rule against R1-Omni's own numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from every_case import every_case

from omni_rlvr.media.frame_sampling import Sampling, uniform_indices

FRAMES = Path(__file__).parents[1] / "fixtures" / "parity_A" / "frames.json"


def reference_rows() -> list[dict]:
    """Rows of whole files with as many frames as asked for."""
    rows = json.loads(FRAMES.read_text())["rows"]
    return [
        row
        for row in rows
        if row["kind"] == "file"
        and row["error"] is None
        and row["start"] is None
        and row["end"] is None
        and row["num_frames"] <= 10_000
    ]


def test_reference_numbers():
    rows = reference_rows()
    assert len(rows) > 50
    for row in rows:
        indices = uniform_indices(row["num_frames_total"], row["num_frames"])
        assert indices.tolist() == row["indices"], row


def test_by_hand():
    # part = (9 - 1) / 4 = 2; middles 1, 3, 5, 7
    assert uniform_indices(9, 4).tolist() == [1, 3, 5, 7]
    # part = (5 - 1) / 4 = 1; middles .5, 1.5, 2.5, 3.5, each lifted over the tie by 1e-6
    assert uniform_indices(5, 4).tolist() == [1, 2, 3, 4]
    assert uniform_indices(1, 3).tolist() == [0, 0, 0]
    assert uniform_indices(9, 4).dtype == np.int64


@pytest.mark.parametrize(("total", "wanted"), [(0, 8), (8, 0), (-1, 1)])
def test_nothing_to_sample(total, wanted):
    with pytest.raises(ValueError, match="num_frames"):
        uniform_indices(total, wanted)


def taken(sampling: Sampling, num_frames: int, fps: float) -> list[int]:
    """The frames taken of a clip of constant rate."""
    times_s = np.arange(num_frames) / fps
    return sampling.indices(times_s, num_frames / fps).tolist()


def test_a_count_is_the_middles_of_equal_parts_whatever_the_rate() -> None:
    assert taken(Sampling.count(4), 9, 25.0) == taken(Sampling.count(4), 9, 3.7) == [1, 3, 5, 7]
    assert Sampling.count(4).middles(123.0).tolist() == [0.125, 0.375, 0.625, 0.875]


def test_a_rate_takes_an_even_number_of_frames_from_the_first_to_the_last() -> None:
    two_a_second = Sampling.rate(2.0, at_least=4, at_most=768)
    # 100 frames at 25 a second are 4 s: 8 frames, 99 / 7 = 14.142857 apart:
    # 0, 14.14, 28.29, 42.43, 56.57, 70.71, 84.86, 99
    assert taken(two_a_second, 100, 25.0) == [0, 14, 28, 42, 57, 71, 85, 99]
    # 119 frames at 25 a second are 4.76 s: 9.52 frames, down to 8; 118 / 7 = 16.857 apart:
    # 0, 16.86, 33.71, 50.57, 67.43, 84.29, 101.14, 118
    assert taken(two_a_second, 119, 25.0) == [0, 17, 34, 51, 67, 84, 101, 118]
    assert len(taken(Sampling.rate(2.0, at_least=4, at_most=768, multiple_of=1), 119, 25.0)) == 9


def test_the_true_rate_of_a_clip_may_be_a_fraction() -> None:
    sampling = Sampling.rate(2.0, at_least=4, at_most=768)
    # 150 frames at 30000 / 1001 a second are 5.005 s: 10.01 frames, down to 10
    assert sampling.num_frames(150 * 1001 / 30000, 150) == 10
    # 149 frames are 4.97 s: 9.94 frames, down to 8
    assert sampling.num_frames(149 * 1001 / 30000, 149) == 8
    # exactly 5 s, as a sum that rounding has made a little less: still 10
    assert sampling.num_frames(5.0 - 1e-9, 150) == 10
    # 12 frames at 1.9 a second are 6.316 s: 12.63 frames, and there are 12
    assert taken(sampling, 12, 1.9) == list(range(12))


def test_the_least_and_the_most_frames() -> None:
    sampling = Sampling.rate(2.0, at_least=5, at_most=11)
    # 0.4 s want 0.8 frames; at least 5 is at least 6, the next even number; 9 / 5 = 1.8 apart:
    # 0, 1.8, 3.6, 5.4, 7.2, 9
    assert taken(sampling, 10, 25.0) == [0, 2, 4, 5, 7, 9]
    # 60 s want 120 frames; at most 11 is at most 10, the even number before it
    assert len(taken(sampling, 1500, 25.0)) == 10
    assert taken(sampling, 5, 25.0) == [0, 1, 3, 4]  # 5 frames: 4 of them; 0, 1.33, 2.67, 4
    assert taken(sampling, 1, 25.0) == [0, 0]  # one frame is shown twice
    assert sampling.num_frames(0.0) == 6  # no picture: nothing limits it to fewer
    assert sampling.middles(3.5).tolist() == [i / 12 for i in (1, 3, 5, 7, 9, 11)]  # 7, down to 6


def test_a_variable_rate_is_sampled_evenly_in_time() -> None:
    """Ten frames in the first second, and then one a second."""
    times_s = np.array([0.1 * i for i in range(10)] + [1.0, 2.0, 3.0])
    sampling = Sampling.rate(1.0, at_least=4, at_most=768)
    # from 0 to 3 s in 4 frames: 0, 1, 2 and 3 s; by number it would be 0, 0.4, 0.8 and 3 s
    indices = sampling.indices(times_s, duration_s=4.0)
    assert indices.tolist() == [0, 10, 11, 12]
    assert times_s[indices].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert indices.dtype == np.int64


def test_two_joined_files_may_share_a_time() -> None:
    times_s = np.array([0.0, 0.5, 0.5, 1.0])
    indices = Sampling.rate(4.0, at_least=2, at_most=8).indices(times_s, 1.5)
    assert indices.tolist() == [0, 1, 2, 3]  # nearest to 0, 0.33, 0.67 and 1 s


@every_case(
    ("options", "said"),
    [
        ({"fps": 0.0}, "fps=0.0 must be above 0"),
        ({"at_least": 0}, "at_least=0 must be at least 1"),
        ({"at_least": 9, "at_most": 8}, "at_least=9 must be .* at most at_most=8"),
        ({"at_least": 5, "at_most": 5}, "no multiple of 2 is between at_least=5 and at_most=5"),
        ({"multiple_of": 0}, "multiple_of=0"),
    ],
)
def test_a_rate_that_no_clip_can_have(options, said) -> None:
    with pytest.raises(ValueError, match=said):
        Sampling.rate(**{"fps": 2.0, "at_least": 4, "at_most": 8, **options})


def test_equal_rules_are_one_key() -> None:
    assert {Sampling.count(8), Sampling.count(8)} == {Sampling.count(8)}
    assert Sampling.count(8) != Sampling.rate(2.0, at_least=8, at_most=8)
