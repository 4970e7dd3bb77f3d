"""The task ``export``: merge adapters into their base and write all weights as one checkpoint.

It is written into a folder, or uploaded to the Hugging Face hub. A model card goes with it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id
from torch import nn

from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.assembly.composing.latest import run_that_wrote
from omni_rlvr.assembly.policies import load
from omni_rlvr.config.tasks import ExportTask
from omni_rlvr.folders import whole_folder
from omni_rlvr.models.adapters.lora import merge
from omni_rlvr.models.families import family_of
from omni_rlvr.models.loading.quantize import dequantize
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.trained_on import write_trained_on
from omni_rlvr.pointers import follow, step_of
from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.training.model_card import write_card
from omni_rlvr.types import UserError, first_line

HUB = "hub:"
"""Prefix of a name on the hub in ``task.to``."""


@dataclass(frozen=True)
class ExportInputs:
    """The inputs of ``run``."""

    place: Place
    task: ExportTask
    policy: Policy
    checkpoint: Path | None
    """The checkpoint that the policy was loaded from; None if it was joined from parts."""
    repository: str | None
    """OWNER/NAME of the repository on the hub; None to write a folder."""


def build(composed: Composed) -> ExportInputs:
    """Check that the folder or the repository is free, and load the policy."""
    task, path = composed.task, composed.cfg.model.path
    repository = None
    if task.to.startswith(HUB):
        repository = check_repository(task.to)
    else:
        check_target(Path(task.to))
    checkpoint = None if path is None else follow(Path(path))
    return ExportInputs(composed.place, task, load(composed.cfg.model), checkpoint, repository)


def check_target(to: Path) -> None:
    """Check that the folder does not exist yet.

    Raises:
        UserError: It exists.
    """
    if to.exists():
        raise UserError(f"task.to={to} exists already; give a folder that does not exist")


def check_repository(to: str) -> str:
    """Check that a repository on the hub can be made, or is empty, before a model is loaded.

    Returns:
        OWNER/NAME; without an owner in the name, it is the user.

    Raises:
        UserError: The name is invalid, there is no token, the hub does not answer, or the
            repository belongs to somebody else or has files.
    """
    name = to.removeprefix(HUB)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        told = first_line(error).rstrip(".:")
        raise UserError(f"task.to={to}: {told}; give hub:NAME or hub:OWNER/NAME") from error
    if get_token() is None:
        raise UserError(
            f"task.to={to}: there is no token for the hub; run 'hf auth login', or set HF_TOKEN to "
            "a token that may write"
        )
    with _hub_errors(to):
        api = HfApi()
        user = api.whoami()
        owner = name.partition("/")[0] if "/" in name else user["name"]
        owners = [user["name"], *(organisation["name"] for organisation in user.get("orgs", ()))]
        if owner not in owners:
            raise UserError(
                f"task.to={to}: the token is of {user['name']}, who cannot write to {owner}; give "
                f"one of {', '.join(owners)} as the owner, or another token"
            )
        name = f"{owner}/{name.rpartition('/')[2]}"
        if api.repo_exists(name):
            files = {*api.list_repo_files(name)} - {".gitattributes"}
            if files:
                raise UserError(
                    f"task.to={to}: {name} has {len(files)} files already; give another name"
                )
    return name


@contextmanager
def _hub_errors(to: str) -> Iterator[None]:
    """Turn any error of the hub into one line that says what to do.

    Raises:
        UserError: The hub refused, did not answer, or may not be used.
    """
    instead = "or give a folder, and upload it later with 'hf upload'"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError(
            f"task.to={to}: HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, {instead}"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = {
            401: "the hub does not accept the token; run 'hf auth login', or set HF_TOKEN",
            403: "the token may not write there; make one that may, at huggingface.co/settings",
        }
        told = advice.get(status, f"the hub answers {status} ({first_line(error)}); try it again")
        raise UserError(f"task.to={to}: {told}, {instead}") from error
    except (HTTPError, OSError) as error:
        raise UserError(
            f"task.to={to}: the hub does not answer ({first_line(error)}); check the network, "
            f"{instead}"
        ) from error


def write_merged(policy: Policy, to: Path, layout: str) -> None:
    """Merge a policy's adapters and write it; the folder is written completely or not at all.

    Args:
        policy: A loaded policy, whose adapters are merged in place.
        to: The folder to make.
        layout: "omni" for what ``load_policy`` reads, "humanomni" for what HumanOmni's code reads.

    Raises:
        UserError: The folder exists, cannot be written, or the model has no such layout.
    """
    check_target(to)
    assert isinstance(policy, nn.Module)
    dequantize(policy)  # merge adapters into the rounded weights, on which they were trained
    merge(policy)
    policy.adapter_checkpoint = None
    try:
        with whole_folder(to, sums=True) as partial:
            family_of(policy.config.model_type).export(policy, partial, layout)
            write_trained_on(partial, policy.trained_on)
    except OSError as error:
        raise UserError(f"task.to={to} cannot be written: {error}") from error


def run(inputs: ExportInputs) -> None:
    """Write the merged policy to ``task.to`` in the layout ``task.layout``."""
    with recorded(inputs.place, device="cpu"):
        if inputs.repository is None:
            to = Path(inputs.task.to)
            _write(inputs, to, to.name)
        else:
            with tempfile.TemporaryDirectory(dir=inputs.place.run_dir) as folder:
                _write(inputs, Path(folder) / "export", inputs.repository)
                _upload(inputs, Path(folder) / "export", inputs.repository)
    print(f"checkpoint: {inputs.repository or inputs.task.to}")


def _write(inputs: ExportInputs, to: Path, path: str) -> None:
    """Write the merged policy and its model card, which says to load it from ``path``."""
    write_merged(inputs.policy, to, inputs.task.layout)
    checkpoint = inputs.checkpoint
    wrote = None if checkpoint is None else run_that_wrote(checkpoint)
    step = None if checkpoint is None else step_of(checkpoint.resolve())
    write_card(to, inputs.policy, wrote, step=step, path=path)


def _upload(inputs: ExportInputs, folder: Path, repository: str) -> None:
    """Make the repository and put all files of a folder there, in one commit."""
    with _hub_errors(inputs.task.to):
        api = HfApi()
        api.create_repo(repository, private=inputs.task.private, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Export of omni-rlvr"
        )
