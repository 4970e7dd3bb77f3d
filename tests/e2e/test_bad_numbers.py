"""Runs whose numbers go wrong: NaN, Inf, overflow, and runs that learn nothing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import case_numbers
import pytest
import torch
from pytorch_lightning import Callback
from safetensors.torch import load_file

from omni_rlvr.folders import write_sums
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.tasks.train import run
from omni_rlvr.types import Interrupted, UserError

OVERFLOW = (
    "+reward.terms.a._target_=case_numbers.Large",
    "+reward.weights.a=10",
)
ONCE = ("+reward.terms.once._target_=case_numbers.LargeOnce", "+reward.weights.once=2")


def finite(folder: Path) -> bool:
    """Whether the weights of a run's checkpoint are all numbers."""
    return all(w.isfinite().all() for w in load_file(folder / "model.safetensors").values())


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_learning_rate_that_bursts_the_weights_is_no_success(runner, stage) -> None:
    over = (
        *vars(type(runner))[stage],
        "stage.max_steps=8",
        "stage.save_steps=1",
    )
    if stage == "grpo":
        over = (
            *over,
            "+reward.terms.spread._target_=case_signals.Spread",
            "+reward.weights.spread=1",
        )
    parts, folder = runner.build(*over, "stage.max_bad_steps=1", "optimizer.lr=1e20")
    with pytest.raises(UserError, match="NaN or infinite") as caught:
        run(parts)
    assert read_json(folder / "run.json")["status"] == "failed"
    good = folder / "checkpoint"
    if good.exists():
        assert finite(good)
        assert str(good.resolve()) in str(caught.value)
    else:
        assert "there is none before it" in str(caught.value)


def test_rewards_whose_sum_overflows_are_left_out_up_to_a_limit(runner) -> None:
    parts, folder = runner.build(
        *runner.grpo, *OVERFLOW, "stage.max_bad_steps=1", "stage.max_steps=5"
    )
    before = [w.clone() for w in parts.policy.parameters()]
    with pytest.raises(
        UserError,
        match=r"the last 2 steps, up to step 2, .*\(rewards of 6 completions\); .* there is none",
    ):
        run(parts)
    assert all(torch.equal(a, b) for a, b in zip(before, parts.policy.parameters(), strict=True))
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2]
    files = sorted((folder / "bad_steps").iterdir())
    assert [file.name for file in files] == ["step_000001.json", "step_000002.json"]
    kept = json.loads(files[0].read_text())  # strictly: no NaN and no Infinity in it
    assert (kept["step"], kept["seed"]) == (1, 0)
    assert len(kept["examples"]) == 2
    assert Path(kept["examples"][0]["video"]).is_file()
    assert len(kept["completions"]) == 6
    assert all(row["completion_ids"] and row["reward"] is None for row in kept["completions"])
    assert {row["id"] for row in kept["completions"]} == {row["id"] for row in kept["examples"]}


class Look(Callback):
    """Notes the optimizer's steps and the schedule's after each step of the run."""

    def __init__(self):
        self.seen: list[tuple[int, int]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        states = pl_module.optimizer.optimizer.state.values()
        steps = {int(state["step"]) for state in states} or {0}
        self.seen.append((max(steps), pl_module.schedule.last_epoch))


def test_one_bad_step_is_skipped_and_the_run_goes_on(runner, caplog) -> None:
    over = (
        *runner.grpo,
        *ONCE,
        "stage.max_steps=3",
        "stage.num_iterations=2",
        "stage.save_steps=1",
    )
    parts, folder = runner.build(*over)
    look = Look()
    with caplog.at_level(logging.WARNING):
        run(replace(parts, callbacks=[*parts.callbacks, look]))
    assert look.seen == [(2, 2), (2, 2), (4, 4)]  # two updates a step; none in the second
    assert "step 2 is left out" in caplog.text
    assert read_json(folder / "run.json")["status"] == "finished"
    assert finite(folder / "checkpoint")
    assert [file.name for file in (folder / "bad_steps").iterdir()] == ["step_000002.json"]
    rows = read_jsonl(folder / "metrics.jsonl")
    assert rows[1]["reward"] is None
    assert rows[2]["reward"] is not None


def test_a_last_step_that_is_bad_is_no_success(runner) -> None:
    over = (*runner.grpo, *ONCE, "stage.max_steps=2", "stage.save_steps=1")
    parts, folder = runner.build(*over)
    with pytest.raises(UserError, match=r"the last 1 steps, up to step 2, .* the last good one is"):
        run(parts)
    assert (folder / "checkpoint").resolve().name == "step_000001"
    assert read_json(folder / "run.json")["status"] == "failed"


def test_a_run_that_samples_only_nan_is_no_success(runner) -> None:
    parts, folder = runner.build(*runner.grpo, "stage.beta=0", "stage.max_bad_steps=0")
    with torch.no_grad():
        next(iter(parts.policy.language_model.parameters())).fill_(torch.nan)
    with pytest.raises(UserError, match=r"logits while sampling of 6 completions"):
        run(parts)
    assert not (folder / "checkpoint").exists()


def test_a_reference_that_is_nan_is_no_success(runner) -> None:
    parts, _ = runner.build(*runner.grpo, "stage.max_bad_steps=0")
    with torch.no_grad():
        for weight in parts.stage.reference.language_model.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"log-probabilities of the reference of 6 completions"):
        run(parts)


