"""The tables of tasks and stages: each row leads to a file that holds what the table says."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import fields

import pytest
from every_case import every_case

from omni_rlvr.config.stage import GrpoConfig, SftConfig
from omni_rlvr.stages.table import STAGES, name_of
from omni_rlvr.tasks.table import TASKS, row_of


@every_case("name", TASKS)
def test_a_tasks_file_builds_and_runs_it(name: str) -> None:
    row = TASKS[name]
    assert {field.name: field.default for field in fields(row.config)}["name"] == name
    module = row.load()
    assert [*inspect.signature(module.build).parameters] == ["composed"]
    made = inspect.signature(module.build).return_annotation.split(" | ")
    (taken,) = inspect.signature(module.run).parameters.values()
    assert made == [taken.annotation, *(["Launch"] if row.several_devices else [])]


@pytest.mark.parametrize("name", STAGES)
def test_a_stages_file_builds_it(name: str) -> None:
    build = importlib.import_module(STAGES[name].module).build
    assert [*inspect.signature(build).parameters] == ["config", "given"]
    assert name_of(STAGES[name].config()) == name


def test_a_row_is_found_by_its_dataclass() -> None:
    assert row_of(TASKS["cache"].config()) is TASKS["cache"]


def test_a_stage_says_what_it_is_built_with() -> None:
    assert not SftConfig().samples
    assert not SftConfig().needs_reference
    assert GrpoConfig().samples
    assert GrpoConfig().needs_reference
    assert not GrpoConfig(beta=0.0).needs_reference
