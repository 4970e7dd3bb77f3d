"""Where two resolved configs differ, key by key."""

from __future__ import annotations

from typing import Any


def differences(before: Any, now: Any, key: str) -> list[str]:
    """Lists the values that differ, as ``key (x then, y now)``.

    Args:
        before: plain dicts, lists and values.
        now: the same.
        key: their place in the whole config; empty for all of it.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted({*before, *now})
        return [
            d
            for n in names
            for d in differences(before.get(n), now.get(n), f"{key}.{n}".lstrip("."))
        ]
    return [] if before == now else [f"{key} ({before!r} then, {now!r} now)"]
