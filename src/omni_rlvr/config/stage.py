"""What a person tunes of a stage: dataclasses that are their own Hydra schemas.

A typo or a wrong type fails while Hydra composes; ranges are checked in ``__post_init__``. Each
default lives here and nowhere else. No torch is imported: the command line reads this file first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omni_rlvr.config.objective import ObjectiveConfig
from omni_rlvr.config.sampling import SamplingConfig, SamplingOptions
from omni_rlvr.types import require


@dataclass
class LoopConfig:
    """The training loop, the same for every stage."""

    num_train_epochs: float = 1.0
    """Passes over the training split; read when ``max_steps`` is -1."""
    max_steps: int = -1
    """Optimiser rounds (batches of prompts); -1 lets ``num_train_epochs`` decide."""
    batch_size: int = 16
    """Prompts a step, on all devices together."""
    micro_batch_size: int = 16
    """Most completions a backward pass; smaller saves memory and changes no gradient."""
    max_tokens_per_micro_batch: int = 0
    """Most tokens a backward pass, a prompt counted once for all its completions; 0 is off. Memory
    then follows the tokens that are there; SFT puts samples of like length together."""
    gradient_checkpointing: bool = False
    """Layers keep only their inputs and are computed again in backward: less memory, more time."""
    max_grad_norm: float = 1.0
    """Clips the gradient's global norm; 0 switches clipping off."""
    lr_scheduler_type: str = "cosine"
    """Learning rate after warm-up: "cosine" or "linear" to zero, or "constant"."""
    warmup_ratio: float = 0.03
    """Share of the steps over which the learning rate rises from zero."""
    max_bad_steps: int = 3
    """Most steps in a row that are left out because their loss, gradient norm or rewards are NaN or
    infinite; one more stops the run, and so does a last step that is one. 0 stops it at the first.
    What such a step was made of is kept in the run's ``bad_steps/``."""
    save_steps: int = 100
    """Steps between checkpoints; the last step is always saved."""
    save_total_limit: int = 2
    """Checkpoints that are kept, the newest ones; 1 or more."""
    logging_steps: int = 1
    """Steps between lines of metrics.jsonl."""

    @property
    def updates_per_step(self) -> int:
        """Optimiser steps per batch of prompts."""
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
        require(
            0 < self.num_train_epochs < float("inf"),
            "stage.num_train_epochs",
            self.num_train_epochs,
            "greater than 0 and finite",
        )
        require(
            self.max_steps == -1 or self.max_steps >= 1,
            "stage.max_steps",
            self.max_steps,
            "-1, or 1 or more",
        )
        for key in (
            "batch_size",
            "micro_batch_size",
            "save_steps",
            "save_total_limit",
            "logging_steps",
        ):
            require(self.__dict__[key] >= 1, f"stage.{key}", self.__dict__[key], "1 or more")
        require(
            self.max_tokens_per_micro_batch >= 0,
            "stage.max_tokens_per_micro_batch",
            self.max_tokens_per_micro_batch,
            "0 (off) or more tokens",
        )
        require(
            self.max_grad_norm >= 0, "stage.max_grad_norm", self.max_grad_norm, "0 (off) or more"
        )
        require(self.max_bad_steps >= 0, "stage.max_bad_steps", self.max_bad_steps, "0 or more")
        require(
            self.lr_scheduler_type in ("cosine", "linear", "constant"),
            "stage.lr_scheduler_type",
            self.lr_scheduler_type,
            "cosine, linear or constant",
        )
        require(0 <= self.warmup_ratio < 1, "stage.warmup_ratio", self.warmup_ratio, "in [0, 1)")


@dataclass
class SftConfig(LoopConfig):
    """Supervised fine-tuning on annotated targets: cold start, or the label-only baseline."""

    num_train_epochs: float = 5.0
    """R1-Omni's cold start: 5 epochs."""


@dataclass
class GrpoConfig(ObjectiveConfig, LoopConfig):
    """Group-relative policy optimisation as R1-Omni does it (arXiv 2503.05379, 2402.03300)."""

    num_generations: int = 8
    """G, completions a prompt; at least 2, since a group is its own baseline."""
    num_iterations: int = 1
    """mu, passes over each batch of rollouts."""
    num_minibatches: int = 1
    """Optimiser steps a pass: the batch's rows are split into so many parts, group by group."""
    micro_batch_size: int = 64
    """Most completions a backward pass; smaller saves memory and changes no gradient."""
    reuse_rollout: bool = True
    """The update takes over what the rollout's layers computed, so that the policy's forward pass
    is not made again; gradients stay the same. Holds what backward needs, for all rows, from the
    rollout on. Changes nothing where a batch takes more than one update or micro-batch, with
    gradient checkpointing, and for models that only their modules can run (adapters, others)."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def keeps_activations(self, num_prompts: int) -> bool:
        """Say whether the update can start from what the rollout of so many prompts computed."""
        one_update = self.updates_per_step == 1 and self.max_resample_times == 0
        one_pass = num_prompts * self.num_generations <= self.micro_batch_size
        saves_memory = self.gradient_checkpointing or self.max_tokens_per_micro_batch > 0
        return self.reuse_rollout and one_update and one_pass and not saves_memory

    def sampling_of(self, num_prompts: int) -> SamplingConfig:
        """Describe for an engine how so many prompts are sampled."""
        return SamplingConfig(
            num_generations=self.num_generations,
            max_completion_length=self.sampling.max_completion_length,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            top_k=self.sampling.top_k,
            repetition_penalty=self.sampling.repetition_penalty,
            keep_activations=self.keeps_activations(num_prompts),
        )

    @property
    def updates_per_step(self) -> int:
        """Optimiser steps per batch of prompts."""
        return self.num_iterations * self.num_minibatches

    @property
    def samples(self) -> bool:
        """Whether the stage samples completions: always."""
        return True

    @property
    def needs_reference(self) -> bool:
        """Whether there is a KL to the policy that the stage started from."""
        return self.beta > 0

    def __post_init__(self) -> None:
        LoopConfig.__post_init__(self)
        ObjectiveConfig.__post_init__(self)
        require(
            self.num_generations >= 2,
            "stage.num_generations",
            self.num_generations,
            "2 or more, since advantages are relative to the other completions of the group",
        )
        for key in ("num_iterations", "num_minibatches"):
            require(self.__dict__[key] >= 1, f"stage.{key}", self.__dict__[key], "1 or more")
        require(
            self.num_minibatches <= self.batch_size,
            "stage.num_minibatches",
            self.num_minibatches,
            f"at most stage.batch_size={self.batch_size}: "
            "a group is never split over optimiser steps",
        )
