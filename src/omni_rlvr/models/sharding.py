"""Shard the weights of policies over ranks with PyTorch's ``fully_shard`` (FSDP2).

Each decoder layer is a unit, which its own forward pass gathers and frees. The other sharded
weights (embeddings, head, projectors and towers that train) are the unit of the policy itself. Only
a call of the policy gathers that unit, so all training passes go through ``policy(task, ...)``.
Code that runs a different number of passes on each rank must run inside ``gathered``.

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
    """A weight or buffer before sharding, and the attribute of its module, which is replaced."""

    module: nn.Module
    name: str
    before: Tensor


def shard(policies: Sequence[Policy], mesh: DeviceMesh) -> None:
    """Shard the first rank's weights.

    Frozen parts are not sharded, except for the language model. The other ranks need no
    weights beforehand, and may have their policies on the meta device: the first rank sends one
    weight at a time, of which each rank keeps its part.

    Args:
        policies: The policy, then its reference if there is one; ``frozen_copy`` says what they
            share.
        mesh: The ranks.

    Raises:
        UserError: Weights of one unit train in different dtypes.
    """
    slots = _slots(policies) if mesh.size() > 1 else []
    _check_same(slots)
    for policy in policies:
        _cut(policy, mesh)
    device = torch.device(mesh.device_type)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    for policy in reversed(
        policies
    ):  # the policy last: its units hold the weights that the reference shares
        assert isinstance(policy, nn.Module)
        if any(tensor.is_meta for tensor in (*policy.parameters(), *policy.buffers())):
            policy.to_empty(device=device)
    while slots:
        _send(slots.pop(), device)
    for policy in policies:
        if isinstance(policy, FSDPModule):
            policy(_nothing)  # FSDP2 decides in the first pass which unit is the root


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
    """Check that all ranks have built the same model: otherwise broadcasts would not match."""
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
    """Send the first rank's tensor to all ranks, of which each keeps its part."""
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
    """The weights of each decoder layer, which is a unit."""
    rest: list[nn.Parameter]
    """The other sharded weights: the unit of the policy itself."""
    kept: set[nn.Parameter]
    """Weights that are not sharded: those of frozen parts other than the language model."""


def units_of(policy: Policy) -> Units:
    """Divide the weights of a policy into units; ``requires_grad`` must be set."""
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
    """Shard a policy, unless it shares the language model of one that is sharded already."""
    layers = decoder_layers(policy.language_model)
    if any(isinstance(layer, FSDPModule) for layer in layers):
        return  # a reference that shares the language model: its few own weights are not sharded
    units = units_of(policy)
    for weights in (*units.layers, units.rest):
        _check_types(weights)
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    root = fully_shard(policy, mesh=mesh, ignored_params=units.kept)  # type: ignore[call-overload]
    # A rank whose clips lack a modality has no gradient for its projector, but must take part in
    # reducing it.
    root.set_reduce_scatter_unused_params(True)
    # Fix the order in which backward gathers units. Otherwise FSDP2 derives it from all earlier
    # passes, also those without gradient, which may differ between ranks.
    for first, second in pairwise([root, *layers]):
        second.set_modules_to_backward_prefetch([first])
    root.set_modules_to_backward_prefetch([layers[-1]])


def decoder_layers(language_model: nn.Module) -> list[nn.Module]:
    """Find the decoder layers of a causal LM of any family."""
    lists = {name: m for name, m in language_model.named_modules() if isinstance(m, nn.ModuleList)}
    return list(next(found for name, found in lists.items() if name.endswith("layers")))


def is_sharded(policy: object) -> bool:
    """Tell whether a policy's weights are sharded."""
    return isinstance(policy, FSDPModule)


@contextmanager
def gathered(policy: object) -> Iterator[None]:
    """Gather all of a policy's weights on every rank; do nothing if it is not sharded.

    Entering is a collective, so every rank must do it. Inside, passes are not collectives, so that
    each rank may run any number of them. The weights must not be changed inside, nor moved by
    ``to``.
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
    """Return what ``state_dict`` returns, but without its hooks, which would reshard weights."""
    weights = module.named_parameters(remove_duplicate=False)
    state = {name: weight.detach() for name, weight in weights}
    for place, inner in module.named_modules():
        for name, buffer in inner.named_buffers(recurse=False):
            if name not in inner._non_persistent_buffers_set:
                state[f"{place}.{name}".removeprefix(".")] = buffer
    return state


def whole(value: Tensor) -> Tensor:
    """Gather a sharded tensor, a collective; return any other tensor unchanged."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own_part(value: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor; return any other tensor unchanged."""
    return value.to_local() if isinstance(value, DTensor) else value


def cut_like(value: Tensor, weight: Tensor) -> Tensor:
    """Shard a tensor, which every rank has whole, in the way that a weight of its shape is."""
    if not isinstance(weight, DTensor) or value.shape != weight.shape:
        return value
    device = weight.to_local().device
    mesh, placements = weight.device_mesh, weight.placements
    return distribute_tensor(value.to(device), mesh, placements, src_data_rank=None)


def _nothing(policy: Policy) -> None:
    """Do nothing: a task for a first pass."""


def _check_types(weights: list[nn.Parameter]) -> None:
    types = sorted({str(w.dtype).removeprefix("torch.") for w in weights if w.requires_grad})
    if len(types) > 1:
        raise UserError(
            f"trainer.strategy=fsdp2: weights that are sharded together train in {types[0]} and "
            f"{types[1]} (adapters are float32); give model.dtype=float32, let nothing but "
            "adapters train there, or use trainer.strategy=ddp"
        )
