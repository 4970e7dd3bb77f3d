"""The experiments of Qwen2.5-Omni: what they train, on emotion sets and on question records."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_conf import _hydra, composed

from omni_rlvr.assembly.instantiate import check

__all__ = ["_hydra"]  # a fixture

ANNOTATED = ("dataset.annotations.train=a.json", "dataset.annotations.test=b.json")
ROOT, PATH = "dataset.root=c", "model.path=DIR"


def recipe(name: str, *overrides: str) -> tuple[dict, dict]:
    return check(composed(f"+experiment=qwen2_5_omni/{name}", ROOT, PATH, *overrides))


@pytest.mark.parametrize("name", ["cold_start", "rlvr"])
def test_adapters_train_and_layers_are_checkpointed(name: str) -> None:
    config, typed = recipe(name)
    assert typed["trainable"].lora.enabled
    assert not typed["trainable"].language_model
    assert typed["stage"].gradient_checkpointing
    assert config["model"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["cold_start", "rlvr", "evaluate"])
def test_question_records_take_the_place_of_an_emotion_set(name: str) -> None:
    config, typed = recipe(name, "dataset=questions", "reward=question", *ANNOTATED)
    assert typed["dataset"].name == "questions"
    assert config["reward"]["terms"]["accuracy"]["_target_"].endswith("Question")


def test_humanomni_v2_as_published() -> None:
    # run_grpo_qwenomni_stage3.sh at 9bf0e6f; what it does not set is TRL's default
    config, typed = recipe("as_published")
    stage = typed["stage"]
    assert (stage.batch_size, stage.num_generations, stage.num_train_epochs) == (8, 8, 1)
    assert (stage.sampling.max_completion_length, stage.scale_rewards) == (1024, "none")
    assert (stage.beta, config["optimizer"]["lr"], stage.save_steps) == (0.04, 1e-6, 200)
    assert stage.gradient_checkpointing
    assert config["model"]["options"]["use_audio_in_video"] is False
    assert not typed["trainable"].lora.enabled
    assert not typed["trainable"].vision_tower
    assert set(config["reward"]["weights"]) == {"accuracy", "format"}


@pytest.mark.parametrize("hardware", ["24gb", "48gb", "80gb"])
def test_hardware_changes_sizes_alone(hardware: str, tmp_path: Path) -> None:
    plain, sized = (recipe("rlvr", *more)[0] for more in ((), (f"+hardware={hardware}",)))
    for key in ("micro_batch_size", "max_tokens_per_micro_batch", "gradient_checkpointing"):
        plain["stage"].pop(key)
        assert sized["stage"].pop(key) is not None
    assert plain["stage"] == sized["stage"]
