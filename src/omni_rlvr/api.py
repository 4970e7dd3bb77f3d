"""The Python API: compose a config as the command does, run it, and use what it made.

    import omni_rlvr

    config = omni_rlvr.compose(["+experiment=rlvr", "stage.max_steps=10"])
    trained = omni_rlvr.run(config)
    policy = omni_rlvr.load_policy(trained.folder / "checkpoint")
    print(omni_rlvr.predict(policy, "clip.mp4").answer)

Overrides are those of the command line. What the command prints as one line of error is raised here
as a ``UserError`` with the same text. An interrupt (Ctrl-C, or a notebook's stop button) lets
training finish its step and save; then ``Interrupted`` is raised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra import initialize_config_dir
from omegaconf import DictConfig

from omni_rlvr.assembly.composing.arguments import checked_arguments, override
from omni_rlvr.assembly.composing.help_page import conf_dir
from omni_rlvr.assembly.composing.register import run_folder
from omni_rlvr.assembly.composing.suggestions import composing_error
from omni_rlvr.folders import no_folder_unused
from omni_rlvr.pointers import LATEST
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.tasks.table import register
from omni_rlvr.types import Interrupted, UserError

if TYPE_CHECKING:
    import pandas as pd

    from omni_rlvr.models.policy import Policy
    from omni_rlvr.tasks.predict import Prediction


@dataclass(frozen=True)
class RunResult:
    """The results of a run."""

    folder: Path
    """The folder of the run."""
    metrics: dict[str, Any]
    """For training, the last value of each metric; for evaluation and attribution, split ->
    scores; for a pipeline, its summary. Empty for other tasks."""
    table: pd.DataFrame
    """One row per logged step for training, per split for evaluation, per clip for attribution and
    prediction, per model and split for a pipeline. Empty for other tasks."""


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a config.

    Args:
        overrides: Those of the command line, e.g. ``["+experiment=rlvr", "stage.beta=0"]``.

    Raises:
        UserError: A key or an option does not exist, or a value has the wrong type.
    """
    register()
    with _user_errors(overrides), _hydra():
        return hydra.compose("config", overrides=checked_arguments(overrides))


def run(config: DictConfig) -> RunResult:
    """Run the task of a config, as the command does.

    Args:
        config: From ``compose``; it may have been changed since.

    Raises:
        UserError: There is an error that the user can fix.
        Interrupted: The process was asked to stop; training has saved a checkpoint.

    Note:
        Processes that make clips, and those of several ``trainer.devices``, import the calling
        script again, so in a script the call must stand under ``if __name__ == "__main__":``.
    """
    from omni_rlvr.tasks.build import build

    _refuse_in_import()
    register()
    with _user_errors(()), _hydra():
        root, name = str(config.paths.output_root), str(config.name)
        folder = Path(run_folder(root, name, config.resume))
        with no_folder_unused(folder):
            ready = build(config, folder, folder.parent / LATEST)
        ready.run()
    return _result(folder, config.task.name)


def evaluate(checkpoint: str | Path, overrides: Sequence[str] = ()) -> RunResult:
    """Generate answers for labelled clips and score them (``task=evaluate``).

    Args:
        checkpoint: The folder of a checkpoint.
        overrides: Further ones, e.g. ``["dataset=dfew", "dataset.root=DIR", "modality=audio"]``.

    Raises:
        UserError: As ``run``.
    """
    return _experiment("evaluate", checkpoint, overrides)


def attribute(checkpoint: str | Path, overrides: Sequence[str] = ()) -> RunResult:
    """Measure what each modality did for the answers (``task=attribute``).

    Args:
        checkpoint: The folder of a checkpoint.
        overrides: Further ones, e.g. ``["task.max_clips=100"]``.

    Raises:
        UserError: As ``run``.
    """
    return _experiment("attribute", checkpoint, overrides)


def load_policy(checkpoint: str | Path, overrides: Sequence[str] = ()) -> Policy:
    """Load a checkpoint, in eval mode, on the device of ``trainer.accelerator``.

    Args:
        checkpoint: The folder of a checkpoint, or a name on the hub.
        overrides: Further ones, e.g. ``["model=humanomni_0_5b", "model.dtype=bfloat16"]``.

    Raises:
        UserError: It cannot be loaded.
    """
    from omni_rlvr.assembly.instantiate import check
    from omni_rlvr.assembly.policies import load
    from omni_rlvr.training.devices import device_of

    config = compose([override("model.path", str(checkpoint)), *overrides])
    with _user_errors(overrides), _hydra():
        check(config)
        policy = load(config.model).eval()
        return policy.to(device=device_of(config.trainer.accelerator))


