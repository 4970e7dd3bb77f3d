"""Prompts beyond the positions that a language model knows are refused by every task that reads
them, with the clip's name and what to lower.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import Qwen2Config

from omni_rlvr.rollout.encode import position_limit
from omni_rlvr.types import UserError

GRPO = ("stage=grpo", "stage.max_steps=1", "stage.batch_size=2", "stage.num_generations=2")


@pytest.fixture
def short(checkpoint: Path, tmp_path: Path) -> str:
    """The checkpoint, with a language model that knows few positions."""
    folder = shutil.copytree(checkpoint, tmp_path / "short")
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 150
    (folder / "config.json").write_text(json.dumps(config))
    return f"model.path={folder}"


@pytest.mark.parametrize("rollout", ["shared_prefix", "hf"])
@pytest.mark.parametrize(
    ("task", "key"),
    [
        (GRPO, "stage.sampling.max_completion_length"),
        (("task=evaluate", "task.splits=[test]"), "task.max_completion_length"),
        (("task=predict", "+video={clips}/clips/000000.mp4"), "task.max_completion_length"),
    ],
)
def test_a_prompt_without_room_is_named(
    runner, short: str, clips: Path, task: tuple[str, ...], key: str, rollout: str
) -> None:
    run = [text.format(clips=clips) for text in task]
    with pytest.raises(UserError) as error:
        runner(*run, short, f"{key}=140", f"rollout={rollout}")
    message = str(error.value)
    assert ".mp4: a prompt of " in message
    assert "this model knows 150 positions" in message
    assert f"lower {key} or model.options.num_frames" in message
    runner(*run, short, f"{key}=4", f"rollout={rollout}")


def test_a_target_without_room_is_named(runner, short: str, clips: Path) -> None:
    rows = json.loads((clips / "train.json").read_text())[:2]
    rows[1]["conversations"][1]["value"] = f"<think>{'ab ' * 400}</think><answer>happy</answer>"
    path = runner.root.parent / "long.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"clips/0.*\.mp4: a prompt of .* 150 positions"):
        runner(*runner.sft, short, f"dataset.annotations.train={path}", "stage.batch_size=2")


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, 100),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 100),
        (
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 100,
                }
            },
            400,
        ),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, 200),
    ],
)
def test_the_limit_is_what_the_config_says(fields: dict, limit: int) -> None:
    config = Qwen2Config(max_position_embeddings=100, **fields)
    assert position_limit(config) == limit
