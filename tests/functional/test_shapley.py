"""Shapley values and interactions by hand, by their axioms, and over all orders of joining."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from every_case import every_case

from omni_rlvr.functional.shapley import interaction, shapley_values


def over_all_orders(values: list[float], num_players: int) -> list[float]:
    """The definition: each player's gain, averaged over every order of joining."""
    orders = list(permutations(range(num_players)))
    phi = [0.0] * num_players
    for order in orders:
        subset = 0
        for player in order:
            phi[player] += (values[subset | 1 << player] - values[subset]) / len(orders)
            subset |= 1 << player
    return phi


def test_two_players_by_hand():
    # v(0) = 1, v(A) = 4, v(V) = 2, v(AV) = 9
    values = torch.tensor([1.0, 4.0, 2.0, 9.0])
    # phi_A = 1/2 [(4 - 1) + (9 - 2)] = 5; phi_V = 1/2 [(2 - 1) + (9 - 4)] = 3; 5 + 3 = 9 - 1
    assert shapley_values(values).tolist() == [5.0, 3.0]
    # 9 - 4 - 2 + 1
    assert interaction(values, 0, 1).item() == 4.0


def test_three_players_by_hand():
    # v(A) = 1, v(B) = 2, v(C) = 0, v(AB) = 4, v(AC) = 1, v(BC) = 5, v(ABC) = 9; bits A, B, C
    values = torch.tensor([0.0, 1.0, 2.0, 4.0, 0.0, 1.0, 5.0, 9.0])
    # A: 2/6 (1 - 0) + 1/6 (4 - 2) + 1/6 (1 - 0) + 2/6 (9 - 5) = (2 + 2 + 1 + 8) / 6
    # B: 2/6 (2 - 0) + 1/6 (4 - 1) + 1/6 (5 - 0) + 2/6 (9 - 1) = (4 + 3 + 5 + 16) / 6
    # C: 2/6 (0 - 0) + 1/6 (1 - 1) + 1/6 (5 - 2) + 2/6 (9 - 4) = (0 + 0 + 3 + 10) / 6
    assert torch.allclose(shapley_values(values), torch.tensor([13, 28, 13]).double() / 6)
    # A with B: 1/2 (4 - 1 - 2 + 0) + 1/2 (9 - 1 - 5 + 0) = 1/2 + 3/2
    assert interaction(values, 0, 1).item() == 2.0


@every_case("num_players", [1, 2, 3, 4])
def test_equals_the_mean_over_all_orders(num_players: int):
    values = torch.randn(2**num_players, generator=torch.Generator().manual_seed(num_players))
    expected = over_all_orders(values.tolist(), num_players)
    assert shapley_values(values).tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("num_players", [2, 3])
def test_efficiency_to_1e_6(num_players: int):
    generator = torch.Generator().manual_seed(0)
    values = 20 * torch.randn(500, 2**num_players, generator=generator)
    gained = values[:, -1].double() - values[:, 0].double()
    assert (shapley_values(values).sum(dim=1) - gained).abs().max() < 1e-6


def test_a_player_that_adds_nothing_gets_nothing():
    # bit 0 changes no value
    values = torch.tensor([3.0, 3.0, 7.0, 7.0, -1.0, -1.0, 2.0, 2.0])
    assert shapley_values(values)[0].item() == 0.0
    assert interaction(values, 0, 1).item() == 0.0


def test_players_that_may_change_places_get_the_same():
    assert shapley_values(torch.tensor([0.0, 2.0, 2.0, 5.0])).tolist() == [2.5, 2.5]


def test_interaction_tells_synergy_from_redundancy():
    together, either = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert interaction(together, 0, 1) > 0
    assert interaction(either, 0, 1) < 0
    assert interaction(torch.tensor([0.0, 1.0, 2.0, 3.0]), 0, 1) == 0


@every_case("shape", [(), (1,), (3,), (2, 6)])
def test_what_is_no_game_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"2\*\*n"):
        shapley_values(torch.zeros(shape))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 2), (-1, 0)])
def test_what_is_no_pair_is_refused(first: int, second: int):
    with pytest.raises(ValueError, match="no pair of 2 players"):
        interaction(torch.zeros(4), first, second)
