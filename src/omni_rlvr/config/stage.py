"""The options of each training stage, as dataclasses that Hydra uses as its schemas.

Hydra refuses an unknown key or a wrong type while it composes the config; ``__post_init__`` checks
ranges. All defaults stand here. This file imports no torch, because the command line reads it
before anything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from omni_rlvr.config.objective import ObjectiveConfig
from omni_rlvr.config.sampling import SamplingConfig, SamplingOptions
from omni_rlvr.types import field_check


@dataclass
class LoopConfig:
    """The options of the training loop, which all stages have."""

    num_train_epochs: float = 1.0
    """The number of passes over the training split; used if ``max_steps`` is -1."""
    max_steps: int = -1
    """The number of steps, each on one batch of prompts; -1 lets ``num_train_epochs`` decide."""
    batch_size: int = 16
    """The number of prompts in a step, on all devices together."""
    micro_batch_size: int = 16
    """The most completions in a backward pass; less saves memory and changes no gradient."""
    max_tokens_per_micro_batch: int = 0
    """The most tokens in a backward pass, where a prompt counts once for all its completions; 0 is
    off. It bounds memory better than a number of rows. SFT then groups samples of similar length.
    """
    gradient_checkpointing: bool = False
    """Whether layers keep only their inputs and are computed again in the backward pass, which
    takes less memory and more time."""
    no_sync: bool = False
    """Whether trainer.strategy=fsdp2 reduces gradients once per update instead of after each
    micro-batch: this needs less communication, but each device holds the whole gradient until then.
    ddp always reduces once per update, and one device never does."""
    max_grad_norm: float = 1.0
    """The largest global norm of the gradient, to which it is clipped; 0 is off."""
    lr_scheduler_type: str = "cosine"
    """The learning rate after warm-up: "cosine" or "linear" to zero, or "constant"."""
    warmup_ratio: float = 0.03
    """The share of the steps over which the learning rate rises from zero, in [0, 1)."""
    max_bad_steps: int = 3
    """The most steps in a row that may be skipped because their loss, gradient norm or rewards are
    NaN or infinite. One more stops the run, and so does such a step at the end; 0 stops it at the
    first one. The inputs of such a step are kept in the folder ``bad_steps/`` of the run."""
    save_steps: int = 100
    """The number of steps between checkpoints; the last step is always saved."""
    save_total_limit: int = 2
    """The number of checkpoints that are kept, the newest ones; 1 or more."""
    logging_steps: int = 1
    """The number of steps between lines of metrics.jsonl."""

    def num_steps(self, num_examples: int) -> int:
        """Count the steps of a run: ``max_steps``, or as many as the epochs take."""
        if self.max_steps > 0:
            return self.max_steps
        rounds = num_examples * self.num_train_epochs / self.batch_size
        return max(1, math.ceil(rounds - 1e-9))  # 100 * 0.07 / 7 is a little above 1 in floats

    @property
    def updates_per_step(self) -> int:
        """The number of optimiser steps for each batch of prompts."""
        return 1

    @property
    def samples(self) -> bool:
        """Whether the stage samples completions and scores them by the reward."""
        return False

    @property
    def needs_reference(self) -> bool:
        """Whether the stage compares the policy with a frozen copy of what it started from."""
        return False

    def __post_init__(self) -> None:
        check = field_check(self, "stage")
        wanted = "greater than 0 and finite"
        check("num_train_epochs", 0 < self.num_train_epochs < math.inf, wanted)
        check("max_steps", self.max_steps == -1 or self.max_steps >= 1, "-1, or 1 or more")
        counts = ("batch_size", "micro_batch_size", "save_steps", "save_total_limit")
        for key in (*counts, "logging_steps"):
            check(key, vars(self)[key] >= 1, "1 or more")
        most = self.max_tokens_per_micro_batch
        check("max_tokens_per_micro_batch", most >= 0, "0 (off) or more tokens")
        check("max_grad_norm", self.max_grad_norm >= 0, "0 (off) or more")
        check("max_bad_steps", self.max_bad_steps >= 0, "0 or more")
        known = self.lr_scheduler_type in ("cosine", "linear", "constant")
        check("lr_scheduler_type", known, "cosine, linear or constant")
        check("warmup_ratio", 0 <= self.warmup_ratio < 1, "in [0, 1)")


@dataclass
class SftConfig(LoopConfig):
    """Supervised fine-tuning on annotated targets: cold start, or the label-only baseline."""

    num_train_epochs: float = 5.0
    """The number of passes over the training split; R1-Omni's cold start makes 5."""


@dataclass
class GrpoConfig(ObjectiveConfig, LoopConfig):
    """Group-relative policy optimisation, as in R1-Omni (arXiv 2503.05379, 2402.03300)."""

    num_generations: int = 8
    """The number G of completions for each prompt; at least 2, since advantages compare them."""
    num_iterations: int = 1
    """The number mu of passes over each batch of rollouts."""
    num_minibatches: int = 1
    """The number of optimiser steps in a pass: whole groups are divided among them."""
    micro_batch_size: int = 64
    """The most completions in a backward pass; less saves memory and changes no gradient."""
    reuse_rollout: bool = True
    """Whether the update reuses the activations of the rollout, so that the forward pass need not
    be computed again; gradients stay the same. It needs the memory for the activations of all rows
    from the rollout on. It has no effect if a batch takes more than one update or micro-batch, with
    gradient checkpointing, with adapters, and with models that the fast path cannot run."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def keeps_activations(self, num_prompts: int) -> bool:
        """Tell whether the update can reuse the activations of a rollout of this many prompts."""
        one_update = self.updates_per_step == 1 and self.max_resample_times == 0
        one_pass = num_prompts * self.num_generations <= self.micro_batch_size
        saves_memory = self.gradient_checkpointing or self.max_tokens_per_micro_batch > 0
        return self.reuse_rollout and one_update and one_pass and not saves_memory

    def sampling_of(self, num_prompts: int) -> SamplingConfig:
        """Make the settings with which an engine samples this many prompts."""
        return SamplingConfig(
            num_generations=self.num_generations,
            keep_activations=self.keeps_activations(num_prompts),
            **vars(self.sampling),
        )

    @property
    def updates_per_step(self) -> int:
        """The number of optimiser steps for each batch of prompts."""
        return self.num_iterations * self.num_minibatches

    @property
    def samples(self) -> bool:
        """Whether the stage samples completions: always."""
        return True

    @property
    def needs_reference(self) -> bool:
        """Whether the KL to the policy that the stage started from is computed."""
        return self.beta > 0

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        ObjectiveConfig.__post_init__(self)
        check = field_check(self, "stage")
        check(
            "num_generations",
            self.num_generations >= 2,
            "2 or more, since advantages are relative to the other completions of the group",
        )
        for key in ("num_iterations", "num_minibatches"):
            check(key, vars(self)[key] >= 1, "1 or more")
        check(
            "num_minibatches",
            self.num_minibatches <= self.batch_size,
            f"at most stage.batch_size={self.batch_size}: "
            "a group is never split over optimiser steps",
        )