def predict(
    policy: Policy,
    video: str | Path | None,
    audio: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
) -> Prediction:
    """Answer for one clip (``task=predict``), without a folder of a run.

    Args:
        policy: From ``load_policy``; it moves to the device of ``trainer.accelerator``.
        video: The clip's file; None for a sound alone.
        audio: A sound file of its own; None for the sound of the video.
        overrides: Further ones, e.g. ``["task.labels=[happy,sad]"]``.

    Raises:
        UserError: The clip cannot be read.
    """
    from omni_rlvr.assembly.assemble import assemble
    from omni_rlvr.assembly.composed import Place
    from omni_rlvr.assembly.instantiate import check
    from omni_rlvr.tasks import predict as task

    files = {"+video": video, "+audio": audio}
    given = [override(key, str(file)) for key, file in files.items() if file is not None]
    own = ["task=predict", "task.stream=false", "feature_cache.enabled=false", *given]
    config = compose([*own, *overrides])
    with tempfile.TemporaryDirectory() as folder, _user_errors(overrides), _hydra():
        resolved, typed = check(config)
        place = Place(Path(folder), None, resolved)
        composed = assemble(config, place, typed, several_devices=False)
        inputs = task.build(dataclasses.replace(composed, policy=policy))
        assert isinstance(inputs, task.PredictInputs)  # one device launches nothing
        if (num_clips := len(inputs.examples)) != 1:
            raise UserError(
                f"{video}: holds {num_clips} clips; run(compose(['task=predict', ...])) takes many"
            )
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the command shows the answer
                task.run(inputs)
        except Interrupted:  # it names a file in this folder, which is about to be removed
            raise KeyboardInterrupt from None
        (row,) = read_jsonl(Path(folder) / "predictions.jsonl")
    return task.Prediction(**row)


def _experiment(name: str, checkpoint: str | Path, overrides: Sequence[str]) -> RunResult:
    """Run an experiment on a checkpoint."""
    own = [f"+experiment={name}", override("model.path", str(checkpoint))]
    return run(compose([*own, *overrides]))


def _refuse_in_import() -> None:
    """Refuse a call from a script that a process of another run imports."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals["__name__"] == "__mp_main__":
            raise UserError(
                f"{frame.f_code.co_filename}:{frame.f_lineno}: omni_rlvr.run starts processes that "
                'import this script; put the call under: if __name__ == "__main__":'
            )
        frame = frame.f_back


@contextlib.contextmanager
def _hydra() -> Iterator[None]:
    """Initialise Hydra inside, which steps of a pipeline need too, and restore its state after."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        yield


@contextlib.contextmanager
def _user_errors(overrides: Sequence[str]) -> Iterator[None]:
    """Raise the errors that the command prints as one line as UserErrors with that text."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if (reworded := composing_error(error, overrides)) is None:
            raise
        raise reworded from error


def _result(folder: Path, task: str) -> RunResult:
    """Read the metrics and the table of a finished run from its folder."""
    import pandas as pd

    metrics: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    match task:
        case "train":
            rows = read_jsonl(folder / "metrics.jsonl")
            for row in rows:
                metrics |= row
        case "evaluate" | "attribute":
            name = "metrics.json" if task == "evaluate" else "attribution.json"
            metrics = {file.parent.name: read_json(file) for file in folder.glob(f"*/{name}")}
            if task == "attribute":
                parts = [pd.read_parquet(folder / s / "attribution.parquet") for s in metrics]
                return RunResult(folder, metrics, pd.concat(parts, ignore_index=True))
            rows = [{"split": split, **scores} for split, scores in metrics.items()]
        case "predict":
            rows = read_jsonl(folder / "predictions.jsonl")
        case "pipeline":
            metrics = read_json(folder / "summary.json")
            rows = [
                {"model": model, "split": split, **scores}
                for model, splits in metrics["models"].items()
                for split, scores in splits.items()
            ]
    return RunResult(folder, metrics, pd.DataFrame(rows))
