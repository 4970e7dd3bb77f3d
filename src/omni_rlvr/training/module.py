"""The Lightning module: prepare experience, then update the policy on its minibatches.

Optimisation is manual, so that ``num_iterations`` is a visible loop and a micro-batch's share of
the loss is exact. The random numbers of a prompt are seeded by (seed, step, its place in the
batch), so that a resumed run, or a run on other devices, samples the same completions. The only
arithmetic here is that of logging.
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

from omni_rlvr import distributed, stopping
from omni_rlvr.config.stage import LoopConfig
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.sharding import whole
from omni_rlvr.record import RunRecord
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.rollout.experience import select
from omni_rlvr.rollout.next_token import seed_of
from omni_rlvr.stages.base import Prepared, Stage, add_up
from omni_rlvr.stages.global_batch import places_of
from omni_rlvr.training.bad_steps import BadSteps, is_finite, what_is_wrong
from omni_rlvr.training.movement import Movement
from omni_rlvr.training.parallel import Parallel
from omni_rlvr.training.schedule import build_optimizer, make_schedule
from omni_rlvr.types import NOTE_KINDS, Batch, Experience, Features

log = logging.getLogger(__name__)

SKIPS_LOGGED = 10
"""Number of skipped clips that are logged one by one."""


class RLVRModule(LightningModule):
    """Train a policy with a stage."""

    def __init__(
        self,
        policy: Policy,
        stage: Stage,
        engine: RolloutEngine,
        make_optimizer: Callable[..., Optimizer],
        loop: LoopConfig,
        record: RunRecord,
        *,
        parallel: Parallel,
        on_features: Callable[[Batch, Features], None],
        num_updates: int,
        seed: int,
    ):
        """Create the module.

        Args:
            policy: the policy to train.
            stage: SFT or GRPO.
            engine: samples completions; gets the new weights after each step.
            make_optimizer: is called with the trainable weights.
            loop: micro-batch size, clipping, schedule.
            record: gets metrics and completions.
            parallel: sums the gradients of all ranks.
            on_features: is called with each batch and its tower outputs, for a feature cache.
            num_updates: optimiser steps of the whole run, for the schedule.
            seed: seed of sampling.
        """
        super().__init__()
        self.automatic_optimization = False
        self.policy = policy
        self.stage = stage
        self.engine = engine
        self.make_optimizer = make_optimizer
        self.loop = loop
        self.record = record
        self.parallel = parallel
        self.on_features = on_features
        self.num_updates = num_updates
        self.seed = seed
        self.bad_steps = BadSteps(record, loop.max_bad_steps)
        self.movement = Movement([])
        self.step = 0
        self.num_tokens = 0
        self.num_skipped = 0
        self.last_metrics: dict[str, float] = {}
        self.probed: dict[str, float] = {}
        """Metrics that a probe found since the last line of metrics; they go into the next line."""
        self.completions: list[dict[str, object]] = []

    def configure_optimizers(self):
        """Build the optimizer of the trainable weights, and its schedule."""
        optimizer = build_optimizer(self.make_optimizer, self._trained())
        schedule = make_schedule(
            optimizer,
            num_steps=self.num_updates,
            warmup_ratio=self.loop.warmup_ratio,
            kind=self.loop.lr_scheduler_type,
        )
        return [optimizer], [schedule]

    def configure_model(self) -> None:
        """Shard the weights, if the strategy does."""
        self.parallel.shard(self, self.policy, self.stage.reference)

    def on_fit_start(self) -> None:
        """Give the engine the weights, and fingerprint the trainable ones."""
        self.engine.sync(self.policy)
        self.movement = Movement(self._trained())

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Run one step: rollout and rewards (neither for SFT), then the updates."""
        started = time.perf_counter()
        # dropout: a seed for each step and rank
        torch.manual_seed(seed_of(self.seed, f"{self.step} rank {distributed.rank()}"))
        metrics: dict[str, float] = {"media/failed": float(self._note_skipped(batch))}
        metrics |= self._count_notes(batch)
        (num_prompts,) = distributed.total([len(batch)])
        why = ""
        if num_prompts > 0:
            try:
                # sample, and compute the log-probs to compare with, without dropout
                with stopping.may_stop():
                    prepared = self.stage.prepare(
                        self.policy.eval(), batch, self._generators(batch)
                    )
            except stopping.Stopped:  # no weight has changed: a resumed run does this step again
                self.completions = []
                return
            self.policy.train()
            self.on_features(batch, prepared.features)
            own = (_num_tokens(prepared.experience), dict(prepared.not_finite))
            counts, not_finite = zip(*distributed.gather(own), strict=True)
            updates: list[dict[str, float]] = []
            if not any(not_finite):
                for minibatch in self.stage.minibatches(prepared.experience):
                    updates.append(self.update(minibatch))
            self.engine.sync(self.policy)
            why = what_is_wrong(not_finite, updates)
            metrics |= {**prepared.metrics, **_mean_of(updates)}
            for update in filter(is_finite, updates):
                self.movement.note(prepared.metrics, update)
            num_tokens = sum(counts)
            seconds = time.perf_counter() - started
            self.num_tokens += num_tokens
            metrics |= {
                "num_tokens": float(self.num_tokens),
                "tokens/s": num_tokens / seconds,
                "step_time": seconds,
            }
            self.completions = _in_order(prepared.completions, batch)
            if self.completions:
                lines = ({"step": self.step + 1, **row} for row in self.completions)
                self.record.log("completions.jsonl", lines)
            if why:
                self._keep_bad(why, batch, prepared)
            else:
                self.bad_steps.in_a_row = 0
        self.step += 1
        self._write(metrics)
        if why:
            self.bad_steps.check(self.step, why, is_last=self.is_done)

    def update(self, minibatch: Experience) -> dict[str, float]:
        """Take one optimiser step: backward per micro-batch, sum over ranks, clip, step, schedule.

        The loss of a micro-batch is its share of the minibatch's loss. The sums over micro-batches
        and ranks are therefore the gradient and the metrics that one device would compute with one
        micro-batch. An update whose loss or gradient is NaN or infinite is not made.
        """
        optimizer, schedule = self.optimizer, self.schedule
        shares: dict[str, float] = {}
        optimizer.zero_grad()
        parts = self.stage.micro_batches(minibatch)
        num_idle = self.parallel.num_idle(len(parts))
        with self.parallel.accumulating(self):
            for rows in parts:
                out = self.policy(self.stage.loss, select(minibatch, rows), minibatch)
                if out.loss.requires_grad:  # else the loss depends on no trainable weight
                    self.parallel.backward(self, out.loss)
                add_up(shares, out.metrics)
            for _ in range(num_idle):
                self.parallel.idle(self, self.policy)
        sums: dict[str, float] = {}
        for part in distributed.gather(shares):
            add_up(sums, part)
        trained = self._trained()
        weights = self.parallel.reduce(self, trained)
        if not weights:  # no gradient at all: take the step of a zero gradient, as one device would
            weights = trained
            for weight in weights:
                weight.grad = torch.zeros_like(weight)
            sums["loss"] = 0.0
        limit = self.loop.max_grad_norm or float("inf")
        sums["grad_norm"] = whole(nn.utils.clip_grad_norm_(weights, limit)).item()
        sums["learning_rate"] = float(schedule.get_last_lr()[0])
        if is_finite(sums):
            optimizer.step()
            schedule.step()
        return sums

    def nothing_learned(self) -> str | None:
        """Say why the run so far has taught the policy nothing.

        Returns:
            None if a weight has moved, or if the rewards gave no gradient.
        """
        if self.num_tokens == 0:
            skipped = self.record.fields["skipped_clips"]
            assert isinstance(skipped, list)
            first = f", the first: {skipped[0]['reason']}" if skipped else ""
            return (
                f"none of the {self.step} steps had a prompt: {len(skipped)} clips could not be "
                f"read{first}; check dataset.root and the paths in the annotations"
            )
        why = self.movement.why_not()
        return why and f"no weight has moved in {self.movement.num_updates} updates: {why}"

    @property
    def is_done(self) -> bool:
        """Whether all steps of the run are done."""
        return self.step * self.loop.updates_per_step >= self.num_updates

    @property
    def optimizer(self) -> LightningOptimizer:
        """Return the only optimizer."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    @property
    def schedule(self) -> LRScheduler:
        """Return the learning-rate schedule."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LRScheduler)
        return schedule

    def _note_skipped(self, batch: Batch) -> int:
        """List all ranks' skipped clips in run.json, log the first few, and return their number."""
        gathered = distributed.gather([(clip.example.id, clip.reason) for clip in batch.skipped])
        skipped = [clip for part in gathered for clip in part]
        new = self.record.add_skipped(skipped)
        for clip_id, reason in new:
            self.num_skipped += 1
            if self.num_skipped <= SKIPS_LOGGED:
                log.warning("skipped clip %s: %s", clip_id, reason)
            if self.num_skipped == SKIPS_LOGGED:
                log.warning("further skipped clips are listed in run.json, and not here")
        return len(skipped)

    def _count_notes(self, batch: Batch) -> dict[str, float]:
        """List all ranks' notes on clips in run.json, and count the clips of each kind of note."""
        noted = [pair for part in distributed.gather(batch.noted()) for pair in part]
        self.record.add_notes(noted)
        return {
            f"media/{kind}": float(sum(note.kind == kind for _, note in noted))
            for kind in NOTE_KINDS
        }

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.policy.parameters() if p.requires_grad]

    def _keep_bad(self, why: str, batch: Batch, prepared: Prepared) -> None:
        """Write the batch of a bad step, gathered over ranks, to a file."""
        ids, mask = prepared.experience.completion_ids, prepared.experience.completion_mask.bool()
        rows = [
            {**row, "completion_ids": ids[i][mask[i]].tolist()}
            for i, row in enumerate(prepared.completions)
        ]
        self.bad_steps.keep(
            self.step + 1,
            why,
            seed=self.seed,
            examples=distributed.in_order(batch.examples, places_of(batch)),
            completions=_in_order(rows, batch),
        )

    def _generators(self, batch: Batch) -> list[torch.Generator]:
        return [
            torch.Generator().manual_seed(seed_of(self.seed, f"{self.step} prompt {place}"))
            for place in places_of(batch)
        ]

    def _write(self, metrics: Mapping[str, float]) -> None:
        self.last_metrics = values = {name: float(value) for name, value in metrics.items()}
        if self.step % self.loop.logging_steps == 0:
            values, self.probed = values | self.probed, {}
            self.record.log("metrics.jsonl", [{"step": self.step, **values}])
            for logger in self.loggers:
                logger.log_metrics(values, step=self.step)


def _in_order(rows: list[dict[str, object]], batch: Batch) -> list[dict[str, object]]:
    """Gather the completions of all ranks, prompt by prompt."""
    size = len(rows) // max(1, len(batch))
    groups = [rows[i * size : (i + 1) * size] for i in range(len(batch))]
    return [row for group in distributed.in_order(groups, places_of(batch)) for row in group]


def _num_tokens(experience: Experience) -> int:
    prompts = experience.batch.prompt_mask[experience.prompt_index].sum()
    return int(prompts + experience.completion_mask.sum())


def _mean_of(updates: list[dict[str, float]]) -> dict[str, float]:
    return {
        name: sum(u[name] for u in updates if name in u) / sum(name in u for u in updates)
        for name in dict.fromkeys(name for u in updates for name in u)
    }
