"""Trackers: names, the CSV file, and W&B and MLflow offline, each with the real package."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from omni_rlvr.record import RunRecord, append_jsonl, keep_steps, read_json
from omni_rlvr.training import loggers
from omni_rlvr.training.loggers import MetricsCsv, TrackioLogger
from omni_rlvr.types import Interrupted, UserError

pytestmark = pytest.mark.slow

ROWS = [
    {"id": f"{i}.mp4", "label": "happy", "completion": f"<answer>{i}</answer>", "reward": 0.5 * i}
    for i in range(3)
]
SCORES = {"test": {"war": 60.0, "uar": 50.0, "format": 100.0, "num_clips": 5}}


def needs(package: str) -> pytest.MarkDecorator:
    """Skips where an optional package is not there, and says which."""
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


CONFIG = {"seed": 3, "stage": {"beta": 0.04}}


@contextmanager
def tracked(
    make: partial[Logger], folder: Path, config: dict | None = None, *, start: int = 0
) -> Iterator[loggers.Tracker]:
    """Opens one logger for a run, or for the part of it after step ``start``."""
    record = RunRecord(folder, {"seed": 3} if config is None else config, device="cpu")
    with loggers.tracking({name_of(make): make}, record, start) as (tracker,):
        yield tracker


def name_of(make: partial[Logger]) -> str:
    """Gives the name under which ``conf/logger`` has a logger."""
    return {WandbLogger: "wandb", MLFlowLogger: "mlflow", TrackioLogger: "trackio"}.get(
        make.func, "other"
    )


def follow(make: partial[Logger], folder: Path) -> None:
    """Sends a short run: config, two steps, completions, scores; then closes."""
    with tracked(make, folder, CONFIG) as tracker:
        for step in (1, 2):
            tracker.log_metrics({"reward": 0.5 * step, "rewards/accuracy/mean": 0.1}, step)
        tracker.log_table(ROWS, 2)
        tracker.log_scores(SCORES, step=2)


def lines(path: Path) -> list[dict[str, str]]:
    """A CSV file's lines."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_grows_a_column_when_a_metric_appears(tmp_path: Path) -> None:
    sink = MetricsCsv(str(tmp_path))
    sink.log_metrics({"loss": 1.0}, 1)
    sink.log_metrics({"loss": 0.5, "kl": 0.1}, 2)
    sink.log_metrics({"loss": 0.25}, 3)
    assert lines(sink.path) == [
        {"step": "1", "loss": "1.0", "kl": ""},
        {"step": "2", "loss": "0.5", "kl": "0.1"},
        {"step": "3", "loss": "0.25", "kl": ""},
    ]


def train(folder: Path, steps: range, last: int | None = None) -> None:
    """Writes steps into both files, as a run does; a kill lets the CSV have no line behind one."""
    folder.mkdir(exist_ok=True)
    keep_steps(folder / "metrics.jsonl", steps.start - 1)
    with tracked(partial(MetricsCsv, prefix="train/"), folder, start=steps.start - 1) as tracker:
        for step in steps:
            late = {"kl": float("nan")} if step > 2 else {}
            row = {"loss": 0.1 * step, **late}
            append_jsonl(folder / "metrics.jsonl", [{"step": step, **row}])
            if last is None or step <= last:
                tracker.log_metrics(row, step)
        if steps.stop == 8 and last is None:
            tracker.log_scores(SCORES, step=7)


@pytest.mark.parametrize(
    ("before", "last", "after"),
    [
        (range(1, 6), None, range(4, 8)),  # was at step 5, its checkpoint at step 3
        (range(1, 8), 7, range(8, 8)),  # was in the evaluation behind the last step
        (range(1, 8), 6, range(8, 8)),  # was between the last lines of both files
        (range(1, 8), 0, range(8, 8)),  # had no CSV at all: logger=tensorboard
    ],
)
def test_csv_of_a_resumed_run_is_that_of_the_unbroken_one(
    tmp_path: Path, before: range, last: int | None, after: range
) -> None:
    train(tmp_path / "unbroken", range(1, 8))
    train(tmp_path / "resumed", before, last)
    train(tmp_path / "resumed", after)
    texts = [(tmp_path / run / "metrics.csv").read_text() for run in ("unbroken", "resumed")]
    assert texts[0] == texts[1]
    assert texts[0].splitlines()[0].startswith("step,train/loss,train/kl,eval/test_war,")
    assert [line.split(",")[0] for line in texts[0].splitlines()[1:]] == [*"1234567", "7"]


