"""What a run leaves can be read by whom the user's umask lets read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from omni_rlvr.data.synthetic import generate
from omni_rlvr.folders import set_usual_mode, whole_folder
from omni_rlvr.models.composed import tiny
from omni_rlvr.training.checkpoint import save_checkpoint


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(top: Path) -> set[tuple[str, int]]:
    """Kind and permissions of all that lies below a folder."""
    paths = [path for path in (top, *top.rglob("*")) if not path.is_symlink()]
    return {("d" if p.is_dir() else "f", stat.S_IMODE(p.stat().st_mode)) for p in paths}


def test_files_of_safetensors_and_folders_of_tempfile_have_the_usual_mode(
    tmp_path: Path, umask: int
) -> None:
    with whole_folder(tmp_path / "whole") as partial:
        (partial / "below").mkdir()
        save_file({"x": torch.zeros(1)}, partial / "below" / "x.safetensors")
    assert modes(tmp_path / "whole") == {("d", 0o777 & ~umask), ("f", 0o666 & ~umask)}
    assert os.umask(umask) == umask  # it was not changed
    target = tmp_path / "target"
    target.write_text("x")
    target.chmod(0o600)
    (tmp_path / "link").symlink_to(target)
    set_usual_mode(tmp_path / "link")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.slow
def test_a_checkpoint_and_made_clips_have_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        torch.manual_seed(0)
        policy = tiny.build_tiny(tiny.build_processor(tiny.train_tokenizer(["a b"])))
        save_checkpoint(tmp_path / "run", policy, {}, step=1, keep=1)
        clips = generate.ensure_split(tmp_path / "data", "test", num_clips=1, seed=0, num_workers=1)
    finally:
        os.umask(before)
    assert modes(tmp_path / "run" / "checkpoints") == {("d", 0o755), ("f", 0o644)}
    assert modes(clips) == {("d", 0o755), ("f", 0o644)}
