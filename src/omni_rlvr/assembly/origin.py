"""What a training run starts from, by content: a moved model or data set is known again.

Both are written into run.json when a run begins, and compared when it is resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

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


def check_origin(run_dir: Path, origin: dict[str, str], config: dict[str, Any]) -> None:
    """Refuse to go on with a run from another model or from other examples.

    Args:
        run_dir: the run's folder.
        origin: what is there now.
        config: the resolved config of now.

    Raises:
        UserError: names the option that leads to something else.
    """
    before = read_record(run_dir)
    then = before.get("origin", {})  # runs of earlier versions have none
    if then.get("examples", origin["examples"]) != origin["examples"]:
        raise UserError(
            f"resume: dataset.annotations or dataset.root leads to other training examples than "
            f"{run_dir} began with; give those, or start a new run with model.path"
        )
    was, now = before["config"]["model"]["path"], config["model"]["path"]
    known = then.get("weights")
    if known is not None:
        is_other = known != origin["weights"]
    else:
        is_other = was != now and _reads_weights(config)
    if is_other:
        raise UserError(
            f"resume: model.path={now} does not hold the weights of {was}, which {run_dir} started "
            "from; give the folder where they are now"
        )


def _reads_weights(config: dict[str, Any]) -> bool:
    """Whether a resumed run still needs the model that it started from: as reference or as base."""
    return config["stage"].get("beta", 0) > 0 or config["model"]["trainable"]["lora"]["enabled"]
