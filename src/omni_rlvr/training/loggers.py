"""Loggers of a run besides metrics.jsonl: TensorBoard, CSV, Weights & Biases, MLflow, trackio.

``conf/logger`` names Lightning's loggers. ``Tracker`` and ``tracking`` add what these cannot do:
the prefix of transformers' callbacks (``train/reward``), so that dashboards made for TRL work; a
resumed run that continues its run at the service; the status that the run ended with; tables of
completions. ``MetricsCsv`` and ``TrackioLogger`` are loggers that Lightning lacks.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from omni_rlvr.folders import write_file
from omni_rlvr.record import SCORES, RunRecord, leaves, plain, read_jsonl
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.types import Interrupted, UserError

log = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, object]]
STEP = "step"


class Tracker(Logger):
    """Wrap one logger of a run and send metrics under the names that its service accepts.

    Lightning's own ``prefix`` is not used: it is joined to the name with "-", and would also stand
    before evaluations and tables.
    """

    name: str = ""
    version: str = ""

    def __init__(self, logger: Logger, prefix: str):
        """Wrap a logger.

        Args:
            logger: takes the metrics.
            prefix: stands before the name of each metric of a training step.
        """
        super().__init__()
        self.logger = logger
        self.prefix = prefix
        self.allowed: Callable[[str], str] = str
        if isinstance(logger, MLFlowLogger):
            # Lightning's logger deletes what MLflow refuses, so that two metrics could become one
            forbidden = re.compile(r"[^\w/. -]", re.ASCII)
            self.allowed = AllowedNames("mlflow", forbidden, max_length=250)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the metrics of a training step."""
        self._send({f"{self.prefix}{name}": value for name, value in metrics.items()}, step)

    def log_scores(self, scores: Mapping[str, Mapping[str, float]], step: int) -> None:
        """Send the scores of an evaluation, as TRL names those of several data sets."""
        stem = "eval/" if self.prefix else "eval_"
        sent = {f"{stem}{s}_{n}": scores[s][n] for s in scores for n in SCORES if n in scores[s]}
        self._send(sent, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``tracking`` sends the config, which Lightning does not know."""

    def finalize(self, status: str) -> None:
        """Do nothing: Lightning calls this after the last step, and the evaluation follows."""

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Send a run's resolved config to every logger but TensorBoard's."""
        if isinstance(self.logger, MLFlowLogger):
            named = {self.allowed(key.replace(".", "/")): v for key, v in leaves(config).items()}
            self.logger.log_hyperparams(named)
        elif not isinstance(self.logger, TensorBoardLogger):  # it would add a metric ``hp_metric``
            self.logger.log_hyperparams(dict(config))

    def log_table(self, rows: Rows, step: int) -> None:
        """Send completions, if the service has tables."""
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        if isinstance(self.logger, WandbLogger):
            data = [list(row) for row in zip(*columns.values(), strict=True)]
            self.logger.log_table("completions", list(columns), data, step=step)
        elif isinstance(self.logger, MLFlowLogger):
            table = {STEP: [step] * len(rows), **columns}
            self.logger.experiment.log_table(self.logger.run_id, table, "completions.json")
        elif isinstance(self.logger, TrackioLogger):
            self.logger.log_table(columns, step)

    def close(self, status: str) -> None:
        """End the run at the service with "success", "failed" or "interrupted"."""
        if isinstance(self.logger, WandbLogger):
            # Lightning leaves W&B's run open; the exit code tells W&B how it ended
            code = {"success": 0, "interrupted": 130}.get(status, 1)
            self.logger.experiment.finish(exit_code=code)
        elif isinstance(self.logger, MLFlowLogger) and status == "interrupted":
            self.logger.finalize("KILLED")  # MLflow's own word, for which Lightning has none
        else:
            self.logger.finalize(status)

    def _send(self, metrics: Mapping[str, float], step: int | None) -> None:
        named = {self.allowed(name): value for name, value in metrics.items()}
        self.logger.log_metrics(named, step)


@contextlib.contextmanager
def tracking(
    makers: Mapping[str, partial[Logger]], record: RunRecord, start: int
) -> Iterator[list[Tracker]]:
    """Open a run's loggers, send its config to them, and close them however the run ends.

    Args:
        makers: name in the config group ``logger`` -> constructor of the logger.
        record: record of the run; its run.json keeps the ids of the runs at the services.
        start: number of steps already done; above 0, the runs at the services are continued.

    Raises:
        UserError: a service refuses, or cannot be reached.
    """
    config, known = record.fields["config"], record.fields["trackers"]
    assert isinstance(config, Mapping)
    assert isinstance(known, dict)
    ids = dict(known) if start > 0 else {}
    trackers: list[Tracker] = []
    status = "failed"
    try:
        for name, make in makers.items():
            with _refused(name):
                tracker = _open(make, record.folder, ids.get(name), start)
                trackers.append(tracker)
                if name not in ids:
                    tracker.log_config(config)
                if isinstance(tracker.logger, WandbLogger | MLFlowLogger):
                    ids[name] = str(tracker.logger.version)
        if ids:
            record.update(trackers=ids)
        yield trackers
        status = "success"
    except (Interrupted, KeyboardInterrupt, SystemExit):
        status = "interrupted"
        raise
    finally:
        for tracker in trackers:
            tracker.close(status)


def _open(make: partial[Logger], folder: Path, run_id: str | None, start: int) -> Tracker:
    """Build a logger and open, or continue, its run at the service."""
    kind, options = make.func, dict(make.keywords)
    prefix = options.pop("prefix", "")
    name = run_name(folder)
    known: dict[Any, dict[str, Any]] = {
        # TensorBoard hides the steps from purge_step on, which a resumed run does again
        TensorBoardLogger: {
            "name": "",
            "version": "tensorboard",
            "purge_step": start + 1 if start > 0 else None,
        },
        WandbLogger: {"name": name, "id": run_id},
        MLFlowLogger: {"run_name": name, "run_id": run_id},
    }
    logger = kind(**{"save_dir": str(folder), **known.get(kind, {}), **options})
    tracker = Tracker(logger, prefix)
    if isinstance(logger, WandbLogger | MLFlowLogger):
        service = logger.experiment  # opens the run, so that a refusal comes before the first step
        if isinstance(logger, MLFlowLogger) and run_id is not None:
            service.update_run(run_id, status="RUNNING")
    if isinstance(logger, MetricsCsv):
        rows = read_jsonl(folder / "metrics.jsonl")
        logger.write([{k if k == STEP else f"{prefix}{k}": row[k] for k in row} for row in rows])
    return tracker


def check_installed(name: str, make: partial[Logger]) -> partial[Logger]:
    """Return the constructor of a logger, if the package that it needs is installed.

    Raises:
        UserError: the package is missing; the message says how to install it.
    """
    packages: dict[Any, str] = {
        WandbLogger: "wandb",
        MLFlowLogger: "mlflow",
        TrackioLogger: "trackio",
    }
    if (package := packages.get(make.func)) is not None:
        with _refused(name):
            importlib.import_module(package)
    return make


def run_name(folder: Path) -> str:
    """Name a run by the last two parts of its folder, e.g. ``rlvr/2026-01-31_12-00-00``."""
    return "/".join(folder.absolute().parts[-2:])


@dataclass
class AllowedNames:
    """Map names to names that a service accepts; distinct names stay distinct.

    Each change is logged once.
    """

    service: str
    """Name of the service, for the log."""
    forbidden: re.Pattern[str]
    """Matches a character that the service refuses."""
    max_length: int
    """The most characters of a name."""
    known: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        """Return the name to use at the service."""
        if name not in self.known:
            stem = self.forbidden.sub("_", name)[: self.max_length]
            allowed, number, taken = stem, 1, set(self.known.values())
            while allowed in taken:
                number += 1
                end = f"_{number}"
                allowed = stem[: self.max_length - len(end)] + end
            if allowed != name:
                log.warning("%s does not accept the name %r: using %r", self.service, name, allowed)
            self.known[name] = allowed
        return self.known[name]


@contextlib.contextmanager
def _refused(service: str) -> Iterator[None]:
    """Turn an error of a service, or of its package, into a message of one line."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(
            f"logger={service}: the package is not installed; pip install 'omni-rlvr[{service}]'"
        ) from error
    except Exception as error:  # services have errors of many classes
        text = " ".join(str(error).split())
        raise UserError(f"logger={service}: {type(error).__name__}: {text}") from error


class CompletionsTable(Callback):
    """Send a table of the step's completions with their rewards, every few steps."""

    def __init__(self, every_n_steps: int, max_rows: int):
        """Set how often a table is sent, and its size.

        Args:
            every_n_steps: steps between tables.
            max_rows: largest number of completions in a table; the first of the step are taken.
        """
        self.every_n_steps = every_n_steps
        self.max_rows = max_rows

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RLVRModule, outputs, batch, batch_idx: int
    ) -> None:
        """Send the table every ``every_n_steps``, if the stage samples completions."""
        rows = pl_module.completions[: self.max_rows]
        if not rows or pl_module.step % self.every_n_steps:
            return
        for tracker in trainer.loggers:
            if isinstance(tracker, Tracker):
                tracker.log_table(rows, pl_module.step)


