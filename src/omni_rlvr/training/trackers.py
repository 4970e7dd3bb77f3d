"""Where metrics go besides metrics.jsonl: TensorBoard, CSV, W&B, MLflow, trackio.

A tracker is one of Lightning's loggers, or a few lines of our own, behind one class that adds the
prefix which transformers' callbacks add (``train/reward``), so that dashboards made for TRL work
as they are, and that sends completions as a table where the service has tables.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from omni_rlvr.training.metrics_csv import MetricsCsv
from omni_rlvr.types import UserError

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
    ):
        """Holds the parts.

        Args:
            sink: takes the numbers.
            prefix: stands before the name of each metric of a training step.
            log_config: takes the run's config when it begins or goes on, where that is of use.
            log_table: takes completions and the step, where the service has tables.
            close: ends the run there; handed "success" or "failed".
        """
        super().__init__()
        self.sink = sink
        self.prefix = prefix
        self.log_config = log_config
        self.log_table = log_table
        self.close = close

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
def tracking(loggers: Sequence[Logger], config: dict[str, Any]) -> Iterator[None]:
    """Sends a run's config to its trackers, and closes them however the run ends."""
    trackers = [tracker for tracker in loggers if isinstance(tracker, Tracker)]
    status = "failed"
    try:
        for tracker in trackers:
            if tracker.log_config is not None:
                tracker.log_config(config)
        yield
        status = "success"
    finally:
        for tracker in trackers:
            if tracker.close is not None:
                tracker.close(status)


def log_scores(loggers: Sequence[Logger], scores: Mapping[str, Mapping], *, step: int) -> None:
    """Sends the scores of an evaluation to the trackers."""
    for tracker in loggers:
        if isinstance(tracker, Tracker):
            tracker.log_scores(scores, step)


def tensorboard(save_dir: str, prefix: str) -> Tracker:
    """Makes a tracker that writes ``tensorboard/`` into the run's folder."""
    sink = TensorBoardLogger(save_dir=save_dir, name="", version="tensorboard")
    return Tracker(sink, prefix=prefix, log_config=None, log_table=None, close=sink.finalize)


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
    with _installed("wandb"):
        sink = WandbLogger(
            name=run_name(save_dir),
            save_dir=save_dir,
            project=project,
            entity=entity,
            group=group,
            offline=offline,
        )

    def table(rows: Rows, step: int) -> None:
        columns = list(rows[0])
        sink.log_table("completions", columns, [[r[c] for c in columns] for r in rows], step=step)

    def close(status: str) -> None:
        sink.experiment.finish(exit_code=0 if status == "success" else 1)

    return Tracker(
        sink, prefix=prefix, log_config=sink.log_hyperparams, log_table=table, close=close
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
    with _installed("mlflow"):
        sink = MLFlowLogger(
            experiment_name=experiment_name,
            run_name=run_name(save_dir),
            tracking_uri=tracking_uri,
            artifact_location=artifact_location,
        )

    def table(rows: Rows, step: int) -> None:
        data = {name: [row[name] for row in rows] for name in rows[0]}
        sink.experiment.log_table(
            sink.run_id, {"step": [step] * len(rows), **data}, "completions.json"
        )

    return Tracker(
        sink, prefix=prefix, log_config=sink.log_hyperparams, log_table=table, close=sink.finalize
    )


def trackio(save_dir: str, *, prefix: str, project: str, space_id: str | None) -> Tracker:
    """Makes a tracker that writes to trackio's own folder, or to a Space.

    Raises:
        UserError: the package is missing.
    """
    from omni_rlvr.training.trackio_sink import TrackioSink

    with _installed("trackio"):
        sink = TrackioSink(run_name(save_dir), project=project, space_id=space_id)
    return Tracker(
        sink,
        prefix=prefix,
        log_config=sink.log_config,
        log_table=sink.log_table,
        close=sink.close,
    )


def run_name(save_dir: str) -> str:
    """Names a run by the last two parts of its folder, e.g. ``rlvr/2026-01-31_12-00-00``."""
    return "/".join(Path(save_dir).absolute().parts[-2:])


@contextlib.contextmanager
def _installed(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"logger={package}: {package} cannot be imported ({error}); "
            f"pip install 'omni-rlvr[{package}]'"
        ) from error
