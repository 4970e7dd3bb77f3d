"""What decides a frozen tower's features, as plain values: the name of a feature cache's folder.

Weights go in as a hash of their bytes, settings as they are. Two policies with the same towers and
processor share a cache, whatever their language models have learnt.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from omni_rlvr.models.policy import Policy

_NOISE = {"_name_or_path", "transformers_version", "architectures", "text_config"}


def tower_fingerprints(policy: Policy) -> dict[str, dict[str, object]]:
    """Describes the "video" and the "audio" tower with their preprocessing."""
    processor = policy.processor
    towers = policy.towers()
    shared = {"config": _without_noise(policy.config.to_dict())}
    return {
        "video": {
            "weights": weights_hash(towers["video"]),
            "num_frames": processor.settings.num_frames,
            "image_fit": processor.settings.image_fit,
            "image_backend": processor.settings.image_backend,
            "processor": processor.image_processor.to_dict(),
            **shared,
        },
        "audio": {
            "weights": weights_hash(towers["audio"]),
            "num_frames": processor.settings.num_frames,  # what is heard of a long sound
            "processor": processor.feature_extractor.to_dict(),
            **shared,
        },
    }


def weights_hash(module: nn.Module) -> str:
    """Hashes names, dtypes and bytes of a module's weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def _without_noise(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_noise(v) for k, v in value.items() if k not in _NOISE}
    return value
