"""A key that no option has is refused however it came in, and the nearest real one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_conf import _hydra, composed

from omni_rlvr.assembly.composing.keys import hydras_words, known_keys
from omni_rlvr.assembly.instantiate import check
from omni_rlvr.types import UserError

__all__ = ["_hydra"]  # a fixture


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["++stage.max_stepz=1"], "stage.max_stepz: there is no such key; did you mean stage.max"),
        (["+stage.lr=1"], "stage.lr: there is no such key; did you mean optimizer.lr?"),
        (["+task.y=1"], "task.y: there is no such key; task has name, "),
        (["stage=grpo", "++stage.sampling.zz=1"], "stage.sampling.zz: .* stage.sampling has "),
        (["stage=grpo", "+stage.temperature=1"], "did you mean stage.sampling.temperature?"),
        (["++stage.beta=1"], "stage.beta: there is no such key here; stage=grpo would have it"),
        (["++task.evaluate_after.split=a"], "did you mean task.evaluate_after.splits?"),
        (["++sed=1"], "sed: there is no such key; did you mean seed?"),
        (["+zz.a.b=1"], "zz: there is no such key; the config has "),
        (["++modality.vido=true"], "did you mean modality.video?"),
        (["++paths.out_root=x"], "did you mean paths.output_root?"),
        (["++feature_cache.max=1"], "did you mean feature_cache.max_gb?"),
        (["+callbacks.mine.a=1"], "callbacks.mine={'a': 1} does not say what is to be built"),
        (["+logger.mine=1"], "logger.mine=1 does not say what is to be built"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_refused_and_the_nearest_named(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(composed(*overrides))


def test_an_option_of_ones_own_needs_a_schema(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "bare.yaml").write_text("max_steps: 1\n")
    path = f"hydra.searchpath=[file://{tmp_path}]"
    with pytest.raises(UserError, match=r"stage: .* 'defaults: \[NAME\]', .* one of sft, grpo"):
        check(composed(path, "stage=bare"))


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("Could not override 'stage.max_stepz'. To append to your config use +stage.max_stepz=1",
         "stage.max_stepz: there is no such key; did you mean stage.max_steps?"),
        ("Could not override 'max_steps'. To append to your config use +max_steps=1",
         "max_steps: there is no such key; did you mean stage.max_steps?"),
        ("Could not override 'stage'. To append to your config use +stage={a: 1}",
         "stage: the value that is given holds a key that stage does not have"),
        ("In 'experiment/x': ConfigKeyError raised while composing config: Key 'seeed' not in "
         "'RootConfig' full_key: seeed object_type=RootConfig",
         "In 'experiment/x': seeed: there is no such key; did you mean seed?"),
    ],
)  # fmt: skip
def test_what_hydra_says_of_an_unknown_key_is_reworded(said: str, ours: str) -> None:
    assert hydras_words(said) == ours


def test_advice_that_works_stays() -> None:
    said = "Could not override 'reward.weights.a'. To append to your config use +reward.weights.a=1"
    assert hydras_words(said) == said


def test_every_key_of_the_schemas_is_known_once_its_option_is_chosen() -> None:
    assert {"stage.sampling.top_p", "task.start_from.num_examples", "seed"} <= {*known_keys()}
