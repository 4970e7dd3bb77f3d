"""Each piece of advice in an error message that is typed as ``key=value`` composes as it stands.

The messages are read from the source: a ``model.*`` or ``task.*`` override in a text that raises.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import omni_rlvr
from omni_rlvr.cli import conf_dir
from omni_rlvr.tasks.table import register

pytestmark = pytest.mark.slow

PACKAGE = Path(omni_rlvr.__file__).parent
OVERRIDE = re.compile(r"\b(model(?:\.\w+)+|model/\w+)=(true|false|lora|DIR|FILE)\b")
MODELS = ("tiny", "compose", "humanomni_0_5b", "humanomni_7b", "qwen2_5_omni_3b")


def advice() -> list[str]:
    """Every such override in a string of the package, docstrings and comments aside."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {match.group() for match in OVERRIDE.finditer(node.value)}
    return sorted(found)


def test_the_advice_is_found() -> None:
    assert {"model.options.allow_pickle=true", "model.base=DIR", "model/trainable=lora"} <= {
        *advice()
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("override", advice())
def test_it_can_be_typed_for_every_model(override: str, model: str) -> None:
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        cfg = compose("config", overrides=[f"model={model}", override])
    key, _, value = override.partition("=")
    if "/" not in key:
        node = cfg
        for name in key.split("."):
            node = node[name]
        assert str(node).lower() == value.lower()
