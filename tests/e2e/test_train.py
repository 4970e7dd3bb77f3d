"""The main road in-process: cold start, RLVR from it, evaluation; what each leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.types import UserError

TRL_NAMES = {
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "rewards/accuracy/mean",
    "rewards/accuracy/std",
    "rewards/format/mean",
    "completions/mean_length",
    "completions/min_length",
    "completions/max_length",
    "completions/clipped_ratio",
    "completions/mean_terminated_length",
    "completions/min_terminated_length",
    "completions/max_terminated_length",
    "kl",
    "entropy",
    "clip_ratio/region_mean",
    "clip_ratio/low_mean",
    "clip_ratio/low_min",
    "clip_ratio/high_mean",
    "clip_ratio/high_max",
    "num_tokens",
    "learning_rate",
    "grad_norm",
    "loss",
    "step_time",
}


@pytest.fixture(scope="module")
def road(make_runner: Callable) -> dict[str, Path]:
    """A cold start, an RLVR run that starts from it by default, and an evaluation of that."""
    runner = make_runner()
    small = ("name=cold_start", "seed=3", *runner.sft)
    return {
        "root": runner.root,
        "cold_start": runner(*small),
        "rlvr": runner(
            "+experiment=rlvr",
            "dataset.train_split=train",
            *runner.grpo,
            "model.path=${latest:cold_start}",
        ),
        "evaluate": runner("name=evaluate", *runner.evaluate, "model.path=${latest:rlvr}"),
    }


def test_cold_start_leaves_a_checkpoint_that_loads(road: dict[str, Path], checkpoint: Path) -> None:
    before = load_policy(str(checkpoint), "float32", None).state_dict()
    after = load_policy(str(road["cold_start"] / "checkpoint"), "float32", None).state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert any(name.startswith("language_model.") for name in changed)
    assert any(name.startswith("video_projector.") for name in changed)
    assert not any("tower" in name for name in changed)  # frozen


def test_run_json_says_how_to_repeat_the_run(road: dict[str, Path]) -> None:
    record = read_json(road["cold_start"] / "run.json")
    assert record["status"] == "finished"
    assert record["seed"] == record["config"]["seed"] == 3
    assert record["command"]
    assert record["device"] == "cpu"
    assert (
        record["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in torch.__version__
    )
    assert {"omni-rlvr", "transformers", "pytorch-lightning", "hydra-core"} <= set(
        record["versions"]
    )
    assert record["config"]["stage"]["max_steps"] == 2
    assert record["skipped_clips"] == []
    assert "${" not in json.dumps(record["config"])  # resolved
    rlvr = read_json(road["rlvr"] / "run.json")
    start = Path(rlvr["config"]["model"]["path"])
    assert start == (road["cold_start"] / "checkpoint").resolve()


def test_metrics_have_a_line_a_step(road: dict[str, Path]) -> None:
    for name in ("cold_start", "rlvr"):
        rows = read_jsonl(road[name] / "metrics.jsonl")
        assert [row["step"] for row in rows] == [1, 2]
        assert all(isinstance(row["loss"], float) for row in rows)
    assert set(rows[0]) >= TRL_NAMES


def test_tensorboard_events_hold_the_loss(road: dict[str, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(road["cold_start"] / "tensorboard"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("train/loss")]
    rows = read_jsonl(road["cold_start"] / "metrics.jsonl")
    assert logged == [(row["step"], pytest.approx(row["loss"])) for row in rows]


def test_latest_points_at_the_run(road: dict[str, Path]) -> None:
    for name in ("cold_start", "rlvr", "evaluate"):
        link = road["root"] / name / "latest"
        assert link.is_symlink()
        assert link.resolve() == road[name].resolve()
        assert not Path(link.readlink()).is_absolute()  # the folder can be moved


def test_completions_list_every_completion_with_its_reward(road: dict[str, Path]) -> None:
    rows = read_jsonl(road["rlvr"] / "completions.jsonl")
    assert [row["step"] for row in rows] == [1] * 6 + [2] * 6  # 2 prompts x 3 completions
    for group in range(0, 12, 3):
        assert len({row["id"] for row in rows[group : group + 3]}) == 1
    for row in rows:
        assert {"completion", "label", "advantage"} <= set(row)
        assert row["reward"] == row["rewards/accuracy"] + row["rewards/format"]


def test_evaluation_leaves_predictions_scores_and_a_picture(road: dict[str, Path]) -> None:
    folder = road["evaluate"] / "test"
    predictions, scores = (
        read_jsonl(folder / "predictions.jsonl"),
        read_json(folder / "metrics.json"),
    )
    assert len(predictions) == scores["num_clips"] == 5
    right = sum(row["correct"] for row in predictions)
    assert scores["war"] == pytest.approx(100 * right / 5)
    assert {"uar", "war_ci", "uar_ci", "format", "outside", "recall", "confusion"} <= set(scores)
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(road["evaluate"] / "run.json")["status"] == "finished"


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_single_modality_trains_and_evaluates(runner, modality: str) -> None:
    def tokens(*overrides: str) -> float:
        folder = runner(*runner.sft, "stage.max_steps=1", *overrides)
        return read_jsonl(folder / "metrics.jsonl")[0]["num_tokens"]

    assert tokens(f"modality={modality}") < tokens()  # the prompt lacks the other one's tokens
    folder = runner(*runner.grpo, "stage.max_steps=1", f"modality={modality}", "name=rl")
    assert len(read_jsonl(folder / "completions.jsonl")) == 6
    folder = runner(*runner.evaluate, f"modality={modality}")
    assert read_json(folder / "test" / "metrics.json")["num_clips"] == 5


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides: the synthetic data set, small; some clips have no picture, some no sound."""
    return [
        "dataset=synthetic",
        "dataset.num_workers=0",
        f"paths.data_root={tmp_path_factory.mktemp('data')}",
        "dataset.splits.cold_start.num_clips=16",
    ]


