"""The sampling rule against R1-Omni's own numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from omni_rlvr.media.frame_sampling import uniform_indices

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
