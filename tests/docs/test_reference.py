"""The reference says something of all that can be set: groups, options, tasks, stages, fields."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import reference
from reference import fields_of, groups, header, option_files, pages

from omni_rlvr.assembly.composing.register import schemas
from omni_rlvr.config import loading, root
from omni_rlvr.stages.table import STAGES
from omni_rlvr.tasks.table import TASKS, register


def dataclasses_of_configs() -> Iterator[type]:
    """Every dataclass that holds options, with what it inherits and what its fields hold."""
    register()
    wanted, seen = [root.RootConfig, loading.LoadOptions, *(node for *_, node in schemas())], set()
    while wanted:
        node = wanted.pop()
        if node not in seen and dataclasses.is_dataclass(node):
            seen.add(node)
            yield node
            wanted += [*node.__mro__, *(f.nested for f in fields_of(node) if f.nested)]


@pytest.mark.parametrize("node", [*dataclasses_of_configs()], ids=lambda node: node.__name__)
def test_every_field_has_a_text(node: type) -> None:
    own = [f for f in fields_of(node) if not (f.name == "name" and node.__name__.endswith("Task"))]
    assert node.__doc__
    assert [f.name for f in own if not f.text] == []


def test_every_option_answers_a_question() -> None:
    there = {path.name for path in reference.CONF.iterdir() if path.is_dir()}
    assert {*groups()} == there - {"__pycache__"}
    files = [path for group in groups() for path in option_files(group)]
    assert len(files) > 90
    assert [path for path in files if not header(path)[0].get("Question", "").strip()] == []


def test_pages_show_every_option_task_stage_and_field() -> None:
    made = pages()
    text = "\n".join(made.values())
    for group in groups():
        for path in option_files(group):
            assert f'"conf/{path.relative_to(reference.CONF).as_posix()}"' in text
    for name in TASKS:
        assert f"`task={name}`" in made["reference/config/task.md"]
    for row in STAGES.values():
        assert f"{{#{row.config.__name__}}}" in made["reference/config/stage.md"]
    shown = {*re.findall(r"^#### `([\w.]+)`", text, flags=re.MULTILINE)}
    named = {f.name for node in dataclasses_of_configs() for f in fields_of(node)}
    assert named - {key.split(".")[-1] for key in shown} - {*groups()} == set()
    wanted = {"stage.beta", "stage.sampling.temperature", "model.trainable.lora.r", "resume",
              "feature_cache.max_gb", "dataset.fold", "model.options.quantize"}  # fmt: skip
    assert wanted <= shown


@dataclass
class Below:
    """What is below."""

    depth: float = 0.5


@dataclass
class Shown:
    """A config."""

    first: int = 1
    """The first
    one."""
    second: list[str] = field(default_factory=lambda: ["a"])
    below: Below = field(default_factory=Below)
    must: str = "???"


def test_fields_are_read_with_type_default_and_literal() -> None:
    found = [dataclasses.astuple(f)[:4] for f in fields_of(Shown)]
    assert found == [
        ("first", "int", "1", "The first one."),
        ("second", "list[str]", "[a]", ""),
        ("below", "Below", "{depth: 0.5}", "What is below."),
        ("must", "str", "", ""),
    ]
    assert fields_of(Shown)[2].nested is Below


def test_comments_become_markdown_that_shows_them_as_they_are() -> None:
    assert reference.markdown("a_b * <think> in ``x_y`` or `z`") == (
        r"a\_b \* &lt;think&gt; in `x_y` or `z`"
    )
