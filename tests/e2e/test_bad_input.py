"""What users get wrong: each ends in one clear error, or goes on and says what it left out."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import case_picture
import pytest
import torch

from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.types import MediaError, UserError


@pytest.fixture
def annotate(tmp_path: Path, clips: Path) -> Callable[..., str]:
    """A factory of overrides: train on the first of the shared clips, some with another clip."""

    def make(num_rows: int, changed: dict[int, Path]) -> str:
        rows = json.loads((clips / "train.json").read_text())[:num_rows]
        for index, path in changed.items():
            rows[index] = {
                **rows[index],
                "video": str(path.relative_to(clips)),
                "id": f"odd{index}",
            }
        (tmp_path / "annotations.json").write_text(json.dumps(rows))
        return f"dataset.annotations.train={tmp_path}/annotations.json"

    return make


@pytest.fixture
def broken(clips: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A clip that cannot be read, of the kind asked for."""
    good = (clips / "clips" / "000003.mp4").read_bytes()
    content = {
        "missing": None,
        "empty": b"",
        "truncated": good[: len(good) // 2],
        "no media": b"this is a text\n" * 100,
        "no decoder": case_picture.with_codec(good),
    }[request.param]
    path = clips / f"bad_{request.param.replace(' ', '_')}.mp4"
    if content is not None:
        path.write_bytes(content)
    yield path
    path.unlink(missing_ok=True)


every_broken = pytest.mark.parametrize(
    "broken", ["missing", "empty", "truncated", "no media", "no decoder"], indirect=True
)
BAD_FILES = {
    "missing": (None, r"train\.jsonl: no such annotation file"),
    "empty": ("", r"train\.jsonl: the annotation file is empty"),
    "not JSON": ('{row}\n{"video": oops}\n', r"train\.jsonl:2: not valid JSON"),
    "unknown label": (
        "{row}\n{row}\n{other}\n",
        r"train\.jsonl:3: the answer 'ecstatic' is not one of",
    ),
    "no conversation": ('{"video": "a.mp4"}', r"train\.jsonl:1: the key conversations is missing"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_annotation_file_is_named_before_a_model_is_loaded(
    runner, tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    content, message = BAD_FILES[kind]
    row = json.loads((clips / "train.json").read_text())[0]
    other = json.loads(json.dumps(row).replace("<answer>happy<", "<answer>ecstatic<"))
    assert other != row
    if content is not None:
        text = content.replace("{row}", json.dumps(row)).replace("{other}", json.dumps(other))
        (tmp_path / "train.jsonl").write_text(text)
    monkeypatch.setattr(OmniModel, "from_pretrained", lambda *_, **__: pytest.fail("model loaded"))
    with pytest.raises(UserError, match=message) as error:
        runner(*runner.sft, f"dataset.annotations.train={tmp_path}/train.jsonl")
    assert "\n" not in str(error.value)


def test_an_annotation_file_that_was_not_given_names_the_key(runner) -> None:
    for split, task in (("train", runner.sft), ("test", runner.evaluate)):
        with pytest.raises(UserError, match=rf"^dataset\.annotations\.{split} must be given"):
            runner(*task, f"dataset.annotations.{split}=''")


@every_broken
def test_a_broken_clip_stops_the_run_by_default(runner, annotate, broken: Path) -> None:
    with pytest.raises(MediaError) as error:
        runner(*runner.sft, annotate(3, {1: broken}))
    for part in (str(broken), "annotations.json[1]", "on_bad_media=skip"):
        assert part in str(error.value)


def test_a_broken_clip_in_a_worker_is_the_same_one_line(runner, annotate, clips: Path) -> None:
    with pytest.raises(MediaError) as error:
        runner(*runner.sft, annotate(3, {1: clips / "nowhere.mp4"}), "dataset.num_workers=1")
    assert "nowhere.mp4" in str(error.value)
    assert "\n" not in str(error.value)


@every_broken
def test_a_broken_clip_is_skipped_with_its_whole_group(
    runner, annotate, broken: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = runner(
        *runner.grpo,
        annotate(4, {2: broken}),
        "dataset.on_bad_media=skip",
        "stage.batch_size=4",
        "stage.max_steps=1",
    )
    rows = read_jsonl(folder / "completions.jsonl")
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == 3
    assert "odd2" not in ids
    assert all(ids.count(name) == 3 for name in ids)  # num_generations
    (skipped,) = read_json(folder / "run.json")["skipped_clips"]
    assert skipped["id"] == "odd2"
    assert str(broken) in skipped["reason"]
    assert f"skipped clip odd2: {skipped['reason']}" in caplog.text
    (metrics,) = read_jsonl(folder / "metrics.jsonl")
    assert metrics["media/failed"] == 1
    assert math.isfinite(metrics["loss"])


@pytest.mark.parametrize("broken", ["no decoder"], indirect=True)
def test_good_clips_beside_a_bad_one_get_their_results(
    runner, annotate, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(3, {1: broken})
    skip = (
        f"dataset.annotations.test={tmp_path}/annotations.json",
        "dataset.on_bad_media=skip",
        "task.splits=[test]",
    )
    (bad,) = read_json(runner("task=check", *skip) / "check.json")["test"]["bad"]
    assert bad["reason"] == (
        f"{broken}: its picture cannot be decoded (there is no decoder for its codec); convert it "
        "to H.264 in mp4"
    )
    report = read_json(runner(*runner.evaluate, *skip) / "test" / "metrics.json")
    assert report["num_clips"] == 2
    for task in (("task=cache",), ("task=preview", "task.split=test")):
        shown = skip[:2] if task[0] == "task=preview" else skip
        folder = runner(*task, *shown)
        assert [clip["id"] for clip in read_json(folder / "run.json")["skipped_clips"]] == ["odd1"]
    assert f"left out: {broken}: its picture cannot be decoded" in capsys.readouterr().out


def test_a_batch_of_nothing_but_broken_clips_does_no_harm(runner, annotate, clips: Path) -> None:
    gone = clips / "nowhere.mp4"
    skip = (annotate(2, {0: gone}), "dataset.on_bad_media=skip", "stage.batch_size=1")
    for stage in (runner.sft, runner.grpo):
        folder = runner(*stage, *skip)
        rows = read_jsonl(folder / "metrics.jsonl")
        assert sorted(row["media/failed"] for row in rows) == [0, 1]
        assert len(read_json(folder / "run.json")["skipped_clips"]) == 1
        load_policy(str(folder / "checkpoint"), "float32", None)


def test_evaluation_skips_and_counts(runner, annotate, clips: Path) -> None:
    annotate(5, {1: clips / "nowhere.mp4"})
    path = runner.root.parent / "annotations.json"
    folder = runner(
        *runner.evaluate, f"dataset.annotations.test={path}", "dataset.on_bad_media=skip"
    )
    assert read_json(folder / "test" / "metrics.json")["num_clips"] == 4
    assert [c["id"] for c in read_json(folder / "run.json")["skipped_clips"]] == ["odd1"]
    annotate(1, {0: clips / "nowhere.mp4"})
    with pytest.raises(UserError, match="nothing to evaluate: none of the 1 clips could be read"):
        runner(*runner.evaluate, f"dataset.annotations.test={path}", "dataset.on_bad_media=skip")


def test_a_clip_without_sound(runner, annotate, clips: Path) -> None:
    silent = annotate(2, {1: clips / "silent.mp4"})
    one_step = ("stage.max_steps=1", silent)
    with pytest.raises(MediaError, match=r"silent\.mp4 has no sound.*modality=video_audio"):
        runner(*runner.grpo, *one_step, "modality=audio")
    folder = runner(*runner.grpo, *one_step, "modality=audio", "dataset.on_bad_media=skip")
    assert [c["id"] for c in read_json(folder / "run.json")["skipped_clips"]] == ["odd1"]
    for modality in ("video_audio", "video"):
        folder = runner(*runner.grpo, *one_step, f"modality={modality}")
        assert [row["id"] for row in read_jsonl(folder / "completions.jsonl")].count("odd1") == 3
        assert read_json(folder / "run.json")["skipped_clips"] == []


def test_model_path_that_is_no_checkpoint(runner, checkpoint: Path, tmp_path: Path) -> None:
    def error(path: Path) -> str:
        with pytest.raises(UserError) as caught:
            runner(*runner.sft, f"model.path={path}")
        message = str(caught.value)
        assert message.startswith(f"model.path={path}")
        assert "\n" not in message
        return message

    assert "is not a folder" in error(tmp_path / "nowhere")
    assert "config.json is missing" in error(tmp_path)
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    assert "did you mean its checkpoint/ folder?" in error(tmp_path / "run")
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "cannot be read" in error(other)
    (other / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "Git-LFS" in error(other)
    (other / "model.safetensors").write_bytes(weights)
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] += 1
    (other / "config.json").write_text(json.dumps(config))
    assert re.search("config.json is not consistent: .*num_hidden_layers", error(other))
    config["text_config"]["layer_types"].append("full_attention")
    (other / "config.json").write_text(json.dumps(config))
    assert "weights do not fit" in error(other)
    (other / "config.json").write_text('{"model_type": "llama"}')
    assert "model_type='llama'" in error(other)


def test_an_output_folder_that_cannot_be_written(runner) -> None:
    runner.root.write_text("a file where the folder should be")
    for task in (runner.sft, runner.evaluate):
        with pytest.raises(
            UserError, match=r"cannot write to the output folder .*paths\.output_root"
        ):
            runner(*task)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|video|>", "<|audio|>"])
@pytest.mark.parametrize("turn", ["question", "answer"])
def test_a_special_token_in_an_annotation_is_named_while_building(
    runner, clips: Path, tmp_path: Path, token: str, turn: str
) -> None:
    rows = json.loads((clips / "train.json").read_text())[:4]
    turns = rows[2]["conversations"]
    if turn == "question":
        turns[0]["value"] += f" {token}"
    else:
        turns[1]["value"] = turns[1]["value"].replace("<think>", f"<think>{token} ")
    (tmp_path / "odd.json").write_text(json.dumps(rows))
    with pytest.raises(UserError) as error:
        runner.build(*runner.sft, f"dataset.annotations.train={tmp_path}/odd.json")
    assert str(error.value).startswith(f"{tmp_path}/odd.json[2]: ")
    assert token in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.weight_decay=-1", "optimizer: .*-1"),
        ("optimizer.betas=[2,0.9]", "optimizer: .*2"),
    ],
)
def test_what_a_library_refuses_is_named_by_its_group(runner, override: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        runner(*runner.sft, override)


def test_one_generation_is_refused(runner) -> None:
    with pytest.raises(UserError, match=r"stage\.num_generations=1 .*2"):
        runner(*runner.grpo, "stage.num_generations=1")


@pytest.mark.parametrize("scale_rewards", ["group", "none"])
def test_equal_rewards_give_no_advantage_and_no_nan(
    runner, checkpoint: Path, scale_rewards: str
) -> None:
    folder = runner(
        *runner.grpo,
        "stage.beta=0",
        f"stage.scale_rewards={scale_rewards}",
    )  # a random model earns nothing
    rows = read_jsonl(folder / "completions.jsonl")
    assert {row["reward"] for row in rows} == {0}
    assert {row["advantage"] for row in rows} == {0}
    for row in read_jsonl(folder / "metrics.jsonl"):
        assert row["loss"] == 0
        assert row["grad_norm"] == 0
        assert row["frac_reward_zero_std"] == 1
    weights = [
        load_policy(str(f), "float32", None).state_dict()
        for f in (folder / "checkpoint", checkpoint)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_gold_answers_that_are_no_label_are_refused_before_the_model_loads(
    runner, clips: Path, tmp_path: Path
) -> None:
    rows = json.loads((clips / "test.json").read_text())
    rows[1]["conversations"][1]["value"] = "happy, sad"
    (tmp_path / "several.json").write_text(json.dumps(rows))
    over = (f"dataset.annotations.test={tmp_path}/several.json", f"model.path={tmp_path}")
    with pytest.raises(UserError, match=r"\[1\]: the answer 'happy, sad' .* it names several"):
        runner.build(*runner.evaluate, *over)
    with pytest.raises(UserError, match=r"\[1\]: the split 'test' cannot be evaluated: its answer"):
        runner.build(*runner.evaluate, *over, "dataset.splits.test.labels=null")
