"""Feed batches to training and evaluation, in an order that follows from the seed and the step
alone.

Because batch k can be named without having drawn the batches before it, a resumed run simply starts
at batch k.
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
    """Batches of indices for steps ``start``..``num_steps``; each epoch is another permutation.

    A rank takes every ``num_ranks``-th prompt of a batch, so that each has its share of whatever
    part of the batch a minibatch is.
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
        """Where the prompts of a rank's batch stand in the batch of all ranks."""
        return [place * self.num_ranks + self.rank for place in batch.places]

    def permutation(self, epoch: int) -> Tensor:
        """Return the order of an epoch, [num_examples].

        A tensor, whose 8 bytes an example are a fifth of what a list of integers takes.
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
        """Hold what the loader is made of."""
        super().__init__()
        self.dataset = dataset
        self.collate = collate
        self.sampler = sampler
        self.num_workers = num_workers
        self.on_bad_media = on_bad_media

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """End the run at a clip that cannot be read, if it is to; say where prompts stand."""
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
        MediaError: a clip could not be read and ``on_bad_media`` is "raise"; names the clip.
    """
    if batch.skipped and on_bad_media == "raise":
        reason = batch.skipped[0].reason
        raise MediaError(f"{reason}; dataset.on_bad_media=skip leaves such clips out")
    return batch


def move(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on a device."""
    return replace(batch, **{name: _moved(value, device) for name, value in vars(batch).items()})


def _moved(value: Any, device: torch.device) -> Any:
    """Move a tensor, the tensors of a list, or the features; anything else is what it was."""
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
    """Make a loader over a rank's batches: each ``num_ranks``-th of those of all examples."""
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

    Its workers are started as Python starts processes on this system, whatever started this one:
    joblib's processes put a start method of their own in its place, with which no worker starts.
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
    """A DataLoader that ends early where its process is asked to stop in training.

    Its workers do not hear such a request; whether they still have work, this process says.
    """

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # Lightning only iterates
        with stopping.kept_from_children():
            batches = super().__iter__()
        return _until_stopped(batches)


def _until_stopped(batches: Iterator[Batch]) -> Iterator[Batch]:
    while True:
        with stopping.whole():  # a worker that hands a batch over needs a receiver
            batch = next(batches, None)
        if batch is None or stopping.is_due():
            return
        yield batch


@atexit.register
def _end_workers() -> None:
    """End the workers of a process that an error ends: Python asks by a signal they do not hear."""
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would call it their failure
    for worker in workers:
        worker.kill()


def _one_thread(worker: int) -> None:
    """Keep workers from competing with training for the cores."""
    torch.set_num_threads(1)
