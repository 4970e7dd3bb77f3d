"""Commands with tiny Qwen-Omni and Qwen2-Audio models, from a cold start to an export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForMultimodalLM

from omni_rlvr.models.families import family_of
from omni_rlvr.record import read_json, read_jsonl

SIZE = ("model.options.fps=1", "model.options.max_frames=4", "model.options.max_pixels=6272")
MODELS = {
    "qwen2_5_omni_thinker": ("qwen2_5_omni_3b", *SIZE),
    "qwen3_omni_moe_thinker": ("qwen3_omni_30b_a3b", *SIZE),
    "qwen2_audio": ("qwen2_audio_7b", "modality=audio"),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory) -> tuple[str, ...]:
    """What chooses a tiny checkpoint, and small pictures or none."""
    folder = tmp_path_factory.mktemp("qwen") / "checkpoint"
    family_of(request.param).tiny(0, request.param).save(folder)
    name, *options = MODELS[request.param]
    return (f"model={name}", f"model.path={folder}", "model.dtype=float32", *options)


def test_a_check_prints_the_certificate(runner, model, capsys):
    if "modality=audio" in model:
        pytest.skip("positions count tokens")
    folder = runner("task=check", "task.splits=[test]", *model)
    printed = " ".join(capsys.readouterr().out.split())
    assert "time axis: picture and sound of one position are at most" in printed
    worst = read_json(folder / "check.json")["test"]["time_axis"]
    assert 0 <= worst["apart_s"] < worst["step_s"]


@pytest.mark.parametrize("trainable", ["default", "lora"])
def test_the_road_from_cold_start_to_export(runner, model, tmp_path, trainable):
    adapters = (f"model/trainable={trainable}",)
    sft = runner(*runner.sft, *model, *adapters)
    rlvr = runner(*runner.grpo, *model, *adapters, f"model.path={sft}/checkpoint", "stage.beta=0.1")
    assert len(read_jsonl(rlvr / "completions.jsonl")) == 12
    scored = runner(*runner.evaluate, *model, f"model.path={rlvr}/checkpoint", "task.splits=[test]")
    assert list(scored.rglob("predictions.jsonl"))
    runner("task=export", *model, f"model.path={rlvr}/checkpoint", f"task.to={tmp_path}/merged")
    kind = json.loads((tmp_path / "merged" / "config.json").read_text())["model_type"]
    assert kind in MODELS
    AutoModelForMultimodalLM.from_pretrained(tmp_path / "merged")


def test_a_prediction_and_an_attribution(runner, model, clips: Path):
    runner(
        "task=predict", f"+video={clips}/clips/000000.mp4", *model, "task.max_completion_length=4"
    )
    if "modality=audio" in model:
        return
    folder = runner(
        "task=attribute", *model, "task.max_clips=1", "task.num_resamples=50",
        "task.max_completion_length=4",
    )  # fmt: skip
    assert any(folder.iterdir())
