"""Every option and experiment composes and is checked; a mistake fails by name, early."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
from every_case import every_case
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omni_rlvr.assembly.composing.register import BASES, schemas
from omni_rlvr.assembly.instantiate import check
from omni_rlvr.cli import conf_dir
from omni_rlvr.tasks.table import register
from omni_rlvr.types import UserError

register()  # once: it takes longer than most tests here

CONF = Path(__file__).parents[2] / "conf"
TASKS = (
    "train", "evaluate", "attribute", "cache", "predict", "preview", "check", "pipeline", "export",
    "report", "serve", "prepare", "plan",
)  # fmt: skip
READ_CLIPS = ("train", "evaluate", "attribute", "cache", "predict", "preview", "check", "serve")
USED_BY = {
    "dataset": (*READ_CLIPS, "prepare"),
    "modality": (*READ_CLIPS, "plan"),
    "model": ("train", "evaluate", "attribute", "cache", "predict", "export", "serve", "plan"),
    "model/trainable": ("train", "plan"),
    "model/options": (
        "train",
        "evaluate",
        "attribute",
        "cache",
        "predict",
        "export",
        "serve",
        "plan",
    ),
    "stage": ("train", "plan"),
    "rollout": ("train", "evaluate", "attribute", "predict", "serve", "plan"),
    "reward": ("train", "attribute"),
    "lexicon": ("attribute", "serve"),
    "optimizer": ("train", "plan"),
    "trainer": ("train", "evaluate", "predict", "serve", "plan"),
    "logger": ("train",),
    "callbacks": ("train",),
    "paths": TASKS,
}
"""Which tasks read a group; a new group must be entered here."""
NOT_A_PART = {"task", "hydra", "experiment", "debug", "sweep", "hardware"}
NEEDED = {
    "preview": ["task.split=test"],
    "export": ["task.to=merged"],
    "report": ["runs=outputs"],
    "pipeline": ["+task.stages.a=[x]", "task.splits=[test]", "+task.evaluate.a=[]"],
    **{path.stem: ["dataset.root=clips"] for path in (CONF / "dataset").glob("*.yaml")},
    **{
        name: ["dataset.root=clips", "dataset.annotations.train=a.json"]
        for name in ("r1_omni", "ms_swift", "messages", "questions")
    },
    "soft_overlong": ["stage=grpo"],
    "cosine_length": ["stage=grpo"],
}
"""What an option cannot do without."""
EXPERIMENTS = sorted(
    path.relative_to(CONF / "experiment").with_suffix("").as_posix()
    for path in (CONF / "experiment").rglob("*.yaml")
)


def own_data(experiment: str) -> list[str]:
    """What an experiment on clips of one's own cannot do without."""
    if not experiment.startswith(("r1_omni", "qwen2_5_omni")):
        return []
    if experiment == "qwen2_5_omni/cold_start":  # EMER's own layout
        return ["dataset.root=clips"]
    splits = ("train", "test", "cold_start", "sft_labels", "rlvr")
    whole = experiment == "r1_omni/as_published"
    named = [s for s in splits if whole or s in ("train", "test")]
    return ["dataset.root=clips", *(f"dataset.annotations.{s}={s}.json" for s in named)]


def options(group: str) -> list[str]:
    """All options of a group: ``conf/`` has a file for each."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        yield


SET = (OverrideType.CHANGE, OverrideType.ADD, OverrideType.FORCE_ADD)
"""Overrides that set a value; a deletion is Hydra's own."""


