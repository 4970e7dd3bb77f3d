"""What every family of models keeps to; a new family is tested here by its name in MODELS alone."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.data.collate import Collate
from omni_rlvr.models.adapters.trainable import apply, weights_of
from omni_rlvr.models.families import FAMILIES, family_of
from omni_rlvr.models.loading.fingerprint import tower_fingerprints
from omni_rlvr.models.loading.load import load_policy, sound_window_s
from omni_rlvr.models.modules import part_of_weight, parts_of
from omni_rlvr.models.prefix.scoring import Rows, completion_logits
from omni_rlvr.models.sharding import gathered, is_sharded, shard
from omni_rlvr.stages.modality_dropout import without_modalities
from omni_rlvr.tasks.export import write_merged
from omni_rlvr.training.parallel import parallel_of
from omni_rlvr.types import Batch, Clip, Example, Prompts, Sample, UserError

pytestmark = pytest.mark.slow

KINDS = ("av", "v", "a", "t", "av")
"""Prompts with picture and sound, with one of them, and of text alone."""
QUESTIONS = ("Why?", "How does this person feel?", "What is seen and heard here?")
TARGETS = ("happy", "<answer>sad</answer>", "a")
MODELS = ("omni_rlvr", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker", "qwen2_audio")
"""The ``model_type`` of each model that a family can build; the others differ in files alone."""


@pytest.fixture(scope="session")
def tiny_policies():
    """The tiny policies of each family, made once."""
    return {model_type: family_of(model_type).tiny(0, model_type) for model_type in MODELS}


@pytest.fixture(params=[*MODELS, "humanomni"])
def policy(request, tiny_policies):
    """A policy of one's own in which the default parts train, in eval mode."""
    if request.param == "humanomni":  # the published model of the composed family
        return request.getfixturevalue("humanomni")
    made = tiny_policies[request.param]
    assert made.config.model_type == request.param
    made = copy.deepcopy(made, {id(made.processor): made.processor})
    apply(made, TrainableConfig(), None)
    return made.eval()


def test_a_skeleton_is_what_is_loaded_but_for_the_weights(tiny_policies, tmp_path):
    for folder, made in tiny_policies.items():
        made.save(tmp_path / folder)
        family = family_of(made.config.model_type)
        bare = family.skeleton(tmp_path / folder, torch.bfloat16, LoadOptions(), "In a word.")
        loaded = load_policy(str(tmp_path / folder), "bfloat16", "In a word.")

        def shapes(policy):
            tensors = (*policy.named_parameters(), *policy.named_buffers())
            return [(name, tensor.shape, tensor.dtype) for name, tensor in tensors]

        assert shapes(bare) == shapes(loaded)  # in one order: ranks send each other weights so
        assert {tensor.device.type for tensor in (*bare.parameters(), *bare.buffers())} == {"meta"}
        modules = [value for module in bare.modules() for value in vars(module).values()]
        assert not any(isinstance(value, torch.Tensor) for value in modules)  # none would be sent
        assert bare.processor.fingerprint() == loaded.processor.fingerprint()
        assert bare.processor.instruction == "In a word."


def sees(policy) -> bool:
    return "video" in policy.towers()


def samples(policy, kinds: Sequence[str] = KINDS) -> list[Sample]:
    """Clips of noise, each of its own kind, size, question and target.

    A model that does not see is shown no picture, as modality=audio has it.
    """
    processor, made = policy.processor, []
    for i, kind in enumerate(kinds):
        kind = kind if sees(policy) else kind.replace("v", "")
        random = np.random.default_rng(i)
        num_frames = processor.sampling.num_frames(1.0)
        frames = random.integers(0, 256, (num_frames, 40 + 8 * i, 48, 3), dtype=np.uint8)
        longest_s = processor.window_s or 8.0
        length = int(processor.sample_rate * longest_s * (1 + i) / (2 + i))
        wave = random.uniform(-0.3, 0.3, length).astype(np.float32)
        clip = Clip(
            frames=frames if "v" in kind else None,
            waveform=wave if "a" in kind else None,
            duration_s=1.0,
            frame_times_s=np.arange(num_frames) / num_frames,
        )
        target = TARGETS[i % len(TARGETS)]
        example = Example(f"{i}", QUESTIONS[i % len(QUESTIONS)], "happy", target, video=None)
        made.append(Sample(example, clip))
    return made


