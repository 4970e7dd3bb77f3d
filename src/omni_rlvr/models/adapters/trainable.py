"""Set which weights train as the config says, insert adapters, and count weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.models.adapters import lora
from omni_rlvr.models.adapters.adapter_checkpoint import fingerprint, own_weights
from omni_rlvr.models.loading.quantize import num_weights, quantized
from omni_rlvr.models.modules import part_of_weight, parts_of
from omni_rlvr.models.policy import AdapterCheckpoint, Policy
from omni_rlvr.types import UserError

KEY = "model.trainable"


@dataclass(frozen=True)
class Count:
    """Weights of one part."""

    part: str
    num_weights: int
    num_trained: int


def weights_of(policy: Policy) -> dict[str, dict[str, nn.Parameter]]:
    """Sort all weights by part, where "embeddings" and "lora" (all adapters) are parts too."""
    embeddings = policy.language_model.get_input_embeddings().weight
    out: dict[str, dict[str, nn.Parameter]] = {part: {} for part in parts_of(policy)}
    out |= {"embeddings": {}, "lora": {}}
    for name, weight in policy.named_parameters():
        if lora.is_adapter(name):
            part = "lora"
        else:
            part = "embeddings" if weight is embeddings else part_of_weight(policy, name)
        out[part][name] = weight
    return {part: weights for part, weights in out.items() if weights}


def apply(policy: Policy, config: TrainableConfig, base: str | Path | None) -> list[Count]:
    """Set which weights train, and insert new adapters if the config asks for them.

    Args:
        policy: A loaded policy; if it has an adapter already, that one is trained further.
        config: What trains.
        base: The folder that new adapters belong to; None if the policy was not read from one.

    Returns:
        Counts by part.

    Raises:
        UserError: The model lacks a part or a LoRA target, nothing would train, or the LoRA
            settings differ from those of the loaded adapter.
    """
    parts = parts_of(policy)
    if lora.adapted(parts) and config.lora.enabled:
        lora.check_same(parts, _own_targets(policy, config.lora))
    elif lora.adapted(parts):
        raise UserError(
            f"model.path={base} has an adapter and {KEY}.lora.enabled is false; "
            "add model/trainable=lora, or merge the adapter first with task=export"
        )
    arrange(policy, config)
    if config.lora.enabled:
        if policy.adapter_checkpoint is None:
            folder = Path("null" if base is None else base)
            policy.adapter_checkpoint = AdapterCheckpoint(
                folder.resolve(), fingerprint(folder), frozenset()
            )
        trained = {name for name, weight in own_weights(policy).items() if weight.requires_grad}
        policy.adapter_checkpoint = replace(
            policy.adapter_checkpoint,
            names=policy.adapter_checkpoint.names | trained,
            quantized=quantized(policy),
        )
    return count(policy)


def arrange(policy: Policy, config: TrainableConfig) -> None:
    """Set which weights train, and insert adapters into a policy without any; see ``apply``."""
    parts = parts_of(policy)
    if config.lora.enabled and not lora.adapted(parts):
        lora.inject(parts, _own_targets(policy, config.lora))
    _set(policy, config)


def _own_targets(policy: Policy, config: LoraConfig) -> LoraConfig:
    """Use the model's default targets if the config has none."""
    return config if config.targets is not None else replace(config, targets=[*policy.lora_targets])


def count(policy: Policy) -> list[Count]:
    """Count weights by part."""
    return [
        Count(
            part,
            sum(map(num_weights, weights.values())),
            sum(w.numel() for w in weights.values() if w.requires_grad),
        )
        for part, weights in weights_of(policy).items()
    ]


def _set(policy: Policy, config: TrainableConfig) -> None:
    weights = weights_of(policy)
    selection = {**vars(config), "lora": config.lora.enabled}
    for part, choice in selection.items():
        if choice and part not in weights:
            raise UserError(
                f"{KEY}.{part}=true: this model has no {part}; it has {', '.join(weights)}"
            )
    for part, own in weights.items():
        choice = True if selection[part] is None else selection[part]
        for name, weight in own.items():
            weight.requires_grad_(choice and name not in policy.never_trained)
    if not any(count.num_trained for count in count(policy)):
        raise UserError(f"{KEY}: nothing trains; set one of {', '.join(weights)} to true")
