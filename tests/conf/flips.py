"""What flipping each option is expected to change, and where the others are named in tests."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

SFT = ("stage=sft", "stage.max_steps=2", "stage.batch_size=2")
LONG = ("stage=sft", "stage.max_steps=4", "stage.batch_size=1")
EPOCHS = (*LONG, "stage.max_steps=-1", "stage.num_train_epochs=0.1")
GRPO = (
    "stage=grpo", "stage.max_steps=1", "stage.batch_size=2", "stage.num_generations=3",
    "stage.sampling.max_completion_length=8",
    "+reward.terms.spread._target_=case_signals.Spread", "+reward.weights.spread=1",
)  # fmt: skip
AGAIN = (*GRPO, "stage.num_iterations=3", "optimizer.lr=0.003")
LORA = (*SFT, "model/trainable=lora")
TOWERS = ("vision_tower", "audio_tower")
TRAINED = ("video_projector", "audio_projector", "language_model", "embeddings")
EVALUATE = ("task=evaluate", "task.max_completion_length=4", "task.num_resamples=10")
PREVIEW = ("task=preview", "task.split=test")  # five clips; train has twelve


FLIPS = {
    "seed": (GRPO, "1", "completions"),
    "name": (SFT, "other", "folder"),
    # stage, any
    "stage.num_train_epochs": (EPOCHS, "0.25", "steps"),
    "stage.max_steps": (SFT, "1", "steps"),
    "stage.batch_size": (SFT, "1", "num_tokens"),
    "stage.micro_batch_size": (SFT, "1", "backward passes"),
    "stage.max_tokens_per_micro_batch": (SFT, "1", "backward passes"),
    "stage.gradient_checkpointing": (SFT, "true", "layer passes"),
    "stage.max_grad_norm": (SFT, "0.01", "weights"),
    "stage.lr_scheduler_type": (LONG, "linear", "learning_rate"),
    "stage.warmup_ratio": (LONG, "0.7", "learning_rate"),
    "stage.save_steps": (LONG, "3", "saves"),
    "stage.save_total_limit": ((*LONG, "stage.save_steps=1"), "1", "checkpoints"),
    "stage.logging_steps": (LONG, "2", "steps"),
    # stage=grpo
    "stage.num_generations": (GRPO, "2", "completions"),
    "stage.beta": (GRPO, "0", "kl"),
    "stage.epsilon": (AGAIN, "0.0001", "clip_ratio/region_mean"),
    "stage.epsilon_high": (AGAIN, "0.0001", "clip_ratio/region_mean"),
    "stage.num_iterations": (GRPO, "2", "backward passes"),
    "stage.num_minibatches": (GRPO, "2", "backward passes"),
    "stage.reuse_rollout": (GRPO, "false", "activations used"),
    "stage.scale_rewards": (GRPO, "none", "advantages"),
    "stage.sampling.temperature": (GRPO, "0.2", "completions"),
    "stage.sampling.top_p": (GRPO, "0.2", "completions"),
    "stage.sampling.top_k": (GRPO, "2", "completions"),
    "stage.sampling.repetition_penalty": (GRPO, "9", "completions"),
    "stage.sampling.max_completion_length": (GRPO, "4", "completions"),
    "modality.video": (SFT, "false", "num_tokens"),
    "modality.audio": (SFT, "false", "num_tokens"),
    "optimizer.lr": (SFT, "0.01", "weights"),
    "optimizer.betas": (SFT, "[0.5,0.9]", "weights"),
    "optimizer.weight_decay": (SFT, "0.5", "weights"),
    "model.instruction": (SFT, "Answer.", "num_tokens"),
    **{f"model.trainable.{part}": (SFT, "true", "trainable") for part in TOWERS},
    **{f"model.trainable.{part}": (SFT, "false", "trainable") for part in TRAINED},
    "model.trainable.lora.enabled": (SFT, "true", "trainable"),
    "model.trainable.lora.r": (LORA, "2", "trainable"),
    "model.trainable.lora.targets": (LORA, "[q_proj]", "trainable"),
    "model.trainable.lora.parts": (LORA, "[language_model,audio_tower]", "trainable"),
    "model.trainable.lora.alpha": (LORA, "3", "adapters"),
    "model.trainable.lora.dropout": (LORA, "0.5", "adapters"),
    "model.trainable.lora.use_rslora": (LORA, "true", "adapters"),
    "dataset.max_train_examples": ((*SFT, "stage.batch_size=12"), "2", "weights"),
    "dataset.train_split": ((*SFT, "stage.batch_size=6"), "test", "weights"),
    # task=evaluate
    "task.batch_size": (EVALUATE, "2", "batches"),
    "task.max_completion_length": (EVALUATE, "2", "predictions"),
    "task.repetition_penalty": (EVALUATE, "9", "predictions"),
    "task.max_clips": (EVALUATE, "2", "predictions"),
    "task.num_resamples": (EVALUATE, "20", "resamples"),
    "task.splits": (EVALUATE, "[test,train]", "folders"),
    # task=preview
    "task.split": (PREVIEW, "train", "sheet"),
    "task.num_clips": (PREVIEW, "2", "sheet"),
    "task.max_reasoning_chars": (PREVIEW, "9", "sheet"),
}
"""Option -> what it is flipped on top of, its other value, and what then changes."""


def is_set_in_a_test(option: str) -> bool:
    """Tell whether some test names an option.

    It does by the whole key, or by its last part as an argument, a key or a field. That is no proof
    that the test shows what the option does, but an option that nobody tested at all is found.
    """
    return option.rpartition(".")[2] in _named() or ("." in option and option in _tests())


@cache
def _named() -> set[str]:
    """The words in tests that an argument, a key or a field has as its name."""
    words = re.findall(r"\b(\w+)(?:=|\" ?[:,\]])|\.(\w+)\b", _tests())
    found = {word for pair in words for word in pair}
    return found | {word.removeprefix("_") for word in found}


@cache
def _tests() -> str:
    files = Path(__file__).parents[1].rglob("*.py")
    return "\n".join(file.read_text() for file in files if file != Path(__file__))
