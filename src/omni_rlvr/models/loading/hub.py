"""Find a checkpoint: a folder on this machine, or an id on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from transformers.utils import logging as transformers_logging

from omni_rlvr.foreign import NO_WEIGHTS, recognise_file
from omni_rlvr.pointers import follow, problem
from omni_rlvr.types import UserError, first_line

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SAFE = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
_PICKLED = ["*.bin"]


def is_hub_id(path: str) -> bool:
    """Tell whether a path can be a hub id, and is not a local folder."""
    return _ID.fullmatch(path) is not None and not follow(Path(path)).exists()


def check_pointers(folder: Path) -> None:
    """Refuse a checkpoint with Git-LFS pointers or web pages in place of its files.

    Raises:
        UserError: There is such a file; names the first one, and what it is.
    """
    patterns = [f"{below}{name}" for below in ("", "*/") for name in (*_SAFE, *_PICKLED)]
    files = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    wrong = [(path, found) for path in files if (found := recognise_file(path, NO_WEIGHTS))]
    if wrong:
        path, found = wrong[0]
        more = f", as are {len(wrong) - 1} more of its files" if len(wrong) > 1 else ""
        raise UserError(f"model.path={folder}: {path.relative_to(folder)} is {found}{more}")


def show_downloads_only() -> None:
    """Turn off the progress bars that transformers shows while it loads weights.

    Those of downloads stay: a download may take an hour, and nothing else is shown meanwhile.
    """
    are_shown = not are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()  # turns off the hub's bars too
    if are_shown:
        enable_progress_bars()


def find_checkpoint(path: str, *, allow_pickle: bool) -> Path:
    """Return the folder that ``path`` names, after a download if it is a hub id.

    Raises:
        UserError: There is no such folder, and it cannot be downloaded from the hub.
    """
    folder = follow(Path(path))
    if folder.is_dir():
        check_pointers(folder)
        return folder
    if not is_hub_id(path):
        raise UserError(
            f"model.path={path} is not a folder{problem(Path(path))}; give the folder of a "
            "checkpoint, or a hub id, e.g. StarJiaxing/R1-Omni-0.5B"
        )
    patterns = _SAFE + (_PICKLED if allow_pickle else [])
    try:
        return Path(snapshot_download(path, allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"model.path={path} is not a folder, and the hub could not be reached to look for "
            f"it ({first_line(error.__cause__ or error)}); without the hub, give the folder of a "
            "copy, or set HF_HOME to the folder of a cache that holds it"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"model.path={path} is not a folder, and cannot be downloaded from the hub: "
            f"{first_line(error)}; check the name, or download it elsewhere and give the folder"
        ) from error
