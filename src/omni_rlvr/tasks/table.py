"""The tasks: one row each, name -> what a person tunes of it and the file that does it.

A task's file is imported once the task is chosen, so that ``--help`` and a typo answer without
torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType

from omni_rlvr.assembly.composing import register as composing
from omni_rlvr.config import tasks


@dataclass(frozen=True)
class TaskRow:
    """A task's place in the source."""

    config: type
    """Its Hydra schema."""
    module: str
    """Holds ``build(composed) -> inputs``, which checks, reads and loads, and ``run(inputs)``."""
    several_devices: bool = False
    """Whether it runs on several devices; its build returns a ``Launch`` where they are to come."""

    def load(self) -> ModuleType:
        """Import the task's file."""
        return importlib.import_module(self.module)


TASKS = {
    "train": TaskRow(tasks.TrainTask, "omni_rlvr.tasks.train", several_devices=True),
    "evaluate": TaskRow(tasks.EvaluateTask, "omni_rlvr.tasks.evaluate", several_devices=True),
    "attribute": TaskRow(tasks.AttributeTask, "omni_rlvr.tasks.attribute.task"),
    "cache": TaskRow(tasks.CacheTask, "omni_rlvr.tasks.cache"),
    "predict": TaskRow(tasks.PredictTask, "omni_rlvr.tasks.predict"),
    "prepare": TaskRow(tasks.PrepareTask, "omni_rlvr.tasks.dataset.prepare"),
    "preview": TaskRow(tasks.PreviewTask, "omni_rlvr.tasks.dataset.preview"),
    "check": TaskRow(tasks.CheckTask, "omni_rlvr.tasks.dataset.check"),
    "pipeline": TaskRow(tasks.PipelineTask, "omni_rlvr.tasks.pipeline"),
    "export": TaskRow(tasks.ExportTask, "omni_rlvr.tasks.export"),
    "report": TaskRow(tasks.ReportTask, "omni_rlvr.tasks.report.write"),
    "serve": TaskRow(tasks.ServeTask, "omni_rlvr.tasks.serve.serve"),
}


def row_of(task: object) -> TaskRow:
    """Find the row of a task's dataclass."""
    return next(row for row in TASKS.values() if row.config is type(task))


def register() -> None:
    """Make the schemas of all tasks and stages, and the resolvers, known to Hydra."""
    composing.register({name: row.config for name, row in TASKS.items()})
