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
    "video_projector": "video_projector",
    "audio_projector": "audio_projector",
    "gate": "gate",
    "bert": "gate.bert",
    "language_model": "language_model",
}
"""Part -> where its module is in a policy. A part inside another is none of that other."""


class Modules(Protocol):
    """What is asked of a policy here; any torch module has it."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """All modules below, by where they are."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All weights, by where they are; one that is tied comes once."""


def parts_of(policy: Modules) -> dict[str, nn.Module]:
    """Finds the parts that a policy has."""
    modules = dict(policy.named_modules())
    return {part: modules[place] for part, place in PLACES.items() if place in modules}


def frozen_parts(policy: Modules) -> list[nn.Module]:
    """Finds the parts none of whose weights trains."""
    return [part for part in parts_of(policy).values() if not _trains(part)]


def trains(policy: Modules, part: str) -> bool:
    """Says whether any weight of a part trains, an adapter's included."""
    parts = parts_of(policy)
    return part in parts and _trains(parts[part])


def part_of_weight(name: str) -> str:
    """Names the innermost part that a weight lies in."""
    inside = [part for part, place in PLACES.items() if name.startswith(f"{place}.")]
    assert inside, f"{name} belongs to no part of {', '.join(PLACES)}"
    return max(inside, key=lambda part: len(PLACES[part]))


def _trains(part: nn.Module) -> bool:
    return any(weight.requires_grad for weight in part.parameters())