@pytest.mark.parametrize("modality", ["video_audio", "video", "audio"])
def test_clips_of_one_modality_train_or_are_left_out(
    runner, mixed: list[str], modality: str
) -> None:
    runner.overrides = [o for o in runner.overrides if not o.startswith("dataset")] + mixed
    epoch = ("stage.batch_size=8", "stage.max_steps=2", f"modality={modality}")
    parts, _ = runner.build(*runner.sft, *epoch)
    examples = parts.clips.examples["cold_start"]
    lacking = {
        "video": {e.id for e in examples if "brows" not in e.cues},
        "audio": {e.id for e in examples if "pitch" not in e.cues},
        "video_audio": set(),
    }
    assert lacking["video"]
    assert lacking["audio"]
    folder = runner(*runner.sft, *epoch)
    record = read_json(folder / "run.json")
    assert {clip["id"] for clip in record["skipped_clips"]} == lacking[modality]
    rows = read_jsonl(folder / "metrics.jsonl")
    assert sum(row["media/failed"] for row in rows) == len(lacking[modality])
    assert all(row["loss"] > 0 for row in rows)


def test_latest_without_a_run_says_what_to_do(runner) -> None:
    with pytest.raises(
        UserError, match=r"model\.path: there is no run of 'cold_start' .*model\.path=DIR"
    ):
        runner("+experiment=rlvr", "dataset.train_split=train", "model.path=${latest:cold_start}")


def test_a_cold_start_needs_reasoning(runner, clips: Path, tmp_path: Path, capsys) -> None:
    runner(*runner.sft)
    assert "targets: 12 with reasoning, 0 of the label alone\n" in capsys.readouterr().out
    videos = [row["video"] for row in json.loads((clips / "train.json").read_text())]
    (tmp_path / "train.csv").write_text("\n".join(["video,label", *(f"{v},sad" for v in videos)]))
    runner.overrides[0] = "dataset=csv"
    runner.overrides += [
        f"dataset.annotations.train={tmp_path}/train.csv",
        "dataset.labels=[happy,sad]",
    ]
    with pytest.raises(UserError, match=r"train\.csv:2: no example .* has reasoning"):
        runner("+experiment=cold_start")
    runner("+experiment=sft_labels", *runner.sft)
    assert "targets: 0 with reasoning, 12 of the label alone\n" in capsys.readouterr().out


def test_the_shipped_base_loads_and_learns(runner) -> None:
    folder = runner(*runner.sft, "model.path=${tiny_base:}")
    first, second = read_jsonl(folder / "metrics.jsonl")
    assert second["loss"] < first["loss"]
