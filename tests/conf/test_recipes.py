"""Named recipes: they have their papers' values, change nothing else, and train."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from every_case import every_case
from flips import GRPO
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_options import checkpoint, clips, common, runner

from omni_rlvr.assembly.instantiate import check
from omni_rlvr.cli import conf_dir
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.record import read_jsonl
from omni_rlvr.stages.table import STAGES
from omni_rlvr.tasks.table import register

__all__ = ["checkpoint", "clips", "common", "runner"]  # fixtures

CONF = Path(__file__).parents[2] / "conf" / "stage"
RECIPES = {
    # DAPO, sec. 4.1: clip 0.2 / 0.28, no KL, 16 responses a prompt, dynamic sampling
    "dapo": {
        "loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28, "beta": 0.0,
        "num_generations": 16, "max_resample_times": 3,
    },
    # Dr. GRPO, app. G: 8 responses a question, no KL, no std
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0, "num_generations": 8},
    # GSPO, sec. 5.1: clip 3e-4 / 4e-4, a rollout batch in four minibatches
    "gspo": {
        "loss_type": "gspo", "epsilon": 3e-4, "epsilon_high": 4e-4, "beta": 0.0,
        "num_minibatches": 4,
    },
    # MiniMax-M1, sec. 3.1: no KL, no lower bound; ScaleRL's upper one is the option's own default
    "cispo": {"loss_type": "cispo", "beta": 0.0},
    # TRL's RLOOConfig
    "rloo": {
        "loss_type": "dr_grpo", "advantage_estimator": "rloo", "kl_estimator": "k1",
        "kl_in_reward": True, "beta": 0.05, "num_generations": 2,
    },
}  # fmt: skip


def test_every_file_is_here_and_says_where_its_values_are_from() -> None:
    assert {*RECIPES, *STAGES} == {path.stem for path in CONF.glob("*.yaml")}
    for name in RECIPES:
        assert "arXiv" in (CONF / f"{name}.yaml").read_text().split("defaults:")[0]


@pytest.mark.slow  # many configs are composed
@every_case("name", RECIPES)
def test_a_recipe_has_these_values_and_the_defaults(name: str) -> None:
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        cfg = compose("config", overrides=[f"stage={name}"])
    assert isinstance(check(cfg)[1]["stage"], GrpoConfig)
    plain = OmegaConf.to_container(OmegaConf.structured(GrpoConfig))
    assert OmegaConf.to_container(cfg.stage) == plain | RECIPES[name]
    written = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    assert {key for key in written if key != "defaults"} == {*RECIPES[name]}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_and_logs_under_trls_names(runner, name: str) -> None:
    recipe = [f"stage={name}", *(x for x in GRPO if x != "stage=grpo")]
    if name == "gspo":
        recipe.append("stage.num_minibatches=2")  # of two prompts
    overlong = ("reward=soft_overlong", "reward.terms.soft_overlong.soft_punish_cache=4")
    row = read_jsonl(runner(*recipe, *overlong) / "metrics.jsonl")[-1]
    for metric in ("loss", "policy_loss", "reward", "reward_std", "frac_reward_zero_std"):
        assert row[metric] == row[metric]
    for term in ("accuracy", "format", "soft_overlong", "spread"):
        assert f"rewards/{term}/mean" in row
        assert f"rewards/{term}/std" in row
    assert ("cispo_clip_ratio" in row) == (name == "cispo")
    assert ("clip_ratio/low_mean" in row) == (name != "cispo")
    assert ("kl" in row) == (name == "rloo")
    assert ("num_resampled_groups" in row) == (name == "dapo")
