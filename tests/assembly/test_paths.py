"""Options that are paths expand ``~`` and variables; where caches and annotations are found."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from every_case import every_case
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from omni_rlvr.assembly.composing.paths import PATHS, is_path, settle_paths
from omni_rlvr.assembly.instantiate import OFFERED, check
from omni_rlvr.assembly.splits import read_split
from omni_rlvr.cli import conf_dir
from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.tasks.table import register
from omni_rlvr.types import Example, UserError

GROUPS = (
    ("task=export",),
    ("task=serve",),
    ("task=predict",),
    ("task=report",),
    ("model=compose",),
    ("model=humanomni_0_5b", "dataset=r1_omni"),
    ("dataset=dfew", "logger=[tensorboard,csv,wandb,mlflow,trackio]"),
)
NO_PATH = {
    "dataset.label_base",
    "dataset.splits.*.labels.base",
    "model.options.use_audio_in_video",
    "model.trainable.language_model",
}


@functools.cache
def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def fresh(*overrides: str) -> DictConfig:
    return copy.deepcopy(composed(*overrides))


def leaves(node: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {above: node}
    found = [leaves(below, f"{above}.{key}" if above else key) for key, below in node.items()]
    return {key: value for part in found for key, value in part.items()}


@pytest.mark.slow  # many configs are composed
@every_case("overrides", GROUPS, ids=" ".join)
def test_every_option_that_is_named_like_a_path_is_one(overrides: tuple[str, ...]) -> None:
    plain = leaves(OmegaConf.to_container(fresh(*overrides), resolve=False))
    named = re.compile(
        r"(^|\.|_)(path|root|folder|dir|base|vocab|file|tower|language_model|location|compare|to|"
        r"resume|runs|video|audio)$"
    )
    keys = {re.sub(r"(splits\.)\w+", r"\1*", k) for k, v in plain.items() if named.search(k)
            and (v is None or isinstance(v, str))}  # fmt: skip
    assert {key for key in keys if not is_path(key)} <= NO_PATH


def test_every_path_of_the_list_expands(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/disk")
    for pattern in PATHS:
        key = pattern.replace("*", "x")
        for given, wanted in (("~/a", "/home/me/a"), ("$DATA/a", "/disk/a"), ("~", "/home/me")):
            cfg = OmegaConf.create({"task": {"name": "check"}})
            OmegaConf.update(cfg, key, given, force_add=True)
            settle_paths(cfg)
            assert OmegaConf.select(cfg, key) == wanted, key


def test_what_refers_to_a_path_follows_it(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cfg = fresh("dataset=dfew", "dataset.root=nowhere")
    cfg.dataset.root, cfg.paths.data_root, cfg.paths.output_root = "~/dfew", "$HOME/data", "~/runs"
    config, typed = check(cfg)
    assert config["dataset"]["splits"]["train"]["root"] == "/home/me/dfew"
    assert typed["dataset"].root == "/home/me/dfew"
    assert typed["feature_cache"].folder == "/home/me/data/features"
    assert config["paths"]["output_root"] == "/home/me/runs"


def test_the_folder_of_a_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("~/runs", "$HOME/runs"):
        root = OmegaConf.create({"root": given, "folder": "${run_dir:${.root},x,null}"})
        assert root.folder.startswith(f"{tmp_path}/runs/x/")


def test_lists_of_runs(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for given, wanted in (
        ("~/a,~/b", "/home/me/a,/home/me/b"),
        (["~/a", "$HOME/b", "c"], ["/home/me/a", "/home/me/b", "c"]),
    ):
        cfg = OmegaConf.create({"task": {"name": "report"}, "runs": given})
        settle_paths(cfg)
        assert OmegaConf.to_container(cfg)["runs"] == wanted


def test_hub_ids_and_addresses_stay(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for given in ("org/name", "sqlite:///a//b.db", "a//b", "x/", "???", "", "a~b", "s3://a/b"):
        cfg = OmegaConf.create({"task": {"name": "check"}, "model": {"path": given}})
        settle_paths(cfg)
        assert OmegaConf.to_container(cfg)["model"]["path"] == given


def test_a_folder_in_another_unicode_form(tmp_path: Path, monkeypatch) -> None:
    there, asked = (normalize(form, "données") for form in ("NFD", "NFC"))
    (tmp_path / there).mkdir()
    cfg = OmegaConf.create({"task": {"name": "check"}, "dataset": {"root": f"{tmp_path}/{asked}"}})
    settle_paths(cfg)
    assert cfg.dataset.root == str(tmp_path / there)


def test_the_latest_run_below_the_home_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    root = OmegaConf.create({"paths": {"output_root": "~/runs"}, "found": "${latest_if_any:x}"})
    assert root.found is None


# ---- where predictions keep features


@pytest.mark.parametrize("made", ["features", "synthetic", None])
def test_the_cache_of_a_prediction(made: str | None, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "data" / (made or "photos")).mkdir(parents=True)
    with caplog.at_level(logging.INFO):
        config, typed = check(fresh("task=predict"))
    outside = "/home/me/.cache/omni-rlvr/features"
    assert typed["feature_cache"].folder == (outside if made is None else "data/features")
    assert config["feature_cache"]["folder"] == typed["feature_cache"].folder
    assert (f"features of clips are kept in {outside}" in caplog.text) == (made is None)


@pytest.mark.slow  # many configs are composed
def test_the_cache_is_where_it_was_asked_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    for override, wanted in (
        ("seed=0", "/var/cache/me/omni-rlvr/features"),
        ("feature_cache.folder=here", "here"),
        ("paths.data_root=mine", "mine/features"),
    ):
        assert check(fresh("task=predict", override))[1]["feature_cache"].folder == wanted
    assert check(fresh("task=cache"))[1]["feature_cache"].folder == "data/features"


# ---- annotations, readers and rewards of a user's own


def annotations(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "sad"}]
    path.write_text(json.dumps([{"video": "1.mp4", "conversations": turns}]))
    return path


def read(cfg: DictConfig, split: str = "train") -> list[Example]:
    return list(read_split(check(cfg)[1]["dataset"], split))


def test_annotations_are_found_below_the_root(tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.chdir(tmp_path)
    annotations(tmp_path / "clips" / "lists" / "a.json")
    overrides = ("dataset=r1_omni", "dataset.root=clips", "dataset.annotations.train=lists/a.json")
    with caplog.at_level(logging.INFO):
        (example,) = read(fresh(*overrides))
    assert example.source == "clips/lists/a.json[0]"
    assert f"lists/a.json is not in {tmp_path}; clips/lists/a.json is read" in caplog.text
    annotations(tmp_path / "lists" / "a.json")  # the working folder comes first
    assert read(fresh(*overrides))[0].source == "lists/a.json[0]"


def test_annotations_that_are_nowhere_name_both_places(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = fresh("dataset=r1_omni", "dataset.root=clips", "dataset.annotations.train=a.json")
    with pytest.raises(UserError) as caught:
        read(cfg)
    assert str(caught.value) == (
        f"a.json: no such annotation file (looked in {tmp_path}, and below dataset.root)"
    )


OWN = """
from pathlib import Path
from omni_rlvr.types import Example

