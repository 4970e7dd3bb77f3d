"""Runs with the feature cache: towers run once a prompt without it and never with it filled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from omni_rlvr.record import read_json, read_jsonl

OFF = "feature_cache.enabled=false"
GRPO = (
    "stage=grpo",
    "stage.max_steps=2",
    "stage.batch_size=3",
    "stage.num_generations=4",
    "stage.num_iterations=2",
    "stage.beta=0.1",
    "stage.sampling.max_completion_length=6",
    "stage.micro_batch_size=5",
)


@pytest.fixture
def counted(runner) -> Callable[..., tuple[dict[str, int], Path]]:
    """Runs overrides; returns how many clips each tower saw, and the run's folder."""

    def go(*overrides: str) -> tuple[dict[str, int], Path]:
        ready, folder = runner.ready(*overrides)
        counts = {"video": 0, "audio": 0}
        settings = ready.inputs.policy.processor.settings

        def watch(name: str, per_clip: int) -> Callable:
            def hook(module, args, kwargs, output) -> None:
                counts[name] += len(output.last_hidden_state) // per_clip

            return hook

        for name, per_clip in (("video", settings.num_frames), ("audio", 1)):
            tower = ready.inputs.policy.towers()[name]
            tower.register_forward_hook(watch(name, per_clip), with_kwargs=True)
        ready.run()
        return counts, folder

    return go


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / "metrics.jsonl")]


def texts(folder: Path) -> list[str]:
    return [row["completion"] for row in read_jsonl(folder / "completions.jsonl")]


def test_towers_run_once_a_prompt_and_step_without_cache_and_not_at_all_with(counted) -> None:
    without, _ = counted(*GRPO, OFF)
    assert without == {"video": 6, "audio": 6}  # 2 steps of 3 prompts, whatever G, mu and beta
    counted("task=cache")
    with_cache, _ = counted(*GRPO)
    assert with_cache == {"video": 0, "audio": 0}


def test_epochs_of_sft_encode_each_clip_once(counted) -> None:
    counts, _ = counted("stage=sft", "stage.num_train_epochs=3", "stage.batch_size=4")
    assert counts == {"video": 12, "audio": 12}  # twelve clips


def test_a_run_does_not_depend_on_what_the_cache_held(counted) -> None:
    _, cold = counted(*GRPO)
    _, warm = counted(*GRPO)
    assert texts(cold) == texts(warm)
    assert losses(cold) == pytest.approx(losses(warm), rel=1e-5, abs=1e-7)


def test_evaluation_reads_and_fills_the_cache(counted) -> None:
    evaluate = ("task=evaluate", "task.max_completion_length=4", "task.num_resamples=10")
    first, one = counted(*evaluate)
    again, two = counted(*evaluate)
    assert first["video"] == 5
    assert again == {"video": 0, "audio": 0}
    assert read_jsonl(one / "test/predictions.jsonl") == read_jsonl(two / "test/predictions.jsonl")
    alone, _ = counted(*evaluate, "modality=audio")  # the sound that was encoded beside pictures
    assert alone == {"video": 0, "audio": 0}


def test_task_cache_says_what_it_did(counted, capsys: pytest.CaptureFixture[str]) -> None:
    counted("task=cache", "task.splits=[test]", "task.batch_size=2")
    assert "test: 0 clips were cached, 5 added, 0 cannot be read" in capsys.readouterr().out
    counts, folder = counted("task=cache")
    out = capsys.readouterr().out
    assert "train: 5 clips were cached, 7 added" in out  # test.json is the first five of train.json
    assert "test: 5 clips were cached, 0 added" in out
    assert counts == {"video": 7, "audio": 7}
    assert read_json(folder / "run.json")["status"] == "finished"


def test_task_cache_batches(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    for size in (2, 5):
        ready, _ = runner.ready(
            "task=cache",
            "task.splits=[test]",
            f"task.batch_size={size}",
            f"feature_cache.folder={runner.root}/{size}",
        )
        policy = ready.inputs.policy
        encode = policy.encode
        monkeypatch.setattr(
            policy, "encode", lambda b, encode=encode: sizes.append(len(b)) or encode(b)
        )
        ready.run()
    assert sizes == [2, 2, 1, 5]


def test_options_of_the_cache_do_something(counted, runner, tmp_path: Path, caplog) -> None:
    sft = ("stage=sft", "stage.max_steps=1", "stage.batch_size=4")
    _, rounded = counted(*sft)
    assert (tmp_path / "data" / "features").is_dir()
    _, exact = counted(*sft, "feature_cache.dtype=float32")
    _, off = counted(*sft, OFF)
    assert losses(exact) == losses(off) != losses(rounded)
    counts, _ = counted(*sft, f"feature_cache.folder={tmp_path}/elsewhere")
    assert counts["video"] == 4
    assert (tmp_path / "elsewhere").is_dir()
    small = (*sft, f"feature_cache.folder={tmp_path}/small", "feature_cache.max_gb=1e-9")
    counted(*small)
    assert "is full" in caplog.text
    assert counted(*small)[0]["video"] == 4  # nothing was kept


def test_a_trained_tower_switches_the_cache_off_loudly(runner, caplog) -> None:
    trained = ("stage=sft", "model.trainable.audio_tower=true")
    parts, _ = runner.build(*trained)
    assert parts.cache is None
    assert "off, since the audio tower trains" in caplog.text
    parts, _ = runner.build(*trained, "modality=video")  # the audio tower does nothing there
    assert parts.cache is not None


def test_task_cache_without_a_cache_is_refused(runner) -> None:
    with pytest.raises(Exception, match=r"feature_cache.enabled=false: task=cache has nothing"):
        runner.build("task=cache", OFF)
