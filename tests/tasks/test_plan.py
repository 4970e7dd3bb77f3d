"""The memory plan: its arithmetic by hand, its rows against torch, and when it refuses a run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from every_case import every_case
from hydra import compose, initialize_config_dir
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2Config

from omni_rlvr.assembly.policies import skeleton
from omni_rlvr.cli import conf_dir
from omni_rlvr.models.adapters.trainable import Count
from omni_rlvr.models.composed import tiny
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.families import family_of
from omni_rlvr.models.prefix.kernels import score_bytes
from omni_rlvr.models.prefix.measure import PassSizes
from omni_rlvr.record import read_json
from omni_rlvr.tasks.build import build
from omni_rlvr.tasks.plan.memory import (
    Model,
    Options,
    Shares,
    micro_batch,
    peak,
    rows_of,
    smaller,
    state_factor,
)
from omni_rlvr.tasks.plan.task import Plan
from omni_rlvr.tasks.table import register
from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow  # whole models are planned

SIZES = PassSizes(
    kept=1000.0, inputs=40.0, layer=100.0, keys_values=8.0, recorded=20.0, packed_bytes=3000
)
MODEL = Model(
    counts=[Count("vision_tower", 300, 0), Count("language_model", 1000, 1000)],
    weight_bytes={"vision_tower": 1200, "language_model": 4000},
    trained_bytes=4000,
    largest_trained_bytes=400,
    sizes=SIZES,
    score_bytes=0.0,
    num_layers=10,
    num_heads=2,
    vocab_size=50,
    embed_bytes=16,
    prompt_length=30,
    feature_bytes=700,
    tower_bytes=0,
    encoding_bytes=9000,
    shares=None,
)
SHARES = Shares(
    num_devices=4,
    weight_bytes={"vision_tower": 1200, "language_model": 1000},
    trained_bytes=1000,
    reference_bytes=1000,
    gathered_bytes=4000,
    layer_bytes=300,
    layer_trained_bytes=300,
    rest_bytes=1000,
    rest_trained_bytes=1000,
)
OPTIONS = Options(
    num_prompts=2,
    num_generations=4,
    samples=True,
    completion_length=5,
    micro_batch_size=8,
    max_tokens_per_micro_batch=0,
    gradient_checkpointing=False,
    has_reference=True,
    shares_prefix=True,
    keeps_activations=True,
    state_factor=2.0,
    step_copies=False,
    autocast_bytes=0,
    sums_in_buckets=False,
    no_sync=False,
)


def sizes(model: Model = MODEL, options: Options = OPTIONS) -> dict[str, int]:
    return {row.name: row.num_bytes for row in rows_of(model, options)}


def test_rows_by_hand() -> None:
    # 8 rows of 5 tokens behind 2 prompts of 30: 100 tokens; 40 of them are scored
    assert sizes() == {
        "weights: vision_tower": 1200,
        "weights: language_model": 4000,
        "optimizer": 8000,
        "reference": 4000,
        "encoding": 9000,
        "features": 1400,
        "packed weights": 3000,
        "KV cache": (2 * 30 + 8 * 5) * 8,
        "kept": 100 * 20,
        "sampling": 3 * 4 * 8 * 50,
        "gradients": 4000,
        "activations": 100 * 1000 + 100 * 100 // 2 + 3 * 100 * 16,
        "logits": 3 * 4 * 40 * 50,
        "step": 800,
    }
    # gradients of the one micro-batch come as its activations go
    always = 1200 + 4000 + 8000 + 4000 + 1400
    update = always + 100_000 + 5000 + 4800 + 24_000
    assert peak(rows_of(MODEL, OPTIONS)) == ("update", update)


@every_case(
    ("change", "row", "wanted"),
    [
        ({"shares_prefix": False}, "KV cache", 8 * 35 * 8),
        ({"gradient_checkpointing": True}, "activations", 100 * 40 + 100 * 100 * 3 // 2 + 4800),
        ({"step_copies": True}, "step", 4000),
        ({"sums_in_buckets": True}, "gradient buckets", 4000),
        ({"autocast_bytes": 2}, "autocast", 2000),
        ({"state_factor": 1.0}, "optimizer", 4000),
        ({"micro_batch_size": 4}, "logits", 3 * 4 * 20 * 50),
    ],
)
def test_an_option_changes_its_row_by_hand(change: dict, row: str, wanted: int) -> None:
    assert sizes(options=replace(OPTIONS, **change))[row] == wanted


def test_rows_of_weights_that_are_shared_out_by_hand() -> None:
    model = replace(MODEL, shares=SHARES)
    rows = sizes(model)
    # frozen towers whole; a quarter of the others, of their gradients and states
    assert rows["weights: vision_tower"] == 1200
    assert rows["weights: language_model"] == rows["gradients"] == rows["reference"] == 1000
    assert rows["optimizer"] == 2000
    assert rows["step"] == 2 * 400 // 4
    assert rows["gathered weights"] == 4000
    assert rows["gathered layers"] == 2 * 300 + 1000
    assert rows["whole gradients"] == 1000 + 1000  # of the rest, and its copy
    options = replace(OPTIONS, micro_batch_size=4, no_sync=True)
    assert sizes(model, options)["whole gradients"] == 4000 + 1000  # of all, and the copy
    held = 1200 + 1000 + 2000 + 1000 + 1400
    update = held + 1600 + 2000 + 100_000 + 5000 + 4800 + 24_000
    assert peak(rows_of(model, OPTIONS)) == ("update", update)
    rollout = sum(row.num_bytes for row in rows_of(model, OPTIONS) if "rollout" in row.moments)
    assert rollout == held + 4000 + 3000 + 800 + 2000 + 4800 + 1000  # packed, KV, kept, logits


def test_what_is_not_there_has_no_row() -> None:
    sft = replace(OPTIONS, samples=False, num_generations=1, has_reference=False)
    assert not {"KV cache", "sampling", "kept", "packed weights", "reference"} & {
        *sizes(options=sft)
    }
    lora = replace(MODEL, counts=[*MODEL.counts[:1], Count("lora", 10, 10)], trained_bytes=40)
    lora = replace(lora, weight_bytes={"vision_tower": 1200, "lora": 40})
    assert "reference" not in sizes(lora)


def test_a_micro_batch_is_cut_at_its_rows_or_its_tokens() -> None:
    assert micro_batch(MODEL, OPTIONS) == (8, 2, 100)
    assert micro_batch(MODEL, replace(OPTIONS, micro_batch_size=4)) == (4, 1, 50)
    assert micro_batch(MODEL, replace(OPTIONS, max_tokens_per_micro_batch=45)) == (3, 1, 45)
    assert micro_batch(MODEL, replace(OPTIONS, max_tokens_per_micro_batch=1)) == (1, 1, 35)


def test_several_micro_batches_hold_all_gradients_beside_their_activations() -> None:
    one, two = rows_of(MODEL, OPTIONS), rows_of(MODEL, replace(OPTIONS, micro_batch_size=4))
    gradients = [next(row for row in rows if row.name == "gradients") for rows in (one, two)]
    assert "update" not in gradients[0].moments
    assert "update" in gradients[1].moments


def test_what_is_advised_is_smaller() -> None:
    most = peak(rows_of(MODEL, OPTIONS))[1]
    found = dict(smaller(MODEL, OPTIONS))
    assert set(found) == {"stage.gradient_checkpointing=true", "stage.micro_batch_size=4"}
    assert all(size < most for size in found.values())


def test_states_of_optimisers() -> None:
    assert state_factor(partial(torch.optim.AdamW, lr=0.1)) == 2
    assert state_factor(partial(torch.optim.SGD, lr=0.1)) == 0
    assert state_factor(partial(torch.optim.SGD, lr=0.1, momentum=0.9)) == 1


def test_scores_are_kept_in_float32_and_in_the_models_type() -> None:
    # softmax keeps its float32 output; the products with the values keep it in the values' type:
    # folded into a copy where it meets the prompt (here two thirds of the keys), else as it is
    assert score_bytes(torch.float32) == pytest.approx(4 + 4 * 2 / 3, rel=0.05)
    assert score_bytes(torch.bfloat16) == pytest.approx(4 + 2 + 2 * 2 / 3, rel=0.05)


@pytest.fixture
def _hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        yield


def plan(tmp_path: Path, *overrides: str) -> Plan:
    root = f"paths.output_root={tmp_path}"
    cfg = compose("config", overrides=["task=plan", "trainer.accelerator=cpu", root, *overrides])
    return build(cfg, tmp_path / "plan", None).inputs.plan


@pytest.mark.usefixtures("_hydra")
def test_rows_of_the_tiny_model_have_the_right_size(tmp_path: Path) -> None:
    """Counted by hand: 2,228,960 weights, of which 1,583,840 train."""
    rows = {row.name: row.num_bytes for row in plan(tmp_path, "stage=grpo").rows}
    weights = sum(size for name, size in rows.items() if name.startswith("weights"))
    assert weights == 4 * 2_228_960
    assert rows["gradients"] == rows["reference"] == 4 * 1_583_840
    assert rows["optimizer"] == 8 * 1_583_840
    # 4 layers, 2 key heads of 40, keys and values, 4 bytes
    assert rows["KV cache"] % (4 * 2 * 40 * 2 * 4) == 0
    assert rows["activations"] > rows["KV cache"] > rows["sampling"]
    lora = {r.name: r.num_bytes for r in plan(tmp_path, "model/trainable=lora", "stage=grpo").rows}
    assert lora["weights: lora"] < rows["gradients"] / 4
    assert lora["optimizer"] < rows["optimizer"]


@pytest.mark.usefixtures("_hydra")
def test_a_plan_is_printed_written_and_refused(tmp_path: Path, capsys) -> None:
    cfg = compose("config", overrides=["task=plan", f"paths.output_root={tmp_path}"])
    (tmp_path / "run").mkdir()
    build(cfg, tmp_path / "run", None).run()
    out = capsys.readouterr().out
    assert "at the optimizer step" in out
    assert max(len(line) for line in out.partition("memory plan")[0].splitlines()) <= 80
    assert read_json(tmp_path / "run" / "plan.json")["fits"] is True
    cfg = compose(
        "config",
        overrides=["task=plan", "task.device_gb=0.01", f"paths.output_root={tmp_path}"],
    )
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"the device has 0\.0 GB; it cannot fit: .*stage\."):
        build(cfg, tmp_path / "other", None).run()


@pytest.mark.usefixtures("_hydra")
def test_ranks_on_one_cpu_have_its_memory_between_them(tmp_path: Path) -> None:
    cpu = ("trainer.accelerator=cpu", "stage=grpo")
    alone, both = (plan(tmp_path, *cpu, f"trainer.devices={n}") for n in (1, 2))
    assert both.device.num_bytes == alone.device.num_bytes // 2
    assert "; each of 2 ranks on this machine has " in both.line()
    own = [*cpu, "trainer.devices=2", f"task.device_gb={1.5 * both.num_bytes / 1e9}"]
    assert not plan(tmp_path, *own).fits  # 1.5 of the 2 that two ranks take


@pytest.mark.usefixtures("_hydra")
def test_a_device_that_is_not_here_is_planned_for_by_its_size(tmp_path: Path) -> None:
    card = plan(
        tmp_path, "+hardware=24gb", "task.device_gb=24", "trainer.accelerator=cuda", "stage=grpo"
    )
    assert card.device.num_bytes == 24_000_000_000
    assert any(row.name == "autocast" for row in card.rows)
    for option in ("trainer.devices=auto", "trainer.devices=-1", "trainer.accelerator=tpu"):
        with pytest.raises(UserError, match=option.partition("=")[0]):
            plan(tmp_path, "task.device_gb=24", "trainer.accelerator=cuda", option)


@pytest.mark.usefixtures("_hydra")
def test_the_plan_of_sharded_weights(tmp_path: Path) -> None:
    """Of 2,228,960 weights 645,120 are frozen towers; two devices share the others out."""
    fsdp2 = ("stage=grpo", "trainer.strategy=fsdp2", "trainer.devices=2")
    rows = {row.name: row.num_bytes for row in plan(tmp_path, *fsdp2).rows}
    weights = sum(size for name, size in rows.items() if name.startswith("weights"))
    half = 4 * 1_583_840 // 2
    assert weights == 4 * 645_120 + half
    assert rows["gradients"] == rows["reference"] == half
    assert rows["optimizer"] == 2 * half
    assert rows["gathered weights"] == 2 * half
    assert not {"packed weights", "kept", "gradient buckets"} & rows.keys()
    lora = {r.name: r.num_bytes for r in plan(tmp_path, *fsdp2, "model/trainable=lora").rows}
    assert lora["reference"] > rows["reference"] * 0.9  # a base of its own, sharded
    whole = plan(tmp_path, "stage=grpo", "trainer.devices=2").num_bytes
    assert plan(tmp_path, *fsdp2).num_bytes < whole


@pytest.mark.usefixtures("_hydra")
def test_clips_options_change_the_plan_where_the_family_sees_them(tmp_path: Path) -> None:
    sft = ("stage=sft", "stage.micro_batch_size=2")
    plain, longer = plan(tmp_path, *sft), plan(tmp_path, *sft, "task.target_length=512")
    assert longer.num_bytes > plain.num_bytes
    # the tiny model sees as many frames of each clip
    same = plan(tmp_path, *sft, "task.clip_s=3", "task.frame_height=32", "task.frame_width=32")
    assert same.num_bytes == plain.num_bytes
    assert same.clip == "clips of 3 s at 32 x 32"


@pytest.mark.usefixtures("_hydra")
@pytest.mark.parametrize("model_type", ["qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"])
def test_longer_clips_of_a_model_with_a_frame_rate_take_more(
    tmp_path: Path, model_type: str
) -> None:
    policy = family_of(model_type).tiny(0, model_type)
    policy.save(tmp_path / "model")
    model = (f"model.path={tmp_path}/model", "stage=grpo", "stage.batch_size=2")
    short, long = (plan(tmp_path, *model, f"task.clip_s={seconds}") for seconds in (4, 8))
    names = ("features", "KV cache", "activations")
    before, after = ({r.name: r.num_bytes for r in one.rows} for one in (short, long))
    assert all(after[name] > before[name] for name in names)
    weights = sum(size for name, size in before.items() if name.startswith("weights"))
    assert weights == sum(weight.nbytes for weight in policy.parameters())
    trained = plan(tmp_path, *model, "model.trainable.vision_tower=true")
    assert trained.model.tower_bytes > 0 == short.model.tower_bytes


MARK = 54_321 * 4
"""Bytes of a tensor that shows whether the profiler still records."""


def most_allocated(overrides: list[str], run_dir: Path) -> int | None:
    """Run a command, and return the most bytes that torch held; None if events were lost.

    On a busy machine the profiler was seen to stop recording in the middle of a run, or to return
    no event at all.
    """
    register()
    with (
        initialize_config_dir(conf_dir(), version_base="1.3"),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        build(compose("config", overrides=overrides), run_dir, None).run()
        torch.empty(MARK, dtype=torch.uint8)
    events = profiler.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    if MARK not in [change for _, change in changes[-4:]]:
        return None
    return max(accumulate(change for _, change in changes))


@pytest.mark.slow
@pytest.mark.usefixtures("_hydra")
@pytest.mark.parametrize("stage", ["grpo", "sft", "checkpointing"])
def test_the_plan_is_the_peak_of_what_is_allocated(tmp_path: Path, stage: str) -> None:
    """A model of 94 M weights: within 15 % of the most that torch allocates in two steps."""
    save_model(tmp_path / "model")
    overrides = [
        f"model.path={tmp_path}/model", f"paths.output_root={tmp_path}/out",
        f"paths.data_root={tmp_path}/data", "trainer.accelerator=cpu", "dataset.num_workers=0",
        "dataset.train_split=test", "dataset.splits.test.num_clips=7", "stage.max_steps=2",
        "stage.batch_size=2",
    ]  # fmt: skip
    if stage == "sft":
        overrides += ["stage=sft", "task.target_length=60"]
    else:
        overrides += [
            "stage=grpo", "stage.num_generations=4", "stage.sampling.max_completion_length=48",
        ]  # fmt: skip
        overrides += ["stage.gradient_checkpointing=true"] if stage == "checkpointing" else []
    estimated = plan(tmp_path, *overrides).num_bytes
    overrides = [text for text in overrides if not text.startswith("task.")]
    spawn = multiprocessing.get_context("spawn")  # no thread or profiler of another test is there
    most = None
    for attempt in range(3):
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            most = process.submit(most_allocated, overrides, tmp_path / f"{attempt}").result()
        if most is not None:
            break
    assert most is not None, "the profiler lost events in three of three runs"
    assert estimated == pytest.approx(most, rel=0.15)


def save_model(folder: Path) -> None:
    """Write a model of 94 M weights: the tiny towers, and a language model of 12 layers."""
    small = tiny.build_tiny(tiny.build_processor(tiny.train_tokenizer(["user", "assistant"])))
    text = Qwen2Config(
        **{
            **small.config.text_config.to_dict(),
            "vocab_size": 20_000,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 4,
            "layer_types": None,
        }
    )
    config = small.config
    model = OmniModel(
        OmniConfig(
            vision_config=config.vision_config, audio_config=config.audio_config, text_config=text,
            video_merge=config.video_merge, audio_merge=config.audio_merge,
        )
    )  # fmt: skip
    model.processor = small.processor
    folder.mkdir()
    model.save(folder)
    bare = skeleton(compose("config", overrides=[f"model.path={folder}"]).model)
    assert 90e6 < sum(weight.numel() for weight in bare.parameters()) < 100e6
