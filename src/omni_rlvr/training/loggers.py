"""Where metrics go besides metrics.jsonl: TensorBoard, CSV, W&B, MLflow, trackio.

A tracker is one of Lightning's loggers, or a few lines of our own, behind one class that adds the
prefix which transformers' callbacks add (``train/reward``), so that dashboards made for TRL work
as they are, and that sends completions as a table where the service has tables.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from omni_rlvr.folders import write_file
from omni_rlvr.record import RunRecord, plain, read_jsonl
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.types import Interrupted, UserError

log = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, object]]
SCORES = ("war", "uar", "format")


class Sink(Protocol):
    """What takes numbers."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Takes the metrics of one step."""


class Tracker(Logger):
    """One place that metrics go to."""

    def __init__(
        self,
        sink: Sink,
        *,
        prefix: str,
        log_config: Callable[[dict[str, Any]], None] | None,
        log_table: Callable[[Rows, int], None] | None,
        close: Callable[[str], None] | None,
        service: str = "",
        opens: Callable[[str | None, int], tuple[Sink, str | None]] | None = None,
    ):
        """Holds the parts.

        Args:
            sink: takes the numbers.
            prefix: stands before the name of each metric of a training step.
            log_config: takes the run's config when it begins or goes on, where that is of use.
            log_table: takes completions and the step, where the service has tables.
            close: ends the run there; handed "success", "failed" or "interrupted".
            service: its name, under which the id of the run there is kept in run.json.
            opens: opens the run there before the first step. It is handed the id of the run that an
                earlier part of this run had (None for a new run) and the number of steps that are
                done, and gives what takes the numbers from then on, and the id.
        """
        super().__init__()
        self.sink = sink
        self.prefix = prefix
        self.log_config = log_config
        self.log_table = log_table
        self.close = close
        self.service = service
        self.opens = opens

    @property
    def name(self) -> str:
        """Of no use here; Lightning asks for it."""
        return ""

    @property
    def version(self) -> str:
        """Of no use here; Lightning asks for it."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Sends the metrics of a training step."""
        self._send({f"{self.prefix}{name}": value for name, value in metrics.items()}, step)

    def log_scores(self, scores: Mapping[str, Mapping[str, float]], step: int) -> None:
        """Sends the scores of an evaluation, as TRL names those of several data sets."""
        stem = "eval/" if self.prefix else "eval_"
        self._send({f"{stem}{s}_{n}": scores[s][n] for s in scores for n in SCORES}, step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: ``tracking`` sends the config."""

    def _send(self, metrics: dict[str, float], step: int | None) -> None:
        assert step is not None  # the module always says
        self.sink.log_metrics(metrics, step)


@contextlib.contextmanager
def tracking(
    loggers: Sequence[Logger],
    config: dict[str, Any],
    record: RunRecord | None = None,
    start: int = 0,
) -> Iterator[None]:
    """Open a run's trackers, send its config to them, and close them however the run ends.

    Args:
        loggers: the run's.
        config: its resolved config.
        record: its run.json, which keeps the ids of its runs at the services.
        start: the steps that are done; above 0, the services' runs of before go on.

    Raises:
        UserError: a service refuses, or cannot be reached.
    """
    trackers = [tracker for tracker in loggers if isinstance(tracker, Tracker)]
    kept: dict[str, str] = {}
    if record is not None and start > 0:
        known = record.fields["trackers"]
        assert isinstance(known, dict)
        kept = dict(known)
    opened: list[Tracker] = []
    status = "failed"
    try:
        for tracker in trackers:
            before = kept.get(tracker.service)
            with _refused(tracker.service):
                if tracker.opens is not None:
                    tracker.sink, run_id = tracker.opens(before, start)
                    kept |= {} if run_id is None else {tracker.service: run_id}
                opened.append(tracker)
                if tracker.log_config is not None and before is None:
                    tracker.log_config(config)
        if record is not None and kept:
            record.update(trackers=kept)
        yield
        status = "success"
    except (Interrupted, KeyboardInterrupt, SystemExit):
        status = "interrupted"
        raise
    finally:
        for tracker in opened:
            if tracker.close is not None:
                tracker.close(status)


def log_scores(loggers: Sequence[Logger], scores: Mapping[str, Mapping], *, step: int) -> None:
    """Sends the scores of an evaluation to the trackers."""
    for tracker in loggers:
        if isinstance(tracker, Tracker):
            tracker.log_scores(scores, step)


def tensorboard(save_dir: str, prefix: str) -> Tracker:
    """Makes a tracker that writes ``tensorboard/`` into the run's folder."""
    make = partial(TensorBoardLogger, save_dir=save_dir, name="", version="tensorboard")
    sink = make()

    def opens(run_id: str | None, start: int) -> tuple[Sink, None]:
        nonlocal sink
        if start > 0:
            sink = make(purge_step=start + 1)  # hides the steps that are done again
        return sink, None

    def close(status: str) -> None:
        sink.finalize(status)

    return Tracker(sink, prefix=prefix, log_config=None, log_table=None, close=close, opens=opens)


def metrics_csv(save_dir: str, prefix: str) -> Tracker:
    """Makes a tracker that writes ``metrics.csv`` into the run's folder."""
    sink = MetricsCsv(Path(save_dir) / "metrics.csv", prefix)

    def start(config: dict[str, Any]) -> None:
        sink.follow_record()

    return Tracker(sink, prefix=prefix, log_config=start, log_table=None, close=None)


def wandb(
    save_dir: str,
    *,
    prefix: str,
    project: str,
    entity: str | None,
    group: str | None,
    offline: bool,
) -> Tracker:
    """Makes a tracker that sends to Weights & Biases, or writes ``wandb/`` for a later sync.

    Raises:
        UserError: the package is missing.
    """
    with _refused("wandb"):
        make = partial(
            WandbLogger,
            name=run_name(save_dir),
            save_dir=save_dir,
            project=project,
            entity=entity,
            group=group,
            offline=offline,
        )
        sink = make()

    def opens(run_id: str | None, start: int) -> tuple[Sink, str]:
        nonlocal sink
        sink = make(id=run_id)
        return sink, sink.experiment.id

    def table(rows: Rows, step: int) -> None:
        columns = list(rows[0])
        sink.log_table("completions", columns, [[r[c] for c in columns] for r in rows], step=step)

    def close(status: str) -> None:
        sink.experiment.finish(exit_code={"success": 0, "interrupted": 130}.get(status, 1))

    return Tracker(
        sink,
        prefix=prefix,
        log_config=lambda config: sink.log_hyperparams(config),
        log_table=table,
        close=close,
        service="wandb",
        opens=opens,
    )


def mlflow(
    save_dir: str,
    *,
    prefix: str,
    experiment_name: str,
    tracking_uri: str,
    artifact_location: str | None,
) -> Tracker:
    """Makes a tracker that sends to an MLflow server, or into a data base.

    Raises:
        UserError: the package is missing.
    """
    with _refused("mlflow"):
        make = partial(
            MLFlowLogger,
            experiment_name=experiment_name,
            run_name=run_name(save_dir),
            tracking_uri=tracking_uri,
            artifact_location=artifact_location,
        )
        sink = make()
    allowed = AllowedNames("mlflow", re.compile(r"[^\w/. -]", re.ASCII), max_length=250)

    def opens(run_id: str | None, start: int) -> tuple[Sink, str | None]:
        nonlocal sink
        sink = make(run_id=run_id)
        if run_id is not None:
            sink.experiment.update_run(run_id, status="RUNNING")
        return Renamed(sink, allowed), sink.run_id

    def log_config(config: dict[str, Any]) -> None:
        sink.log_hyperparams({allowed(key): value for key, value in _flat(config, "")})

    def table(rows: Rows, step: int) -> None:
        data = {name: [row[name] for row in rows] for name in rows[0]}
        sink.experiment.log_table(
            sink.run_id, {"step": [step] * len(rows), **data}, "completions.json"
        )

    return Tracker(
        Renamed(sink, allowed),
        prefix=prefix,
        log_config=log_config,
        log_table=table,
        close=lambda status: sink.finalize("KILLED" if status == "interrupted" else status),
        service="mlflow",
        opens=opens,
    )


def trackio(save_dir: str, *, prefix: str, project: str, space_id: str | None) -> Tracker:
    """Makes a tracker that writes to trackio's own folder, or to a Space.

    Raises:
        UserError: the package is missing.
    """
    from omni_rlvr.training.loggers import TrackioSink

    with _refused("trackio"):
        sink = TrackioSink(run_name(save_dir), project=project, space_id=space_id)
    return Tracker(
        sink,
        prefix=prefix,
        log_config=sink.log_config,
        log_table=sink.log_table,
        close=sink.close,
        service="trackio",
    )


def run_name(save_dir: str) -> str:
    """Names a run by the last two parts of its folder, e.g. ``rlvr/2026-01-31_12-00-00``."""
    return "/".join(Path(save_dir).absolute().parts[-2:])


class AllowedNames:
    """Names as a service takes them: each stays another's, and each change is told once."""

    def __init__(self, service: str, forbidden: re.Pattern[str], *, max_length: int):
        """Args: the service, for the log; the characters and the length that it does not take."""
        self.service = service
        self.forbidden = forbidden
        self.max_length = max_length
        self.known: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """Return the name that the service takes in place of a name."""
        if name not in self.known:
            stem = self.forbidden.sub("_", name)[: self.max_length]
            allowed, number, taken = stem, 1, set(self.known.values())
            while allowed in taken:
                number += 1
                end = f"_{number}"
                allowed = stem[: self.max_length - len(end)] + end
            if allowed != name:
                log.warning("%s takes no name like %r; it is %r there", self.service, name, allowed)
            self.known[name] = allowed
        return self.known[name]


class Renamed:
    """A sink whose metrics get the names that its service takes."""

    def __init__(self, sink: Sink, allowed: AllowedNames):
        self.sink = sink
        self.allowed = allowed

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Take the metrics of one step."""
        self.sink.log_metrics({self.allowed(k): v for k, v in metrics.items()}, step)


def _flat(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield ``stage/beta`` and its value for every value of a config."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


@contextlib.contextmanager
def _refused(service: str) -> Iterator[None]:
    """Say in one line why a service, or its package, does not take a run."""
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
    """A table of the step's completions with their rewards, every few steps."""

    def __init__(self, every_n_steps: int, max_rows: int):
        """Holds the settings.

        Args:
            every_n_steps: steps between tables.
            max_rows: completions a table, the first of the step.
        """
        self.every_n_steps = every_n_steps
        self.max_rows = max_rows

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RLVRModule, outputs, batch, batch_idx: int
    ) -> None:
        """Sends the table if its time has come and the stage samples."""
        rows = pl_module.completions[: self.max_rows]
        if not rows or pl_module.step % self.every_n_steps:
            return
        for tracker in trainer.loggers:
            if isinstance(tracker, Tracker) and tracker.log_table is not None:
                tracker.log_table(rows, pl_module.step)


