"""The clips of a version of the synthetic data are what they were when the version was made.

``python tests/data/test_synthetic_version.py`` writes the values anew, when ``VERSION`` was raised.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from every_case import every_case

from omni_rlvr.data.synthetic import generate
from omni_rlvr.media import clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest

KEPT = Path(__file__).parents[1] / "fixtures" / "synthetic_version_1.npz"
SPLITS = ("caption", "cold_start", "rlvr", "test", "ood")
NUM_KEPT = 2_000
"""Pixels and samples that are kept of a clip, at places drawn once."""


def values(folder: Path, split: str) -> dict[str, np.ndarray]:
    """Make the third clip of a split; its annotation's digest, pixels and samples of sound."""
    label = generate.balanced_labels(split, 12, 0)[2]
    row = generate.make_clip(folder, split, 0, 2, label)
    media = {key: Path(str(row.pop(key))) for key in ("video", "audio") if key in row}
    (path,) = {folder / p.name for p in media.values()}
    read = clip.read_clip(
        path if "video" in media else None,
        None if "video" in media else path,
        ClipRequest(Sampling.count(20), 16_000, "video" in media, want_audio=True),
    )
    text = json.dumps({**row, "media": sorted(media)}, sort_keys=True)
    kept = {"row": np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)}
    for name, array in (("frames", read.frames), ("waveform", read.waveform)):
        if array is not None:
            places = np.random.default_rng(0).integers(0, array.size, NUM_KEPT)
            kept[name] = array.reshape(-1)[places]
    return kept


@every_case("split", SPLITS)
def test_a_clip_is_what_it_was(split: str, tmp_path: Path) -> None:
    assert generate.VERSION == 1
    kept = {
        key.partition("/")[2]: value
        for key, value in np.load(KEPT).items()
        if key.startswith(f"{split}/")
    }
    seen = values(tmp_path, split)
    assert {*seen} == {*kept} > {"row"}
    assert np.array_equal(seen["row"], kept["row"])
    # another processor's sines may differ in the last bit, and tip a rounding of the encoder's
    for name, most in (("frames", 3), ("waveform", 2e-3)):
        if name in kept:
            assert np.abs(seen[name].astype(float) - kept[name].astype(float)).max() <= most


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        every = {
            f"{split}/{key}": value
            for split in SPLITS
            for key, value in values(Path(made), split).items()
        }
    np.savez_compressed(KEPT, **every)
