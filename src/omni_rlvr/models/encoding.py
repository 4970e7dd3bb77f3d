"""Measure the shapes and memory of tower features on the meta device, without computing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from omni_rlvr.models.policy import Policy
from omni_rlvr.models.prefix.measure import SavedBytes
from omni_rlvr.types import Batch, Features

AT_ONCE = 3
"""Estimate of how many tensors as large as the largest one exist at a time in a tower."""


@dataclass(frozen=True)
class Encoding:
    """The features of a batch and the memory that encoding it takes."""

    features: Features
    """Features on the meta device."""
    working_bytes: int
    """Bytes that the towers need while they compute, without gradient."""
    kept_bytes: int
    """Bytes that the towers that train keep for backward."""


def measure_encoding(policy: Policy, batch: Batch) -> Encoding:
    """Run the towers on a meta batch; they may depend on shapes but not on values."""
    largest, saved = _Largest(), SavedBytes(policy.parameters())
    hooks = torch.autograd.graph.saved_tensors_hooks(saved, lambda tensor: tensor)
    with largest, torch.no_grad():
        features = policy.encode(batch)
    with hooks, torch.enable_grad():
        policy.encode(batch)
    return Encoding(features, AT_ONCE * largest.num_bytes, saved.num_bytes)


class _Largest(TorchDispatchMode):
    """Records the size of the largest tensor that is made."""

    num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, list | tuple) else [made]:
            if isinstance(tensor, Tensor):
                self.num_bytes = max(self.num_bytes, tensor.nbytes)
        return made
