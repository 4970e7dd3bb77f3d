"""The reference policy: what the policy was when training began, sharing all that does not train.

With LoRA that is the policy without its new adapter: the same weights in the same memory, and
copies of only those few that train beside it.
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
    """What is asked of a policy that is copied."""

    processor: Any


P = TypeVar("P", bound=Copied)


def frozen_copy(policy: P) -> P:
    """Copy weights that train, share weights that do not, and freeze the copy.

    An adapter that was never trained is left out; one that was is copied as it is now.

    Args:
        policy: As it is before the first update, with what trains set. Its processor, and the
            modules in which nothing trains, are shared as a whole.

    Returns:
        A policy that later updates do not touch, in eval mode.
    """
    assert isinstance(policy, nn.Module)
    kept: list[object] = [policy.processor, *frozen_parts(policy)]
    kept += [weight for weight in policy.parameters() if not weight.requires_grad]
    # a memo that holds an object already makes deepcopy take that one and not a copy
    twin = copy.deepcopy(policy, {id(one): one for one in kept})
    drop_idle(twin)
    theirs = {id(module) for module in policy.modules()}
    for module in twin.modules():
        if id(module) not in theirs:  # nobody's mode but its own
            module.training = False
    return twin.requires_grad_(False)


def is_at(policy: Modules, reference: Modules) -> bool:
    """Say whether a policy still computes what its reference does.

    That is so while all weights are equal, and while an adapter that the reference lacks is idle
    (its B is 0). The first weight that differs ends the comparison. Of weights that are sharded
    over ranks, this rank's part is compared.
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
