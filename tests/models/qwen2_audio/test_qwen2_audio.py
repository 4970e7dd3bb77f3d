"""Qwen2-Audio: what is computed of a sound is what transformers computes of it; its folders too."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMultimodalLM, AutoProcessor

from omni_rlvr.assembly.policies import check_modality
from omni_rlvr.config.dataset import ModalityConfig
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.config.sampling import SamplingOptions, greedy
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.data.collate import Collate
from omni_rlvr.media.clip import read_clip
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.families import family_of
from omni_rlvr.models.loading.config_file import SETTINGS
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.models.policy import AUDIO_ID
from omni_rlvr.models.prefix.attention_hook import can_share
from omni_rlvr.models.prefix.fast_path import fast_path
from omni_rlvr.rollout.experience import completion_scores
from omni_rlvr.rollout.hf import Generate
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.tasks.clips import clip_request
from omni_rlvr.types import Batch, Clip, Example, Experience, Prompts, Sample, UserError

TOLERANCE = 1e-5
QUESTION = "Which emotion?"
SOUNDS_S = (None, 0.1, 1.0, 2.345, 3.99, 4.0)
"""Seconds of sound, up to the tiny model's whole window; None for a prompt of text alone."""


@pytest.fixture(scope="module")
def untouched():
    """The tiny policy, which no test may change."""
    return family_of("qwen2_audio").tiny(0, "qwen2_audio")


@pytest.fixture
def policy(untouched):
    """A tiny policy of one's own, all of it frozen, in eval mode."""
    return copy.deepcopy(untouched, {id(untouched.processor): untouched.processor})


@pytest.fixture
def folder(untouched, tmp_path: Path) -> Path:
    """A checkpoint of the tiny policy."""
    untouched.save(tmp_path / "base")
    return tmp_path / "base"


def noise(seconds: float | None) -> np.ndarray | None:
    """[S] float32 at 16 kHz, or None."""
    if seconds is None:
        return None
    size = round(16_000 * seconds)
    return (np.random.default_rng(size).standard_normal(size) * 0.1).astype(np.float32)


def batch_of(policy, sounds_s) -> Batch:
    example = Example("clip", QUESTION, "happy", "happy", video=None)
    clips = [Clip(None, noise(seconds), seconds or 0.0) for seconds in sounds_s]
    return Collate(policy.processor, with_target=True)([Sample(example, clip) for clip in clips])


def prompts_of(policy, batch: Batch) -> Prompts:
    return policy.prompts(batch, policy.encode(batch))


