"""The reference policy: what the policy was when training began, sharing all that does not train.

With LoRA that is the policy without its new adapter: the same weights in the same memory, and
copies of only those few that train beside it.
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from omni_rlvr.models.lora import drop_idle
from omni_rlvr.models.parts import frozen_parts

Model = TypeVar("Model", bound=nn.Module)


def frozen_copy(policy: Model, shared: object) -> Model:
    """Copies weights that train, shares weights that do not, and freezes the copy.

    An adapter that was never trained is left out; one that was is copied as it is now.

    Args:
        policy: as it is before the first update, with what trains set.
        shared: an object to share as well (the processor).

    Returns:
        A policy that later updates do not touch, in eval mode.
    """
    kept: list[object] = [shared, *frozen_parts(policy)]
    kept += [weight for weight in policy.parameters() if not weight.requires_grad]
    twin = copy.deepcopy(policy, {id(one): one for one in kept})
    drop_idle(twin)
    theirs = {id(module) for module in policy.modules()}
    for module in twin.modules():
        if id(module) not in theirs:  # nobody's mode but its own
            module.training = False
    return twin.requires_grad_(False)
