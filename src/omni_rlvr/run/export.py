"""Merges adapters and writes a checkpoint that stands alone."""

from __future__ import annotations

from pathlib import Path

from omni_rlvr.models.merged import write_merged
from omni_rlvr.parts import ExportParts
from omni_rlvr.run.lifecycle import recorded


def export_checkpoint(parts: ExportParts) -> None:
    """Writes the policy, merged, to ``task.to`` in the layout that was asked for."""
    with recorded(parts.place, device="cpu") as record:
        write_merged(parts.policy, Path(parts.task.to), parts.task.layout)
        record.finish("finished")
    print(f"checkpoint: {parts.task.to}")
