"""A checkpoint comes back as it was saved; a folder that is none is named, with what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import case_foreign
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.models.prefix.scoring import Rows, completion_logits
from omni_rlvr.types import UserError

WEIGHTS = "model.safetensors"
SETTINGS = "processor_settings.json"


@pytest.fixture
def folder(tiny_policy, tmp_path) -> Path:
    tiny_policy.save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def logits(policy, batch) -> torch.Tensor:
    with torch.no_grad():
        rows = Rows(
            policy.prompts(batch, policy.encode(batch)),
            torch.arange(len(batch)),
            batch.completion_ids,
            batch.completion_mask,
        )
        return completion_logits(policy.language_model, rows)


def refused(folder: Path, *mentions: str, dtype: str = "float32") -> str:
    with pytest.raises(UserError) as caught:
        load_policy(str(folder), dtype, None)
    message = str(caught.value)
    for mention in mentions:
        assert mention in message
    return message


def refused_path(folder: Path, *mentions: str) -> str:
    return refused(folder, f"model.path={folder}", *mentions)


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def test_the_processor_comes_back_with_the_checkpoint(tiny_policy, folder):
    loaded = load_policy(str(folder), "float32", None).processor
    mine = tiny_policy.processor
    assert asdict(loaded.settings) == asdict(mine.settings)
    assert loaded.sample_rate == mine.sample_rate
    for video in (mine.video_shape, None):
        prompts = [p.prompt("Why? é ☃", video, mine.audio_shape)[0] for p in (loaded, mine)]
        assert prompts[0] == prompts[1]
    assert (loaded.video_shape, loaded.audio_shape) == (mine.video_shape, mine.audio_shape)
    assert loaded.target_ids("happy") == mine.target_ids("happy")
    assert loaded.tokenizer.eos_token_id == mine.tokenizer.eos_token_id
    assert loaded.tokenizer.pad_token_id == mine.tokenizer.pad_token_id
    frames = torch.randint(256, (2, 40, 56, 3), dtype=torch.uint8).numpy()
    times_s = np.arange(2) / 25
    assert torch.equal(loaded.video(frames, times_s)[0], mine.video(frames, times_s)[0])


def test_an_instruction_replaces_the_saved_one(folder):
    for given, expected in ((None, ""), ("Answer in one word.", "Answer in one word."), ("", "")):
        loaded = load_policy(str(folder), "float32", given)
        assert loaded.processor.settings.instruction == expected
    settings = json.loads((folder / SETTINGS).read_text()) | {"instruction": "Think first."}
    (folder / SETTINGS).write_text(json.dumps(settings))
    for given, expected in ((None, "Think first."), ("", "")):
        loaded = load_policy(str(folder), "float32", given)
        assert loaded.processor.settings.instruction == expected


def test_a_bfloat16_policy_runs(tiny_policy, make_batch, folder):
    batch = make_batch(tiny_policy, 4, targets=("happy", "<answer>sad</answer>"))
    loaded = load_policy(str(folder), "bfloat16", None)
    got, mask = logits(loaded, batch), batch.completion_mask.bool()
    assert got.dtype == torch.bfloat16
    exact = logits(tiny_policy, batch)[mask]
    assert (got[mask] - exact).norm() < 0.05 * exact.norm()  # 8 bits of mantissa


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_is_that_of_every_weight(folder, dtype):
    loaded = load_policy(str(folder), dtype, None)
    assert {p.dtype for p in loaded.parameters()} == {getattr(torch, dtype)}


def test_half_precision_weights_can_be_trained_in_float32(tiny_policy, folder):
    tiny_policy.half().save(folder.with_name("half"))
    loaded = load_policy(str(folder.with_name("half")), "float32", None)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_unknown_dtype(folder):
    refused(folder, "model.dtype='float8'", "bfloat16", dtype="float8")


def test_missing_folder(tmp_path):
    refused_path(tmp_path / "nothing", "not a folder")


def test_a_file_instead_of_a_folder(folder):
    refused_path(folder / "config.json", "not a folder")


@pytest.mark.parametrize("name", ["config.json", WEIGHTS, SETTINGS])
def test_missing_file(folder, name):
    (folder / name).unlink()
    refused_path(folder, name, "missing")


def test_a_run_folder_gets_a_hint(folder):
    assert "did you mean its checkpoint/ folder?" in refused_path(folder.parent, "config.json")
    (folder / "config.json").unlink()
    assert "did you mean" not in refused_path(folder)


def test_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    refused_path(folder, "config.json", "not JSON")


@pytest.mark.parametrize("model_type", ["qwen2", None])
def test_wrong_model_type(folder, model_type):
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"]
    if model_type:
        config["model_type"] = model_type
    (folder / "config.json").write_text(json.dumps(config))
    refused_path(folder, f"model_type={model_type!r}", "known: omni_rlvr, ")


def test_config_that_is_a_list(folder):
    (folder / "config.json").write_text("[]")
    refused_path(folder, "config.json")


def test_git_lfs_pointer(folder):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (folder / "tokenizer.json").write_text(pointer)  # large enough to be one on the hub, too
    refused_path(folder, "tokenizer.json is a Git-LFS pointer", "git lfs pull")
    (folder / WEIGHTS).write_text(pointer)
    refused_path(folder, f"{WEIGHTS} is a Git-LFS pointer", "git lfs pull", "1 more of its files")
    (folder / "image_processor" / "preprocessor_config.json").write_text(pointer)
    (folder / WEIGHTS).write_bytes(case_foreign.PAGE)
    refused_path(folder, "preprocessor_config.json is a Git-LFS pointer", "2 more of its files")


@pytest.mark.parametrize("kept", [0, 4, 1000, 0.5, 0.999])
def test_truncated_weights(folder, kept):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: kept if kept == int(kept) else int(kept * len(data))])
    refused_path(folder, "cannot be read")


def test_missing_weight(folder):
    name = "video_projector.0.weight"
    edit_weights(folder, lambda weights: weights.pop(name))
    refused_path(folder, "missing_keys", name)


def test_unexpected_weight(folder):
    edit_weights(folder, lambda weights: weights.update({"body_head.weight": torch.zeros(2)}))
    refused_path(folder, "unexpected_keys", "body_head.weight")


def test_weight_of_another_shape(folder):
    name = "audio_projector.0.weight"
    edit_weights(folder, lambda weights: weights.update({name: weights[name][:, :8].contiguous()}))
    refused_path(folder, name)


@pytest.mark.parametrize("settings", ["{", "[]", "{}", '{"num_frames": 4}'])
def test_settings_that_are_none(folder, settings):
    (folder / SETTINGS).write_text(settings)
    refused_path(folder, "processor cannot be read")


def test_settings_with_an_unknown_field(folder):
    settings = json.loads((folder / SETTINGS).read_text()) | {"colour": "blue"}
    (folder / SETTINGS).write_text(json.dumps(settings))
    refused_path(folder, "processor cannot be read", "colour")


@pytest.mark.parametrize(
    ("changes", "name", "seen", "wanted"),
    [
        # 32 px in patches of 8, merged 2 x 2: 4 tokens a frame, 2 frames; 50 sound frames by fours
        ({"video_tokens": 9}, "video_tokens", 9, 8),
        ({"num_frames": 3}, "video_tokens", 8, 12),
        ({"audio_tokens": 11}, "audio_tokens", 11, 12),
        ({"video_tokens": 0}, "video_tokens", 0, 8),
    ],
)
def test_settings_that_do_not_fit_the_config(folder, changes, name, seen, wanted):
    settings = json.loads((folder / SETTINGS).read_text()) | changes
    (folder / SETTINGS).write_text(json.dumps(settings))
    refused_path(folder, SETTINGS, f"{name}={seen}", f"config.json gives {wanted}")


@pytest.mark.parametrize("name", ["tokenizer.json", "image_processor", "feature_extractor"])
def test_missing_part_of_the_processor(folder, name):
    path = folder / name
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink()
    refused_path(folder, "processor cannot be read")


@pytest.mark.parametrize("change", [{"padding_side": "right"}, {"pad_token": None}])
def test_how_a_tokenizer_pads_changes_nothing(tiny_policy, make_batch, tmp_path, change):
    tiny_policy.save(tmp_path / "model")
    file = tmp_path / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    policy = load_policy(str(tmp_path / "model"), "float32", None)
    wanted, batch = make_batch(tiny_policy, 4), make_batch(policy, 4)
    assert torch.equal(batch.prompt_mask, wanted.prompt_mask)  # padded on the left
    seen = policy.prompts(batch, policy.encode(batch)).embeds[batch.prompt_mask.bool()]
    prompts = tiny_policy.prompts(wanted, tiny_policy.encode(wanted))
    assert torch.equal(seen, prompts.embeds[wanted.prompt_mask.bool()])
