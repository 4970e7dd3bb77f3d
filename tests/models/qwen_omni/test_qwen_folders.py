"""Folders that are read and written: published ones, thinkers, and what is refused of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from make_qwen import Case, batch_of, prompts_of
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.families import family_of
from omni_rlvr.models.loading.config_file import SETTINGS
from omni_rlvr.models.loading.load import load_policy, sound_window_s
from omni_rlvr.models.loading.pretrained import check_version
from omni_rlvr.tasks.export import write_merged
from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow  # checkpoints are written and read


def load(folder: Path, **options):
    return load_policy(str(folder), "float32", None, LoadOptions(**options))


def logits(policy) -> torch.Tensor:
    """Those of a prompt with picture and sound, of a size that no setting changes."""
    batch = batch_of(policy.processor, [Case(4, 2.0, 2.0)])
    with torch.no_grad():
        prompts = prompts_of(policy, batch)
        return policy.language_model(
            inputs_embeds=prompts.embeds, position_ids=prompts.positions
        ).logits


def refused(folder: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        load(folder, **options)
    return str(error.value)


def change(folder: Path, file: str, **fields) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_published_folder_gives_the_thinker_in_it(untouched, published):
    loaded = load(published)
    for name, weight in untouched.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert loaded.config.model_type == untouched.config.model_type
    # its own settings: none were published
    settings, token = loaded.processor.settings, untouched.generation.factor**2
    assert (settings.fps, settings.min_frames, settings.max_frames) == (2.0, 4, 64)
    assert (settings.min_pixels, settings.max_pixels) == (4 * token, 768 * token)
    assert sound_window_s(str(published)) == loaded.processor.window_s
    torch.testing.assert_close(logits(loaded), logits(untouched), atol=1e-5, rtol=0)


def test_a_folder_of_transformers_5_16_is_read(untouched, folder):
    """Its modules had other names. What 5.16.1 wrote differs from this release's files in this."""
    names = {".".join(name.split(".")[:2]) for name in load_file(folder / "model.safetensors")}
    parts = {name.partition(".")[0] for name in names}
    assert parts == {"audio_tower", "visual", "model", "lm_head"}
    assert {"model.layers", "model.embed_tokens", "model.norm"} <= names
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    del vision["rope_parameters"]
    change(folder, "config.json", vision_config=vision, transformers_version="5.16.1")
    (folder / SETTINGS).unlink()
    torch.testing.assert_close(logits(load(folder)), logits(untouched), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_transformers_reads_a_checkpoint_and_an_export_as_they_are(untouched, folder, tmp_path):
    write_merged(load(folder), tmp_path / "merged", "omni")
    for saved in (folder, tmp_path / "merged"):
        theirs = AutoModelForImageTextToText.from_pretrained(saved)
        assert type(theirs) is untouched.generation.thinker
        for name, weight in theirs.state_dict().items():
            assert torch.equal(untouched.thinker().state_dict()[name], weight), name
        assert type(AutoProcessor.from_pretrained(saved)) is untouched.generation.processor


def test_an_export_is_not_written_over_a_folder(untouched, folder):
    with pytest.raises(UserError, match="exists already"):
        write_merged(untouched, folder, "omni")


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"fps": 1.0}, {"fps": 1.0}),
        ({"min_frames": 6, "max_frames": 9}, {"min_frames": 6, "max_frames": 9}),
        ({"min_pixels": 200, "max_pixels": 9000}, {"min_pixels": 200, "max_pixels": 9000}),
        ({"use_audio_in_video": False}, {"use_audio_in_video": False}),
        ({"wording": "p3_rlvr"}, {"question_end": "\n"}),
    ],
)
def test_options_go_into_the_settings_and_stay_there(folder, tmp_path, options, settings):
    loaded = load(folder, **options)
    loaded.save(tmp_path / "again")
    for policy in (loaded, load(tmp_path / "again")):
        assert settings.items() <= vars(policy.processor.settings).items()


@pytest.mark.parametrize("options", [{"num_frames": 4}, {"image_fit": "pad"}, {"reset_gate": True}])
def test_options_of_other_models_are_refused(folder, options):
    assert f"model.options.{next(iter(options))}" in refused(folder, **options)


def test_positions_that_would_drift_from_the_sound_are_refused(folder, untouched):
    rate = untouched.config.position_id_per_seconds
    change(folder, "config.json", position_id_per_seconds=2 * rate)
    assert f"position_id_per_seconds={2 * rate}, but the sound has {rate} tokens" in refused(folder)


def test_what_is_wrong_is_told_before_weights_are_read(folder):
    (folder / "model.safetensors").write_bytes(b"no weights")
    assert "num_frames" in refused(folder, num_frames=8)
    assert "cannot be read" in refused(folder)
    with pytest.raises(UserError, match=r"the model's instruction: .*special token"):
        load_policy(str(folder), "float32", "x <|media|> y", LoadOptions())
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        sound_window_s(str(folder))


def test_an_impossible_number_of_frames_is_refused(folder):
    message = refused(folder, min_frames=5, max_frames=5)
    assert "max_frames=5" in message
    assert "even number" in message


def test_options_of_these_models_are_refused_by_others(tiny_policy, tmp_path):
    tiny_policy.save(tmp_path / "tiny")
    assert "model.options.fps is for models that sample frames at a rate" in refused(
        tmp_path / "tiny", fps=1.0
    )


def test_a_processor_of_another_model_is_refused(folder, untouched):
    change(folder, "config.json", audio_token_id=3, audio_token_index=3)
    assert re.search("its processor has audio_token=.*requires 3", refused(folder))


def test_the_processor_of_the_other_generation_is_refused(untouched, folder, tmp_path):
    types = {"qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"} - {untouched.config.model_type}
    (other,) = types
    family_of(other).tiny(0, other).processor.save(folder)
    assert "processor" in refused(folder)


def test_weights_that_are_missing_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = refused(folder)
    assert "weights are missing" in message
    assert "norm.weight" in message


def test_weights_of_another_size_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "do not fit config.json" in refused(folder)


def test_an_old_transformers_is_refused_with_the_release_to_install():
    check_version("Qwen-Omni", "5.23.0")
    with pytest.raises(UserError, match=r"transformers 5\.23\.0 or later, but 5\.16\.1 is inst"):
        check_version("Qwen-Omni", "5.16.1")


def test_text_with_the_name_of_a_placeholder_is_refused(untouched):
    hf_processor = untouched.processor.hf_processor
    for token in (
        hf_processor.video_token,
        hf_processor.audio_token,
        hf_processor.vision_bos_token,
        "<|media|>",
    ):
        with pytest.raises(UserError, match="special token"):
            untouched.processor.check_text(f"what is {token}?", "question")
