"""Run the command with the code and options of a given checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

START = """
import pathlib, sys
import omni_rlvr, omni_rlvr.cli

tree, *arguments = sys.argv[1:]
found = pathlib.Path(omni_rlvr.cli.__file__).resolve()
assert found.is_relative_to(pathlib.Path(tree).resolve()), f"{found} is not of {tree}"
sys.argv = ["omni-rlvr", *arguments]
omni_rlvr.cli.main()
"""


def environment(tree: Path, threads: int) -> dict[str, str]:
    """Return the variables under which Python finds the package of a checkout first."""
    return {
        **os.environ,
        "PYTHONPATH": str(tree.resolve() / "src"),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }


def run(tree: Path, folder: Path, *arguments: str, threads: int) -> None:
    """Run the command of a checkout; what it says goes to ``log.txt`` in the folder.

    Args:
        tree: the checkout.
        folder: the working folder, for relative paths.
        arguments: flags and overrides.
        threads: of torch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run(
            [sys.executable, "-c", START, str(tree.resolve()), *arguments],
            env=environment(tree, threads),
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        last = (folder / "log.txt").read_text().splitlines()[-5:]
        sys.exit("\n".join([f"{' '.join(arguments)}: exit {done.returncode}", *last]))


def commit_of(tree: Path) -> str:
    """Name the commit of a checkout, with "+" where files differ from it."""
    done = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
