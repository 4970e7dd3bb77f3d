"""Builds Lightning's Trainer for a run, quietly, and words what it refuses as a user's error."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from omni_rlvr.types import UserError


def build_trainer(
    make: Callable[..., Trainer],
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    device: torch.device,
) -> Trainer:
    """Builds the trainer of one run; of several ranks each has its own, for its own device.

    Args:
        make: the config's trainer, without loggers and callbacks.
        loggers: where metrics go besides metrics.jsonl.
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
            logger=list(loggers),
            devices=1 if device.index is None else [device.index],
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {error}") from error
    # it would take SIGTERM when a fit begins, save nothing, and end the process with exit code 0;
    # under Slurm, it would put the job back into the queue by itself. ``stopping`` has the signals.
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer
