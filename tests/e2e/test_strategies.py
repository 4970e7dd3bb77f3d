"""Strategies to the digit: gradients, weights and metrics of two processes are those of one.

Two processes make all cases one after another; what they find is read from files. The batches are
made of tensors, without clips.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from make_ranks import in_ranks
from make_trainings import ALONE, LORA, Case, Tools, trained
from torch.distributed.device_mesh import init_device_mesh

from omni_rlvr import distributed
from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.prefix.fast_path import fast_path
from omni_rlvr.models.sharding import shard
from omni_rlvr.training.parallel import parallel_of
from omni_rlvr.types import UserError

pytestmark = pytest.mark.timeout(900)  # the pair of processes makes all its cases in one fixture
ONE = ("av", "t", "t")
"""Kinds with one clip alone: a tower runs once on all of a rank's, and rounds by their number."""
CASES = {
    "4_to_1": Case(([0, 1, 2, 3], [4])),
    "7_to_0": Case(([0, 1, 2, 3, 4, 5, 6], [])),
    "counted": Case(([0, 1, 2, 3], [4]), num_steps=2, is_counted=True),
    "no_sync": Case(([0, 1, 2, 3], [4]), num_steps=2, is_counted=True, stage={"no_sync": True}),
    "untied": Case(([0, 1, 2], [3]), is_tied=False),
    "modalities_on_one_rank": Case(([0, 1, 2], [3, 4]), kinds=("av", "v", "a", "t", "t")),
    "modality_on_none": Case(([0], [1, 2]), kinds=("v", "t", "t")),
    "lora": Case(([0, 1, 2], [3, 4]), kinds=("av", "v", "a", "t", "t"), trainable=LORA),
    "lora_alone": Case(([0, 1], [2]), kinds=("t", "av", "t"), trainable=ALONE),
    "checkpointing": Case(([0, 1], [2]), stage={"gradient_checkpointing": True}),
    "bfloat16": Case(([0, 1], [2]), kinds=ONE, precision="bf16-mixed"),
    "towers": Case(([0, 1], [2]), trainable=TrainableConfig(vision_tower=True, audio_tower=True)),
    "projectors": Case(([0, 1], [2]), kinds=ONE, trainable=TrainableConfig(language_model=False)),
    "grpo": Case(([0, 1, 2], [3]), grpo=True, num_steps=2),
    "grpo_lora": Case(([0], [1, 2]), kinds=ONE, grpo=True, num_steps=2, trainable=LORA),
    "grpo_on_one_rank": Case(([0, 1], []), grpo=True, num_steps=2),
    "grpo_updates": Case(
        ([0, 1, 2], [3]),
        grpo=True,
        num_steps=2,
        stage={"num_iterations": 2, "num_minibatches": 2, "max_resample_times": 2}
        | {"modality_dropout": 0.5, "contrast_modality": "video", "contrast_coef": 0.1},
    ),
}
OTHERS = {
    "qwen2_5_omni_thinker": ("av", "v", "t"),
    "qwen3_omni_moe_thinker": ("av", "v", "t"),
    "qwen2_audio": ("a", "a", "t"),
}
"""The other families' models, and kinds of clips; they train by SFT and GRPO, whole and LoRA."""
CASES |= {
    f"{model}{'_grpo' * grpo}{'_lora' * lora}": Case(
        ([0, 1], [2]),
        model=model,
        kinds=kinds,
        grpo=grpo,
        trainable=LORA if lora else TrainableConfig(),
    )
    for model, kinds in OTHERS.items()
    for grpo in (False, True)
    for lora in (False, True)
}
WITH_ADAM = ("4_to_1", "7_to_0", "modality_on_none", "untied", "lora", "grpo")
STRATEGIES = ("ddp", "fsdp2")
OPTIMIZERS = {
    "sgd": (partial(torch.optim.SGD, lr=0.05), 1e-6),
    # Adam's first step is lr times the sign of a gradient, also of one that is rounding alone
    "adamw": (partial(torch.optim.AdamW, lr=5e-5, weight_decay=0.1), 1e-5),
}
"""What makes it, and how far a weight may be from that of one process."""


