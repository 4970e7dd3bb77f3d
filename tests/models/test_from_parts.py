"""Parts of other families, from folders of their own: composed, run, saved and loaded again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from case_parts import make_parts
from transformers import CLIPVisionModel

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.loading.from_parts import Parts, compose_policy
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.types import UserError


@pytest.fixture(scope="module")
def folders(tmp_path_factory, build_policy) -> dict[str, str]:
    """CLIP's vision tower, a Whisper, a Llama and a BERT, tiny, each saved by transformers."""
    root = tmp_path_factory.mktemp("parts")
    return make_parts(root, build_policy().processor.tokenizer)


def parts(folders: dict[str, str], projector: str, **changes) -> Parts:
    gate = folders["gate_bert"] if projector.startswith("all") else None
    fields = {
        "video_projector": projector,
        "video_merge": 2,
        "audio_merge": 5,
        "audio_pooling": "concat",
        "vision_select_layer": -2,
        "num_frames": 2,
        **folders,
        "gate_bert": gate,
    }
    return Parts(**{**fields, **changes})


def logits(policy, batch) -> torch.Tensor:
    with torch.no_grad():
        embeds = policy.prompts(batch, policy.encode(batch)).embeds
        return policy.language_model(inputs_embeds=embeds, attention_mask=batch.prompt_mask).logits


@pytest.mark.parametrize("projector", ["mlp2x_gelu", "all_in_one_small"])
def test_parts_of_other_families(folders, make_batch, tmp_path, projector):
    policy = compose_policy(None, "float32", "Think.", parts(folders, projector))
    assert policy.config.tokens_per_frame == 4  # 4 x 4 patches, halved; CLIP's class token is left
    clip = CLIPVisionModel.from_pretrained(folders["vision_tower"])
    for name, weight in clip.state_dict().items():
        assert torch.equal(policy.vision_tower.state_dict()[name], weight)
    batch = make_batch(policy, 4)
    wanted = logits(policy, batch)
    assert wanted.isfinite().all()
    policy.save(tmp_path / "ours")
    again = compose_policy(str(tmp_path / "ours"), "float32", None, parts(folders, projector))
    torch.testing.assert_close(logits(again, batch), wanted)
    assert again.processor.settings == policy.processor.settings
    frames = torch.randint(256, (2, 20, 30, 3), dtype=torch.uint8).numpy()
    for processor in (
        policy.processor,
        load_policy(str(tmp_path / "ours"), "float32", None).processor,
    ):
        assert processor.video(frames, np.arange(2))[0].shape == (2, 3, 32, 32)


def test_options_reach_a_composed_policy(folders):
    options = LoadOptions(image_fit="squash")
    policy = compose_policy(None, "bfloat16", None, parts(folders, "all_in_one_small"), options)
    assert policy.processor.settings.image_fit == "squash"
    assert not any(p.requires_grad for p in policy.parameters())  # until it is said what trains
    assert {p.dtype for p in policy.parameters()} == {torch.bfloat16}


def test_parts_that_do_not_go_together(folders):
    with pytest.raises(UserError, match="gate_config do not go together"):
        compose_policy(None, "float32", None, parts(folders, "all_in_one_small", gate_bert=None))
    with pytest.raises(UserError, match="cannot fuse 4 x 4"):
        compose_policy(None, "float32", None, parts(folders, "all_in_one"))
    folder = str(Path(folders["gate_bert"]).parent)
    wrong = parts(folders, "mlp2x_gelu", language_model=folder)
    with pytest.raises(UserError, match=r"model.parts.language_model=.*cannot be read"):
        compose_policy(None, "float32", None, wrong)
    with pytest.raises(UserError, match="audio_merge"):
        parts(folders, "mlp2x_gelu", audio_merge=0)
