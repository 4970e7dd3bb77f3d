"""Prepare the process and Lightning's Trainer for a run."""

from __future__ import annotations

import ctypes
import logging
import platform
import warnings
from collections.abc import Callable, Sequence

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from omni_rlvr.training.parallel import Parallel
from omni_rlvr.types import UserError


def build_trainer(
    make: Callable[..., Trainer],
    callbacks: Sequence[Callback],
    device: torch.device,
    parallel: Parallel,
) -> Trainer:
    """Build the trainer of one rank, which runs on the device of that rank.

    Args:
        make: makes Lightning's Trainer with the options of the config.
        callbacks: all callbacks, in the order in which they are called.
        device: the device of this process.
        parallel: the strategy.

    Raises:
        UserError: Lightning refuses an option.
    """
    # Lightning itself causes this one, and a user can do nothing about it
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
    # frozen parts of the policy are in eval mode on purpose
    warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no tips and no adverts
    try:
        trainer = make(
            max_epochs=1,  # the sampler yields all steps of the run in one epoch
            callbacks=list(callbacks),
            logger=False,  # ``tracking`` opens them later, in the run's folder
            devices=1 if device.index is None else [device.index],
            num_nodes=1,  # the ranks are connected already; to Lightning this is the only machine
            **parallel.options(),
            use_distributed_sampler=False,  # our sampler already splits by rank
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {error}") from error
    # Lightning would end the process at SIGTERM, with exit code 0 and without a checkpoint, and
    # would put a Slurm job back into the queue by itself. ``stopping`` handles the signals.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks in the process; return whether it does.

    glibc returns large blocks to the system when they are freed, so that the kernel zeroes the
    pages of each new activation, which took 5 % of a GRPO step. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    kept, largest = 2**31 - 1, 2**25  # bytes; 2**25 is the most that glibc takes
    return all([mallopt(mmap_threshold, largest), mallopt(trim_threshold, kept)])
