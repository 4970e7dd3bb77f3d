"""The parts of a policy by name, and which of them train.

A policy says itself where its parts are. A part without a weight that trains is frozen: it stays in
eval mode, and the reference policy shares its memory. What is frozen is not stored but read from
``requires_grad`` of the weights each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import nn


class Modules(Protocol):
    """What these functions need of a policy."""

    @property
    def places(self) -> Mapping[str, str]:
        """Name of a module in the policy -> its part; the main module of a part comes first.

        A module inside another one of these belongs to its own part only. Parts have the names
        that they have in ``config/trainable.py``.
        """

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """List all modules with their names."""

    def named_parameters(
        self, *, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """List all weights with their names; a tied weight once, or under each of its names."""


def parts_of(policy: Modules) -> dict[str, nn.Module]:
    """Find the parts that a policy has, each by its main module."""
    modules, places = dict(policy.named_modules()), policy.places
    # reversed, so that a part's first place wins
    found = {
        part: modules[place] for place, part in reversed([*places.items()]) if place in modules
    }
    return {part: found[part] for part in places.values() if part in found}


def place_of(policy: Modules, part: str) -> str:
    """Return the name of a part's main module in a policy."""
    return next(place for place, name in policy.places.items() if name == part)


def frozen_parts(policy: Modules) -> list[nn.Module]:
    """Find the modules of parts in which no weight trains."""
    modules = dict(policy.named_modules())
    there = [modules[place] for place in policy.places if place in modules]
    return [module for module in there if not _trains(module)]


def trains(policy: Modules, part: str) -> bool:
    """Tell whether any weight of a part trains, an adapter's included."""
    modules = dict(policy.named_modules())
    places = [place for place, name in policy.places.items() if name == part and place in modules]
    return any(_trains(modules[place]) for place in places)


def part_of_weight(policy: Modules, name: str) -> str:
    """Return the innermost part that contains a weight."""
    inside = [place for place in policy.places if name.startswith(f"{place}.")]
    assert inside, f"{name} is in none of {', '.join(policy.places)}"
    return policy.places[max(inside, key=len)]


def _trains(part: nn.Module) -> bool:
    return any(weight.requires_grad for weight in part.parameters())
