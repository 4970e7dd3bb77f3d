"""How completions are sampled: the settings that an engine takes, and the options for training.

This file imports no torch, because the command line reads it before anything else.
"""

from __future__ import annotations

from dataclasses import dataclass

from omni_rlvr.types import field_check


@dataclass(frozen=True)
class SamplingConfig:
    """The settings that an engine takes: how many completions to sample, and how."""

    num_generations: int
    """The number G of completions for each prompt."""
    max_completion_length: int
    """The most tokens that a completion may have, including its end token."""
    temperature: float
    """The divisor of the logits; 0 takes the most probable token."""
    top_p: float = 1.0
    """Sample among the most probable tokens that together reach this probability, in (0, 1]; 1
    keeps all tokens."""
    top_k: int = 0
    """Sample among the k most probable tokens; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Values above 1 make tokens that the completion already holds less likely; 1 is off."""
    keep_activations: bool = False
    """Whether the engine keeps the activations of the layers, if it can, so that the update need
    not compute them again."""


def greedy(*, max_completion_length: int, repetition_penalty: float = 1.0) -> SamplingConfig:
    """Make the settings for one completion of the most probable tokens."""
    return SamplingConfig(
        num_generations=1,
        max_completion_length=max_completion_length,
        temperature=0.0,
        repetition_penalty=repetition_penalty,
    )


@dataclass
class SamplingOptions:
    """How completions are sampled in training; ``stage.num_generations`` is their number."""

    temperature: float = 1.0
    """The divisor of the logits, above 0; the log-probabilities of the update use the same."""
    top_p: float = 1.0
    """Sample among the most probable tokens that together reach this probability, in (0, 1]; 1
    keeps all tokens."""
    top_k: int = 0
    """Sample among the k most probable tokens; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Values above 1 make tokens that the completion already holds less likely; 1 is off. It
    changes sampling only: the update's log-probabilities are computed without it."""
    max_completion_length: int = 96
    """The most tokens that a completion may have, including its end token."""

    def __post_init__(self) -> None:
        check = field_check(self, "stage.sampling")
        check("temperature", self.temperature > 0, "greater than 0")
        check("top_p", 0 < self.top_p <= 1, "in (0, 1]")
        check("top_k", self.top_k >= 0, "0 (off) or more")
        check("repetition_penalty", self.repetition_penalty > 0, "greater than 0 (1 is off)")
        check("max_completion_length", self.max_completion_length >= 1, "1 or more tokens")
