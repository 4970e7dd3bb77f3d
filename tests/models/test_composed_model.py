"""The omni model: placeholders match features, padding changes nothing, the frozen copy stays."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from omni_rlvr.models.policy import AUDIO_ID, VIDEO_ID
from omni_rlvr.types import Batch, Features


def prompt_logits(policy, batch: Batch) -> torch.Tensor:
    """[B, P, V] logits of every prompt position."""
    with torch.no_grad():
        embeds = policy.prompts(batch, policy.encode(batch)).embeds
        positions = (batch.prompt_mask.cumsum(dim=1) - 1).clamp(min=0)
        return policy.language_model(
            inputs_embeds=embeds, attention_mask=batch.prompt_mask, position_ids=positions
        ).logits


def rows_with(shapes) -> list[int]:
    return [row for row, shape in enumerate(shapes) if shape is not None]


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"NUM_FRAMES": 1},
        {"NUM_FRAMES": 5, "VIDEO_MERGE": 1},
        {"IMAGE_SIZE": 64, "VIDEO_MERGE": 4},
        {"AUDIO_MERGE": 1},
        {"AUDIO_MERGE": 7},  # 50 frames are no multiple of 7: 7 tokens, one frame is left over
        {"SOUND_S": 2, "AUDIO_MERGE": 3, "NUM_FRAMES": 3},
    ],
)
def test_a_prompt_has_a_placeholder_for_every_feature(build_policy, make_batch, sizes):
    policy = build_policy(**sizes)
    batch = make_batch(policy, 2, kinds=("av",))
    with torch.no_grad():
        features = policy.encode(batch)
        video = policy.project_video(torch.stack(features.video))
        audio = policy.project_audio(torch.stack(features.audio))
    hidden = policy.config.text_config.hidden_size
    assert video.shape == (2, policy.processor.settings.video_tokens, hidden)
    assert audio.shape == (2, policy.processor.settings.audio_tokens, hidden)
    for placeholder, tokens in (
        (VIDEO_ID, video),
        (AUDIO_ID, audio),
    ):
        assert ((batch.prompt_ids == placeholder).sum(dim=1) == tokens.shape[1]).all()


def test_token_counts_by_hand(build_policy):
    # 32 px in patches of 8: 4 x 4, merged 2 x 2: 4 tokens a frame, 3 frames. 1 s: 100 mel frames,
    # halved by the encoder to 50, by fours: 12.
    settings = build_policy(NUM_FRAMES=3).processor.settings
    assert settings.video_tokens == 12
    assert settings.audio_tokens == 12


def test_features_go_to_their_placeholders_in_order(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4)
    with torch.no_grad():
        features = tiny_policy.encode(batch)
        embeds = tiny_policy.prompts(batch, features).embeds
        video = tiny_policy.project_video(torch.stack([f for f in features.video if f is not None]))
        audio = tiny_policy.project_audio(torch.stack([f for f in features.audio if f is not None]))
        text = tiny_policy.language_model.get_input_embeddings()(batch.prompt_ids.clamp(min=0))
    is_video = batch.prompt_ids == VIDEO_ID
    is_audio = batch.prompt_ids == AUDIO_ID
    for place, row in enumerate(rows_with(batch.video_shapes)):
        assert torch.equal(embeds[row, is_video[row]], video[place])
    for place, row in enumerate(rows_with(batch.audio_shapes)):
        assert torch.equal(embeds[row, is_audio[row]], audio[place])
    rest = ~(is_video | is_audio)
    assert torch.equal(embeds[rest], text[rest])


def test_merging_keeps_neighbours_together(tiny_policy):
    # Patch p of frame f holds the number 100 f + p in its first place: 4 x 4 patches, merged 2 x 2.
    features = torch.zeros(1, 2, 16, 96)
    features[0, :, :, 0] = 100 * torch.arange(2).unsqueeze(1) + torch.arange(16)
    seen = []
    tiny_policy.video_projector[0].register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    tiny_policy.project_video(features)
    numbers = seen[0].view(8, 4, 96)[:, :, 0].int().tolist()
    assert numbers[:4] == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert numbers[4] == [100, 101, 104, 105]


def test_audio_merging_joins_frames_that_follow_each_other(tiny_policy):
    features = torch.zeros(1, 50, 96)
    features[0, :, 0] = torch.arange(50)
    seen = []
    tiny_policy.audio_projector.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    tiny_policy.project_audio(features)
    numbers = seen[0].view(12, 4, 96)[:, :, 0].int().tolist()
    assert numbers[0] == [0, 1, 2, 3]
    assert numbers[-1] == [44, 45, 46, 47]  # frames 48 and 49 are left over


def test_more_padding_and_what_stands_in_it_change_nothing(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4)
    junk = torch.full((4, 9), 33)
    padded = replace(
        batch,
        prompt_ids=torch.cat([junk, batch.prompt_ids], dim=1),
        prompt_mask=torch.cat([torch.zeros_like(junk), batch.prompt_mask], dim=1),
    )
    mask = batch.prompt_mask.bool()
    got = prompt_logits(tiny_policy, padded)[:, 9:][mask]
    torch.testing.assert_close(got, prompt_logits(tiny_policy, batch)[mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("field", ["pixel_values", "input_features"])
def test_each_modality_moves_the_logits(tiny_policy, make_batch, field):
    batch = make_batch(tiny_policy, 1, kinds=("av",))
    other = replace(batch, **{field: [vars(batch)[field][0] + 1]})
    difference = prompt_logits(tiny_policy, batch)[:, -1] - prompt_logits(tiny_policy, other)[:, -1]
    assert difference.abs().max() > 1e-2


def test_encode_has_only_what_the_batch_has(tiny_policy, make_batch):
    for kind, (video, audio) in {
        "v": (True, False),
        "a": (False, True),
        "t": (False, False),
    }.items():
        features = tiny_policy.encode(make_batch(tiny_policy, 2, kinds=(kind,)))
        assert [clip is not None for clip in features.video] == [video] * 2
        assert [clip is not None for clip in features.audio] == [audio] * 2


def test_frozen_copy_shares_towers_and_nothing_that_trains(tiny_policy):
    twin = tiny_policy.frozen_copy()
    assert twin.vision_tower is tiny_policy.vision_tower
    assert twin.audio_tower is tiny_policy.audio_tower
    assert twin.processor is tiny_policy.processor
    assert not any(p.requires_grad for p in twin.parameters())
    assert not twin.training
    assert any(p.requires_grad for p in tiny_policy.parameters())  # the policy still trains
    mine = {p.data_ptr() for p in tiny_policy.parameters() if p.requires_grad}
    assert not mine & {p.data_ptr() for p in twin.parameters()}


def test_frozen_copy_keeps_embeddings_tied(tiny_policy):
    twin = tiny_policy.frozen_copy().language_model
    assert twin.lm_head.weight is twin.get_input_embeddings().weight


def test_a_tower_of_its_own_is_what_deepcopy_gives(tiny_policy):
    """Keeps the sharing test honest."""
    processor = tiny_policy.processor
    twin = copy.deepcopy(tiny_policy, {id(processor): processor})
    assert twin.vision_tower is not tiny_policy.vision_tower


def towers(policy) -> tuple[torch.nn.Module, torch.nn.Module]:
    return policy.vision_tower, policy.audio_tower


def test_training_mode_leaves_the_frozen_towers_in_eval_mode(tiny_policy):
    assert tiny_policy.train() is tiny_policy
    assert tiny_policy.training
    for part in (tiny_policy.video_projector, tiny_policy.language_model):
        assert all(module.training for module in part.modules())
    for tower in towers(tiny_policy):
        assert not any(module.training for module in tower.modules())
    tiny_policy.eval()
    assert not any(module.training for module in tiny_policy.modules())


def test_towers_drop_nothing_out_while_the_rest_trains(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2, kinds=("av",))
    for tower in towers(tiny_policy):
        for module in tower.modules():
            if "dropout" in vars(module) and isinstance(module.dropout, float):
                module.dropout = 0.9
    tiny_policy.train()
    one, other = tiny_policy.encode(batch), tiny_policy.encode(batch)
    for before, after in zip(one.video + one.audio, other.video + other.audio, strict=True):
        assert torch.equal(before, after)
    for tower in towers(tiny_policy):  # keeps the test honest: dropout was there to see
        tower.train()
    assert not torch.equal(tiny_policy.encode(batch).audio[0], one.audio[0])


@pytest.mark.parametrize("mode", [True, False])
def test_frozen_copy_touches_nobodys_mode(tiny_policy, mode):
    parts = [tiny_policy.language_model, tiny_policy.video_projector, *towers(tiny_policy)]
    for part in parts:
        part.train(mode)
    twin = tiny_policy.frozen_copy()
    assert all(module.training is mode for part in parts for module in part.modules())
    for part in (twin.language_model, twin.video_projector, twin.audio_projector):
        assert not any(module.training for module in part.modules())


def test_embedding_without_features_leaves_text(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2, kinds=("t",))
    embeds = tiny_policy.prompts(batch, Features.none(2)).embeds
    expected = tiny_policy.language_model.get_input_embeddings()(batch.prompt_ids.clamp(min=0))
    assert torch.equal(embeds, expected)
