"""Policies whose weights are sharded over ranks, by PyTorch's ``fully_shard`` (FSDP2).

Each decoder layer is a unit, which its own forward pass gathers and frees. What else is sharded
(embeddings, head, projectors and towers that train) is the unit of the policy itself. It is
gathered by a call of the policy and by nothing else, so that training enters by one door:
``policy(task, ...)``. Whatever runs a different number of passes on each rank runs in ``gathered``.

Reference: PyTorch FSDP, arXiv 2304.11277.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from omni_rlvr.distributed import gather, is_first, rank
from omni_rlvr.models.modules import frozen_parts
from omni_rlvr.models.policy import Policy
from omni_rlvr.types import UserError


@dataclass(frozen=True)
class _Slot:
    """A weight or buffer, and where its module has it; sharding puts another tensor there."""

    module: nn.Module
    name: str
    before: Tensor


def shard(policies: Sequence[Policy], mesh: DeviceMesh) -> None:
    """Shard the weights that the first rank has.

    Each rank keeps the parts that are frozen, but for its layers. Ranks other than the first need
    no weights beforehand, and may have their policies on the meta device: they are sent one weight
    at a time, of which each keeps its part.

    Args:
        policies: The policy, then its reference, if there is one; see ``frozen_copy`` for what
            these share.
        mesh: The ranks.

    Raises:
        UserError: Weights of one unit train in different types.
    """
    slots = _slots(policies) if mesh.size() > 1 else []
    _check_same(slots)
    for policy in policies:
        _cut(policy, mesh)
    device = torch.device(mesh.device_type)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    for policy in reversed(policies):  # the policy last: its units hold what the reference shares
        assert isinstance(policy, nn.Module)
        if any(tensor.is_meta for tensor in (*policy.parameters(), *policy.buffers())):
            policy.to_empty(device=device)
    while slots:
        _send(slots.pop(), device)
    for policy in policies:
        if isinstance(policy, FSDPModule):
            policy(_nothing)  # which of the units is the policy's own is settled in the first pass


def _slots(policies: Sequence[Policy]) -> list[_Slot]:
    """List all tensors of policies, in an order that is the same on every rank."""
    slots, modules = [], set[nn.Module]()
    for policy in policies:
        assert isinstance(policy, nn.Module)
        tensors = set[Tensor]()
        for module in policy.modules():
            if module in modules:
                continue  # the reference shares it
            modules.add(module)
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            slots += [_Slot(module, name, one) for name, one in own if one not in tensors]
            tensors |= {tensor for _, tensor in own}
    return slots


def _check_same(slots: Sequence[_Slot]) -> None:
    """Check that all ranks have built the same model; what they send would not fit otherwise."""
    own = [(slot.name, [*slot.before.shape], str(slot.before.dtype)) for slot in slots]
    for number, other in enumerate(gather(own)):
        if other != own:
            pairs = [pair for pair in zip(own, other, strict=False) if pair[0] != pair[1]]
            raise RuntimeError(
                f"the ranks have built different models: rank {rank()} has {len(own)} tensors, "
                f"rank {number} {len(other)}; the first that differ: {pairs[:1]}"
            )


@torch.no_grad()
def _send(slot: _Slot, device: torch.device) -> None:
    """Give all ranks the first one's tensor, of which each keeps its part."""
    now = getattr(slot.module, slot.name)
    if is_first():
        sent = slot.before.detach().to(device).contiguous()
    else:
        sent = torch.empty(now.shape, dtype=now.dtype, device=device)
    distributed.broadcast(sent, src=0)
    if not is_first():
        own_part(now).copy_(own_part(cut_like(sent, now)))


@dataclass(frozen=True)
class Units:
    """The weights of a policy as they are sharded."""

    layers: list[list[nn.Parameter]]
    """Those of each decoder layer: a unit."""
    rest: list[nn.Parameter]
    """What else is sharded: the unit of the policy itself."""
    kept: set[nn.Parameter]
    """What every rank keeps whole: the parts that are frozen, but for the language model."""