def by_transformers(policy, seconds: float | None) -> dict[str, torch.Tensor]:
    """Process a sound with transformers alone."""
    media = "" if seconds is None else "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    text = f"<|im_start|>user\n{media}{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    audio = {} if seconds is None else {"audio": [noise(seconds)], "sampling_rate": 16_000}
    return {**policy.processor.hf_processor(text=[text], return_tensors="pt", **audio)}


@torch.no_grad()
@pytest.mark.parametrize("seconds", SOUNDS_S)
def test_a_forward_pass_and_its_greedy_tokens_are_those_of_transformers(untouched, seconds):
    model, inputs = untouched.whole(), by_transformers(untouched, seconds)
    batch = batch_of(untouched, [seconds])
    ids = batch.prompt_ids.masked_fill(batch.prompt_ids == AUDIO_ID, model.config.audio_token_id)
    assert torch.equal(ids, inputs["input_ids"])
    prompts, want = prompts_of(untouched, batch), model(**inputs).logits
    got = untouched.language_model(inputs_embeds=prompts.embeds, position_ids=prompts.positions)
    assert want.std() > 0.1
    torch.testing.assert_close(got.logits, want, atol=TOLERANCE, rtol=0)
    sampling = greedy(max_completion_length=12)
    tokens = model.generate(
        **inputs,
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=untouched.processor.stop_ids,
        pad_token_id=untouched.processor.pad_token_id,
    )[0, ids.shape[1] :]
    for engine in (SharedPrefix(), Generate()):
        rollout = engine.sample(untouched, prompts, sampling, torch.Generator(), None)
        assert torch.equal(rollout.completion_ids[0, : len(tokens)], tokens)


@torch.no_grad()
def test_rows_padded_on_the_left_are_as_if_alone(untouched):
    together = prompts_of(untouched, batch_of(untouched, SOUNDS_S))
    assert together.mask.sum(dim=1).unique().numel() >= 5  # of many lengths
    logits = untouched.language_model(
        inputs_embeds=together.embeds,
        attention_mask=together.mask,
        position_ids=together.positions,
    ).logits
    for row, seconds in zip(logits, SOUNDS_S, strict=True):
        alone = prompts_of(untouched, batch_of(untouched, [seconds]))
        want = untouched.language_model(inputs_embeds=alone.embeds, position_ids=alone.positions)
        got = row[-alone.embeds.shape[1] :]
        torch.testing.assert_close(got, want.logits[0], atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_sounds_of_any_length_have_as_many_placeholders_as_features(untouched):
    """300 lengths, and the shortest; as many as transformers' own processor counts."""
    processor, random = untouched.processor, np.random.default_rng(0)
    for num_samples in [1, 159, 400, 1_599, *random.integers(1_600, 64_001, 300).tolist()]:
        log_mel, shape = processor.audio(np.full(num_samples, 0.1, np.float32))
        num_frames = -(-max(num_samples, 1_600) // 160)
        # as ``Qwen2AudioProcessor`` has it
        assert shape.num_tokens == (((num_frames - 1) // 2 + 1) - 2) // 2 + 1 > 0
        ids, positions = processor.prompt(QUESTION, None, shape)
        assert ids.count(AUDIO_ID) == shape.num_tokens
        assert torch.equal(positions, torch.arange(len(ids)))
        assert log_mel.shape == (128, 400)
    batch = batch_of(untouched, SOUNDS_S)
    for features, shape in zip(untouched.encode(batch).audio, batch.audio_shapes, strict=True):
        assert features is None if shape is None else len(features) == shape.num_tokens


@torch.no_grad()
def test_features_do_not_depend_on_the_batch(untouched):
    together = untouched.encode(batch_of(untouched, SOUNDS_S)).audio
    for features, seconds in zip(together, SOUNDS_S, strict=True):
        (alone,) = untouched.encode(batch_of(untouched, [seconds])).audio
        assert features is alone if alone is None else torch.equal(features, alone)


def test_the_words_around_a_sound_are_those_of_the_published_template(untouched):
    hf_processor = untouched.processor.hf_processor
    content = [{"type": "audio", "audio_url": "a.wav"}, {"type": "text", "text": QUESTION}]
    text = hf_processor.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=hf_processor.default_chat_template,
        add_generation_prompt=True,
        tokenize=False,
    )
    shape = batch_of(untouched, [1.0]).audio_shapes[0]
    ids, _ = untouched.processor.prompt(QUESTION, None, shape)
    kept = [i for i in ids if i != AUDIO_ID]
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"  # the tiny one has none
    assert untouched.processor.tokenizer.decode(kept) == text.removeprefix(system).replace(
        "<|AUDIO|>", ""
    )


@pytest.mark.parametrize("trainable", [TrainableConfig(), TrainableConfig(lora=LoraConfig(True))])
@torch.no_grad()
def test_an_update_scores_what_the_rollout_sampled(policy, folder, trainable):
    apply(policy, trainable, folder)
    assert can_share(policy.language_model)
    batch, generator = batch_of(policy, SOUNDS_S), torch.Generator().manual_seed(4)
    options = GrpoConfig(sampling=SamplingOptions(max_completion_length=6), num_generations=3)
    features = policy.encode(batch)
    prompts = policy.prompts(batch, features)
    fast = fast_path()
    assert fast is not None
    assert fast.supports(policy.language_model, prompts.positions) != trainable.lora.enabled
    sampling = options.sampling_of(len(batch))
    rollout = SharedPrefix().sample(policy, prompts, sampling, generator, None)
    owners = torch.arange(len(batch)).repeat_interleave(3)
    experience = Experience(
        batch, features, owners, rollout.completion_ids, rollout.completion_mask
    )
    scores = completion_scores(
        policy, experience, temperature=1.0, gradient_checkpointing=False, entropy_gradient=False
    )
    torch.testing.assert_close(scores.logps, rollout.per_token_logps, atol=TOLERANCE, rtol=0)


def test_of_a_longer_sound_the_middle_is_heard_and_the_rest_is_named(untouched, tmp_path):
    wave = noise(6.0)
    soundfile.write(tmp_path / "long.wav", wave, 16_000, subtype="FLOAT")
    request = clip_request(untouched.processor, video=False, audio=True)
    clip = read_clip(None, tmp_path / "long.wav", request)
    assert clip.frames is None
    assert np.array_equal(clip.waveform, wave[16_000:80_000])  # 4 s of 6
    assert [note.kind for note in clip.notes] == ["cut_sound"]
    assert "2.00 of the 6.00 s" in clip.notes[0].text
    with pytest.raises(ValueError, match="6 s of sound are longer than the model's window of 4 s"):
        untouched.processor.audio(wave)


def test_a_picture_is_refused(untouched):
    both = ModalityConfig("video_audio")
    with pytest.raises(UserError, match=r"modality=video_audio: .* no video; set modality=audio"):
        check_modality(untouched, both)
    check_modality(untouched, ModalityConfig("audio", video=False))
    with pytest.raises(UserError, match="set modality=audio"):
        untouched.processor.video(np.zeros((2, 8, 8, 3), np.uint8), np.arange(2.0))


def load(folder: Path, **options):
    return load_policy(str(folder), "float32", None, LoadOptions(**options))


def test_transformers_reads_a_checkpoint_and_its_files_have_the_published_names(untouched, folder):
    names = {name.split(".")[0] for name in load_file(folder / "model.safetensors")}
    assert names == {"audio_tower", "multi_modal_projector", "language_model"}
    theirs, ours = AutoModelForMultimodalLM.from_pretrained(folder), untouched.whole()
    assert type(theirs) is type(ours)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name
    assert type(AutoProcessor.from_pretrained(folder)) is type(untouched.processor.hf_processor)


def test_a_published_folder_is_read(untouched, folder):
    (folder / SETTINGS).unlink()
    loaded = load(folder)
    for name, weight in untouched.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert loaded.processor.settings == untouched.processor.settings
    assert load(folder, wording="p3_rlvr").processor.settings.instruction


@pytest.mark.parametrize(
    "prefix",
    [
        "language_model.model.layers.",  # transformers to 5.16
        "model.language_model.layers.",
        "model.layers.",  # of the language model alone: ours
    ],
)
def test_adapters_of_peers_are_read(folder, tmp_path, prefix):
    policy = load(folder)
    apply(policy, TrainableConfig(lora=LoraConfig(enabled=True, r=2)), folder)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    policy.save(tmp_path / "ours")
    theirs = tmp_path / "theirs"
    shutil.copytree(tmp_path / "ours" / "adapters" / "language_model", theirs)
    weights = load_file(theirs / "adapter_model.safetensors")
    assert all(".model.layers." in name for name in weights)
    renamed = {re.sub(r"model\.layers\.", prefix, name, count=1): w for name, w in weights.items()}
    save_file(renamed, theirs / "adapter_model.safetensors")
    config = json.loads((theirs / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(folder)
    (theirs / "adapter_config.json").write_text(json.dumps(config))
    loaded = dict(load(theirs).named_parameters())
    for name, weight in policy.named_parameters():
        assert torch.equal(loaded[name], weight), name


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"audio_token_index": 5}, "its processor has audio_token=3, .*requires 5"),
        ("model.safetensors", {}, "2 weights are missing for Qwen2-Audio"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(folder, file, change, message):
    path = folder / file
    if change:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        weights = load_file(path)
        kept = {n: w for n, w in weights.items() if not n.startswith("multi_modal_projector")}
        save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        load(folder)


def test_options_of_models_that_see_are_refused(folder):
    with pytest.raises(UserError, match=r"model\.options\.fps=1\.0 changes nothing in Qwen2-Audio"):
        load(folder, fps=1.0)
