"""Options whose effect is seen on what is built: readers, loader, weights, reward, Trainer.

The rest of the options is flipped in ``test_options``, whose table also lists those of this file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flips import EVALUATE, GRPO, SFT
from test_options import checkpoint, clips, common, e2e, runner

from omni_rlvr.data.dataset import clip_reader
from omni_rlvr.media.limits import Limits
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.rollout.hf import Generate
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.tasks import train as training
from omni_rlvr.tasks.launch import Launch
from omni_rlvr.tasks.train import TrainInputs
from omni_rlvr.types import Example, UserError

__all__ = ["checkpoint", "clips", "common", "runner"]  # fixtures
pytestmark = pytest.mark.slow


def test_paths_decide_where_things_are(common: list[str]) -> None:
    e2e.register()
    with e2e.initialize_config_dir(e2e.conf_dir(), version_base="1.3"):
        cfg = e2e.compose(
            "config",
            overrides=["paths.output_root=/o", "paths.data_root=/d", "name=n"],
            return_hydra_config=True,
        )
    assert cfg.dataset.root == "/d/synthetic"
    assert cfg.hydra.run.dir.startswith("/o/n/")
    assert cfg.hydra.sweep.dir.startswith("/o/n/")


def test_the_name_of_a_modality_is_in_its_error(runner) -> None:
    with pytest.raises(UserError, match="modality='mine'"):
        runner.build(*SFT, "modality=audio", "modality.audio=false", "modality.name=mine")


def reader_of(parts: TrainInputs):
    """The clip reader that a run would use."""
    return clip_reader(parts.clips.dataset)


def test_dataset_options_reach_what_reads(runner, clips: Path, tmp_path: Path) -> None:
    parts, _ = runner.build(*SFT, "dataset.decode_timeout_s=3", "dataset.max_clips_per_process=7")
    reader = reader_of(parts)
    assert (reader.timeout_s, reader.max_clips_per_process) == (3, 7)
    parts, _ = runner.build(*SFT, "dataset.max_frames=9", "dataset.max_memory_gb=0.5")
    assert reader_of(parts).limits == Limits(max_frames=9, max_memory_gb=0.5)
    with pytest.raises(UserError, match=r"dataset\.max_streams=0 is out of range"):
        runner.build(*SFT, "dataset.max_streams=0")
    loaders = []
    with pytest.MonkeyPatch.context() as patch:
        make = training.TrainData
        patch.setattr(
            training, "TrainData", lambda *a, **k: loaders.append(make(*a, **k)) or loaders[-1]
        )
        parts, _ = runner.build(
            *SFT, "stage.max_steps=1", "dataset.num_workers=1", "dataset.on_bad_media=skip"
        )
        training.run(parts)
    assert loaders[0].train_dataloader().num_workers == 1
    assert loaders[0].on_bad_media == "skip"
    parts, _ = runner.build(*SFT, f"dataset.root={tmp_path}")
    assert parts.clips.examples["train"][0].video == tmp_path / "clips" / "000000.mp4"
    parts, _ = runner.build(*SFT, f"dataset.annotations.train={clips}/test.json")
    assert len(parts.clips.examples["train"]) == 5
    parts, _ = runner.build(*SFT, f"dataset.splits.train.annotations={clips}/test.json")
    assert len(parts.clips.examples["train"]) == 5
    with pytest.raises(UserError, match="not one of the labels: happy, sad"):
        runner.build(*SFT, "dataset.labels=[happy,sad]")
    with pytest.raises(UserError, match="dataset=mine has no split 'nowhere'"):
        runner.build(*SFT, "dataset.name=mine", "dataset.train_split=nowhere")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_model_dtype_trains_and_evaluates(runner, dtype: str) -> None:
    parts, _ = runner.build(*SFT, f"model.dtype={dtype}")
    assert {str(p.dtype) for p in parts.policy.parameters()} == {f"torch.{dtype}"}
    if dtype == "bfloat16":
        training.run(parts)
        assert runner(*EVALUATE, "task.max_clips=2", "model.dtype=bfloat16")


def test_model_path_decides_the_weights(runner, tmp_path: Path) -> None:
    parts, _ = runner.build(*SFT)
    with torch.no_grad():
        for weight in parts.policy.parameters():
            weight.zero_()
    parts.policy.save(tmp_path / "zero")
    parts, _ = runner.build(*SFT, f"model.path={tmp_path}/zero")
    assert not any(weight.any() for weight in parts.policy.parameters())


def test_reward_options_decide_the_reward(runner) -> None:
    example = Example(id="a", question="?", answer="happy", target="happy", video=None)
    texts = ["<think>a</think><answer>joy</answer>", "<answer>happy</answer>", "happy"]

    def rewards(*overrides: str) -> list[float]:
        parts, _ = runner.build(*GRPO, "reward.weights.spread=0", *overrides)
        return parts.stage.reward(texts, [example] * 3).rewards.tolist()

    assert rewards() == [1, 1, 0]
    assert rewards("reward.weights.accuracy=3") == [1, 3, 0]
    assert rewards("reward.weights.format=0.5") == [0.5, 1, 0]
    assert rewards("+reward.terms.accuracy.synonyms.joy=happy") == [2, 1, 0]


@pytest.mark.parametrize(
    ("override", "seen"),
    [
        ("accelerator=cpu", lambda t: type(t.accelerator).__name__ == "CPUAccelerator"),
        ("precision=bf16-mixed", lambda t: t.precision == "bf16-mixed"),
        ("enable_checkpointing=true", lambda t: t.checkpoint_callback is not None),
        ("enable_model_summary=true", lambda t: "Summary" in str(t.callbacks)),
        ("enable_progress_bar=true", lambda t: t.progress_bar_callback is not None),
        ("log_every_n_steps=5", lambda t: t.log_every_n_steps == 5),
    ],
)  # fmt: skip
def test_trainer_options_reach_lightning(runner, override: str, seen: Callable) -> None:
    makes = [runner.build(*SFT, *more)[0].make_trainer for more in ((), (f"trainer.{override}",))]
    plain, flipped = (make(logger=False) for make in makes)
    assert seen(flipped)
    assert override == "accelerator=cpu" or not seen(plain)


def test_devices_are_launched(runner, tmp_path: Path) -> None:
    parts, _ = runner.build(*SFT, "trainer.devices=2")
    assert isinstance(parts, Launch)
    assert parts.devices == [0, 1]
    assert isinstance(runner.build(*SFT)[0], TrainInputs)
    with pytest.raises(UserError, match=r"stage\.batch_size=2 .* trainer\.devices=3: 3 devices"):
        runner.build(*SFT, "trainer.devices=3", f"model.path={tmp_path}")  # which holds no model


def test_precision_trains(runner) -> None:
    folder = runner(*SFT, "trainer.precision=bf16-mixed")
    assert read_json(folder / "run.json")["status"] == "finished"


def test_the_rollout_decides_what_decodes_and_no_completion(runner) -> None:
    for settings in (GRPO, EVALUATE):
        for option, engine in ((), SharedPrefix), (("rollout=hf",), Generate):
            parts, _ = runner.build(*settings, *option)
            assert type(parts.engine) is engine
            assert settings is EVALUATE or parts.stage.engine is parts.engine
    folders = [runner(*GRPO, *option) for option in ((), ("rollout=hf",))]
    ours, plain = (read_jsonl(folder / "completions.jsonl") for folder in folders)
    assert ours == plain
    assert ours


def test_another_rollout_is_refused_where_nothing_is_rolled_out(runner, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rollout\._target_=.*Generate.*stage=sft"):
        runner.build(*SFT, "rollout=hf", f"model.path={tmp_path}")
    runner.build(*SFT, "rollout=hf", "task.evaluate_after.splits=[test]")
    runner.build(*SFT)  # the default is the default
