"""The reference policy: the policy at the start of training, sharing all weights that do not train.

With LoRA it is the policy without its new adapter: it shares the base's weights and has copies of
only the few other weights that train.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from omni_rlvr.models.adapters.lora import base_name, drop_idle, is_adapter
from omni_rlvr.models.modules import Modules, frozen_parts
from omni_rlvr.models.sharding import own_part


class Copied(Modules, Protocol):
    """What ``frozen_copy`` needs of a policy."""

    processor: Any


P = TypeVar("P", bound=Copied)


def frozen_copy(policy: P) -> P:
    """Copy weights that train, share weights that do not, and freeze the copy.

    An adapter that was never trained is left out; one that was is copied with its current weights.

    Args:
        policy: The policy before the first update, with ``requires_grad`` set. Its processor, and
            the modules in which nothing trains, are shared as a whole.

    Returns:
        A policy that later updates do not touch, in eval mode.
    """
    assert isinstance(policy, nn.Module)
    kept: list[object] = [policy.processor, *frozen_parts(policy)]
    kept += [weight for weight in policy.parameters() if not weight.requires_grad]
    # deepcopy does not copy objects that its memo already holds
    twin = copy.deepcopy(policy, {id(one): one for one in kept})
    drop_idle(twin)
    theirs = {id(module) for module in policy.modules()}
    for module in twin.modules():
        if id(module) not in theirs:  # not a module that it shares with the policy
            module.training = False
    return twin.requires_grad_(False)


def is_at(policy: Modules, reference: Modules) -> bool:
    """Tell whether a policy still computes the same as its reference.

    It does if all weights are equal and adapters that the reference lacks are untrained (their B
    is 0). The comparison stops at the first difference. Of weights that are sharded over ranks,
    only this rank's part is compared.
    """
    fixed = dict(reference.named_parameters())
    for name, weight in policy.named_parameters():
        if name not in fixed and is_adapter(name):
            if ".lora_A." not in name and own_part(weight).any():
                return False
            continue
        other = fixed.get(base_name(name)) if name not in fixed else fixed[name]
        if other is None:
            return False
        if weight is not other and not torch.equal(own_part(weight), own_part(other)):
            return False
    return True
