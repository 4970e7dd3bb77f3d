"""How the ranks of a run share an update: one class for each ``trainer.strategy``.

Lightning's strategies hold the weights and sum the gradients. Manual optimisation needs more: ranks
may have different numbers of micro-batches, or none, and a rank's clips may lack a modality, so
that some weights get no gradient on that rank. These classes make every collective call on
gradients; ``models/sharding`` gathers weights, and ``distributed`` small values.

The loss of a micro-batch is its share of the loss of the whole minibatch, so that the sum over
ranks is the gradient that a single device would compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from lightning_fabric.plugins import ClusterEnvironment
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from omni_rlvr.distributed import gather, is_first, num_ranks, rank
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.sharding import cut_like, gathered, is_sharded, shard, whole
from omni_rlvr.types import UserError


class Parallel(Protocol):
    """The interface between the training loop and a strategy."""

    def options(self) -> dict[str, Any]:
        """Make the arguments of Lightning's Trainer that choose the strategy."""

    def shard(self, module: LightningModule, policy: Policy, reference: Policy | None) -> None:
        """Shard the weights, if this strategy does; Lightning may call it more than once."""

    def num_idle(self, num_micro_batches: int) -> int:
        """Count the passes that this rank must make in an update in addition to its micro-batches.

        Every rank calls it before the first pass.
        """

    def accumulating(self, module: LightningModule) -> AbstractContextManager:
        """Enter the passes of one update."""

    def backward(self, module: LightningModule, loss: Tensor) -> None:
        """Add the gradient of a micro-batch's share of the loss."""

    def idle(self, module: LightningModule, policy: Policy) -> None:
        """Make a pass that adds nothing, while other ranks still have micro-batches."""

    def reduce(
        self, module: LightningModule, trained: Sequence[nn.Parameter]
    ) -> list[nn.Parameter]:
        """Sum the gradients over ranks; every rank calls it once per update, after its passes.

        Args:
            module: The module that made the passes.
            trained: The trainable weights, the same on every rank.

        Returns:
            The weights with a gradient on any rank; the others keep None, as on a single device.
        """


class OneDevice:
    """One process without a process group: no gradient is communicated."""

    def options(self) -> dict[str, Any]:
        """Let Lightning use the device by itself."""
        return {"strategy": "auto"}

    def shard(self, module: LightningModule, policy: Policy, reference: Policy | None) -> None:
        """Do nothing: the device holds all weights."""

    def num_idle(self, num_micro_batches: int) -> int:
        """Return 0: there is no other rank."""
        return 0

    def accumulating(self, module: LightningModule) -> AbstractContextManager:
        """Do nothing."""
        return nullcontext()

    def backward(self, module: LightningModule, loss: Tensor) -> None:
        """Run backward."""
        module.manual_backward(loss)

    def idle(self, module: LightningModule, policy: Policy) -> None:
        """Do nothing: it is never asked for."""

    def reduce(
        self, module: LightningModule, trained: Sequence[nn.Parameter]
    ) -> list[nn.Parameter]:
        """Select the weights with a gradient."""
        return [weight for weight in trained if weight.grad is not None]


class Ddp:
    """Each device holds all weights; one bucketed all-reduce per update sums the gradients.

    DistributedDataParallel would reduce in every backward pass, and expects on every rank the same
    number of passes and a gradient for every weight. So the micro-batches run under ``no_sync``,
    and one more pass, of a zero loss that depends on all weights, does the all-reduce.

    Reference: PyTorch Distributed, section 3.2, arXiv 2006.15704.
    """

    def options(self) -> dict[str, Any]:
        """Make the strategy of processes that are connected already."""
        return {"strategy": DDPStrategy(), "plugins": [Ranks()]}

    def shard(self, module: LightningModule, policy: Policy, reference: Policy | None) -> None:
        """Do nothing: each device holds all weights."""

    def num_idle(self, num_micro_batches: int) -> int:
        """Return 0: no pass of a micro-batch communicates."""
        return 0

    def accumulating(self, module: LightningModule) -> AbstractContextManager:
        """Accumulate gradients on this rank without the all-reduce."""
        model = module.trainer.model
        assert isinstance(model, DistributedDataParallel)
        return model.no_sync()

    def backward(self, module: LightningModule, loss: Tensor) -> None:
        """Run backward; the factor turns the reducer's mean over ranks into a sum."""
        module.manual_backward(loss * num_ranks())

    def idle(self, module: LightningModule, policy: Policy) -> None:
        """Do nothing: it is never asked for."""

    def reduce(
        self, module: LightningModule, trained: Sequence[nn.Parameter]
    ) -> list[nn.Parameter]:
        """Make the pass that does the all-reduce, unless no rank has a gradient."""
        used = _on_any([weight.grad is not None for weight in trained])
        if any(used):
            module.manual_backward(torch.stack([(w * 0).sum().float() for w in trained]).sum())
        return _only(trained, used)


