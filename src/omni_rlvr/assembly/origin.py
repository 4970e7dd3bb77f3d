"""What a training run starts from, by content: a moved model or data set is known again.

Both are written into run.json when a run begins, and compared when it is resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from torch import nn

from omni_rlvr.assembly.composed import Composed
from omni_rlvr.models.loading.fingerprint import weights_hash
from omni_rlvr.models.policy import Policy
from omni_rlvr.record import read_record
from omni_rlvr.types import Example, UserError


def origin_of(policy: Policy, examples: Iterable[Example]) -> dict[str, str]:
    """Digest the weights that training starts from, and the examples that it learns from."""
    assert isinstance(policy, nn.Module)
    digest = hashlib.sha256()
    for example in examples:
        fields = (example.id, example.question, example.answer, example.target)
        digest.update(json.dumps(fields).encode())
    return {"weights": weights_hash(policy), "examples": digest.hexdigest()}


def check_origin(composed: Composed, origin: dict[str, str]) -> None:
    """Refuse to go on with a run from another model or from other examples.

    Args:
        composed: the config of now, and the run's folder.
        origin: what is there now.

    Raises:
        UserError: names the option that leads to something else.
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
    known = then.get("weights")
    if known is not None:
        is_other = known != origin["weights"]
    else:
        is_other = was != now and _reads_weights(composed)
    if is_other:
        raise UserError(
            f"resume: model.path={now} does not hold the weights of {was}, which {run_dir} started "
            "from; give the folder where they are now"
        )


def _reads_weights(composed: Composed) -> bool:
    """Whether a resumed run still needs the model that it started from: as reference or as base."""
    return composed.stage.needs_reference or composed.trainable.lora.enabled
