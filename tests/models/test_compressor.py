"""HumanOmni-7B's frame compressor: every frame pooled, and every fourth kept whole."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.composed.publish import export_published
from omni_rlvr.models.composed.published_layout import read_settings
from omni_rlvr.models.loading.load import load_policy


@pytest.mark.slow
def test_the_7b_models_compressor(humanomni, make_batch, tmp_path):
    """6 frames of 2 x 2 tokens: 6 pooled ones, and all 4 of frames 0 and 4."""
    config = copy.deepcopy(humanomni.config)
    config.compressor_size = 8
    policy = OmniModel(config).eval()
    settings = read_settings(config, num_frames=6)
    policy.processor = replace(humanomni.processor, settings=settings)
    assert settings.video_tokens == 6 * 1 + 2 * 4
    tokens = torch.randn(1, 6 * 4, 32)
    out = policy.compressor(tokens, 6)
    torch.testing.assert_close(out[0, 1], tokens[0, 4:8].mean(dim=0))
    assert torch.equal(out[0, 6:], torch.cat([tokens[0, :4], tokens[0, 16:20]]))
    export_published(policy, tmp_path / "theirs")
    loaded = load_policy(str(tmp_path / "theirs"), "float32", None)
    batch = make_batch(policy, 4)
    both = [one.prompts(batch, one.encode(batch)).embeds for one in (loaded, policy)]
    torch.testing.assert_close(*both)
    assert "model.feature_compressor.vlm_key_projector.weight" in load_file(
        tmp_path / "theirs" / "model.safetensors"
    )