class Reader:
    def __init__(self, num=1, labels=()):
        self.num, self.labels = num, labels
    def read(self):
        return [Example(str(i), "What?", "sad", "sad", Path("1.mp4")) for i in range(self.num)]

def reward(completion, example):
    return 1.0
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch) -> str:
    """A module in the working folder, which nothing else can import; its name."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    return name


@pytest.mark.parametrize("dataset", ["r1_omni", "ms_swift", "messages"])
def test_a_reader_in_the_working_folder_beside_a_data_set(own: str, dataset: str) -> None:
    cfg = fresh(f"dataset={dataset}")
    cfg.dataset.splits.train._target_ = f"{own}.Reader"
    assert [e.answer for e in read(cfg)] == ["sad"]
    assert list(cfg.dataset.splits.train) == ["_target_", "labels"]
    with pytest.raises(UserError, match=r"^dataset\.annotations\.test must be given"):
        read(cfg, "test")


def test_a_reader_as_a_split_of_its_own(own: str) -> None:
    cfg = fresh("dataset=r1_omni")
    with open_dict(cfg):
        cfg.dataset.splits.mine = {"_target_": f"{own}.Reader", "num": 3}
    assert len(read(cfg, "mine")) == 3
    with open_dict(cfg):
        cfg.dataset.splits.mine.nun = 3
    with pytest.raises(UserError, match="unexpected keyword argument 'nun'; it takes num, labels"):
        check(cfg)


def test_the_root_is_asked_for_where_it_is_needed(own: str) -> None:
    cfg = fresh("dataset=r1_omni", "dataset.annotations.test=a.json")
    cfg.dataset.splits.train._target_ = f"{own}.Reader"
    with pytest.raises(UserError, match=r"^dataset\.root must be given"):
        check(cfg)


def test_a_reward_in_the_working_folder(own: str) -> None:
    cfg = fresh("stage=grpo")
    with open_dict(cfg):
        cfg.reward.terms.mine = {"_target_": f"{own}.reward", "_partial_": True}
        cfg.reward.weights.mine = 1
    check(cfg)
    assert sys.path[-1] == str(Path.cwd())  # searched last: it hides nothing that is installed


def test_a_reader_that_is_nowhere_is_named(own: str) -> None:
    cfg = fresh("dataset=r1_omni")
    cfg.dataset.splits.train._target_ = "nowhere.Reader"
    with pytest.raises(UserError, match=r"^dataset\.splits\.train\._target_=nowhere\.Re"):
        check(cfg)


def test_what_is_offered_to_own_readers_is_what_ours_takes() -> None:
    assert tuple(inspect.signature(AnnotationReader).parameters) == OFFERED
