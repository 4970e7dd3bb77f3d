"""Read an adapter folder in peft's own format, and decide what to do with each of its settings.

A setting that changes the model's outputs is applied; one that only says how the adapter was
created is ignored; any other is refused by name, since ignoring it would compute another model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from omni_rlvr.models.loading.weights import PICKLE_ADVICE, check_pointer, unpickle
from omni_rlvr.types import UserError

CONFIG = "adapter_config.json"
WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
"""The prefix of each weight's name in peft's file format."""
_PASSED_OVER = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "megatron_core", "qalora_group_size", "runtime_config", "ensure_weight_tying",
    "loftq_config", "eva_config", "corda_config", "lora_ga_config", "fan_in_fan_out",
}  # fmt: skip
"""Settings without an effect on a trained adapter of linear layers."""
_APPLIED = {
    "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "lora_bias", "rank_pattern",
    "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "modules_to_save", "bias", "init_lora_weights", "target_parameters",
}  # fmt: skip
_MEANINGS = {
    "trainable_token_indices": "embeddings of single tokens, which are not supported",
    "layer_replication": "a model with repeated layers",
    "alora_invocation_tokens": "an adapter that is active only after certain tokens",
    "megatron_config": "layers of Megatron",
}
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Values of ``init_lora_weights`` that leave the base unchanged."""


@dataclass(frozen=True)
class PeftAdapter:
    """The content of an adapter folder."""

    folder: Path
    settings: Mapping[str, Any]
    """Its adapter_config.json."""
    weights: Mapping[str, Tensor]
    """Weights by their names within the model that was adapted: the adapter's own, and those that
    replace weights of the base (``modules_to_save``, biases)."""

    @property
    def parameters(self) -> list[str]:
        """Suffixes of the parameters outside linear layers that have adapters."""
        return self.settings.get("target_parameters") or []

    def alpha(self, layer: str) -> float:
        """Return the alpha of a layer, given its name within the model that was adapted."""
        patterns: dict[str, float] = self.settings.get("alpha_pattern") or {}
        alpha: float = self.settings["lora_alpha"]
        return patterns.get(get_pattern_key([*patterns], layer), alpha)

    def config(self, targets: list[str], layers: Mapping[str, str]) -> peft.LoraConfig:
        """Make a config that puts this adapter on layers of a part.

        Args:
            targets: Names or suffixes that match these layers and no other.
            layers: A layer's name within the part -> its name in ``weights``.
        """
        rank, alpha = self.settings["r"], self.settings["lora_alpha"]
        ranks = {own: len(self.weights[f"{name}.lora_A.weight"]) for own, name in layers.items()}
        alphas = {own: self.alpha(name) for own, name in layers.items()}
        return peft.LoraConfig(
            r=rank,
            lora_alpha=alpha,
            rank_pattern={own: seen for own, seen in ranks.items() if seen != rank},
            alpha_pattern={own: seen for own, seen in alphas.items() if seen != alpha},
            target_modules=targets,
            target_parameters=self.parameters or None,
            bias="none",
            **{
                name: self.settings[name]
                for name in ("lora_dropout", "use_rslora", "use_dora", "lora_bias")
                if name in self.settings
            },
        )


def layer_of(key: str) -> str:
    """Name the layer that an adapter's weight belongs to."""
    return key.partition(".lora_")[0]


def is_bare_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter in peft's format and no file of this package."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").exists()


def read_adapter(folder: Path, *, allow_pickle: bool) -> PeftAdapter:
    """Read an adapter's settings and weights.

    Raises:
        UserError: They cannot be read, or the adapter is of a kind that is not supported.
    """
    settings = read_settings(folder)
    _check(folder, settings)
    if (folder / WEIGHTS).is_file():
        check_pointer(folder / WEIGHTS)
        try:
            weights = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise _wrong(folder, f"{WEIGHTS} cannot be read: {error}") from error
    elif not (folder / PICKLED).is_file():
        raise _wrong(folder, f"{WEIGHTS} is missing")
    elif not allow_pickle:
        raise _wrong(
            folder, f"its weights are pickled ({PICKLED}), which can hide code; {PICKLE_ADVICE}"
        )
    else:
        weights = unpickle(folder / PICKLED)
    named = {_own_key(key.removeprefix(PREFIX)): weight for key, weight in weights.items()}
    return PeftAdapter(folder, settings, named)


def _own_key(key: str) -> str:
    """Return the name that a base weight has without adapters.

    An adapter's own weight keeps its name: the inner one of two adapters around the same layer has
    ``base_layer`` in it.
    """
    return key if ".lora_" in key else key.replace(".base_layer.", ".")


def read_settings(folder: Path) -> dict[str, Any]:
    """Read adapter_config.json.

    Raises:
        UserError: It is missing, or not a JSON object.
    """
    try:
        settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _wrong(folder, f"{CONFIG} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise _wrong(folder, f"{CONFIG} is not a JSON object")
    return settings


def _check(folder: Path, settings: Mapping[str, Any]) -> None:
    if settings.get("peft_type") != "LORA":
        raise _wrong(folder, f"peft_type={settings.get('peft_type')!r}; only LORA is read")
    for key in ("r", "lora_alpha"):
        if not isinstance(settings.get(key), int | float):
            raise _wrong(folder, f"{CONFIG} has {key}={settings.get(key)!r}, which is not a number")
    if settings.get("init_lora_weights") not in _STARTS:
        raise _wrong(
            folder,
            f"init_lora_weights={settings['init_lora_weights']!r} means that the base's weights "
            "were changed before training; save the adapter again with peft's "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)",
        )
    for key, value in settings.items():
        if key not in _PASSED_OVER | _APPLIED and value not in (None, False, [], {}):
            meaning = _MEANINGS.get(key, "a setting that is not known here")
            raise _wrong(folder, f"{key}={value!r} is {meaning}; merge it into its base with peft")


def _wrong(folder: Path, reason: str) -> UserError:
    return UserError(f"the adapter {folder} does not fit this model: {reason}")
