"""Digests of the weights and examples that a training run starts from.

They are written to run.json when a run begins and compared when it is resumed, so that a model or
data set may be moved in between, but not changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from torch import nn

from omni_rlvr import distributed
from omni_rlvr.assembly.composed import Composed
from omni_rlvr.data.annotations.example_table import texts
from omni_rlvr.models.loading.fingerprint import weights_hash
from omni_rlvr.models.policy import Policy
from omni_rlvr.record import read_record
from omni_rlvr.types import Example, UserError


def origin_of(policy: Policy, examples: Sequence[Example]) -> dict[str, str]:
    """Compute digests of the weights and of the examples that training starts from.

    The first rank computes them for all; others may not have the weights yet.
    """
    found = distributed.gather(_digests(policy, examples) if distributed.is_first() else None)[0]
    assert found is not None
    return found


def _digests(policy: Policy, examples: Sequence[Example]) -> dict[str, str]:
    assert isinstance(policy, nn.Module)
    digest = hashlib.sha256()
    for fields in texts(examples):
        digest.update(json.dumps(fields).encode())
    return {"weights": weights_hash(policy), "examples": digest.hexdigest()}


def check_origin(composed: Composed, origin: dict[str, str]) -> None:
    """Refuse to resume a run with other weights or other examples than it began with.

    Args:
        composed: The present config, and the folder of the run.
        origin: The digests of the weights and examples that the present config leads to.

    Raises:
        UserError: They differ from those of the run; the message names the option.
    """
    run_dir = composed.place.run_dir
    before = read_record(run_dir)
    then = before.get("origin", {})  # runs of earlier versions have none
    if then.get("examples", origin["examples"]) != origin["examples"]:
        raise UserError(
            f"resume: dataset.annotations or dataset.root leads to other training examples than "
            f"{run_dir} began with; give those, or start a new run with model.path"
        )
    was, now = before["config"]["model"]["path"], composed.place.config["model"]["path"]
    if (known := then.get("weights")) is not None:
        is_other = known != origin["weights"]
    else:  # the weights matter only if they are read again, as the reference or as a base
        reads_weights = composed.stage.needs_reference or composed.trainable.lora.enabled
        is_other = was != now and reads_weights
    if is_other:
        raise UserError(
            f"resume: model.path={now} does not hold the weights of {was}, which {run_dir} started "
            "from; give the folder where they are now"
        )