class MetricsCsv(Logger):
    """Write ``metrics.csv``, one line per step.

    Lightning's CSVLogger sorts the columns, buffers lines, and deletes the file of a resumed run.
    """

    name: str = ""
    version: str = ""

    def __init__(self, save_dir: str, prefix: str = ""):
        """Delete an earlier file; the new one is created with the first line.

        Args:
            save_dir: the run's folder.
            prefix: stands before the name of each metric.
        """
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.prefix = prefix
        self.rows: list[dict[str, object]] = []
        self.columns = [STEP]
        self.path.unlink(missing_ok=True)  # of an earlier part of the run, or of another run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a line; a value that is not finite is left empty, as in metrics.jsonl."""
        named = {f"{self.prefix}{name}": plain(value) for name, value in metrics.items()}
        self.write([{STEP: step, **named}])

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the config is in run.json."""

    def write(self, rows: list[dict[str, object]]) -> None:
        """Add lines; a new name becomes a column of the whole file."""
        self.rows += rows
        columns = list(dict.fromkeys([*self.columns, *(name for row in rows for name in row)]))
        if columns != self.columns or not self.path.exists():
            self.columns = columns
            header = self._text([{name: name for name in columns}])
            write_file(self.path, f"{header}{self._text(self.rows)}".encode())
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._text(rows))

    def _text(self, rows: list[dict[str, object]]) -> str:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns, lineterminator="\n").writerows(rows)
        return text.getvalue()


class TrackioLogger(Logger):
    """Send one run to trackio, in its own folder on this machine or in a Hugging Face Space."""

    name: str = ""
    version: str = ""

    def __init__(self, save_dir: str, *, project: str, space_id: str | None, prefix: str = ""):
        """Name the run; nothing is opened yet.

        Args:
            save_dir: the run's folder, whose last two parts are the run's name.
            project: groups runs.
            space_id: a Space, user/name; None stays on this machine.
            prefix: stands before the name of each metric.
        """
        super().__init__()
        self.trackio: Any = importlib.import_module("trackio")
        self.run_name = run_name(Path(save_dir))
        self.project = project
        self.space_id = space_id
        self.prefix = prefix
        self.run: Any = None

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Open the run with its config, or open it again."""
        self.run = self.trackio.init(
            project=self.project,
            name=self.run_name,
            space_id=self.space_id,
            config=params,
            embed=False,
            resume="allow",
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send the metrics of a step."""
        named = {f"{self.prefix}{name}": value for name, value in metrics.items()}
        self.run.log(named, step=step)

    def log_table(self, columns: Mapping[str, list[object]], step: int) -> None:
        """Send completions."""
        table = self.trackio.Table(dataframe=pd.DataFrame(columns))
        self.run.log({"completions": table}, step=step)

    def finalize(self, status: str) -> None:
        """Wait until everything is sent, and end the run."""
        if self.run is not None:
            self.run.finish()
