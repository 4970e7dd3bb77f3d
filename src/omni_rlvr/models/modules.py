"""The parts of a policy by name, and which of them train.

A part none of whose weights trains is frozen: it stays in eval mode and its memory is shared with
the reference policy. Nothing is noted anywhere: who asks looks at the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import nn

PLACES = {
    "vision_tower": "vision_tower",
    "audio_tower": "audio_tower",
    "audio_head": "audio_tower",
    "video_projector": "video_projector",
    "compressor": "video_projector",
    "audio_projector": "audio_projector",
    "gate": "gate",
    "gate.bert": "bert",
    "language_model": "language_model",
}
"""Where a module is in a policy -> its part; the main module of a part comes first. What lies
inside another place is none of that other."""


class Modules(Protocol):
    """What is asked of a policy here; any torch module has it."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """All modules below, by where they are."""

    def named_parameters(
        self, *, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """All weights, by where they are; one that is tied comes once, or under each name."""


def parts_of(policy: Modules) -> dict[str, nn.Module]:
    """Finds the parts that a policy has, each by its main module."""
    modules = dict(policy.named_modules())
    found = {part: modules[place] for place, part in reversed(PLACES.items()) if place in modules}
    return {part: found[part] for part in PLACES.values() if part in found}


def place_of(part: str) -> str:
    """Name the place of a part's main module in the policy."""
    return next(place for place, name in PLACES.items() if name == part)


def frozen_parts(policy: Modules) -> list[nn.Module]:
    """Finds the modules of parts in which no weight trains."""
    modules = dict(policy.named_modules())
    return [modules[place] for place in PLACES if place in modules and not _trains(modules[place])]


def trains(policy: Modules, part: str) -> bool:
    """Says whether any weight of a part trains, an adapter's included."""
    modules = dict(policy.named_modules())
    places = [place for place, name in PLACES.items() if name == part and place in modules]
    return any(_trains(modules[place]) for place in places)


def part_of_weight(name: str) -> str:
    """Names the innermost part that a weight lies in."""
    inside = [place for place in PLACES if name.startswith(f"{place}.")]
    assert inside, f"{name} is in none of {', '.join(PLACES)}"
    return PLACES[max(inside, key=len)]


def _trains(part: nn.Module) -> bool:
    return any(weight.requires_grad for weight in part.parameters())
