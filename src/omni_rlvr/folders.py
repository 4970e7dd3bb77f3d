"""Write folders completely or not at all, make new ones, and check them by digests.

A folder is written under another name and renamed when it is complete, so that a killed process or
a full disk leaves the previous one. ``SHA256SUMS`` holds a digest of each file, for
``sha256sum -c``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from omni_rlvr.types import UserError

SUMS = "SHA256SUMS"
CARD = "README.md"
"""The model card of a checkpoint. It has no digest, because people edit it."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)
"""Error numbers of a disk that accepts no more data."""
_OF_TORCH = ("PytorchStreamWriter", "inline_container", "iostream", "basic_ios")
"""Words in the messages of ``torch.save`` when a file could not be written."""


def new_folder(wanted: Path) -> Path:
    """Make a folder that does not exist yet: ``wanted``, or that name with a number.

    Raises:
        OSError: the folder cannot be made.
    """
    wanted.parent.mkdir(parents=True, exist_ok=True)
    folder, number = wanted, 0
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = wanted.with_name(f"{wanted.name}_{number}")


@contextlib.contextmanager
def whole_folder(folder: Path, *, sums: bool = False) -> Iterator[Path]:
    """Yield a folder to write into, which replaces ``folder`` once all is written.

    After any error ``folder`` is as before, and nothing else is left.

    Args:
        folder: the folder to write or to replace.
        sums: whether a digest of each file is written, for ``check_sums``.

    Raises:
        OSError: the disk is full, or cannot be written; also if a library raised another error.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for path in (partial, *partial.rglob("*")):
            set_usual_mode(path)
        if sums:
            write_sums(partial)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        os.replace(partial, folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        seen = disk_error(error)
        if seen is None or seen is error:
            raise
        raise seen from error


@contextlib.contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into, whose content moves into ``folder`` once all is written.

    Args:
        folder: an existing folder; its other files stay.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as name:
        yield Path(name)
        for path in sorted(Path(name).iterdir()):
            if (folder / path.name).is_dir():
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)


def set_usual_mode(path: Path) -> None:
    """Give a file or folder the permissions that ``open`` or ``mkdir`` would: the umask's.

    safetensors and ``tempfile`` make files that only their owner can read, so that a group could
    not use a checkpoint or a data set on a shared disk.
    """
    umask = os.umask(0o077)
    os.umask(umask)
    if not path.is_symlink():
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file in one step; if it cannot be written, the previous one stays.

    Raises:
        OSError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):  # the first error is the one to report
            partial.unlink(missing_ok=True)
        raise


def disk_error(error: BaseException) -> OSError | None:
    """Find the system's error in an exception of a library; None if there is none."""
    if isinstance(error, UserError) or not isinstance(error, Exception):
        return None
    if isinstance(error, OSError) and error.errno:
        return error
    found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors and tokenizers, in Rust
    if found:
        return OSError(int(found[1]), os.strerror(int(found[1])))
    if isinstance(error, OSError):
        return error
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _OF_TORCH):
        if isinstance(error.__context__, OSError):
            return error.__context__
        return OSError(errno.EIO, str(error).splitlines()[0])
    return None


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS``: a digest of each file of a folder, and of the folders in it."""
    without = (SUMS, CARD)
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in without
    )
    lines = [f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path, *, but: Sequence[str] = ()) -> str | None:
    """Compare a folder's files with the digests in its ``SHA256SUMS``.

    Args:
        folder: without ``SHA256SUMS`` in it, nothing is compared.
        but: names of files that are not compared.

    Returns:
        A text about the first file that is missing or changed; None if all files are intact.
    """
    if not (folder / SUMS).exists():
        return None
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines:
        return f"{SUMS} is empty"
    for line in lines:
        digest, _, name = line.partition("  ")
        if not re.fullmatch("[0-9a-f]{64}", digest) or not name:
            return f"{SUMS} is damaged"
        if name in but:
            continue
        if not (folder / name).is_file():
            return f"{name} is missing"
        if _digest(folder / name) != digest:
            return f"{name} is not as it was written (its SHA-256 differs from that in {SUMS})"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_unused(run_dir: Path) -> bool:
    """Remove a run's folder if it holds only files that Hydra made; return whether it did."""
    unused = run_dir.is_dir() and all(
        path.name == ".hydra" or path.suffix == ".log" for path in run_dir.iterdir()
    )
    if unused:
        shutil.rmtree(run_dir)
    return unused


@contextlib.contextmanager
def no_folder_unused(run_dir: Path) -> Iterator[None]:
    """Remove the folder that Hydra made for a run if the run fails before it writes anything."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # the parents hold other runs, or a rank was faster
            if remove_unused(run_dir):
                run_dir.parent.rmdir()
                run_dir.parents[1].rmdir()
        raise
