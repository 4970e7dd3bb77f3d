"""The parts of a policy by name, and which of them train.

A policy says itself where its parts are. A part none of whose weights trains is frozen: it stays in
eval mode and its memory is shared with the reference policy. Nothing of this is stored: whoever
asks looks at the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import nn


class Modules(Protocol):
    """What is asked of a policy here."""

    @property
    def places(self) -> Mapping[str, str]:
        """Where a module is in the policy -> its part; the main module of a part comes first.

        What lies inside another place belongs to that other part alone. Parts have the names that
        ``config/trainable.py`` has for them.
        """

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """List all modules below, by where they are."""

    def named_parameters(
        self, *, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """List all weights, by where they are; one that is tied comes once, or under each name."""


def parts_of(policy: Modules) -> dict[str, nn.Module]:
    """Find the parts that a policy has, each by its main module."""
    modules, places = dict(policy.named_modules()), policy.places
    # reversed, so that a part's first place is the one that stays
    found = {
        part: modules[place] for place, part in reversed([*places.items()]) if place in modules
    }
    return {part: found[part] for part in places.values() if part in found}


def place_of(policy: Modules, part: str) -> str:
    """Name the place of a part's main module in a policy."""
    return next(place for place, name in policy.places.items() if name == part)


def frozen_parts(policy: Modules) -> list[nn.Module]:
    """Find the modules of parts in which no weight trains."""
    modules = dict(policy.named_modules())
    there = [modules[place] for place in policy.places if place in modules]
    return [module for module in there if not _trains(module)]


def trains(policy: Modules, part: str) -> bool:
    """Say whether any weight of a part trains, an adapter's included."""
    modules = dict(policy.named_modules())
    places = [place for place, name in policy.places.items() if name == part and place in modules]
    return any(_trains(modules[place]) for place in places)


def part_of_weight(policy: Modules, name: str) -> str:
    """Name the innermost part that a weight lies in."""
    inside = [place for place in policy.places if name.startswith(f"{place}.")]
    assert inside, f"{name} is in none of {', '.join(policy.places)}"
    return policy.places[max(inside, key=len)]


def _trains(part: nn.Module) -> bool:
    return any(weight.requires_grad for weight in part.parameters())
