"""A traceback from the loss is short enough to be read: few frames of the package lead to it."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

import omni_rlvr
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.stages.sft import SftStage

PACKAGE = Path(omni_rlvr.__file__).parent
MOST = 8
"""Frames of the package, that of the loss counted."""


@pytest.mark.parametrize("stage", [SftStage, GrpoStage])
def test_few_frames_lead_to_the_loss(runner, command, stage, monkeypatch) -> None:
    def fail(*_, **__):
        raise ZeroDivisionError("in the loss")

    monkeypatch.setattr("omni_rlvr.stages.grpo.policy_loss", fail)
    monkeypatch.setattr("omni_rlvr.stages.sft.sft_loss", fail)
    with pytest.raises(ZeroDivisionError, match="in the loss") as error:
        command(*(runner.sft if stage is SftStage else runner.grpo))
    frames = [
        f"{Path(frame.filename).relative_to(PACKAGE)}:{frame.name}"
        for frame in traceback.extract_tb(error.value.__traceback__)
        if Path(frame.filename).is_relative_to(PACKAGE)
    ]
    assert frames[0] == "cli.py:main"
    assert frames[-1] == f"stages/{stage.__name__.removesuffix('Stage').lower()}.py:loss"
    assert len(frames) <= MOST, frames
