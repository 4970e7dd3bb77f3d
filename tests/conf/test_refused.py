"""Values that compose and are then refused by the name of their key: ranges, flags, gaps."""

from __future__ import annotations

import copy

import pytest
import torch
import yaml
from every_case import every_case
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from test_conf import NEEDED, _hydra, composed, refused
from torch.torch_version import TorchVersion

from omni_rlvr.assembly.instantiate import check
from omni_rlvr.cli import conf_dir
from omni_rlvr.tasks.table import register
from omni_rlvr.types import UserError

__all__ = ["_hydra"]  # a fixture

OUT_OF_RANGE = [
    "stage.num_generations=1",
    "stage.num_generations=0",
    "stage.beta=-0.1",
    "stage.epsilon=0",
    "stage.epsilon=1",
    "stage.epsilon_high=0",
    "stage.num_iterations=0",
    "stage.num_minibatches=0",
    "stage.num_minibatches=17",
    "stage.scale_rewards=std",
    "stage.sampling.temperature=0",
    "stage.sampling.top_p=2",
    "stage.sampling.top_p=0",
    "stage.sampling.top_k=-1",
    "stage.sampling.repetition_penalty=0",
    "stage.sampling.max_completion_length=0",
    "stage.batch_size=0",
    "stage.micro_batch_size=0",
    "stage.max_tokens_per_micro_batch=-1",
    "stage.max_steps=0",
    "stage.max_steps=-2",
    "stage.max_bad_steps=-1",
    "optimizer.lr=0",
    "optimizer.lr=-0.1",
    "stage.num_train_epochs=0",
    "stage.max_grad_norm=-1",
    "stage.lr_scheduler_type=step",
    "stage.warmup_ratio=1",
    "stage.warmup_ratio=-0.1",
    "stage.save_steps=0",
    "stage.save_total_limit=0",
    "stage.logging_steps=0",
    "dataset.on_bad_media=ignore",
    "dataset.decode_timeout_s=0",
    "dataset.max_clips_per_process=0",
    "dataset.num_workers=-1",
    "dataset.max_train_examples=0",
    "task.start_from.num_examples=-2",
]
NOT_A_NUMBER = [
    "stage.sampling.temperature=inf",
    "stage.sampling.temperature=nan",
    "stage.sampling.top_p=nan",
    "stage.sampling.repetition_penalty=inf",
    "stage.max_grad_norm=inf",
    "stage.epsilon=nan",
    "stage.epsilon_high=inf",
    "stage.beta=inf",
    "stage.sapo_temperature_pos=inf",
    "optimizer.lr=inf",
    "optimizer.lr=nan",
    "optimizer.weight_decay=inf",
    "reward.weights.format=inf",
    "reward.weights.accuracy=nan",
    "stage.beta=nan",
    "stage.max_grad_norm=nan",
    "stage.num_train_epochs=inf",
    "dataset.decode_timeout_s=inf",
]


@pytest.fixture(scope="module")
def grpo() -> DictConfig:
    """A config of stage=grpo; composing one for each value would take most of the time."""
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return composed("stage=grpo")


@pytest.mark.parametrize("override", [*OUT_OF_RANGE, *NOT_A_NUMBER])
def test_a_value_out_of_range_is_named(override: str, grpo: DictConfig) -> None:
    key, _, value = override.partition("=")
    cfg = copy.deepcopy(grpo)
    # as Hydra reads it, for which YAML wants a dot
    number = float(value) if value in ("inf", "nan") else yaml.safe_load(value)
    OmegaConf.update(cfg, key, number)
    with pytest.raises(UserError) as error:
        check(cfg)
    message = str(error.value)
    assert message.startswith(f"{key}=")
    assert value in message
    assert "\n" not in message


