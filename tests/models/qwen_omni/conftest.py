"""Tiny Qwen-Omni policies."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_rlvr.models.families import family_of
from omni_rlvr.models.loading.config_file import SETTINGS
from omni_rlvr.models.qwen_omni.generations import GENERATIONS as GENERATIONS_OF
from omni_rlvr.models.qwen_omni.model import QwenOmni

GENERATIONS = ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")


@pytest.fixture(scope="session", params=GENERATIONS)
def untouched(request) -> QwenOmni:
    """The tiny policy of a generation, which no test may change."""
    return family_of(request.param).tiny(0, request.param)


@pytest.fixture
def policy(untouched: QwenOmni) -> QwenOmni:
    """A tiny policy of one's own, all of it frozen, in eval mode."""
    return copy.deepcopy(untouched, {id(untouched.processor): untouched.processor})


@pytest.fixture
def folder(untouched: QwenOmni, tmp_path: Path) -> Path:
    """A checkpoint of the tiny policy: a thinker folder with our settings beside it."""
    untouched.save(tmp_path / "thinker")
    return tmp_path / "thinker"


@pytest.fixture
def published(folder: Path) -> Path:
    """The same as it is published: the whole model's config and names, a talker, no settings."""
    fields = json.loads((folder / "config.json").read_text())
    generation = GENERATIONS_OF[fields["model_type"]]
    whole = folder.with_name("published")
    shutil.copytree(folder, whole)
    (whole / SETTINGS).unlink()
    weights = load_file(whole / "model.safetensors")
    weights = {f"thinker.{name}": weight for name, weight in weights.items()}
    weights["talker.model.norm.weight"] = torch.zeros(2)
    save_file(weights, whole / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": generation.model_types[0], "thinker_config": fields}
    (whole / "config.json").write_text(json.dumps(config))
    return whole
