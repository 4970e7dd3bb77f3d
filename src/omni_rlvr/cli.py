"""The command ``omni-rlvr``: Hydra composes, ``build`` checks and loads, ``run`` does the task.

Nothing heavy is imported before a config stands, so that ``--help`` and a typo answer at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from omni_rlvr.config.store import register
from omni_rlvr.types import UserError


def conf_dir() -> str:
    """The folder of option files: the one in the wheel, else the checkout's."""
    packaged = Path(__file__).parent / "conf"
    return str(packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf")


def task(cfg: DictConfig) -> None:
    """Runs one composed config; an error a user can mend is one line, not a traceback."""
    from omni_rlvr.build import build
    from omni_rlvr.run import run

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    single = HydraConfig.get().mode == RunMode.RUN
    try:
        run(build(cfg, run_dir, run_dir.parent / "latest" if single else None))
    except UserError as error:
        sys.exit(f"error: {error}")


def main() -> None:
    """Entry point."""
    register()
    hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")(task)()
