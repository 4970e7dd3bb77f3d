"""Exact Shapley values and interactions of a game of few players, from the value of every subset.

A subset is an index whose bit i says whether player i is in it, so a game of n players is a table
of 2**n values. Nothing is sampled and nothing is assumed about the game; the caller decides what
the players and the values are.
"""

from __future__ import annotations

from math import factorial

import torch
from torch import Tensor


def shapley_values(values: Tensor) -> Tensor:
    """Compute each player's Shapley value: its mean gain over all orders of joining.

    ``phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! [v(S + i) - v(S)]``

    With two players, ``phi_A = 1/2 [(v(A) - v(0)) + (v(AB) - v(B))]``.

    Args:
        values: [..., 2**n] the value of each subset, n >= 1.

    Returns:
        [..., n] float64; the players' values add up to ``v(all) - v(nobody)``.

    Raises:
        ValueError: the last axis is no power of two.

    Reference:
        Shapley, "A value for n-person games" (1953).
    """
    num_players = _num_players(values)
    values = values.double()
    phi = []
    for player in range(num_players):
        without = [s for s in range(2**num_players) if not s & 1 << player]
        sizes = [s.bit_count() for s in without]
        weights = [factorial(size) * factorial(num_players - size - 1) for size in sizes]
        weight = torch.tensor(weights, dtype=torch.float64, device=values.device)
        gain = values[..., [s | 1 << player for s in without]] - values[..., without]
        phi.append((gain * weight).sum(-1) / factorial(num_players))
    return torch.stack(phi, dim=-1)


def interaction(values: Tensor, first: int, second: int) -> Tensor:
    """Compute the Shapley interaction index of two players: > 0 synergy, < 0 redundancy.

    The mean, over subsets S of the others with the weights ``|S|! (n - |S| - 2)! / (n - 1)!``, of
    ``v(S + a + b) - v(S + a) - v(S + b) + v(S)``. With two players S is empty.

    Args:
        values: [..., 2**n] the value of each subset.
        first: a player.
        second: another.

    Returns:
        [...] float64.

    Raises:
        ValueError: the players are the same, or not of the game.

    Reference:
        Grabisch and Roubens, "An axiomatic approach to the concept of interaction among players in
        cooperative games" (1999).
    """
    num_players = _num_players(values)
    if first == second or not 0 <= min(first, second) <= max(first, second) < num_players:
        raise ValueError(f"players {first} and {second} are no pair of {num_players} players")
    values, a, b = values.double(), 1 << first, 1 << second
    total = torch.zeros(values.shape[:-1], dtype=torch.float64, device=values.device)
    for s in range(2**num_players):
        if not s & (a | b):
            size = s.bit_count()
            weight = factorial(size) * factorial(num_players - size - 2)
            total += weight * (
                values[..., s | a | b] - values[..., s | a] - values[..., s | b] + values[..., s]
            )
    return total / factorial(num_players - 1)


def _num_players(values: Tensor) -> int:
    num_subsets = values.shape[-1] if values.ndim else 0
    num_players = num_subsets.bit_length() - 1
    if num_players < 1 or num_subsets != 2**num_players:
        raise ValueError(f"values must be [..., 2**n] with n >= 1, got {list(values.shape)}")
    return num_players
