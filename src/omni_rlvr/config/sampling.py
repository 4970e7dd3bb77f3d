"""How completions are sampled: what an engine is told, and what a person tunes of it for training.

No torch is imported: the command line reads this file first.
"""

from __future__ import annotations

from dataclasses import dataclass

from omni_rlvr.types import require


@dataclass(frozen=True)
class SamplingConfig:
    """What an engine is told: how many completions a prompt gets, and how tokens are drawn."""

    num_generations: int
    """G, completions a prompt."""
    max_completion_length: int
    """Most tokens a completion may have, its end token included."""
    temperature: float
    """Divides the logits; 0 takes the most probable token."""
    top_p: float = 1.0
    """Nucleus mass in (0, 1]; 1 keeps all tokens."""
    top_k: int = 0
    """Keeps the k most probable tokens; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that a completion already has less likely; 1 is off."""
    keep_activations: bool = False
    """Whether an engine that can keeps what layers compute, for the update's forward pass."""


def greedy(*, max_completion_length: int, repetition_penalty: float = 1.0) -> SamplingConfig:
    """Describe one completion a prompt, of the most probable tokens."""
    return SamplingConfig(
        num_generations=1,
        max_completion_length=max_completion_length,
        temperature=0.0,
        repetition_penalty=repetition_penalty,
    )


@dataclass
class SamplingOptions:
    """How completions are sampled in training; ``stage.num_generations`` says how many."""

    temperature: float = 1.0
    """tau > 0, divides the logits; the log-probabilities of the update use the same."""
    top_p: float = 1.0
    """Nucleus mass in (0, 1]; 1 keeps all tokens."""
    top_k: int = 0
    """Keeps the k most probable tokens; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens that a completion already has; 1 is off. Sampling only: the
    update's log-probabilities are those of the policy without it."""
    max_completion_length: int = 96
    """Most tokens a completion may have, its end token included."""

    def __post_init__(self) -> None:
        require(
            self.temperature > 0, "stage.sampling.temperature", self.temperature, "greater than 0"
        )
        require(0 < self.top_p <= 1, "stage.sampling.top_p", self.top_p, "in (0, 1]")
        require(self.top_k >= 0, "stage.sampling.top_k", self.top_k, "0 (off) or more")
        require(
            self.repetition_penalty > 0,
            "stage.sampling.repetition_penalty",
            self.repetition_penalty,
            "greater than 0 (1 is off)",
        )
        require(
            self.max_completion_length >= 1,
            "stage.sampling.max_completion_length",
            self.max_completion_length,
            "1 or more tokens",
        )
