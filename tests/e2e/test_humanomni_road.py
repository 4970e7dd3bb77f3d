"""HumanOmni on the whole road, by config: a published folder is fine-tuned, rewarded, evaluated."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from make_humanomni import build_humanomni

from omni_rlvr.models.composed.publish import export_published
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.record import read_jsonl

MODEL = ("model=humanomni_0_5b", "model.dtype=float32")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("humanomni") / "published"
    export_published(build_humanomni(), folder)
    return folder


def test_cold_start_rlvr_and_evaluation(runner, published):
    first = runner(*runner.sft, *MODEL, f"model.path={published}", "optimizer.lr=0.01")
    before = load_policy(str(published), "float32", None).state_dict()
    after = load_policy(str(first / "checkpoint"), "float32", None).state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert {"gate.head.0.weight", "video_projector.body.s1.b1.conv1.conv.weight"} <= changed
    assert not [n for n in changed if n.startswith(("vision_", "audio_tower", "gate.bert"))]

    second = runner(
        *runner.grpo,
        *MODEL,
        f"model.path={first / 'checkpoint'}",
        "stage.micro_batch_size=2",
        "model.trainable.bert=true",
        "reward=as_published",
        "model.options.wording=p3_rlvr",
    )
    rows = read_jsonl(second / "metrics.jsonl")
    assert len(rows) == 2
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["kl"]) for row in rows)
    scored = runner(*runner.evaluate, *MODEL, f"model.path={second / 'checkpoint'}")
    assert len(read_jsonl(scored / "test" / "predictions.jsonl")) == 5
    resumed = runner(
        *runner.sft,
        *MODEL,
        f"model.path={published}",
        "model.options.reset_gate=true",
        "modality=audio",
        "stage.max_steps=1",
    )
    assert (resumed / "checkpoint" / "model.safetensors").exists()