def units_of(policy: Policy) -> Units:
    """Divide the weights of a policy, with what trains set."""
    layers = [list(layer.parameters()) for layer in decoder_layers(policy.language_model)]
    kept = {
        weight
        for part in frozen_parts(policy)
        if part is not policy.language_model
        for weight in part.parameters()
    }
    others = kept.union(*layers)
    return Units(layers, [w for w in policy.parameters() if w not in others], kept)


def _cut(policy: Policy, mesh: DeviceMesh) -> None:
    """Make units of a policy, unless it shares the language model of one that has them."""
    layers = decoder_layers(policy.language_model)
    if any(isinstance(layer, FSDPModule) for layer in layers):
        return  # a reference that shares the language model: its few own weights stay whole
    units = units_of(policy)
    for weights in (*units.layers, units.rest):
        _check_types(weights)
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    root = fully_shard(policy, mesh=mesh, ignored_params=units.kept)  # type: ignore[call-overload]
    # a rank whose clips lack a modality gives no gradient to its projector, and must reduce it too
    root.set_reduce_scatter_unused_params(True)
    # what is gathered next in backward must not follow from what each rank ran before: without
    # this, FSDP2 takes it from the order of all passes, those without gradient included
    for first, second in pairwise([root, *layers]):
        second.set_modules_to_backward_prefetch([first])
    root.set_modules_to_backward_prefetch([layers[-1]])


def decoder_layers(language_model: nn.Module) -> list[nn.Module]:
    """Find the layers of a causal LM, wherever its family has them."""
    lists = {name: m for name, m in language_model.named_modules() if isinstance(m, nn.ModuleList)}
    return list(next(found for name, found in lists.items() if name.endswith("layers")))


def is_sharded(policy: object) -> bool:
    """Tell whether a policy's weights are sharded."""
    return isinstance(policy, FSDPModule)


@contextmanager
def gathered(policy: object) -> Iterator[None]:
    """Hold all of a policy's weights on every rank; nothing for a policy that is not sharded.

    No pass is a collective inside, so that each rank may run as many as it likes. Entering is one:
    every rank does it. The weights are read-only inside, and ``to`` would end it.
    """
    if not isinstance(policy, FSDPModule):
        yield
        return
    assert isinstance(policy, nn.Module)
    units = [module for module in policy.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.set_reshard_after_forward(unit is not policy, recurse=False)
            unit.reshard()


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """List what ``state_dict`` lists, whose hooks would share gathered weights out again."""
    weights = module.named_parameters(remove_duplicate=False)
    state = {name: weight.detach() for name, weight in weights}
    for place, inner in module.named_modules():
        for name, buffer in inner.named_buffers(recurse=False):
            if name not in inner._non_persistent_buffers_set:
                state[f"{place}.{name}".removeprefix(".")] = buffer
    return state


def whole(value: Tensor) -> Tensor:
    """Gather a tensor that is sharded; every rank calls it. Others are returned as they are."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own_part(value: Tensor) -> Tensor:
    """Return this rank's part of a tensor that is sharded; others as they are."""
    return value.to_local() if isinstance(value, DTensor) else value


def cut_like(value: Tensor, weight: Tensor) -> Tensor:
    """Shard a tensor as a weight of its shape is; every rank has all of it beforehand."""
    if not isinstance(weight, DTensor) or value.shape != weight.shape:
        return value
    device = weight.to_local().device
    mesh, placements = weight.device_mesh, weight.placements
    return distribute_tensor(value.to(device), mesh, placements, src_data_rank=None)


def _nothing(policy: Policy) -> None:
    """Be a task that computes nothing."""


def _check_types(weights: list[nn.Parameter]) -> None:
    types = sorted({str(w.dtype).removeprefix("torch.") for w in weights if w.requires_grad})
    if len(types) > 1:
        raise UserError(
            f"trainer.strategy=fsdp2: weights that are sharded together train in {types[0]} and "
            f"{types[1]} (adapters are float32); give model.dtype=float32, let nothing but "
            "adapters train there, or use trainer.strategy=ddp"
        )
