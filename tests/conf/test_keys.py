"""A key that no option has is refused however it came in, and the nearest real one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from every_case import every_case
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from test_conf import _hydra, composed

from omni_rlvr.assembly.composing.keys import example, known_keys
from omni_rlvr.assembly.composing.suggestions import reworded_message
from omni_rlvr.assembly.instantiate import check
from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow  # many configs are composed

__all__ = ["_hydra"]  # a fixture


@every_case(
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


@every_case(
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
    assert reworded_message(said) == ours


def told(*overrides: str) -> str:
    """What is said of overrides that Hydra refuses."""
    with pytest.raises((HydraException, OmegaConfBaseException)) as error:
        composed(*overrides)
    return reworded_message(" ".join(str(error.value).split()), overrides)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stage=grpo", "stage.bta=1"],
         "stage.bta: there is no such key; did you mean stage.beta?"),
        (["stge.beta=1"], "stge.beta: there is no such key; did you mean stage.beta?"),
        (["stage=grpo", "~stage.bta"], "stage.bta: there is no such key; did you mean stage.beta?"),
        (["stage=grpo", "~stage.beta"],
         "~stage.beta: stage.beta cannot be deleted; give it a value: stage.beta=VALUE"),
        (["model.trainable.lra.r=4"],
         "model.trainable.lra.r: there is no such key; did you mean model.trainable.lora.r?"),
        (["model.options.wordng=x"],
         "model.options.wordng: there is no such key; did you mean model.options.wording?"),
        (["trainer.devces=2"],
         "trainer.devces: there is no such key; did you mean trainer.devices?"),
        (["trainer.zz=2"], "trainer.zz: trainer has no such key; add one with +trainer.zz=2"),
        (["dataset.splits.test.num_clip=1"], "dataset.splits.test.num_clip: there is no such key; "
         "did you mean dataset.splits.test.num_clips?"),
        (["dataset.splits.mine.root=a"], "dataset.splits.mine: dataset.splits has no such entry; "
         "add one with +dataset.splits.mine.root=a"),
        (["dataset.splits.tst.num_clips=1"],
         "dataset.splits.tst: dataset.splits has no such entry; "
         "did you mean dataset.splits.test.num_clips? Or add one with "
         "+dataset.splits.tst.num_clips=1"),
        (["task=pipeline", "task.stages.x=[a]"],
         "task.stages.x: task.stages has no such entry; add one with +task.stages.x=[a]"),
        (["reward.terms.acuracy.synonyms={a: b}"], "reward.terms.acuracy: reward.terms has no such "
         "entry; did you mean reward.terms.accuracy.synonyms? Or add one with "
         "+reward.terms.acuracy.synonyms={a: b}"),
        (["stage=grop"], "stage=grop: there is no such option; did you mean grpo?"),
        (["stage=zz"], "stage=zz: there is no such option; stage has cispo, dapo, dr_grpo, grpo, "
         "gspo, rloo, sft"),
        (["model/trainable=loraa"],
         "model/trainable=loraa: there is no such option; did you mean lora?"),
        (["logger=[csv,tensorbord]"],
         "logger=tensorbord: there is no such option; did you mean tensorboard?"),
        (["+experiment=rlvv"], "+experiment=rlvv: there is no such option; did you mean rlvr?"),
        (["+experiment=r1_omni/cold_strt"], "+experiment=r1_omni/cold_strt: there is no such "
         "option; did you mean r1_omni/cold_start?"),
        (["experiment=rlvr"],
         "experiment=rlvr: settings of this kind are added: +experiment=rlvr"),
        (["model/trainble=lora"],
         "model/trainble: there is no such group; did you mean model/trainable=...?"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_nearest_key_option_or_entry(overrides: list[str], said: str) -> None:
    assert told(*overrides) == said


@every_case(
    ("text", "said"),
    [
        ("stage: {bta: 1}", "In 'experiment/mine': stage.bta: there is no such key; did you mean "
         "stage.beta?"),
        ("stage: {sampling: {tmperature: 1}}", "In 'experiment/mine': stage.sampling.tmperature: "
         "there is no such key; did you mean stage.sampling.temperature?"),
        ("stge: {beta: 1}",
         "In 'experiment/mine': stge: there is no such key; did you mean stage?"),
        ("stage: {beta: much}", "In 'experiment/mine': stage.beta: Value 'much' of type 'str' "
         "could not be converted to Float"),
    ],
)  # fmt: skip
def test_an_unknown_key_in_an_experiment_of_ones_own(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "experiment").mkdir()
    header = "# @package _global_\ndefaults: [{override /stage: grpo}, _self_]\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(header + text)
    assert told(f"hydra.searchpath=[file://{tmp_path}]", "+experiment=mine") == said


@every_case(
    ("key", "said"),
    [
        ("task.to", "task.to=DIR"),
        ("dataset.root", "dataset.root=DIR"),
        ("dataset.annotations.train", "dataset.annotations.train=FILE"),
        ("task.split", "task.split=NAME"),
        ("task.splits", "task.splits=[NAME]"),
        ("stage.num_generations", "stage.num_generations=1"),
        ("modality.video", "modality.video=true"),
        ("mine.key", "mine.key=VALUE"),
    ],
)
def test_a_key_that_must_be_given_has_an_example(key: str, said: str) -> None:
    assert example(key) == said


def test_every_key_of_the_schemas_is_known_once_its_option_is_chosen() -> None:
    assert {"stage.sampling.top_p", "task.start_from.num_examples", "seed"} <= {*known_keys()}