def test_weights_that_are_nan_behind_the_optimizer_are_not_saved(runner) -> None:
    class Burst(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
            with torch.no_grad():
                next(pl_module.policy.video_projector.parameters()).view(-1)[0] = torch.inf

    parts, folder = runner.build(*runner.sft, "stage.save_steps=1")
    with pytest.raises(UserError, match=r"step 1 left NaN or infinite numbers in video_projector"):
        run(replace(parts, callbacks=[Burst(), *parts.callbacks]))
    assert not (folder / "checkpoint").exists()
    assert not (folder.parent / "latest").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("task", ["train", "evaluate"])
def test_weights_that_are_nan_are_refused_by_name(
    runner, checkpoint, tmp_path, task, value
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "nan")
    name = case_numbers.put_nan(folder, value)
    over = runner.sft if task == "train" else runner.evaluate
    with pytest.raises(UserError, match=rf"model\.path={folder}: 1 of its tensors .*\({name}\)"):
        runner.build(*over, f"model.path={folder}")


def test_an_optimizer_state_that_is_nan_is_refused_at_resume(runner) -> None:
    folder = runner(*runner.sft)
    file = folder / "checkpoint" / "trainer_state.pt"
    state = torch.load(file)
    first = next(iter(state["optimizer"]["state"].values()))
    first["exp_avg"].view(-1)[0] = torch.nan
    torch.save(state, file)
    write_sums(file.parent)  # so that nothing but its numbers is wrong
    with pytest.raises(UserError, match=r"NaN or infinite numbers \(the optimizer's exp_avg of"):
        runner(*runner.sft, f"resume={folder}")


def test_a_resumed_run_counts_bad_steps_on(runner) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
            if pl_module.step == 2:
                os.kill(os.getpid(), signal.SIGINT)

    over = (*runner.grpo, *OVERFLOW, "stage.max_bad_steps=2", "stage.max_steps=5")
    parts, folder = runner.build(*over)
    with pytest.raises(Interrupted):
        run(replace(parts, callbacks=[*parts.callbacks, Stop()]))
    with pytest.raises(UserError, match="the last 3 steps, up to step 3"):
        runner(*over, f"resume={folder}")


def test_a_run_without_any_prompt_is_no_success(runner, clips, tmp_path) -> None:
    before = runner(*runner.sft)
    rows = (clips / "train.json").read_text().replace("clips/", "nowhere/")
    (tmp_path / "bad.json").write_text(rows)
    parts, folder = runner.build(
        *runner.sft,
        "dataset.on_bad_media=skip",
        "stage.save_steps=1",
        f"dataset.annotations.train={tmp_path}/bad.json",
    )
    with pytest.raises(
        UserError,
        match=r"nothing was learned: none of the 2 steps had a prompt: 6 clips could not be read, "
        r"the first: .*nowhere/.*; check dataset\.root",
    ):
        run(parts)
    assert read_json(folder / "run.json")["status"] == "failed"
    assert not (folder / "checkpoint").exists()
    assert (runner.root / "train" / "latest").resolve() == before


@pytest.mark.parametrize(
    ("over", "why"),
    [
        (("optimizer.lr=1e-60",), r"largest learning rate was 1e-60 .* too small for a float32"),
        (
            ("model.trainable.language_model=false", "model.trainable.embeddings=false",
             "model.trainable.video_projector=false", "modality=video"),
            "the gradient was 0 in all of them",
        ),
    ],
)  # fmt: skip
def test_weights_that_do_not_move_are_no_success(runner, over, why) -> None:
    parts, folder = runner.build(*runner.sft, *over)
    with pytest.raises(UserError, match=rf"no weight has moved in 2 updates: .*{why}"):
        run(parts)
    assert not (folder.parent / "latest").exists()


def test_equal_rewards_are_a_warning(runner, caplog) -> None:
    over = ("+reward.terms.equal._target_=case_numbers.equal", "+reward.terms.equal._partial_=true")
    zero = ("+reward.weights.equal=1", "reward.weights.accuracy=0", "reward.weights.format=0")
    with caplog.at_level(logging.WARNING):
        folder = runner(*runner.grpo, *over, *zero)
    assert "in all 2 updates the rewards within every group were equal" in caplog.text
    assert read_json(folder / "run.json")["status"] == "finished"


@pytest.mark.parametrize(
    ("at_once", "said"),
    [("false", "error: reward term mine raised SystemExit: 0 ("), ("true", "error: ")],
)
@pytest.mark.parametrize("replaced", [False, True])
def test_a_reward_that_ends_the_process_is_a_failure(
    runner, command, monkeypatch: pytest.MonkeyPatch, at_once: str, said: str, replaced: bool
) -> None:
    if replaced:  # as W&B does when it is imported

        def exit(code: object = None) -> None:
            raise SystemExit(code)

        monkeypatch.setattr("sys.exit", exit)
    text = command(
        *runner.grpo,
        "+reward.terms.mine._target_=case_numbers.Exits",
        f"+reward.terms.mine.at_once={at_once}",
        "+reward.weights.mine=1",
    )
    assert str(text).startswith(said)
    assert "case_numbers.py:" in str(text)
    statuses = [read_json(path)["status"] for path in runner.root.rglob("run.json")]
    assert statuses == ([] if at_once == "true" else ["failed"])
