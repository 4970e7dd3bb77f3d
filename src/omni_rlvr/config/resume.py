"""Which runs can go on: those with a checkpoint, under the config that they began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omni_rlvr.lock import IN_USE, check_free
from omni_rlvr.record import read_json
from omni_rlvr.types import UserError

STOPPED = ("interrupted", "running")
"""How run.json says that a run was stopped by its user, or killed."""


def goes_on(run_dir: Path, config: dict[str, Any]) -> bool:
    """Whether a run of this resolved config was stopped there and left a checkpoint.

    One that failed does not go on: what failed may be in its weights.
    """
    if not (_has_checkpoint(run_dir) and (run_dir / "run.json").exists()):
        return False
    before = read_json(run_dir / "run.json")
    return before["status"] in STOPPED and not _changed(before["config"], config)


def check_resume(run_dir: Path, resume: str, config: dict[str, Any]) -> None:
    """Checks that a run can go on.

    Args:
        run_dir: its folder.
        resume: what the user gave, for messages.
        config: the resolved config of now.

    Raises:
        UserError: it cannot; names what is missing or what differs.
    """
    check_free(run_dir, IN_USE)
    if not _has_checkpoint(run_dir):
        raise UserError(
            f"resume={resume}: there is no run of '{config['name']}' with a checkpoint to go on "
            "from; start one without resume"
        )
    changed = _changed(read_json(run_dir / "run.json")["config"], config)
    if changed:
        raise UserError(
            f"resume={resume}: the config differs from the run's in {'; '.join(changed[:5])}; "
            "give the same overrides, or start a new run with model.path"
        )


def _has_checkpoint(run_dir: Path) -> bool:
    return (run_dir / "checkpoint" / "trainer_state.pt").exists()


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return _differences(_computed(before), _computed(now), "")


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
