"""Callbacks around training steps: checkpoints, the state that a resumed run starts from, a clean
stop on Ctrl-C, a warning about rewards that are never earned.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from omni_rlvr import distributed, stopping
from omni_rlvr.config.stage import LoopConfig
from omni_rlvr.models.loading.weights import not_finite
from omni_rlvr.models.sharding import gathered
from omni_rlvr.pointers import point_to
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.training.checkpoint import last_good, load_state, save_checkpoint
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.training.parallel import load_optimizer_state, optimizer_state
from omni_rlvr.types import UserError

log = logging.getLogger(__name__)

NUM_STEPS = 20
"""Number of steps in which a term earns nothing before the warning about it."""
MAX_WARNED = 5
"""Largest number of terms that are named in warnings."""
ADVICE = {"format": "; a cold start (stage=sft) on reasoning teaches the format"}


class Checkpoints(Callback):
    """Save a checkpoint every ``save_steps`` and at the end, and point ``latest`` at the run.

    No checkpoint is saved if the weights or the optimizer's state hold NaN or Inf. Those of every
    ``save_steps`` are also left out right after a skipped step, and until a weight has moved.
    """

    def __init__(self, run: Path, loop: LoopConfig, latest: Path | None):
        """Set when checkpoints are saved and kept.

        Args:
            run: the run's folder.
            loop: how often to save, and how many checkpoints to keep.
            latest: the link to move to the run; None for none.
        """
        self.run = run
        self.save_steps = loop.save_steps
        self.keep = loop.save_total_limit
        self.latest = latest
        self.saved_step = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RLVRModule, outputs, batch, batch_idx: int
    ) -> None:
        """Save when due, but not right after a bad step, since its cause may be in the weights."""
        step = pl_module.step
        due = step % self.save_steps == 0 and step not in (0, self.saved_step)
        if due and pl_module.bad_steps.in_a_row == 0 and pl_module.nothing_learned() is None:
            self.save(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: RLVRModule) -> None:
        """Save the last step, also after Ctrl-C.

        Raises:
            UserError: all steps are done and no weight has moved.
        """
        if pl_module.is_done and (why := pl_module.nothing_learned()) is not None:
            raise UserError(f"nothing was learned: {why}")
        if pl_module.step != self.saved_step:
            self.save(pl_module)
        pl_module.movement.warn()

    def save(self, module: RLVRModule) -> None:
        """Gather the state of all ranks and write it on rank 0, as one device would."""
        self.saved_step = module.step
        state = {
            "optimizer": optimizer_state(module.policy, module.optimizer.optimizer),
            "schedule": module.schedule.state_dict(),
            "num_tokens": module.num_tokens,
            "num_bad_steps": module.bad_steps.in_a_row,
            "has_moved": module.movement.has_moved,
        }
        with gathered(module.policy):
            if distributed.is_first():
                self._write(module, state)

    def _write(self, module: RLVRModule, state: dict[str, Any]) -> None:
        wrong = not_finite([*module.policy.named_parameters(), *_tensors(state["optimizer"])])
        if wrong:
            raise UserError(
                f"step {module.step} left NaN or infinite numbers in {', '.join(wrong[:3])} "
                f"({len(wrong)} tensors in all): it is not saved; a smaller optimizer.lr may help; "
                f"{last_good(self.run)}"
            )
        save_checkpoint(self.run, module.policy, state, step=module.step, keep=self.keep)
        if self.latest is not None:
            point_to(self.latest, self.run)


class Resume(Callback):
    """Restore the optimizer, the schedule and the counters of the run that is resumed."""

    def __init__(self, checkpoint: Path):
        """Read the trainer's state.

        Args:
            checkpoint: the folder that the run resumes from.

        Raises:
            UserError: the state cannot be read, or holds NaN or infinite numbers.
        """
        self.state = load_state(checkpoint)
        self.step: int = self.state["step"]
        if wrong := not_finite(_tensors(self.state["optimizer"])):
            raise UserError(
                f"resume: {checkpoint} holds NaN or infinite numbers ({wrong[0]}); start a "
                "new run from an earlier checkpoint with model.path"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: RLVRModule) -> None:
        """Restore, once Lightning has built the optimizer."""
        # LightningOptimizer does not pass the state on to the torch optimizer that it wraps
        optimizer = pl_module.optimizer.optimizer
        load_optimizer_state(pl_module.policy, optimizer, self.state["optimizer"])
        pl_module.schedule.load_state_dict(self.state["schedule"])
        pl_module.step, pl_module.num_tokens = self.step, self.state["num_tokens"]
        pl_module.bad_steps.in_a_row = self.state.get("num_bad_steps", 0)
        log.info("going on from step %d", self.step)

    def on_train_start(self, trainer: Trainer, pl_module: RLVRModule) -> None:
        """Set the random state last, after everything that draws from it at the start."""
        pl_module.movement.moved_before = self.state.get("has_moved", True)
        torch.set_rng_state(self.state["rng"]["torch"])


def _tensors(optimizer: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """List the tensors of an optimizer's state_dict, each with a name for messages."""
    for weight, state in optimizer["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                yield f"the optimizer's {name} of weight {weight}", value


class CleanStop(Callback):
    """End training after the step in which a stop was asked for (``stopping``).

    If any rank is asked, all ranks stop after the same step.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RLVRModule, outputs, batch, batch_idx: int
    ) -> None:
        """Stop if any rank was asked to."""
        trainer.should_stop = any(distributed.gather(stopping.asked()))


class Unrewarded(Callback):
    """Warn once about each reward term on which no completion of the first steps scored above 0.

    The policy cannot learn from a reward that it never earns.
    """

    def __init__(self, reward: Mixture):
        """Watch the terms with a weight above 0 on which a correct answer scores above 0."""
        self.waiting = {
            name
            for name, term in reward.terms.items()
            if reward.weights[name] > 0 and term.max_score is not None and term.max_score > 0
        }
        self.num_steps = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RLVRModule, outputs, batch, batch_idx: int
    ) -> None:
        """Check the step's completions until every term was earned or the warnings were given."""
        rows = pl_module.completions
        if not self.waiting or not rows:
            return
        self.num_steps += 1
        earned = {name for name in self.waiting for row in rows if _score(row, name) > 0}
        self.waiting -= earned
        if self.num_steps < NUM_STEPS:
            return
        told = sorted(self.waiting)[:MAX_WARNED]
        for name in told:
            log.warning(
                "no completion earned any %s reward in %d steps: a group whose completions all "
                "earn the same teaches nothing; look at completions.jsonl and at model.path%s",
                name,
                NUM_STEPS,
                ADVICE.get(name, ""),
            )
        if more := len(self.waiting) - len(told):
            log.warning("%d more terms earned no reward either; metrics.jsonl has them all", more)
        self.waiting = set()


def _score(row: dict[str, object], term: str) -> float:
    """Return the row's score of a term; NaN, which is not above 0, if the term gave none."""
    score = row[f"rewards/{term}"]
    assert isinstance(score, float)
    return score
