"""A tiny HumanOmni, and a folder of it in the published layout."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
from make_humanomni import build_humanomni

from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.composed.publish import export_published


@pytest.fixture(scope="session")
def _untouched_humanomni() -> OmniModel:
    return build_humanomni()


@pytest.fixture
def humanomni(_untouched_humanomni: OmniModel) -> OmniModel:
    """A tiny HumanOmni of one's own, towers and BERT frozen, in eval mode."""
    processor = _untouched_humanomni.processor
    return copy.deepcopy(_untouched_humanomni, {id(processor): processor})


@pytest.fixture(scope="session")
def _untouched_folder(_untouched_humanomni: OmniModel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "checkpoint"
    export_published(_untouched_humanomni, folder)
    return folder


@pytest.fixture
def published_folder(_untouched_folder: Path, tmp_path: Path) -> Path:
    """A folder of the tiny HumanOmni in the published layout, one's own."""
    return Path(shutil.copytree(_untouched_folder, tmp_path / "published"))
