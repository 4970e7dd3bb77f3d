"""Names that become folders are checked before anything is written."""

from __future__ import annotations

import pytest
from every_case import every_case
from test_conf import _hydra, composed

from omni_rlvr.assembly.composing.names import RESERVED, check_name, check_run_name
from omni_rlvr.assembly.instantiate import check
from omni_rlvr.types import UserError

__all__ = ["_hydra"]  # a fixture
READER = "{_target_: omni_rlvr.data.readers.annotated.AnnotationReader, _partial_: true}"


@every_case(
    ("name", "wrong"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (".", "begins with a dot"),
        ("..", "begins with a dot"),
        (".hydra", "begins with a dot"),
        ("val/a", "holds a slash"),
        ("../esc", "begins with a dot"),
        ("a\\b", "holds a slash"),
        ("/etc", "holds a slash"),
        (" a", "has a space at an end"),
        ("a\0b", "holds a control character"),
        ("a\nb", "holds a control character"),
        ("a" * 101, "is longer than 100 bytes"),
        ("ü" * 51, "is longer than 100 bytes"),
    ],
)
def test_what_cannot_be_a_folder_is_refused(name: str, wrong: str) -> None:
    with pytest.raises(UserError, match=rf"^dataset\.splits: the name .* {wrong}"):
        check_name(name, "dataset.splits")


@every_case("name", ["test", "val-1", "测试", "ü" * 50, "a b", "x.y", "a=b", "100%"])
def test_what_can_be_one_is_not(name: str) -> None:
    check_name(name, "dataset.splits")


def test_an_experiments_name_may_be_folders_in_folders() -> None:
    check_run_name("r1_omni/as_published/rlvr")
    for name in ("../esc", "/abs", "a//b", "a/", "a/../b", ""):
        with pytest.raises(UserError, match=f"^name: the name '{name}' "):
            check_run_name(name)


@pytest.mark.slow  # many configs are composed
@every_case(
    ("overrides", "key"),
    [
        (["name=../esc"], "name: "),
        (["dataset.name=a/b"], "dataset.name: "),
        *(([f"+dataset.splits={{{n}: {READER}}}"], "dataset.splits: ") for n in ("val/a", "Run")),
        ([f"+dataset.splits={{Test: {READER}}}"], "dataset.splits: 'test' and 'Test' are one"),
        (['+reward.terms={a/b: {_target_: omni_rlvr.rewards.format.Format}}'], "reward.terms: "),
        (["task=pipeline", '+task.stages={checkpoint: [a]}', "+task.evaluate.a=[]",
          "task.splits=[test]"], "task.stages: a run writes a file or folder 'checkpoint'"),
        (["task=pipeline", "+task.stages.a=[a]", '+task.evaluate={../m: []}',
          "task.splits=[test]"], "task.evaluate: "),
    ],
)  # fmt: skip
def test_every_kind_of_name_is_checked(overrides: list[str], key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}"):
        check(composed(*overrides))


def test_the_names_that_a_run_writes_are_reserved() -> None:
    assert {"checkpoint", "metrics", "tensorboard", "predictions"} <= set(RESERVED)
