"""The workload of all contestants: a random Qwen2, prompts of P tokens, G completions of C tokens.

Only text: a prompt's tokens take the place of video and audio tokens, since with the feature cache
towers run once a clip for every contestant. Completions never end early: no token is the end token,
so that all contestants do the same work.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from omni_rlvr.functional.masks import position_ids
from omni_rlvr.models.composed.processor import ProcessorSettings
from omni_rlvr.types import Batch, Example, Features, Prompts, RewardOutput

LEARNING_RATE, TEMPERATURE = 1e-6, 1.0
HEAD_SIZE, VOCABULARY = 64, 640


@dataclass(frozen=True)
class Cell:
    """One point of the grid."""

    prompt: int
    """P, tokens of a prompt."""
    completion: int
    """C, tokens of a completion."""
    generations: int
    """G, completions a prompt."""
    prompts: int
    """B, prompts a step."""
    hidden: int
    layers: int
    vocabulary: int
    beta: float
    """Weight of the KL; with 0 nobody has a reference pass."""

    @property
    def rows(self) -> int:
        """N = B G."""
        return self.prompts * self.generations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds a cell's sizes and how it is timed to a command line."""
    parser.add_argument("--prompt", type=int, default=970, help="P, tokens of a prompt")
    parser.add_argument("--completion", type=int, default=64, help="C, tokens of a completion")
    parser.add_argument("--generations", type=int, default=8, help="G, completions a prompt")
    parser.add_argument("--prompts", type=int, default=2, help="B, prompts a step")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--beta", type=float, default=0.04, help="0.04 as R1-Omni; TRL's own is 0")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="see clock.py")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="timed rounds after one warm-up")


def cell_of(args: argparse.Namespace) -> Cell:
    """Reads the cell from the command line."""
    return Cell(**{field.name: vars(args)[field.name] for field in fields(Cell)})


def make_model(cell: Cell) -> Qwen2ForCausalLM:
    """Makes the model, always with the same weights for a cell's sizes."""
    torch.manual_seed(0)
    heads = max(1, cell.hidden // HEAD_SIZE)
    config = Qwen2Config(
        vocab_size=cell.vocabulary,
        hidden_size=cell.hidden,
        intermediate_size=cell.hidden * 15 // 4,
        num_hidden_layers=cell.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Qwen2ForCausalLM(config).train()


def prompt_ids(cell: Cell, count: int) -> Tensor:
    """[count, P] prompts."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, cell.vocabulary, (count, cell.prompt), generator=generator)


def rewards_of(count: int) -> list[float]:
    """Rewards that give every row an advantage."""
    return [float((i * 7) % 5) for i in range(count)]


class Tokenizer:
    """The little that decoding asks of a tokenizer; its end token is no token of the model."""

    def __init__(self, vocabulary: int):
        self.pad_token_id, self.eos_token_id = 0, vocabulary


class Processor:
    """The little that decoding asks of a processor."""

    def __init__(self, vocabulary: int):
        self.tokenizer = Tokenizer(vocabulary)
        self.stop_ids = [self.tokenizer.eos_token_id]
        self.settings = ProcessorSettings(1, 0, 0, "pad", "")

    def decode(self, ids: Tensor, mask: Tensor) -> list[str]:
        return [""] * len(ids)


class TextPolicy(nn.Module):
    """A causal LM as a policy without media."""

    places = {"language_model": "language_model"}

    def __init__(self, language_model: Qwen2ForCausalLM):
        super().__init__()
        self.language_model = language_model
        self.processor: Any = Processor(language_model.config.vocab_size)

    def encode(self, batch: Batch) -> Features:
        return Features.none(len(batch))

    def prompts(self, batch: Batch, features: Features) -> Prompts:
        embeds = self.language_model.get_input_embeddings()(batch.prompt_ids)
        return Prompts(embeds, batch.prompt_mask, position_ids(batch.prompt_mask))


class Reward:
    """Stands for the reward mixture."""

    def __call__(
        self, completions: Sequence[str], examples: Sequence[Example], lengths: Sequence[int]
    ) -> RewardOutput:
        rewards = torch.tensor(rewards_of(len(completions)))
        return RewardOutput(rewards, {})


def make_batch(ids: Tensor) -> Batch:
    """Prompts as a batch without media."""
    examples = [Example(str(i), "", "", "", None) for i in range(len(ids))]
    mask, none = torch.ones_like(ids), [None] * len(ids)
    return Batch(examples, ids, mask, position_ids(mask), none, none, none, none)
