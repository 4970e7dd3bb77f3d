"""The three-branch model where the reference crashes: batches, padding, one modality or none; and
its quirks, each an option that changes something.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.config.trainable import TrainableConfig
from omni_rlvr.functional.masks import position_ids
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.composed.projectors import pool_grid
from omni_rlvr.models.composed.towers import patch_features
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.models.policy import AUDIO_ID, VIDEO_ID
from omni_rlvr.rollout.experience import completion_scores, select
from omni_rlvr.text.prompts import EMOTION_QUESTION, WORDINGS
from omni_rlvr.types import Batch, Experience, Features, UserError


def prompt_logits(policy, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return policy.language_model(
            inputs_embeds=policy.prompts(batch, policy.encode(batch)).embeds,
            attention_mask=batch.prompt_mask,
            position_ids=position_ids(batch.prompt_mask),
        ).logits


def alone(batch: Batch, row: int) -> Batch:
    """One prompt without padding, and its media."""
    kept = batch.prompt_mask[row] > 0
    return replace(
        batch,
        examples=[batch.examples[row]],
        prompt_ids=batch.prompt_ids[row : row + 1, kept],
        prompt_mask=batch.prompt_mask[row : row + 1, kept],
        prompt_positions=batch.prompt_positions[row : row + 1, kept],
        video_shapes=[batch.video_shapes[row]],
        audio_shapes=[batch.audio_shapes[row]],
        pixel_values=[batch.pixel_values[row]],
        input_features=[batch.input_features[row]],
    )


def test_token_counts(humanomni, make_batch):
    batch = make_batch(humanomni, 1, kinds=("av",))
    assert (batch.prompt_ids == VIDEO_ID).sum() == 2 * 2 * 2
    assert (batch.prompt_ids == AUDIO_ID).sum() == 50 // 3


def test_the_gate_weighs_branches_by_the_text(humanomni, make_batch):
    batch = make_batch(humanomni, 3, kinds=("av",))
    with torch.no_grad():
        weights = humanomni.branch_weights(batch)
        features = torch.stack(humanomni.encode(batch).video)
        branches = torch.stack(humanomni.video_projector.branches(features))
        fused = humanomni.project_video(features, weights)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    assert not torch.allclose(weights[0], weights[1])  # other questions
    wanted = torch.einsum("kbnh,bk->bnh", branches, weights)
    torch.testing.assert_close(fused, wanted, atol=1e-4, rtol=1e-4)


def test_pooling_an_even_grid_is_averaging_and_an_odd_one_rounds_up():
    tokens = torch.arange(16.0).view(1, 16, 1)
    # rows 0-1, columns 0-1 of a 4 x 4 grid: (0 + 1 + 4 + 5) / 4 = 2.5
    assert pool_grid(tokens).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert pool_grid(torch.randn(2, 729, 3)).shape == (2, 196, 3)


def test_a_convolved_frame_sees_itself_and_the_one_before(humanomni):
    grid = torch.randn(1, 4, 16, 4, 4)
    changed = grid.clone()
    changed[:, 2] += 1
    with torch.no_grad():
        before, after = (
            humanomni.video_projector.video(g).unflatten(1, (4, 4)) for g in (grid, changed)
        )
    moved = (before - after).abs().amax(dim=(0, 2, 3)) > 1e-6
    assert moved.tolist() == [False, False, True, True]


@pytest.mark.parametrize("layer", [-1, -2, -3])
def test_a_hidden_state_is_transformers_own(humanomni, layer):
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        wanted = humanomni.vision_tower(pixels, output_hidden_states=True).hidden_states[layer]
        torch.testing.assert_close(patch_features(humanomni.vision_tower, pixels, layer), wanted)


def test_what_trains_and_what_is_frozen(humanomni):
    frozen = {n.split(".")[0] for n, p in humanomni.named_parameters() if not p.requires_grad}
    assert frozen == {"vision_tower", "audio_tower", "audio_head", "gate"}
    assert all(p.requires_grad for p in humanomni.gate.head.parameters())
    assert not any(p.requires_grad for p in humanomni.gate.bert.parameters())
    humanomni.train()
    assert humanomni.gate.head.training
    assert not humanomni.gate.bert.training


def test_gradients_reach_the_gate_and_every_branch(humanomni, make_batch):
    batch = make_batch(humanomni, 2, kinds=("av",))
    humanomni.train()
    humanomni.prompts(batch, humanomni.encode(batch)).embeds.square().sum().backward()
    for part in (
        "gate.head",
        "video_projector.video",
        "video_projector.body",
        "video_projector.face",
        "audio_projector",
    ):
        grads = [p.grad for n, p in humanomni.named_parameters() if n.startswith(part)]
        assert all(g is not None and g.abs().sum() > 0 for g in grads), part


def test_the_frozen_copy_shares_towers_and_bert_and_stays(humanomni, make_batch):
    twin = humanomni.frozen_copy()
    assert twin.vision_tower is humanomni.vision_tower
    assert twin.gate.bert is humanomni.gate.bert
    assert twin.gate.head is not humanomni.gate.head
    assert not any(p.requires_grad for p in twin.parameters())
    batch = make_batch(humanomni, 2, kinds=("av",))
    before = prompt_logits(twin, batch)
    humanomni.gate.head[2].bias.data += torch.tensor([3.0, 0.0, 0.0])
    assert torch.equal(prompt_logits(twin, batch), before)
    assert not torch.allclose(prompt_logits(humanomni, batch), before)


def test_micro_batches_keep_each_prompts_gate(humanomni, make_batch):
    how = {"temperature": 1.0, "gradient_checkpointing": False, "entropy_gradient": False}
    batch = make_batch(humanomni, 4, kinds=("av", "v"), targets=("happy", "sad"))
    with torch.no_grad():
        experience = Experience(
            batch,
            humanomni.encode(batch),
            torch.arange(4),
            batch.completion_ids,
            batch.completion_mask,
        )
        whole = completion_scores(humanomni, experience, **how).logps
        for row in range(4):
            part = select(experience, torch.tensor([row]))
            width = part.completion_ids.shape[1]
            got = completion_scores(humanomni, part, **how).logps[0]
            torch.testing.assert_close(got, whole[row, :width], atol=1e-4, rtol=1e-4)


def test_text_only_needs_no_tower(humanomni, make_batch):
    batch = make_batch(humanomni, 2, kinds=("t",))
    assert humanomni.encode(batch) == Features.none(2)
    assert humanomni.branch_weights(make_batch(humanomni, 1, kinds=("v",))).shape == (1, 3)


TIMES_S = np.arange(3) / 25


def load(folder, instruction=None, **options):
    return load_policy(str(folder), "float32", instruction, LoadOptions(**options))


def prompt_ids(processor, question: str, *, has_video: bool, has_audio: bool) -> list[int]:
    video = processor.video_shape if has_video else None
    return processor.prompt(question, video, processor.audio_shape if has_audio else None)[0]


def prompt(policy, question: str, **media: bool) -> str:
    """A prompt's text, each placeholder once."""
    ids = prompt_ids(policy.processor, question, **media)
    pieces: list[str] = []
    names = {VIDEO_ID: "{V}", AUDIO_ID: "{A}"}
    for i in ids:
        piece = names.get(i) or policy.processor.tokenizer.decode([i])
        if piece not in names.values() or pieces[-1] != piece:
            pieces.append(piece)
    return "".join(pieces)


