"""Collect all that determines a frozen tower's features, to name the folder of a feature cache.

Weights are hashed, settings are used as they are. Two policies with the same towers and processor
share a cache, whatever their language models are.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from transformers import PreTrainedConfig

from omni_rlvr.models.policy import Policy


def tower_fingerprints(policy: Policy) -> dict[str, dict[str, object]]:
    """Describe the "video" and the "audio" tower with their preprocessing."""
    preprocessing, config = policy.processor.fingerprint(), policy.tower_config()
    return {
        name: {"weights": weights_hash(tower), **preprocessing[name], "config": config}
        for name, tower in policy.towers().items()
    }


def plain_config(config: PreTrainedConfig) -> dict[str, object]:
    """Return the fields of a tower's config that affect its features, as plain values."""
    noise = {"_name_or_path", "transformers_version", "architectures", "dtype"}
    return {name: value for name, value in config.to_dict().items() if name not in noise}


def weights_hash(module: nn.Module) -> str:
    """Hash names, dtypes and bytes of a module's weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()
