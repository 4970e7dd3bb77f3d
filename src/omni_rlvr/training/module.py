"""The Lightning module: prepare experience, then update on its minibatches; logging is all the
arithmetic it has.

Optimisation is manual, so that ``num_iterations`` is a visible loop and a micro-batch's share of
the loss is exact. Random numbers of a step are seeded by (seed, step): a resumed run samples what
the unbroken one would have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from omni_rlvr.models.policy import Policy
from omni_rlvr.record import RunRecord
from omni_rlvr.rollout.experience import select
from omni_rlvr.stages.base import Stage, add_up
from omni_rlvr.stages.options import LoopConfig
from omni_rlvr.training.schedule import make_schedule
from omni_rlvr.types import Batch, Experience, Features, UserError

log = logging.getLogger(__name__)

ON_BAR = ("loss", "reward", "tokens/s")
SKIPS_LOGGED = 10


class RLVRModule(LightningModule):
    """Trains a policy on a stage."""

    def __init__(
        self,
        policy: Policy,
        stage: Stage,
        make_optimizer: Callable[..., Optimizer],
        loop: LoopConfig,
        record: RunRecord,
        *,
        on_features: Callable[[Batch, Features], None],
        num_updates: int,
        seed: int,
    ):
        """Holds the parts.

        Args:
            policy: what is trained.
            stage: SFT or GRPO.
            make_optimizer: called with the trainable weights.
            loop: micro-batch size, clipping, schedule.
            record: where metrics and completions go.
            on_features: handed what the towers gave each batch (for a feature cache).
            num_updates: optimiser steps of the whole run, for the schedule.
            seed: of sampling.
        """
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.stage = stage
        self.make_optimizer = make_optimizer
        self.loop = loop
        self.record = record
        self.on_features = on_features
        self.num_updates = num_updates
        self.seed = seed
        self.step = 0
        self.num_tokens = 0
        self.num_skipped = 0
        self.bar: dict[str, float] = {}
        self.probed: dict[str, float] = {}
        """What a probe found since the last line of metrics; goes into the next."""
        self.completions: list[dict[str, object]] = []

    def configure_optimizers(self):
        """Builds the optimizer over what trains, and its schedule."""
        weights = [p for p in self.policy.parameters() if p.requires_grad]
        try:
            optimizer = self.make_optimizer(weights)
        except (ValueError, TypeError) as error:
            raise UserError(f"optimizer: {error}") from error
        schedule = make_schedule(
            optimizer,
            num_steps=self.num_updates,
            warmup_ratio=self.loop.warmup_ratio,
            kind=self.loop.lr_scheduler_type,
        )
        return [optimizer], [schedule]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Runs one step: rollout and rewards (or nothing, for SFT), then the updates."""
        started = time.perf_counter()
        self._note_skipped(batch)
        metrics: dict[str, float] = {"media/failed": float(len(batch.skipped))}
        if len(batch) > 0:
            # what is sampled, and the log-probs it is compared by, come without dropout
            prepared = self.stage.prepare(self.policy.eval(), batch, self._generator())
            self.policy.train()
            self.on_features(batch, prepared.features)
            updates = [
                self.update(minibatch) for minibatch in self.stage.minibatches(prepared.experience)
            ]
            metrics |= {**prepared.metrics, **_mean_of(updates)}
            num_tokens = _num_tokens(prepared.experience)
            seconds = time.perf_counter() - started
            self.num_tokens += num_tokens
            metrics |= {
                "num_tokens": float(self.num_tokens),
                "tokens/s": num_tokens / seconds,
                "step_time": seconds,
            }
            self.completions = prepared.completions
            self._write_completions(prepared.completions)
        self.step += 1
        self._write(metrics)

    def update(self, minibatch: Experience) -> dict[str, float]:
        """Takes one optimiser step: backward per micro-batch, clip, step, schedule."""
        optimizer, schedule = self.optimizer, self.schedule
        sums: dict[str, float] = {}
        optimizer.zero_grad()
        micro_batches = self.stage.micro_batches(minibatch)
        for rows in micro_batches:
            out = self.stage.loss(self.policy, select(minibatch, rows), minibatch)
            self.manual_backward(out.loss)
            add_up(sums, out.metrics)
        weights = [p for p in self.policy.parameters() if p.grad is not None]
        if not micro_batches:  # nothing to learn: the step of a zero gradient
            weights = [p for p in self.policy.parameters() if p.requires_grad]
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            sums["loss"] = 0.0
        limit = self.loop.max_grad_norm or float("inf")
        sums["grad_norm"] = nn.utils.clip_grad_norm_(weights, limit).item()
        sums["learning_rate"] = float(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        return sums

    @property
    def optimizer(self) -> LightningOptimizer:
        """The one optimizer."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    @property
    def schedule(self) -> LRScheduler:
        """Its learning-rate schedule."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LRScheduler)
        return schedule

    def _note_skipped(self, batch: Batch) -> None:
        """Lists skipped clips in run.json; the log names the first few."""
        new = self.record.add_skipped((clip.example.id, clip.reason) for clip in batch.skipped)
        for clip_id, reason in new:
            self.num_skipped += 1
            if self.num_skipped <= SKIPS_LOGGED:
                log.warning("skipped clip %s: %s", clip_id, reason)
            if self.num_skipped == SKIPS_LOGGED:
                log.warning("further skipped clips are listed in run.json, and not here")

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)

    def _write(self, metrics: Mapping[str, float]) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        self.bar = {name: values[name] for name in ON_BAR if name in values}
        if self.step % self.loop.logging_steps == 0:
            values, self.probed = values | self.probed, {}
            self.record.log("metrics.jsonl", [{"step": self.step, **values}])
            for logger in self.loggers:
                logger.log_metrics(values, step=self.step)

    def _write_completions(self, rows: list[dict[str, object]]) -> None:
        if rows:
            self.record.log("completions.jsonl", ({"step": self.step + 1, **row} for row in rows))


def _num_tokens(experience: Experience) -> int:
    prompts = experience.batch.prompt_mask[experience.prompt_index].sum()
    return int(prompts + experience.completion_mask.sum())


def _mean_of(updates: list[dict[str, float]]) -> dict[str, float]:
    return (
        {
            name: sum(u[name] for u in updates if name in u) / sum(name in u for u in updates)
            for name in {name: None for u in updates for name in u}
        }
        if updates
        else {}
    )
