"""Feed batches to training and evaluation, in an order that follows from the seed and the step
alone.

The indices of batch k are computed without drawing the batches before it, so that a resumed run
simply starts at batch k.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from omni_rlvr import stopping
from omni_rlvr.data.collate import Collate
from omni_rlvr.data.dataset import ClipDataset
from omni_rlvr.types import Batch, Features, MediaError


@dataclass(eq=False, kw_only=True)
class StepSampler(Sampler[list[int]]):
    """Yields a batch of indices for each step from ``start`` to ``num_steps`` - 1.

    Each epoch is another permutation. A rank takes every ``num_ranks``-th prompt of a batch, so
    that any minibatch, a contiguous part of the batch, is spread evenly over the ranks.
    """

    num_examples: int
    """At least 1."""
    batch_size: int
    """The number of prompts in a batch of all ranks together."""
    num_steps: int
    start: int
    seed: int
    rank: int
    num_ranks: int

    def __len__(self) -> int:
        return self.num_steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0)
        for step in range(self.start, self.num_steps):
            batch = []
            first, end = step * self.batch_size + self.rank, (step + 1) * self.batch_size
            for place in range(first, end, self.num_ranks):
                if place // self.num_examples != epoch:
                    epoch = place // self.num_examples
                    order = self.permutation(epoch)
                batch.append(int(order[place % self.num_examples]))
            yield batch

    def places(self, batch: Batch) -> list[int]:
        """Return the places of a rank's prompts in the batch of all ranks."""
        return [place * self.num_ranks + self.rank for place in batch.places]

    def permutation(self, epoch: int) -> Tensor:
        """Return the order of an epoch, [num_examples].

        A tensor takes 8 bytes an example, a fifth of a list of integers.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.num_examples, generator=generator)


class TrainData(LightningDataModule):
    """The training split, batch by batch."""

    def __init__(
        self,
        dataset: ClipDataset,
        collate: Collate,
        sampler: StepSampler,
        *,
        num_workers: int,
        on_bad_media: str,
    ):
        """Take the parts of the loader; ``on_bad_media`` is as in ``refuse_bad_media``."""
        super().__init__()
        self.dataset = dataset
        self.collate = collate
        self.sampler = sampler
        self.num_workers = num_workers
        self.on_bad_media = on_bad_media

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Raise an error for an unreadable clip if so configured; set the places of prompts."""
        batch = refuse_bad_media(batch, self.on_bad_media)
        return replace(batch, places=self.sampler.places(batch))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Make the loader; one pass over it is the (rest of the) run."""
        return make_loader(self.dataset, self.collate, self.sampler, num_workers=self.num_workers)

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch's tensors."""
        return move(batch, device)


def refuse_bad_media(batch: Batch, on_bad_media: str) -> Batch:
    """Return the batch if all its clips could be read, or those that could not may be skipped.

    Raises:
        MediaError: A clip could not be read and ``on_bad_media`` is "raise"; names the clip.
    """
    if batch.skipped and on_bad_media == "raise":
        reason = batch.skipped[0].reason
        raise MediaError(f"{reason}; dataset.on_bad_media=skip leaves such clips out")
    return batch


def move(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on a device."""
    return replace(batch, **{name: _moved(value, device) for name, value in vars(batch).items()})


def _moved(value: Any, device: torch.device) -> Any:
    """Move a tensor, the tensors of a list, or the features; return anything else unchanged."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Features):
        return Features(_moved(value.video, device), _moved(value.audio, device))
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    return value


def evaluation_loader(
    dataset: ClipDataset,
    collate: Collate,
    *,
    batch_size: int,
    num_workers: int,
    rank: int,
    num_ranks: int,
) -> DataLoader[Batch]:
    """Make a loader over a rank's batches: every ``num_ranks``-th batch of all examples."""
    order = torch.arange(len(dataset)).split(batch_size)[rank::num_ranks]
    return make_loader(dataset, collate, [rows.tolist() for rows in order], num_workers=num_workers)


def make_loader(
    dataset: ClipDataset,
    collate: Collate,
    batches: Sequence[list[int]] | StepSampler,
    *,
    num_workers: int,
) -> DataLoader[Batch]:
    """Make a DataLoader whose workers read, process and collate.

    Workers use the start method that is Python's default on this system. A process that joblib
    started has another one set, with which no worker can start.
    """
    start_method = multiprocessing.get_all_start_methods()[0]
    return ClipLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=num_workers,
        multiprocessing_context=start_method if num_workers > 0 else None,
        worker_init_fn=_one_thread,
    )


class ClipLoader(DataLoader[Batch]):
    """A DataLoader that ends early when its process is asked to stop while training.

    Its workers ignore the signals that ask for it: this process decides when they end.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # Lightning only iterates
        with stopping.kept_from_children():
            batches = super().__iter__()
        return _until_stopped(batches)


def _until_stopped(batches: Iterator[Batch]) -> Iterator[Batch]:
    while True:
        with (
            stopping.whole()
        ):  # not interrupted: a worker that is sending a batch would be left waiting
            batch = next(batches, None)
        if batch is None or stopping.is_due():
            return
        yield batch


@atexit.register
def _end_workers() -> None:
    """Kill the workers when this process ends by an error: they ignore the signal Python sends."""
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers:
        signal.signal(
            signal.SIGCHLD, signal.SIG_DFL
        )  # torch's handler would report a failed worker
    for worker in workers:
        worker.kill()


def _one_thread(worker: int) -> None:
    """Keep workers from competing with training for the cores."""
    torch.set_num_threads(1)
