"""omni-rlvr: reinforcement learning with verifiable rewards on video + audio language models.

The Python API is imported when it is first used, so that ``import omni_rlvr`` stays fast.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omni_rlvr.api import (
        RunResult,
        attribute,
        compose,
        evaluate,
        load_policy,
        predict,
        run,
    )

__version__ = "0.1.0"
__all__ = ["RunResult", "attribute", "compose", "evaluate", "load_policy", "predict", "run"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from omni_rlvr import api

        return vars(api)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