def test_csv_of_another_run_in_the_same_folder_goes(tmp_path: Path) -> None:
    train(tmp_path, range(1, 4))
    train(tmp_path, range(1, 2))
    assert [row["step"] for row in lines(tmp_path / "metrics.csv")] == ["1"]


def test_csv_has_trls_names_and_evaluations_have_eval_in_front(tmp_path: Path) -> None:
    follow(partial(MetricsCsv, prefix=""), tmp_path)
    assert lines(tmp_path / "metrics.csv")[-1]["eval_test_war"] == "60.0"
    assert lines(tmp_path / "metrics.csv")[1]["rewards/accuracy/mean"] == "0.1"


def test_tensorboard_has_the_names_of_transformers_callback(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow(partial(TensorBoardLogger, prefix="train/"), tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/reward", "train/rewards/accuracy/mean", "eval/test_war"} <= tags
    assert [event.value for event in events.Scalars("train/reward")] == [0.5, 1.0]


def test_a_logger_is_closed_also_when_the_run_fails(tmp_path: Path) -> None:
    closed: list[str] = []

    class Noting(MetricsCsv):
        def finalize(self, status: str) -> None:
            closed.append(status)

    for error in (RuntimeError, Interrupted):
        with pytest.raises(error), tracked(partial(Noting), tmp_path):
            raise error
    with tracked(partial(Noting), tmp_path) as tracker:
        tracker.finalize("success")  # as Lightning does before the evaluation
    assert closed == ["failed", "interrupted", "success"]


@pytest.mark.parametrize(
    ("package", "kind"),
    [("wandb", WandbLogger), ("mlflow", MLFlowLogger), ("trackio", TrackioLogger)],
)
def test_a_package_that_is_missing_is_named(
    package: str, kind: type[Logger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"logger={package}: .*omni-rlvr\[{package}\]"):
        loggers.check_installed(package, partial(kind))


def test_ones_own_options_reach_lightnings_logger(tmp_path: Path) -> None:
    make = partial(TensorBoardLogger, prefix="", version="mine", sub_dir="below")
    with tracked(make, tmp_path) as tracker:
        tracker.log_metrics({"loss": 1.0}, 1)
    assert list((tmp_path / "mine" / "below").glob("events.*"))


@needs("wandb")
@pytest.mark.filterwarnings("ignore")  # the package's own
def test_wandb_offline_keeps_metrics_and_a_table_a_run(tmp_path: Path, monkeypatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("one", "two"):  # a second run of the process is a run of its own
        (tmp_path / name).mkdir()
        options = {"project": "p", "entity": None, "group": "g", "offline": True}
        follow(partial(WandbLogger, prefix="train/", **options), tmp_path / name)
    wandb.teardown()  # its background process has then written everything
    for name in ("one", "two"):
        (table,) = (tmp_path / name / "wandb").glob("offline-*/files/media/table/*.json")
        content = json.loads(table.read_text())
        assert content["columns"] == list(ROWS[0])
        assert content["data"][2] == list(ROWS[2].values())
        (log,) = (tmp_path / name / "wandb").glob("offline-*/*.wandb")
        stored = log.read_bytes()
        for key in (b"train/reward", b"train/rewards/accuracy/mean", b"eval/test_war"):
            assert key in stored


@needs("mlflow")
@needs("sqlalchemy")
@pytest.mark.filterwarnings("ignore")  # the package's own
def test_mlflow_without_a_server_keeps_metrics_config_and_a_table(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    follow(mlflow(tmp_path), tmp_path / "run")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("e")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["stage/beta"] == "0.04"
    assert [m.value for m in client.get_metric_history(run.info.run_id, "reward")] == [0.5, 1.0]
    assert run.data.metrics["eval_test_war"] == 60
    (table,) = (tmp_path / "artifacts").rglob("completions.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["step", *ROWS[0]]
    assert content["data"][1] == [2, *ROWS[1].values()]


def parts_of_a_run(folder: Path, make: partial[Logger]) -> None:
    """Sends steps 1 to 3, dies, and goes on from step 2 to step 4."""

    def dies() -> None:
        with tracked(make, folder) as tracker:
            for step in (1, 2, 3):
                tracker.log_metrics({"loss": float(step)}, step)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        dies()
    with tracked(make, folder, {"seed": 3, "resume": "latest"}, start=2) as tracker:
        for step in (3, 4):
            tracker.log_metrics({"loss": 10.0 * step}, step)


def test_tensorboard_of_a_resumed_run_shows_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    parts_of_a_run(tmp_path, partial(TensorBoardLogger, prefix="train/"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert shown == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


def mlflow(folder: Path, **options: str) -> partial[Logger]:
    """Makes a logger into a data base in the folder."""
    default = {"experiment_name": "e", "tracking_uri": f"sqlite:///{folder}/mlflow.db"}
    artifacts = {"artifact_location": str(folder / "artifacts")}
    return partial(MLFlowLogger, prefix="", **{**default, **artifacts, **options})


def mlflow_runs(folder: Path) -> list:
    """The runs of that data base."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return client.search_runs([client.get_experiment_by_name("e").experiment_id])


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")  # the package's own
def test_mlflow_of_a_resumed_run_goes_on_and_is_closed_as_it_ended(tmp_path: Path) -> None:
    parts_of_a_run(tmp_path / "run", mlflow(tmp_path))
    (run,) = mlflow_runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss"] == 40
    assert read_json(tmp_path / "run" / "run.json")["trackers"] == {"mlflow": run.info.run_id}
    for error, status in ((RuntimeError, "FAILED"), (Interrupted, "KILLED")):
        with pytest.raises(error), tracked(mlflow(tmp_path), tmp_path / "run"):
            raise error
        assert status in [run.info.status for run in mlflow_runs(tmp_path)]


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")  # the package's own
def test_names_that_mlflow_does_not_take_are_mapped_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"seed": 3, "reward": {"terms": {"len@1": 1, "len_1": 2}}}
    with tracked(mlflow(tmp_path), tmp_path / "run", config) as tracker:
        for step in (1, 2):
            tracker.log_metrics({"rewards/len@1/mean": 1.0, "rewards/len_1/mean": 2.0}, step)
    (run,) = mlflow_runs(tmp_path)
    assert run.data.metrics == {"rewards/len_1/mean": 1.0, "rewards/len_1/mean_2": 2.0}
    terms = {"reward/terms/len_1": "1", "reward/terms/len_1_2": "2"}
    assert run.data.params == {"seed": "3", **terms}
    told = [text for text in caplog.messages if "does not accept the name" in text]
    assert len(told) == len(set(told)) == 4


def test_names_are_cut_to_what_a_service_takes_and_stay_apart() -> None:
    allowed = loggers.AllowedNames("x", re.compile("@"), max_length=4)
    assert [allowed(name) for name in ("abcde", "abcdf", "a@", "a_", "a@")] == [
        "abcd", "ab_2", "a_", "a__2", "a_",
    ]  # fmt: skip


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")  # the package's own
@pytest.mark.parametrize("uri", ["{}/mlruns", "sqlite:////proc/nowhere/x.db", "odd://x"])
def test_what_mlflow_refuses_is_one_line_before_the_first_step(tmp_path: Path, uri: str) -> None:
    with (
        pytest.raises(UserError, match=r"^logger=mlflow: ") as refused,
        tracked(mlflow(tmp_path, tracking_uri=uri.format(tmp_path)), tmp_path / "run"),
    ):
        raise AssertionError("it is too late now")
    assert "\n" not in str(refused.value)


@needs("wandb")
@pytest.mark.filterwarnings("ignore")  # the package's own
def test_wandb_of_a_resumed_run_has_one_id_and_the_exit_code(tmp_path: Path, monkeypatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    codes, finish = [], wandb.sdk.wandb_run.Run.finish

    def noted(run, exit_code=None, quiet=None):
        codes.append(exit_code)
        finish(run, exit_code=exit_code)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "finish", noted)
    options = {"project": "p", "entity": None, "group": None, "offline": True}
    make = partial(WandbLogger, prefix="train/", **options)
    parts_of_a_run(tmp_path, make)
    run_id = read_json(tmp_path / "run.json")["trackers"]["wandb"]
    with pytest.raises(Interrupted), tracked(make, tmp_path):
        raise Interrupted
    wandb.teardown()
    assert codes == [1, 0, 130]
    files = [path.name for path in (tmp_path / "wandb").glob("offline-*/*.wandb")]
    assert files.count(f"run-{run_id}.wandb") == 2
    assert len(files) == 3
