"""A run of an earlier version is the same as one of now where what came since has its default."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from omni_rlvr.assembly.compare import completed, computes_the_same, differing
from omni_rlvr.assembly.instantiate import check
from omni_rlvr.cli import conf_dir
from omni_rlvr.record import leaves
from omni_rlvr.tasks.table import register

pytestmark = pytest.mark.slow

CAME_LATER = (
    "stage.max_bad_steps",
    "stage.save_total_limit",
    "dataset.max_frames",
    "task.evaluate_after.repetition_penalty",
    "model.trainable.lora.r",
    "model.options",
)
SAMPLE = ("stage=grpo", "dataset=r1_omni", "dataset.root=clips")


def config(*overrides: str) -> dict[str, Any]:
    """Compose and resolve a config as it stands in run.json."""
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return check(compose("config", overrides=[*SAMPLE, *overrides]))[0]


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Take keys out, as if there had been no such options."""
    then = copy.deepcopy(config)
    for key in keys:
        *above, name = key.split(".")
        parent = then
        for part in above:
            parent = parent[part]
        del parent[name]
    return then


@pytest.mark.parametrize("group", ["stage=grpo", "stage=sft", "stage=dapo", "dataset=dfew"])
def test_a_run_without_the_options_that_came_later_computed_the_same(group: str) -> None:
    now = config(group)
    then = without(now, *CAME_LATER)
    assert computes_the_same(then, now)
    assert leaves(completed(then)) == leaves(now)
    assert differing(then, now) == {}


@pytest.mark.parametrize(
    ("override", "key", "old", "new"),
    [
        ("stage.max_bad_steps=1", "stage.max_bad_steps", 3, 1),
        ("model.options.num_frames=4", "model.options.num_frames", None, 4),
        ("feature_cache.enabled=false", "feature_cache.enabled", True, False),
        ("+reward.weights.mine=0", "reward.weights.mine", None, 0),
        ("+optimizer.amsgrad=true", "optimizer.amsgrad", None, True),
        ("seed=1", "seed", 0, 1),
        ("stage.beta=0", "stage.beta", 0.04, 0),
    ],
)
def test_what_differs_from_its_default_is_told(
    override: str, key: str, old: object, new: object
) -> None:
    mine = "+reward.terms.mine._target_=builtins.len", "+reward.terms.mine._partial_=true"
    added = mine if "reward" in key else ()
    now, then = config(override, *added), without(config(*added), *CAME_LATER)
    assert not computes_the_same(then, now)
    assert differing(then, now) == {key: (old, new)}


def test_the_default_may_be_given_and_where_a_run_writes_does_not_count() -> None:
    then = without(config(), *CAME_LATER)
    assert computes_the_same(then, config("stage.max_bad_steps=3", "stage.beta=0.04"))
    assert computes_the_same(then, config("+optimizer.amsgrad=false"))  # what AdamW does anyway
    assert computes_the_same(then, config("paths.output_root=elsewhere", "logger=csv"))


def test_a_key_that_is_gone_is_a_difference() -> None:
    now = config()
    then = without(now)
    then["stage"]["old_habit"] = True
    assert differing(then, now) == {"stage.old_habit": (True, None)}


def test_a_composed_model_without_options_is_as_it_was() -> None:
    now = config("model=compose")
    then = without(now)
    then["model"]["options"] = None
    assert computes_the_same(then, now)
