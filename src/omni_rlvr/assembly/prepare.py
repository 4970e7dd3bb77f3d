"""The parts of ``task=prepare``: what all splits of a data set must have cut."""

from __future__ import annotations

from typing import Any

from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.parts import Place, PrepareParts
from omni_rlvr.data.cuts import Cut
from omni_rlvr.data.cutting import CutReader
from omni_rlvr.types import UserError


def prepare_parts(place: Place, typed: dict[str, Any]) -> PrepareParts:
    """Reads the annotations of all splits.

    Raises:
        UserError: an annotation is wrong, or this data set has nothing to prepare.
    """
    dataset = typed["dataset"]
    cuts: dict[Cut, None] = {}
    for config in dataset.splits.values():
        reader = make(config)
        if not isinstance(reader, CutReader):
            raise UserError(
                f"dataset={dataset.name} has nothing to prepare: its clips are read as they are; "
                "task=check opens them"
            )
        cuts.update(dict.fromkeys(reader.cuts()))
    if not cuts:
        raise UserError(
            f"dataset.root={dataset.root}: nothing of {dataset.name} is there; its layout stands "
            f"in conf/dataset/{dataset.name}.yaml"
        )
    return PrepareParts(place, dataset, typed["task"], list(cuts))