@every_case(
    ("flag", "instead"),
    [
        ("max_epochs=2", "stage.num_train_epochs"),
        ("max_steps=10", "stage.max_steps"),
        ("accumulate_grad_batches=2", "stage.micro_batch_size"),
        ("gradient_clip_val=1.0", "stage.max_grad_norm"),
    ],
)
def test_a_trainer_flag_that_is_a_stages_is_refused_with_the_option_to_use(flag, instead) -> None:
    message = refused(f"+trainer.{flag}")
    assert message.startswith(f"trainer.{flag} ")
    assert message.endswith(f"use {instead}")


@every_case("precision", ["16-mixed", "64-true", "bf16-true", "32", "half"])
def test_a_precision_that_the_loop_does_not_know_is_named(precision: str) -> None:
    message = refused(f"trainer.precision='{precision}'")
    assert message.startswith(f"trainer.precision='{precision}'")
    assert "'32-true', 'bf16-mixed'" in message


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_precision_that_is_known_passes(precision: str) -> None:
    config, _ = check(composed(f"trainer.precision={precision}"))
    assert config["trainer"]["precision"] == precision


def test_a_trainer_without_a_precision_has_lightnings() -> None:
    check(composed("~trainer.precision"))


@pytest.mark.slow  # many configs are composed
@every_case("task", ["evaluate", "predict", "preview", "pipeline"])
def test_only_training_can_be_resumed(task: str) -> None:
    message = refused(f"task={task}", *NEEDED.get(task, []), "resume=latest")
    assert message == "resume=latest: only task=train takes it"


@pytest.mark.parametrize("seed", ["0", "4294967295"])
def test_seeds_up_to_the_ends_of_the_range_pass(seed: str) -> None:
    config, _ = check(composed(f"seed={seed}"))
    assert config["seed"] == int(seed)


@pytest.mark.parametrize("override", ["seed=-1", "seed=9223372036854775808", "seed=4294967296"])
def test_a_seed_out_of_range_is_named(override: str) -> None:
    assert refused(override).startswith("seed=")


@every_case(
    "override",
    [
        "task.batch_size=0", "task.max_completion_length=0", "task.num_resamples=0",
        "task.max_clips=-1", "task.splits=[]",
    ],
)  # fmt: skip
def test_an_evaluation_out_of_range_is_named(override: str) -> None:
    assert refused("task=evaluate", override).startswith(override.partition("=")[0])


@every_case(
    "override",
    [
        "task.batch_size=0", "task.max_completion_length=0", "task.temperature=-1",
        "task.temperature=nan", "task.temperature=inf", "task.question=' '",
        "task.answer_form=letters",
    ],
)  # fmt: skip
def test_a_prediction_out_of_range_is_named(override: str) -> None:
    assert refused("task=predict", override).startswith(override.partition("=")[0])


@pytest.mark.slow  # many configs are composed
@every_case("override", ["+video=a.mp4", "video=a.mp4", "+audio=a.wav"])
@every_case("task", ["train", "evaluate"])
def test_clips_by_name_are_refused_where_nothing_reads_them(task: str, override: str) -> None:
    message = refused(f"task={task}", override)
    assert message == f"{override.removeprefix('+')}: only task=predict takes it"


@every_case(
    "override",
    [
        "task.batch_size=0", "task.max_completion_length=0", "task.num_resamples=0",
        "task.max_clips=-1", "task.splits=[]", "task.absent=gone", "task.value=logit",
        "task.lead=none", "task.num_reasoned=-2", "task.num_chosen=-1", "task.num_generations=1",
        "task.num_generations=-1", "task.temperature=0", "task.temperature=inf",
    ],
)  # fmt: skip
def test_an_attribution_out_of_range_is_named(override: str) -> None:
    assert refused("task=attribute", override).startswith(override.partition("=")[0])


@pytest.mark.parametrize("override", ["html=true", "+html=true", "html=false"])
def test_a_page_is_refused_where_nothing_makes_it(override: str) -> None:
    value = override.partition("=")[2].capitalize()
    assert refused("task=attribute", override) == f"html={value}: only task=report takes it"


