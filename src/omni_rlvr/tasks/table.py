"""The table of tasks: the name of each, the dataclass of its options and its module.

The module of a task is imported only when the task is chosen, so that ``--help`` and a mistyped
option are answered without importing torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from omni_rlvr.assembly.composing import register as composing
from omni_rlvr.config import tasks


@dataclass(frozen=True)
class TaskRow:
    """The options and the module of a task."""

    config: type
    """The dataclass of its options."""
    module: str
    """A module with ``build(composed) -> inputs``, which checks and loads, and ``run(inputs)``."""
    several_devices: bool = False
    """Whether it can run on several devices; its ``build`` then returns a ``Launch`` first."""
    own_keys: Sequence[str] = ()
    """Keys at the root of the config that no other task takes."""

    def load(self) -> ModuleType:
        """Import the module."""
        return importlib.import_module(self.module)


TASKS = {
    "train": TaskRow(tasks.TrainTask, "omni_rlvr.tasks.train", True, own_keys=("resume",)),
    "evaluate": TaskRow(tasks.EvaluateTask, "omni_rlvr.tasks.evaluate", True),
    "attribute": TaskRow(tasks.AttributeTask, "omni_rlvr.tasks.attribute.task", True),
    "cache": TaskRow(tasks.CacheTask, "omni_rlvr.tasks.cache", True),
    "predict": TaskRow(tasks.PredictTask, "omni_rlvr.tasks.predict", True, ("video", "audio")),
    "plan": TaskRow(tasks.PlanTask, "omni_rlvr.tasks.plan.task"),
    "prepare": TaskRow(tasks.PrepareTask, "omni_rlvr.tasks.dataset.prepare"),
    "preview": TaskRow(tasks.PreviewTask, "omni_rlvr.tasks.dataset.preview"),
    "check": TaskRow(tasks.CheckTask, "omni_rlvr.tasks.dataset.check"),
    "pipeline": TaskRow(tasks.PipelineTask, "omni_rlvr.tasks.pipeline"),
    "export": TaskRow(tasks.ExportTask, "omni_rlvr.tasks.export"),
    "report": TaskRow(tasks.ReportTask, "omni_rlvr.tasks.report.write", own_keys=("runs", "html")),
    "serve": TaskRow(tasks.ServeTask, "omni_rlvr.tasks.serve.serve"),
}


def row_of(task: object) -> TaskRow:
    """Find the row of a task's dataclass."""
    return next(row for row in TASKS.values() if row.config is type(task))


def register() -> None:
    """Make the schemas of all tasks and stages, and the resolvers, known to Hydra."""
    own_keys = {key: name for name, row in TASKS.items() for key in row.own_keys}
    composing.register({name: row.config for name, row in TASKS.items()}, own_keys)