class Fsdp2:
    """Weights, gradients and optimizer state are sharded over the devices.

    A pass gathers the weights of each unit of ``models/sharding`` and reduce-scatters its
    gradients, so all ranks must make the same number of passes. Ranks with fewer micro-batches add
    passes of one token whose loss is multiplied by 0. With ``no_sync`` only the last pass of an
    update reduces.

    Reference: PyTorch FSDP, arXiv 2304.11277.
    """

    def __init__(self, *, no_sync: bool):
        """Create the strategy.

        Args:
            no_sync: Keep unsharded gradients on each rank until the last pass of an update.
        """
        self.no_sync = no_sync
        self.num_left = 0
        """The number of passes left in the current update."""
        self.with_gradient: set[int] = set()
        """Indices of the trained weights that got a gradient on this rank in the current update."""

    def options(self) -> dict[str, Any]:
        """Make the strategy of processes that are connected already."""
        strategy = ModelParallelStrategy(
            data_parallel_size=num_ranks(),
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
        )
        return {"strategy": strategy, "plugins": [Ranks()]}

    def shard(self, module: LightningModule, policy: Policy, reference: Policy | None) -> None:
        """Shard both policies, and register hooks that note which weights get a gradient."""
        if is_sharded(policy):
            return
        mesh = module.device_mesh
        assert mesh is not None
        shard([policy, *([] if reference is None else [reference])], mesh["data_parallel"])
        with gathered(policy):  # autograd runs the hooks of the unsharded weights: the same objects
            trained = (weight for weight in policy.parameters() if weight.requires_grad)
            for number, weight in enumerate(trained):
                weight.register_post_accumulate_grad_hook(
                    lambda _, number=number: self.with_gradient.add(number)
                )

    def num_idle(self, num_micro_batches: int) -> int:
        """Count the passes that the rank with the most micro-batches makes more than this one."""
        self.with_gradient.clear()
        self.num_left = max(gather(num_micro_batches))
        return self.num_left - num_micro_batches

    def accumulating(self, module: LightningModule) -> AbstractContextManager:
        """Do nothing: ``backward`` chooses for each pass whether it reduces."""
        return nullcontext()

    def backward(self, module: LightningModule, loss: Tensor) -> None:
        """Run backward; the factor turns FSDP2's mean over ranks into a sum."""
        self.num_left -= 1
        if self.no_sync:
            for unit in module.modules():
                if isinstance(unit, FSDPModule):
                    unit.set_requires_gradient_sync(self.num_left == 0, recurse=False)
        module.manual_backward(loss * num_ranks())

    def idle(self, module: LightningModule, policy: Policy) -> None:
        """Make a pass of one token, which marks no weight as having a gradient."""
        before = self.with_gradient.copy()
        self.backward(module, policy(_one_token) * 0.0)
        self.with_gradient = before

    def reduce(
        self, module: LightningModule, trained: Sequence[nn.Parameter]
    ) -> list[nn.Parameter]:
        """Drop the gradients, all 0, of weights that got none on any rank."""
        assert self.num_left == 0, f"{self.num_left} passes were not made: ranks do not agree"
        mine = [number in self.with_gradient for number in range(len(trained))]
        return _only(trained, _on_any(mine))


class Ranks(ClusterEnvironment):
    """Tell Lightning that the processes are connected already, each with one device of its own."""

    @property
    def creates_processes_externally(self) -> bool:
        """Return True: Lightning must start no processes."""
        return True

    @property
    def main_address(self) -> str:
        """Return an address that nothing connects to."""
        return "localhost"

    @property
    def main_port(self) -> int:
        """Return a port that nothing connects to."""
        return 0

    @staticmethod
    def detect() -> bool:
        """Leave the choice to ``Trainer(plugins=...)``."""
        return False

    def world_size(self) -> int:
        """Count the processes."""
        return num_ranks()

    def set_world_size(self, size: int) -> None:
        """Do nothing: the number of connected processes is fixed."""

    def global_rank(self) -> int:
        """Return the rank of this process."""
        return rank()

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the rank of a connected process is fixed."""

    def local_rank(self) -> int:
        """Return 0, the index of this process's device in ``Trainer(devices=[device])``."""
        return 0

    def node_rank(self) -> int:
        """Return 0: nothing here depends on the machine."""
        return 0