def batch_of(policy, made: Sequence[Sample]) -> Batch:
    return Collate(policy.processor, with_target=True)(made)


def prompts(policy, batch: Batch, features=None) -> Prompts:
    return policy.prompts(batch, policy.encode(batch) if features is None else features)


@torch.no_grad()
def logits(policy, batch: Batch, features=None) -> torch.Tensor:
    """[M, V]: what predicts each token of the targets."""
    asked, owners = prompts(policy, batch, features), torch.arange(len(batch))
    rows = Rows(asked, owners, batch.completion_ids, batch.completion_mask)
    out = completion_logits(policy.language_model, rows)
    return out[batch.completion_mask.bool()]


@torch.no_grad()
def plain_logits(policy, batch: Batch) -> torch.Tensor:
    """The same by transformers' own forward pass, each prompt alone with its target behind it."""
    language_model, out = policy.language_model, []
    asked = prompts(policy, batch)
    embeds, mask, positions = asked.embeds, asked.mask, asked.positions
    for row in range(len(batch)):
        there = mask[row].bool()
        target = batch.completion_ids[row, batch.completion_mask[row].bool()]
        tail = language_model.get_input_embeddings()(target)
        places = positions[..., row, there]
        later = places.max() + 1 + torch.arange(len(tail))
        whole = language_model(
            inputs_embeds=torch.cat([embeds[row, there], tail]).unsqueeze(0),
            position_ids=torch.cat(
                [places, later.expand(*places.shape[:-1], -1)], dim=-1
            ).unsqueeze(-2),
        ).logits[0]
        out.append(whole[int(there.sum()) - 1 : -1])  # position t predicts token t + 1
    return torch.cat(out)


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.std() > 0.1  # logits that say something
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def move(policy) -> None:
    """Changes every weight that trains, as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))


def load(folder):
    return load_policy(str(folder), "float32", None)


def test_a_model_of_every_family_is_tested_here():
    assert {FAMILIES[model_type] for model_type in MODELS} == {*FAMILIES.values()}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_seed_decides_the_tiny_policy_and_no_other_random_number(model_type):
    family, before = family_of(model_type), torch.get_rng_state()
    one, same, other = (family.tiny(seed, model_type).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_weight_lies_in_a_part_that_an_option_names(policy):
    assert policy.config.model_type in FAMILIES
    options = {option.name for option in fields(TrainableConfig)}
    assert {part_of_weight(policy, name) for name, _ in policy.named_parameters()} <= options
    towers = {{"video": "vision_tower", "audio": "audio_tower"}[name] for name in policy.towers()}
    assert towers
    assert {*towers, "language_model"} <= {*parts_of(policy)} <= options


def test_a_checkpoint_gives_the_same_logits(policy, tmp_path):
    batch = batch_of(policy, samples(policy))
    policy.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    loaded.save(tmp_path / "twice")
    weights = policy.state_dict()
    for again in (loaded, load(tmp_path / "twice")):
        assert not again.training
        assert not any(weight.requires_grad for weight in again.parameters())
        assert {*again.state_dict()} == {*weights}
        for name, weight in again.state_dict().items():
            assert torch.equal(weight, weights[name])
        # to rounding: weights that are mapped from a file lie in memory in another way
        close(logits(again, batch), logits(policy, batch))


def test_the_processor_comes_back_and_works_in_another_process(policy, tmp_path):
    made = samples(policy)
    batch = batch_of(policy, made)
    policy.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert sound_window_s(str(tmp_path / "saved")) == policy.processor.window_s
    for processor in (loaded.processor, pickle.loads(pickle.dumps(policy.processor))):
        again = Collate(processor, with_target=True)(made)
        assert torch.equal(again.prompt_ids, batch.prompt_ids)
        ours, theirs = again.pixel_values + again.input_features, batch.pixel_values
        for one, other in zip(ours, theirs + batch.input_features, strict=True):
            assert other is None if one is None else torch.equal(one, other)


def test_shapes_are_hashable_and_a_blank_has_the_shape_of_what_it_stands_in_for(policy):
    batch = batch_of(policy, samples(policy))
    shapes = [*batch.video_shapes, *batch.audio_shapes]
    for shape, clip in zip(shapes, batch.pixel_values + batch.input_features, strict=True):
        assert (shape is None) == (clip is None)
        if shape is not None:
            assert {shape: 1}[replace(shape)] == 1
            assert policy.processor.blank(shape).shape == clip.shape


def test_prompts_have_one_embedding_and_one_position_a_token(policy):
    batch = batch_of(policy, samples(policy))
    with torch.no_grad():
        features = policy.encode(batch)
        asked = prompts(policy, batch, features)
    embeds, mask, positions = asked.embeds, asked.mask, asked.positions
    of_a_token = policy.language_model.get_input_embeddings()(batch.completion_ids)
    assert embeds.shape == (*batch.prompt_ids.shape, of_a_token.shape[-1])
    assert positions.shape[-2:] == mask.shape == batch.prompt_ids.shape
    assert (mask[:, 0] == 0).any()  # prompts of unequal length, padded on the left
    assert mask[:, -1].all()


def test_each_row_of_a_mixed_batch_is_as_if_alone(policy):
    made = samples(policy)
    together = logits(policy, batch_of(policy, made))
    close(together, torch.cat([logits(policy, batch_of(policy, [one])) for one in made]))


@pytest.mark.parametrize("change", ["frames", "waveform", "question"])
def test_each_part_of_a_prompt_moves_the_logits(policy, change):
    if change == "frames" and not sees(policy):
        with pytest.raises(UserError, match="modality=audio"):
            policy.processor.video(np.zeros((2, 64, 64, 3), np.uint8), np.arange(2.0))
        return
    one = samples(policy, ("av",))[0]
    if change == "question":
        other = replace(one, example=replace(one.example, question=QUESTIONS[1]))
    else:
        value = vars(one.clip)[change]
        other = replace(one, clip=replace(one.clip, **{change: value[::-1].copy() // 2}))
    before, after = (logits(policy, batch_of(policy, [x])) for x in (one, other))
    assert (before - after).abs().max() > 1e-3


def test_shared_prefixes_give_what_a_plain_forward_gives(policy):
    batch = batch_of(policy, samples(policy))
    close(logits(policy, batch), plain_logits(policy, batch))


@pytest.mark.parametrize("modality", ["v", "a"])
def test_a_modality_that_is_dropped_is_as_if_the_clip_had_none(policy, modality):
    batch = batch_of(policy, samples(policy))
    drops = torch.ones(len(batch), dtype=torch.bool)
    video, audio = (drops, ~drops) if modality == "v" else (~drops, drops)
    with torch.no_grad():
        features = policy.encode(batch)
    left, features = without_modalities(batch, features, policy.processor, video=video, audio=audio)
    kinds = [kind.replace(modality, "") for kind in KINDS]
    never = batch_of(policy, [*map(_without, samples(policy), kinds)])
    assert torch.equal(left.prompt_ids, never.prompt_ids)
    assert torch.equal(left.prompt_positions, never.prompt_positions)
    close(logits(policy, left, features), logits(policy, never))


def _without(sample: Sample, kind: str) -> Sample:
    clip = sample.clip
    return replace(
        sample,
        clip=replace(
            clip,
            frames=clip.frames if "v" in kind else None,
            waveform=clip.waveform if "a" in kind else None,
        ),
    )


def test_the_frozen_copy_shares_what_does_not_train_and_stays(policy):
    batch = batch_of(policy, samples(policy))
    twin = policy.frozen_copy()
    before = logits(twin, batch)
    assert torch.equal(before, logits(policy, batch))
    assert twin.processor is policy.processor
    assert not twin.training
    assert not any(weight.requires_grad for weight in twin.parameters())
    theirs = {weight.data_ptr() for weight in twin.parameters()}
    for weight in policy.parameters():
        assert (weight.data_ptr() in theirs) != weight.requires_grad
    move(policy)
    assert torch.equal(logits(twin, batch), before)
    assert not torch.equal(logits(policy, batch), before)


def test_new_adapters_change_nothing_and_are_saved_without_their_base(policy, tmp_path):
    batch = batch_of(policy, samples(policy))
    policy.save(tmp_path / "base")
    plain, adapted = load(tmp_path / "base"), load(tmp_path / "base")
    counts = apply(adapted, TrainableConfig(lora=LoraConfig(enabled=True, r=4)), tmp_path / "base")
    assert next(one for one in counts if one.part == "lora").num_trained > 0
    close(logits(adapted, batch), logits(plain, batch))
    move(adapted)
    moved = logits(adapted, batch)
    assert (moved - logits(plain, batch)).abs().max() > 1e-2
    adapted.save(tmp_path / "adapters")
    size = {name: sum(p.stat().st_size for p in (tmp_path / name).rglob("*.safetensors"))
            for name in ("base", "adapters")}  # fmt: skip
    assert size["adapters"] < size["base"]
    close(logits(load(tmp_path / "adapters"), batch), moved)


def test_an_export_stands_alone(policy, tmp_path):
    batch = batch_of(policy, samples(policy))
    policy.save(tmp_path / "base")
    adapted = load(tmp_path / "base")
    apply(adapted, TrainableConfig(lora=LoraConfig(enabled=True, r=4)), tmp_path / "base")
    move(adapted)
    moved = logits(adapted, batch)
    write_merged(adapted, tmp_path / "merged", "omni")
    (tmp_path / "base").rename(tmp_path / "gone")
    merged = load(tmp_path / "merged")
    assert "lora" not in weights_of(merged)
    close(logits(merged, batch), moved)


def test_an_unknown_layout_is_refused(policy, tmp_path):
    with pytest.raises(UserError, match=r"task\.layout=gguf"):
        family_of(policy.config.model_type).export(policy, tmp_path, "gguf")


def test_a_fingerprint_is_that_of_what_changes_features(policy, tmp_path):
    policy.save(tmp_path / "saved")
    policy = load(tmp_path / "saved")  # as runs have it: a config that was never saved says less
    before = tower_fingerprints(policy)
    assert {*before} == {*policy.towers()} <= {"video", "audio"}
    policy.save(tmp_path / "twice")
    assert _written(tower_fingerprints(load(tmp_path / "twice"))) == _written(before)
    with torch.no_grad():
        for weight in policy.language_model.parameters():
            weight.add_(1)
    assert tower_fingerprints(policy) == before
    for name, tower in policy.towers().items():
        with torch.no_grad():
            next(tower.parameters()).add_(1e-3)
        after = tower_fingerprints(policy)
        assert {other for other in before if after[other] != before[other]} == {name}
        before = after


def _written(value: object) -> str:
    """As the name of a cache's folder is made of it."""
    return json.dumps(value, sort_keys=True, default=str)


def test_text_that_a_tokenizer_reads_as_something_else_is_refused(policy):
    processor = policy.processor
    processor.check_text("How does this person feel?", "question")
    for token in processor.tokenizer.all_special_tokens:
        with pytest.raises(UserError, match="special token"):
            processor.check_text(f"say {token} now", "question")


def test_a_sharded_policy_computes_and_saves_the_same(policy, tmp_path):
    batch = batch_of(policy, samples(policy))
    wanted, copied = logits(policy, batch), policy.frozen_copy()
    policy.save(tmp_path / "before")
    with parallel_of("fsdp2", torch.device("cpu")):
        mesh = init_device_mesh("cpu", (1,))
        for one in (policy, copied):
            shard([one], mesh)
            assert is_sharded(one)
            close(one(logits, batch), wanted)
            with gathered(one):
                assert not any(isinstance(weight, DTensor) for weight in one.parameters())
                close(logits(one, batch), wanted)
        with gathered(policy):
            policy.save(tmp_path / "after")
        assert any(isinstance(weight, DTensor) for weight in policy.parameters())
    before, after = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir() if file.is_file()}
        for name in ("before", "after")
    )
    assert before == after