STEP = "step"


class MetricsCsv:
    """Writes ``metrics.csv``."""

    def __init__(self, path: Path, prefix: str):
        """Args: the file, which is made with the first line; what stands before a metric's name."""
        self.path = path
        self.prefix = prefix
        self.rows: list[dict[str, object]] = []
        self.columns: list[str] = [STEP]

    def follow_record(self) -> None:
        """Make the file from the metrics.jsonl beside it."""
        self.rows = [
            {name if name == STEP else f"{self.prefix}{name}": value for name, value in row.items()}
            for row in read_jsonl(self.path.with_name("metrics.jsonl"))
        ]
        self.columns = list(dict.fromkeys([STEP, *(name for row in self.rows for name in row)]))
        if self.rows:
            self._write_all()
        else:
            self.path.unlink(missing_ok=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a line; what is not finite is left empty, as in metrics.jsonl."""
        row = {STEP: step, **{name: plain(value) for name, value in metrics.items()}}
        self.rows.append(row)
        new = [name for name in row if name not in self.columns]
        if new or len(self.rows) == 1:
            self.columns += new
            self._write_all()
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._text([row]))

    def _write_all(self) -> None:
        header = self._text([{name: name for name in self.columns}])
        write_file(self.path, f"{header}{self._text(self.rows)}".encode())

    def _text(self, rows: list[dict[str, object]]) -> str:
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns, lineterminator="\n").writerows(rows)
        return text.getvalue()


class TrackioSink:
    """One run in trackio, opened with the config and closed with ``close``."""

    def __init__(self, name: str, *, project: str, space_id: str | None):
        """Names the run; nothing is opened yet.

        Raises:
            ModuleNotFoundError: trackio is not installed.
        """
        self.trackio: Any = importlib.import_module("trackio")
        self.name = name
        self.project = project
        self.space_id = space_id
        self.run: Any = None

    def log_config(self, config: dict[str, Any]) -> None:
        """Opens the run with its config."""
        self.run = self.trackio.init(
            project=self.project,
            name=self.name,
            space_id=self.space_id,
            config=config,
            embed=False,
            resume="allow",
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Sends the metrics of a step."""
        self.run.log(dict(metrics), step=step)

    def log_table(self, rows: Sequence[Mapping[str, object]], step: int) -> None:
        """Sends completions."""
        table = self.trackio.Table(dataframe=pd.DataFrame([dict(row) for row in rows]))
        self.run.log({"completions": table}, step=step)

    def close(self, status: str) -> None:
        """Ends the run, once all of it is written."""
        if self.run is not None:
            self.run.finish()