@contextmanager
def parallel_of(
    strategy: str, device: torch.device, *, no_sync: bool = False
) -> Iterator[Parallel]:
    """Choose the class for ``trainer.strategy``; ``no_sync`` is for fsdp2.

    A strategy that the user names is used on one device, too; the context then holds a process
    group of one.
    """
    if strategy == "auto" and num_ranks() == 1:
        yield OneDevice()
        return
    alone = not distributed.is_initialized()
    if alone:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=distributed.HashStore(),
            rank=0,
            world_size=1,
        )
    try:
        yield Fsdp2(no_sync=no_sync) if strategy == "fsdp2" else Ddp()
    finally:
        if alone:
            distributed.destroy_process_group()


def optimizer_state(policy: Policy, optimizer: Optimizer) -> dict[str, Any]:
    """Gather an optimizer's state, keyed by the names of weights; every rank calls it.

    Returns:
        On rank 0 what ``state_dict`` returns on a single device, but with weight names in place of
        indices. Other ranks get the same without its tensors.
    """
    names, state = _trained_names(policy), optimizer.state_dict()
    by_name: dict[str, dict[str, Any]] = {}
    for number, values in state["state"].items():
        kept = by_name[names[number]] = {}
        for key, value in values.items():
            gathered_value = whole(value).cpu() if isinstance(value, Tensor) else value
            if is_first():
                kept[key] = gathered_value
    groups = [
        {**group, "params": [names[number] for number in group["params"]]}
        for group in state["param_groups"]
    ]
    return {"state": by_name, "param_groups": groups}


def load_optimizer_state(policy: Policy, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Restore what ``optimizer_state`` returned, under whatever strategy and number of ranks.

    Checkpoints of earlier versions have indices in place of names.

    Raises:
        UserError: The state belongs to other weights than the trainable ones.
    """
    names = _trained_names(policy)
    numbers: dict[Any, int] = {name: i for i, name in enumerate(names)}
    numbers |= {i: i for i in range(len(names))}
    known = {key for group in state["param_groups"] for key in group["params"]}
    if len(known) != len(names) or not known <= numbers.keys():
        other = sorted(str(key) for key in known - numbers.keys())
        raise UserError(
            f"resume: the checkpoint has the optimizer's state of {len(known)} weights "
            f"({', '.join(other[:3]) or 'fewer'}), and {len(names)} train now"
        )
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    cut: dict[int, dict[str, Any]] = {}
    for key, values in state["state"].items():
        weight = weights[numbers[key]]
        cut[numbers[key]] = {
            name: cut_like(value, weight) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
    groups = [
        {**group, "params": [numbers[key] for key in group["params"]]}
        for group in state["param_groups"]
    ]
    optimizer.load_state_dict({"state": cut, "param_groups": groups})


def _trained_names(policy: Policy) -> list[str]:
    return [name for name, weight in policy.named_parameters() if weight.requires_grad]


def _one_token(policy: Policy) -> Tensor:
    """Run the language model on one token, of any id."""
    language_model = policy.language_model
    device = next(policy.parameters()).device
    embeds = language_model.get_input_embeddings()(
        torch.zeros(1, 1, dtype=torch.long, device=device)
    )
    hidden = language_model.model(
        inputs_embeds=embeds if embeds.requires_grad else embeds.requires_grad_()
    ).last_hidden_state
    return language_model.lm_head(hidden).sum()


def _on_any(used: Sequence[bool]) -> list[bool]:
    """Tell which weights have a gradient on any rank."""
    return [any(marks) for marks in zip(*gather(used), strict=True)]


def _only(trained: Sequence[nn.Parameter], used: Sequence[bool]) -> list[nn.Parameter]:
    """Drop the gradients of weights that are not used, and return the others."""
    for weight, is_used in zip(trained, used, strict=True):
        if not is_used:
            weight.grad = None
    return [weight for weight, is_used in zip(trained, used, strict=True) if is_used]