@every_case(
    "override",
    [
        "task.port=-1", "task.port=65536", "task.max_upload_mb=0", "task.max_session_mb=99",
        "task.max_clip_s=0",
        "task.keep_upload_s=inf", "task.max_completion_length=0", "task.num_examples=-1",
        "task.question=' '", "task.absent=other_clip", "task.value=logit", "task.lead=none",
    ],
)  # fmt: skip
def test_a_page_out_of_range_is_named(override: str) -> None:
    assert refused("task=serve", override).startswith(override.partition("=")[0])


@pytest.mark.parametrize(
    "override", ["task.num_clips=0", "task.num_clips=51", "task.max_reasoning_chars=0"]
)
def test_a_preview_out_of_range_is_named(override: str) -> None:
    message = refused("task=preview", "task.split=test", override)
    assert message.startswith(override.partition("=")[0])


def test_no_modality_at_all_is_refused() -> None:
    assert refused("modality=video", "modality.video=false").startswith("modality")


@pytest.mark.parametrize(
    ("choice", "key"),
    [
        ("dataset=r1_omni", "dataset.root"),
        ("task=preview", "task.split"),
    ],
)
def test_a_value_that_must_be_given_is_named(choice: str, key: str) -> None:
    assert refused(choice).startswith(f"{key} must be given, e.g. {key}=")


def test_a_pipeline_without_stages_is_refused() -> None:
    assert refused("task=pipeline").startswith("task.stages=")


def test_a_function_is_no_engine() -> None:
    own = ("rollout._target_=builtins.print", "+rollout._partial_=true")
    with pytest.raises(UserError, match=r"rollout\._target_=builtins\.print is no engine.*sample"):
        check(composed("stage=grpo", *own))


@every_case("strategy", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_3", "model_parallel"])
def test_a_strategy_that_shards_otherwise_is_answered_with_fsdp2(strategy: str) -> None:
    assert refused(f"trainer.strategy={strategy}").startswith(
        f"trainer.strategy='{strategy}': use fsdp2"
    )


@every_case("strategy", ["ddp_spawn", "horovod", "null", "2"])
def test_an_unknown_strategy_is_answered_with_those_there_are(strategy: str) -> None:
    assert refused(f"trainer.strategy={strategy}").endswith("one of ('auto', 'ddp', 'fsdp2')")


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp2"])
def test_a_strategy_that_is_known_passes(strategy: str) -> None:
    assert check(composed(f"trainer.strategy={strategy}"))[0]["trainer"]["strategy"] == strategy


def test_fsdp2_needs_a_pytorch_that_reduces_unused_weights(monkeypatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.12.1"))
    assert refused("trainer.strategy=fsdp2") == (
        "trainer.strategy=fsdp2 needs PyTorch 2.13 or newer, and this is 2.12.1; update it, or use "
        "trainer.strategy=ddp"
    )
    check(composed("trainer.strategy=ddp"))


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_no_sync_without_fsdp2_is_refused(strategy: str) -> None:
    message = refused("stage.no_sync=true", f"trainer.strategy={strategy}")
    assert message.startswith(
        f"stage.no_sync=true is for trainer.strategy=fsdp2, and this is {strategy}"
    )
    check(composed("stage.no_sync=true", "trainer.strategy=fsdp2"))


def test_fsdp2_in_half_precision_is_refused() -> None:
    message = refused("trainer.strategy=fsdp2", "trainer.precision=16-mixed")
    assert message.startswith("trainer.precision='16-mixed'")


@pytest.mark.parametrize("task", ["train", "plan"])
def test_weights_of_4_bits_are_not_trained_and_not_shared_out(task: str) -> None:
    nf4, lora = (f"task={task}", "model.options.quantize=nf4"), "model/trainable=lora"
    for more in ((), (lora, "model.trainable.language_model=true")):
        assert refused(*nf4, *more).startswith(
            "model.options.quantize=nf4: weights of 4 bits are not trained themselves; train adapt"
        )
    assert "fsdp2 does not shard weights of 4 bits" in refused(*nf4, lora, "trainer.strategy=fsdp2")
    check(composed(*nf4, lora, "trainer.strategy=ddp"))
    check(composed("task=evaluate", "model.options.quantize=nf4"))
