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

from omni_rlvr.types import UserError


def build_trainer(
    make: Callable[..., Trainer],
    callbacks: Sequence[Callback],
    device: torch.device,
) -> Trainer:
    """Builds the trainer of one run; of several ranks each has its own, for its own device.

    Args:
        make: the config's trainer, without loggers and callbacks.
        callbacks: all of them, in order.
        device: this process's.

    Raises:
        UserError: Lightning refuses an option.
    """
    # raised by Lightning with today's torch, and nothing a user can act on
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
    # frozen parts are in eval mode on purpose
    warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no tips and no adverts
    try:
        trainer = make(
            max_epochs=1,  # one pass over the step sampler is the run
            callbacks=list(callbacks),
            logger=False,  # ``tracking`` opens them later, in the run's folder
            devices=1 if device.index is None else [device.index],
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {error}") from error
    # it would take SIGTERM when a fit begins, save nothing, and end the process with exit code 0;
    # under Slurm, it would put the job back into the queue by itself. ``stopping`` has the signals.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def keep_freed_memory() -> bool:
    """Let glibc keep freed blocks in the process; return whether it does.

    glibc gives large blocks back to the system when they are freed, so that the system clears each
    new activation page by page. That was a twentieth of a GRPO step. Other C libraries are left
    alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    kept, largest = 2**31 - 1, 2**25  # bytes; 2**25 is the most that glibc takes
    return all([mallopt(mmap_threshold, largest), mallopt(trim_threshold, kept)])