BOTH = {"has_video": True, "has_audio": True}
TAGS = WORDINGS["p1_cold_start"].instruction


def test_the_prompt_by_default(published_folder):
    policy = load(published_folder)
    head, tail = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    media = "<vi_start>{V}<vi_end>\n<au_start>{A}<au_end>\n"
    assert prompt(policy, "Why?", **BOTH) == f"{head}{media}Why?\n{TAGS}{tail}"
    sound = "<au_start>{A}<au_end>\n"
    assert (
        prompt(policy, "Why?", has_video=False, has_audio=True)
        == f"{head}{sound}Why?\n{TAGS}{tail}"
    )
    assert prompt(policy, "Why?", has_video=False, has_audio=False) == f"{head}Why?\n{TAGS}{tail}"
    assert prompt(load(published_folder, ""), "Why?", **BOTH) == f"{head}{media}Why?{tail}"


@pytest.mark.slow
def test_the_prompts_quirks(published_folder):
    sft = load(published_folder, wording="p1_cold_start", media_end="\n\n\n", gate_text="turn")
    assert f"<au_end>\n\n\n{EMOTION_QUESTION} {TAGS}<|im_end|>" in prompt(sft, "ignored", **BOTH)
    gate = "<vi_start><vi_end><au_start><audio><au_end>"
    assert sft.processor.gate_text("ignored", has_audio=True) == f"{gate}{EMOTION_QUESTION} {TAGS}"
    rl = load(published_folder, wording="p3_rlvr", stray_vision_tokens=True)
    stray = "<|vision_start|><|video_pad|><|vision_end|>"
    assert f"user\n{stray}<vi_start>{{V}}<vi_end>" in prompt(rl, "ignored", **BOTH)
    assert rl.processor.gate_text("ignored", has_audio=True) == f"{EMOTION_QUESTION}\n{TAGS}"


