"""The floor: the least number of operations of a step, divided by this machine's best rate.

    rollout  prompt once, each sampled token but the last once
    update   the reference's forward pass; the policy's forward and backward (twice forward), each
             over prompt once and completions once
    seconds = operations / rate, rate = best of large float32 matrix products

Two operations a weight and token, and 4 * width a token and key in attention, where only keys that
a token may attend to count. Softmax, norms, memory traffic and the optimiser are not counted, so
that no program can reach the floor.
"""

from __future__ import annotations

import torch
from clock import now
from transformers import Qwen2ForCausalLM
from workload import Cell


def matmul_rate() -> float:
    """Measures operations a second: the best of ten products of 1,024 x 1,024 matrices."""
    a, best = torch.randn(1024, 1024), float("inf")
    for _ in range(10):
        started = now()
        torch.mm(a, a)
        best = min(best, now() - started)
    return 2 * 1024**3 / best


def operations(cell: Cell, model: Qwen2ForCausalLM) -> dict[str, float]:
    """Counts the operations of rollout and update."""
    config = model.config
    p, c, n, b = cell.prompt, cell.completion, cell.rows, cell.prompts
    layers = sum(w.numel() for w in model.model.layers.parameters() if w.ndim == 2)
    head = config.vocab_size * config.hidden_size
    width = 4 * config.num_attention_heads * _head_width(config) * config.num_hidden_layers
    inputs = c - 1  # the last sampled token is never fed
    tokens = b * p + n * inputs
    keys = b * p * (p + 1) / 2 + n * (inputs * p + inputs * (inputs + 1) / 2)
    forward = 2 * layers * tokens + width * keys
    return {
        "rollout": forward + 2 * head * n * c,
        # the policy's 1 + 2, the reference's 1
        "update": (4 if cell.beta else 3) * (forward + 2 * head * n * c),
    }


def _head_width(config) -> int:
    return config.hidden_size // config.num_attention_heads


def sharing_gain(cell: Cell) -> float:
    """S = G (P + C) / (P + G C): tokens of the naive update over those of a shared one."""
    p, c, g = cell.prompt, cell.completion, cell.generations
    return g * (p + c) / (p + g * c)
