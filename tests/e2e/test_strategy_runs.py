"""Whole runs under ``trainer.strategy``: files, resuming on other devices, kills."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from make_ranks import TWO, in_ranks, run_in_ranks
from safetensors.torch import load_file
from test_devices import GRPO, SFT, assert_same_run, mixed
from test_hanging_reward import MARK, marked
from test_resume import assert_same, num_lines, steady, wait_for
from torch.distributed.device_mesh import init_device_mesh
from transformers import Qwen2Config

from omni_rlvr import distributed
from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.models.sharding import gathered, shard, state_of
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.tasks.build import build_one

__all__ = ["mixed"]  # a fixture
FSDP2 = "trainer.strategy=fsdp2"
STRATEGIES = ("trainer.strategy=ddp", FSDP2)
KEPT = ("stage.save_steps=1", "stage.save_total_limit=9")
LORA = "model/trainable=lora"


@pytest.mark.parametrize("more", [(), (LORA,)], ids=["full", "lora"])
def test_fsdp2_trains_and_evaluates_as_one_device_does(runner, more: tuple[str, ...]) -> None:
    options = (*GRPO, *more, "callbacks=probe", "task.evaluate_after.splits=[test]")
    options += ("task.evaluate_after.max_completion_length=6", "callbacks.probe.num_clips=2")
    two, one = run_in_ranks(runner, *options, FSDP2), runner(*options)
    for folder in (two, one):  # the probe says how long it took
        rows = [{**row, "modality/probe_s": 0.0} for row in steady(folder)]
        assert "modality/phi_audio" in rows[0]
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert_same_run(two, one)
    assert (two / "test/predictions.jsonl").read_text() == (
        one / "test/predictions.jsonl"
    ).read_text()
    files = [sorted(p.name for p in (f / "checkpoint").rglob("*")) for f in (two, one)]
    assert files[0] == files[1]


def test_fsdp2_starts_from_an_adapter(runner) -> None:
    """Ranks other than the first know of its weights what is in the names of files alone."""
    trained = runner(*SFT, LORA, "stage.max_steps=1")
    options = (*GRPO, LORA, f"model.path={trained}/checkpoint")
    two, one = run_in_ranks(runner, *options, FSDP2), runner(*options)
    assert_same_run(two, one)
    assert steady(one)[0]["kl"] == steady(two)[0]["kl"] == 0.0  # the reference has the adapter


def test_fsdp2_with_ranks_without_a_clip(runner, mixed: list[str]) -> None:
    two, one = run_in_ranks(runner, *GRPO, *mixed, FSDP2), runner(*GRPO, *mixed)
    assert_same_run(two, one)
    assert sum(row["media/failed"] for row in read_jsonl(two / "metrics.jsonl")) == 2


def test_other_ranks_than_the_first_never_hold_the_whole_model(
    runner, checkpoint: Path, tmp_path: Path
) -> None:
    policy = load_policy(str(checkpoint), "float32", None)
    assert isinstance(policy, OmniModel)
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    sizes |= {"num_attention_heads": 8, "num_key_value_heads": 2}
    policy.config.text_config = Qwen2Config(
        **{**policy.config.text_config.to_dict(), **sizes, "layer_types": None}
    )
    large = OmniModel(policy.config)
    large.processor = policy.processor
    large.save(tmp_path / "large")
    size = sum(weight.nbytes for weight in large.parameters())
    assert size > 100e6
    cfg = runner.compose(*SFT, f"model.path={tmp_path}/large", FSDP2, TWO)

    def load() -> None:
        inputs = build_one(cfg, runner.root / "loads", None).inputs
        is_first = distributed.is_first()
        assert all(weight.is_meta is not is_first for weight in inputs.policy.parameters())
        ctypes.CDLL(None).malloc_trim(0)  # memory that earlier tests freed would be used again
        Path("/proc/self/clear_refs").write_text("5")  # the most so far is what there is now
        before = resident("VmRSS")
        shard([inputs.policy], init_device_mesh("cpu", (2,)))
        (tmp_path / f"{distributed.rank()}").write_text(str(resident("VmHWM") - before))
        with gathered(inputs.policy):
            state = state_of(inputs.policy)
            for name, weight in load_file(tmp_path / "large" / "model.safetensors").items():
                assert torch.equal(state[name], weight), name

    in_ranks(tmp_path / "meeting", load)
    grown = int((tmp_path / "1").read_text())
    # its half, the frozen towers, what is outside of layers twice, and a weight on its way
    assert size / 2 < grown < 0.9 * size


def resident(field: str) -> int:
    """Bytes in memory of this process: now (VmRSS), or the most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(kilobytes)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(runner, strategy: str) -> None:
    options = (*GRPO, *KEPT, strategy)
    folder = run_in_ranks(runner, *options)
    whole = shutil.copytree(folder, runner.root / "whole", symlinks=True)
    first = folder / "checkpoints" / "step_000001"
    run_in_ranks(runner, *options, f"resume={first}")
    assert steady(folder) == steady(whole)
    for file in ("completions.jsonl", "checkpoints/step_000002/model.safetensors"):
        assert (folder / file).read_bytes() == (whole / file).read_bytes()
    state = Path("checkpoints/step_000002/trainer_state.pt")
    assert_same(torch.load(folder / state)["optimizer"], torch.load(whole / state)["optimizer"])


@pytest.mark.parametrize("more", [(), (LORA,)], ids=["full", "lora"])
def test_a_run_goes_on_under_another_strategy_on_other_devices(runner, more) -> None:
    adam = ("optimizer._target_=torch.optim.AdamW", "~optimizer.momentum", "optimizer.lr=1e-4")
    options = (*GRPO, *adam, *more, *KEPT, "stage.max_steps=4")
    one = runner(*options)
    folder = run_in_ranks(runner, *options, "trainer.strategy=ddp")
    saved = folder / "checkpoints"
    runner(*options, f"resume={saved / 'step_000001'}")
    run_in_ranks(runner, *options, f"resume={saved / 'step_000002'}", FSDP2)
    run_in_ranks(runner, *options, f"resume={saved / 'step_000003'}")
    assert_same_run(folder, one)
    names = torch.load(saved / "step_000003" / "trainer_state.pt")["optimizer"]["state"]
    assert all(isinstance(name, str) for name in names)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_killed_run_goes_on(runner, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    monkeypatch.setenv(MARK, str(runner.root))
    long = (*SFT, "stage.max_steps=8", "stage.save_steps=1", "name=killed", strategy)
    process = runner.start(*long, TWO)
    home = runner.root / "killed"
    wait_for(process, lambda: num_lines(home) >= 3, limit_s=240)
    for number in marked(str(runner.root)):  # the command, and then its ranks
        with contextlib.suppress(ProcessLookupError):  # some end with another
            os.kill(number, signal.SIGKILL)
    process.communicate(timeout=60)
    folder = (home / "latest").resolve()
    assert read_json(folder / "run.json")["status"] == "running"  # nobody could say otherwise
    assert run_in_ranks(runner, *long, "resume=latest") == folder
    assert read_json(folder / "run.json")["status"] == "finished"
    unbroken = run_in_ranks(runner, *long)
    assert steady(folder) == steady(unbroken)
    file = Path("checkpoint/model.safetensors")
    assert (folder / file).read_bytes() == (unbroken / file).read_bytes()