def test_squashing_and_frames(published_folder):
    frames = torch.randint(256, (3, 20, 40, 3), dtype=torch.uint8).numpy()
    pad, squash = load(published_folder), load(published_folder, image_fit="squash", num_frames=3)
    assert not torch.equal(
        pad.processor.video(frames, TIMES_S)[0], squash.processor.video(frames, TIMES_S)[0]
    )
    assert (squash.processor.settings.num_frames, squash.processor.settings.video_tokens) == (3, 12)


def test_quirks_are_saved_with_the_checkpoint(published_folder, tmp_path):
    policy = load(published_folder, wording="p3_rlvr", stray_vision_tokens=True, image_fit="squash")
    policy.save(tmp_path / "ours")
    assert load(tmp_path / "ours").processor.settings == policy.processor.settings


def test_the_gate_starts_anew_only_from_a_published_checkpoint(
    published_folder, humanomni, tmp_path
):
    fresh = load(published_folder, reset_gate=True)
    assert not torch.equal(fresh.gate.head[0].weight, humanomni.gate.head[0].weight)
    assert torch.equal(fresh.gate.bert.pooler.dense.weight, humanomni.gate.bert.pooler.dense.weight)
    fresh.save(tmp_path / "ours")
    again = load(tmp_path / "ours", reset_gate=True)  # what a resumed run does
    assert torch.equal(again.gate.head[0].weight, fresh.gate.head[0].weight)


def test_bert_trains_and_drops_out_where_asked(published_folder, make_batch):
    policy = load(published_folder, bert_dropout=True)
    apply(policy, TrainableConfig(bert=True), None)
    policy.train()
    assert all(p.requires_grad for p in policy.gate.bert.parameters())
    batch = make_batch(policy, 1, kinds=("v",))
    with torch.no_grad():
        assert not torch.equal(policy.branch_weights(batch), policy.branch_weights(batch))
        policy.eval()
        assert torch.equal(policy.branch_weights(batch), policy.branch_weights(batch))
    assert policy.frozen_copy().gate.bert is not policy.gate.bert


def test_a_frozen_bert_drops_out_too_as_in_the_authors_cold_start(published_folder, make_batch):
    policy = load(published_folder, bert_dropout=True)
    apply(policy, TrainableConfig(), None)
    policy.train()
    assert not any(p.requires_grad for p in policy.gate.bert.parameters())
    batch = make_batch(policy, 1, kinds=("v",))
    with torch.no_grad():
        assert not torch.equal(policy.branch_weights(batch), policy.branch_weights(batch))


@pytest.mark.parametrize(
    ("option", "value"), [("bert_dropout", True), ("reset_gate", True), ("gate_text", "turn")]
)
def test_a_gates_option_without_a_gate(tiny_policy, tmp_path, option, value):
    tiny_policy.save(tmp_path / "tiny")
    with pytest.raises(UserError, match=f"model.options.{option}"):
        load(tmp_path / "tiny", **{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [("wording", "p7"), ("num_frames", 0), ("image_fit", "crop"), ("gate_text", "all")],
)
def test_values_out_of_range(published_folder, option, value):
    with pytest.raises(UserError, match=option):
        load(published_folder, **{option: value})