def composed(*overrides: str) -> DictConfig:
    """Composes a config.

    What is chosen is composed once for all tests, since that takes a sixth of a second; values are
    set on a copy, as Hydra sets them. Hydra itself says what is wrong with a value.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [o for o in parsed if o.type in SET and _is_ours(o.key_or_group)]
    cfg = copy.deepcopy(_chosen(*(str(o.input_line) for o in parsed if o not in values)))
    try:
        for override in values:
            key, value, is_new = override.key_or_group, override.value(), override.type in SET[1:]
            if override.is_add() and OmegaConf.select(cfg, key) is not None:
                return compose("config", overrides=list(overrides))
            OmegaConf.update(cfg, key, value, merge=True, force_add=is_new)
    except OmegaConfBaseException:
        return compose("config", overrides=list(overrides))
    return cfg


def _is_ours(key: str) -> bool:
    return "." in key and not key.startswith("hydra.")


@functools.cache
def _chosen(*overrides: str) -> DictConfig:
    return compose("config", overrides=list(overrides))


@pytest.fixture
def cold_start(tmp_path: Path) -> str:
    """An output root with a run of cold_start and rlvr to go on from."""
    for stage in ("cold_start", "rlvr"):
        own = (f"r1_omni/{stage}", f"r1_omni/as_published/{stage}", f"qwen2_5_omni/{stage}")
        for name in (stage, *own):
            (tmp_path / name / "run" / "checkpoint").mkdir(parents=True)
            (tmp_path / name / "latest").symlink_to("run")
    return f"paths.output_root={tmp_path}"


def test_every_group_is_known() -> None:
    folders = (path.relative_to(CONF).as_posix() for path in CONF.rglob("*") if path.is_dir())
    groups = {g for g in folders if not g.startswith(("hydra/", "experiment/"))}
    assert groups - NOT_A_PART == set(USED_BY)


def test_every_option_that_is_a_dataclass_has_a_file_that_says_what_it_answers() -> None:
    for group, option, schema in schemas():
        if option not in BASES:
            header, _, body = (CONF / group / f"{option}.yaml").read_text().partition("defaults:")
            assert header.startswith("# Question:"), (group, option)
            assert schema.__name__ in header
            assert f"/{schema.__name__}@_here_" in body


@pytest.mark.slow  # many configs are composed
@every_case(("group", "option", "schema"), [row for row in schemas() if row[1] not in BASES])
def test_a_file_of_a_schema_composes_to_its_defaults(group: str, option: str, schema: type) -> None:
    part = OmegaConf.select(composed(f"{group}={option}"), group.replace("/", "."))
    assert OmegaConf.get_type(part) is schema
    assert OmegaConf.to_container(part) == OmegaConf.to_container(OmegaConf.structured(schema))


def test_a_data_sets_own_file_may_begin_with_a_schema_by_its_short_name(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    for base in BASES:
        text = (
            f"defaults: [{base}, _self_]\nname: mine\ntrain_split: train\nwords: a\nroot: clips\n"
        )
        text = text if base == "official" else text.replace("words: a\n", "")
        (tmp_path / "dataset" / f"of_{base}.yaml").write_text(text)
        cfg = composed(f"hydra.searchpath=[file://{tmp_path}]", f"dataset=of_{base}")
        assert cfg.dataset.name == "mine"
        assert cfg.dataset.on_bad_media == "raise"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "choice"),
    [
        (task, f"{group}={option}")
        for group, tasks in USED_BY.items()
        for option in options(group)
        for task in tasks
    ],
)
def test_every_option_composes_with_every_task_that_uses_it(task: str, choice: str) -> None:
    option = choice.partition("=")[2]
    cfg = composed(f"task={task}", choice, *NEEDED.get(task, []), *NEEDED.get(option, []))
    config, typed = check(cfg)
    assert config["task"]["name"] == typed["task"].name == task


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_is_checked(name: str, cold_start: str) -> None:
    config, _ = check(composed(f"+experiment={name}", cold_start, *own_data(name)))
    assert config["name"] == name  # outputs/<experiment>/


@every_case("name", EXPERIMENTS)
def test_an_experiment_says_what_it_asks(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert lines[0] == "# @package _global_"
    for word in ("Question:", "Command:", "Time:"):
        assert word in header
    assert f"omni-rlvr +experiment={name}" in header


def test_debug_shortens_any_training(cold_start: str) -> None:
    for option in options("debug"):
        for name in ("cold_start", "rlvr", "sft_labels"):
            _, typed = check(composed(f"+experiment={name}", f"+debug={option}", cold_start))
            assert typed["stage"].max_steps <= 5


WRONG = {
    "stage.betta=1": "betta",
    "model.trainable.gait=true": "gait",
    "model.trainable.bert=maybe": "bert",
    "model.trainable.lora.rank=8": "rank",
    "model/trainable=lore": "lore",
    "stage.beta.x=1": "beta",
    "sedd=1": "sedd",
    "dataset.num_worker=1": "num_worker",
    "modality.sound=true": "sound",
    "task.splits=[test]": "splits",
    "seed=abc": "seed",
    "seed=1.5": "seed",
    "stage.beta=much": "beta",
    "stage.num_generations=1.5": "num_generations",
    "stage.sampling.top_k=half": "top_k",
    "dataset.num_workers=many": "num_workers",
    "modality.video=maybe": "video",
    "modality=smell": "modality",
    "stage=ppo": "stage",
    "dataset=nothing": "dataset",
    "+experiment=nothing": "experiment",
}
"""Override -> what the message must name."""


@pytest.mark.slow
@pytest.mark.parametrize("override", WRONG)
def test_a_typo_or_a_wrong_type_fails_while_composing(override: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as error:
        composed("stage=grpo", override)
    assert WRONG[override] in str(error.value)


def refused(*overrides: str) -> str:
    """The error of a config that composes and is then refused."""
    with pytest.raises(UserError) as error:
        check(composed(*overrides))
    return str(error.value)


@every_case(
    ("override", "key", "argument"),
    [
        ("+optimizer.learning_rate=0.1", "optimizer", "learning_rate"),
        ("+model.pth=x", "model", "pth"),
        ("+reward.weight.format=1", "reward", "weight"),
        ("+reward.terms.accuracy.synonym.a=b", "reward.terms.accuracy", "synonym"),
        ("+trainer.clip=1", "trainer", "clip"),
        ("+callbacks.progress.name=x", "callbacks.progress", "name"),
        ("+dataset.splits.test.number=1", "dataset.splits.test", "number"),
        ("~model.dtype", "model", "dtype"),
        ("~reward.weights", "reward", "weights"),
    ],
)
def test_arguments_are_bound_to_the_signature_of_their_target(
    override: str, key: str, argument: str
) -> None:
    message = refused(override)
    assert message.startswith(f"{key}: ")
    assert f"'{argument}'" in message


@every_case(
    ("target", "message"),
    [
        ("torch.optim.AdamV", "cannot be imported"),
        ("nowhere.Adam", "cannot be imported"),
        ("Adam", "cannot be imported"),
        ("torch.pi", "not callable"),
    ],
)
def test_a_target_that_does_not_exist_is_named(target: str, message: str) -> None:
    error = refused(f"optimizer._target_={target}")
    assert error.startswith(f"optimizer._target_={target}")
    assert message in error


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.trainable.lora.r=8"],
            "lora.r does nothing without LoRA; add model/trainable=lora",
        ),
        (["model/trainable=lora", "model.trainable.lora.r=0"], "lora.r=0 is out of range"),
    ],
)
def test_lora_settings_are_checked_before_anything_is_loaded(
    overrides: list[str], message: str
) -> None:
    assert message in refused(*overrides)


def test_lora_leaves_the_language_model_as_it_is_unless_asked() -> None:
    def trained(*overrides: str) -> tuple[bool, bool]:
        block = check(composed(*overrides))[1]["trainable"]
        return block.language_model, block.lora.enabled

    assert trained() == (True, False)
    assert trained("model/trainable=lora") == (False, True)
    assert trained("model/trainable=lora", "model.trainable.language_model=true") == (True, True)


@pytest.mark.slow  # many configs are composed
@every_case("option", options("model"))
def test_every_model_has_the_keys_that_are_not_its_loaders(option: str) -> None:
    model = composed(f"model={option}").model
    assert "base" in model
    assert "trainable" in model
