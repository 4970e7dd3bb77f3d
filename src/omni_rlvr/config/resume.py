"""Refuses to resume a run that has no checkpoint, or under another config than it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omni_rlvr.record import read_json
from omni_rlvr.types import UserError


def check_resume(run_dir: Path, resume: str, config: dict[str, Any]) -> None:
    """Checks that a run can go on.

    Args:
        run_dir: its folder.
        resume: what the user gave, for messages.
        config: the resolved config of now.

    Raises:
        UserError: it cannot; names what is missing or what differs.
    """
    if not (run_dir / "checkpoint" / "trainer_state.pt").exists():
        raise UserError(
            f"resume={resume}: there is no run of '{config['name']}' with a checkpoint to go on "
            "from; start one without resume"
        )
    before = read_json(run_dir / "run.json")["config"]
    changed = _differences(_computed(before), _computed(config), "")
    if changed:
        raise UserError(
            f"resume={resume}: the config differs from the run's in {'; '.join(changed[:5])}; "
            "give the same overrides, or start a new run with model.path"
        )


def _computed(config: dict[str, Any]) -> dict[str, Any]:
    """The config without what may change when a run goes on: the number of devices."""
    return {**config, "resume": None, "trainer": {**config["trainer"], "devices": None}}


def _differences(before: Any, now: Any, key: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted({*before, *now})
        return [
            d
            for n in names
            for d in _differences(before.get(n), now.get(n), f"{key}.{n}".lstrip("."))
        ]
    return [] if before == now else [f"{key} ({before!r} then, {now!r} now)"]