RUNS = [
    (case, strategy, optimizer)
    for case in CASES
    for strategy in STRATEGIES
    for optimizer in (("sgd", "adamw") if case in WITH_ADAM else ("sgd",))
]
Found = dict[tuple[str, str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def tools(tmp_path_factory, build_policy, make_batch) -> Tools:
    base = tmp_path_factory.mktemp("base")
    build_policy().save(base)
    return Tools(base, build_policy, make_batch)


@pytest.fixture(scope="module")
def in_two(tmp_path_factory, tools: Tools) -> Found:
    """What two processes find, by case, strategy and optimizer."""
    folder = tmp_path_factory.mktemp("two")

    def all_cases() -> None:
        for case, strategy, optimizer in RUNS:
            place = folder / f"{case}_{strategy}_{optimizer}"
            place.mkdir(exist_ok=True)
            out = trained(CASES[case], strategy, OPTIMIZERS[optimizer][0], place, tools)
            if distributed.is_first():
                torch.save(out, place / "found.pt")

    in_ranks(folder / "meeting", all_cases)
    return {
        run: torch.load(folder / "_".join(run) / "found.pt", weights_only=False) for run in RUNS
    }


@pytest.fixture(scope="module")
def in_one(tmp_path_factory, tools: Tools) -> Callable[..., dict[str, Any]]:
    """What one process finds, each case once."""

    @cache
    def find(case: str, optimizer: str, strategy: str, *, fast: bool) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("one")
        with pytest.MonkeyPatch.context() as patch:
            if not fast:
                patch.setitem(sys.modules, "omni_rlvr.models.prefix.cpu_float32", None)
            fast_path.cache_clear()
            found = trained(CASES[case], strategy, OPTIMIZERS[optimizer][0], folder, tools)
        fast_path.cache_clear()
        return found

    return find


def assert_equal(found: dict[str, Any], wanted: dict[str, Any], weights_to: float) -> None:
    assert found["gradients"].keys() == wanted["gradients"].keys()
    largest = max(float(gradient.abs().max()) for gradient in wanted["gradients"].values())
    assert largest > 0
    for name, gradient in wanted["gradients"].items():
        assert (found["gradients"][name] - gradient).abs().max() <= 1e-6 * largest, name
    assert found["weights"].keys() == wanted["weights"].keys()
    for name, weight in wanted["weights"].items():
        assert (found["weights"][name] - weight).abs().max() <= weights_to, name
    assert found["metrics"] == pytest.approx(wanted["metrics"], rel=1e-5, abs=1e-5)
    for ours, theirs in zip(found["completions"], wanted["completions"], strict=True):
        assert ours == {**theirs, "advantage": pytest.approx(theirs["advantage"], abs=1e-5)}


@pytest.mark.parametrize(("case", "strategy", "optimizer"), RUNS, ids=map("-".join, RUNS))
def test_two_processes_compute_what_one_does(
    in_two: Found, in_one, case: str, strategy: str, optimizer: str
) -> None:
    # sharded layers run in their modules, and modules round otherwise than the fast path
    wanted = in_one(case, optimizer, "auto", fast=strategy == "ddp")
    assert_equal(in_two[case, strategy, optimizer], wanted, OPTIMIZERS[optimizer][1])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", [c for c in WITH_ADAM if CASES[c].num_steps == 1])
def test_weights_after_adam_differ_by_the_signs_of_gradients_alone(
    in_two: Found, in_one, case: str, strategy: str
) -> None:
    """The first step of Adam is lr g / (|g| + eps): a g that is rounding alone moves a weight."""
    found = in_two[case, strategy, "adamw"]
    wanted = in_one(case, "adamw", "auto", fast=strategy == "ddp")
    lr, eps = OPTIMIZERS["adamw"][0].keywords["lr"], 1e-8
    for name, weight in wanted["weights"].items():
        if name not in wanted["gradients"]:
            continue
        both = [one["gradients"][name].double() for one in (found, wanted)]
        moved = [lr * gradient / (gradient.abs() + eps) for gradient in both]
        apart = (found["weights"][name] - weight).abs()
        rounding = 2e-7 * weight.abs() + 2e-9  # of a float32 weight, and of the step itself
        assert (apart <= (moved[0] - moved[1]).abs() + rounding).all(), name


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("case", ["4_to_1", "lora", "grpo_updates"])
def test_a_strategy_on_one_device_computes_what_none_does(in_one, case, strategy) -> None:
    fast = strategy == "ddp"
    wanted = in_one(case, "sgd", "auto", fast=fast)
    assert_equal(in_one(case, "sgd", strategy, fast=fast), wanted, 1e-6)


def test_weights_of_one_unit_train_in_one_type(tools: Tools) -> None:
    policy = tools.build_policy().to(torch.bfloat16)
    lora = LoraConfig(enabled=True, r=4, parts=["vision_tower"], targets=["q_proj"])
    apply(policy, TrainableConfig(lora=lora, video_projector=True), tools.base)
    with parallel_of("fsdp2", torch.device("cpu")):
        mesh = init_device_mesh("cpu", (1,))
        with pytest.raises(UserError, match=r"fsdp2: weights .* train in bfloat16 and float32"):
            shard([policy], mesh)


def test_ddp_sums_each_gradient_once_in_an_update(in_two: Found) -> None:
    found = in_two["counted", "ddp", "sgd"]  # 4 micro-batches on this rank
    calls = found["traffic"]
    assert sum(calls["all_reduce"]) == found["num_trained"]
    assert len(calls["all_reduce"]) <= 2  # buckets: the first one is small
    others = calls["all_gather"] + calls["broadcast"]  # counts and metrics; buffers, once a step
    assert max(others) < 200
    assert calls.keys() == {"all_reduce", "all_gather", "broadcast"}


def test_fsdp2_gathers_and_scatters_and_no_more(in_two: Found) -> None:
    found = in_two["counted", "fsdp2", "sgd"]
    calls = found["traffic"]
    scatters = [size for size in calls["all_reduce"] if size > 200]  # as gloo scatters sums
    assert len(scatters) == 4 * 5  # passes x (4 layers and the rest)
    assert sum(scatters) == 4 * found["num_trained"]
    assert len(calls["all_reduce"]) == len(scatters) + 1  # and the norm of the gradient
    assert_gathers(calls)


def assert_gathers(calls: dict[str, list[int]]) -> None:
    """Four passes gather a layer in forward and in backward, and the rest once."""
    assert len([size for size in calls["all_gather"] if size > 200]) == 4 * (4 + 4 + 1)
    assert calls.keys() == {"all_reduce", "all_gather"}


def test_fsdp2_with_no_sync_scatters_once_in_an_update(in_two: Found) -> None:
    found = in_two["no_sync", "fsdp2", "sgd"]
    calls = found["traffic"]
    scatters = [size for size in calls["all_reduce"] if size > 200]
    assert len(scatters) == 5  # 4 layers and the rest, in the last of 4 passes
    assert sum(scatters) == found["num_trained"]
    assert_gathers(calls)
