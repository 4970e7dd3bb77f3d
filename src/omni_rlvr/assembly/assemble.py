"""From a composed config to typed parts: check everything that can be checked, then read, then
load.

What a person tunes becomes its dataclass (and has its ranges checked) before any file is opened;
annotations are read before a model is loaded; gold answers are scored before training.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from omni_rlvr import distributed
from omni_rlvr.assembly.instantiate import check, compose_step, make, resolve
from omni_rlvr.assembly.parts import (
    AttributeParts,
    CacheParts,
    CheckParts,
    Clips,
    EvaluateParts,
    ExportParts,
    LaunchParts,
    Parts,
    PipelineParts,
    Place,
    PredictParts,
    PreviewParts,
    ReportParts,
    StartedParts,
)
from omni_rlvr.assembly.pipeline import check_steps
from omni_rlvr.assembly.policies import base_to_write, feature_cache, load
from omni_rlvr.assembly.prepare import prepare_parts
from omni_rlvr.assembly.probability_labels import probability_labels
from omni_rlvr.assembly.resume import check_resume
from omni_rlvr.assembly.serve import serve_parts
from omni_rlvr.assembly.splits import read_split
from omni_rlvr.assembly.start import resolved, start_of
from omni_rlvr.assembly.train import build_reward, train_parts
from omni_rlvr.config import root
from omni_rlvr.config.dataset import DatasetConfig, lacks_file
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.data.annotations.example_table import suspects
from omni_rlvr.data.readers.files import FileReader
from omni_rlvr.models.loading.load import sound_window_s
from omni_rlvr.models.policy import Policy
from omni_rlvr.pointers import run_of
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.training.devices import device_numbers
from omni_rlvr.types import Example, UserError, require

ROLLOUT = "omni_rlvr.rollout.shared_prefix.decode"
"""Of conf/rollout/shared_prefix, the default."""

__all__ = ["build", "build_one", "check", "compose_step", "resolved"]


def build(cfg: DictConfig, run_dir: Path, latest: Path | None) -> Parts:
    """Builds the parts of a task.

    Args:
        cfg: the composed config.
        run_dir: where the run writes.
        latest: the link to move when the run has something to offer, or None.

    Raises:
        UserError: anything about the config, the annotations or the checkpoint that is wrong.
    """
    start = start_of(cfg)
    if start is None:
        return build_one(cfg, run_dir, latest)
    started, start_cfg, start_dir = start
    return StartedParts(
        Place(start_dir, None, check(start_cfg)[0]),
        lambda: build_one(start_cfg, start_dir, None),
        lambda: build_one(started, run_dir, latest),
    )


def build_one(cfg: DictConfig, run_dir: Path, latest: Path | None) -> Parts:
    """Builds a task that starts from what is there; see ``build``.

    A task for several devices is checked as far as a model is not needed, and then handed on to be
    launched; in each of the processes that are launched, this builds the task itself.
    """
    config, typed = check(cfg)
    devices = _devices(config, typed)
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    task, dataset = typed["task"], typed["dataset"]
    run_dir = run_dir if cfg.resume is None else run_of(run_dir)
    place = Place(run_dir, latest, config)
    base = base_to_write(cfg, typed, run_dir)
    if isinstance(task, root.ReportTask):
        return ReportParts(place, task, _report_runs(config["runs"]), bool(config["html"]))
    if isinstance(task, root.PipelineTask):
        check_steps(task, run_dir)
        return PipelineParts(place, dataset.labels, task)
    if isinstance(task, root.ExportTask):
        check_target(Path(task.to))
        return ExportParts(place, task, load(cfg.model))
    if isinstance(task, root.PrepareTask):
        return prepare_parts(place, typed)
    if isinstance(task, root.ServeTask):
        return serve_parts(cfg, place, typed)
    if isinstance(task, root.TrainTask) and cfg.resume is not None:
        check_resume(run_dir, cfg.resume, config)
    _check_rollout(config, typed)
    if isinstance(task, root.PredictTask):
        question = EMOTION_QUESTION if task.question is None else task.question
        files = FileReader(cfg.video, cfg.audio, question)
        examples: dict[str, Sequence[Example]] = {"predict": files.read()}
    else:
        examples = {name: read_split(dataset, name) for name in _splits(task, dataset)}
    clips = Clips(dataset, typed["modality"], examples)
    if isinstance(task, root.PreviewTask):
        return PreviewParts(place, clips, task)
    if isinstance(task, root.CheckTask):
        return CheckParts(place, clips, task, sound_window_s(config["model"]["path"]))
    if isinstance(task, root.AttributeTask):
        _check_attribution(clips)
    learns = isinstance(task, root.TrainTask) and isinstance(typed["stage"], GrpoConfig)
    reward = build_reward(cfg, clips) if learns else None  # what is wrong shows before loading
    if isinstance(task, root.AttributeTask) and task.num_chosen and task.num_generations:
        reward = make(cfg.reward)  # judges what is shown; nothing learns, so gold is not scored
    if len(devices) > distributed.num_ranks():
        return LaunchParts(place, resolve(cfg), devices)
    if base is not None and cfg.resume is not None:  # the parts are not joined anew
        written: Any = OmegaConf.merge(cfg.model, {"path": str(base), "base": None})
        policy = load(written)
    else:
        policy = load(cfg.model)
    _check_texts(policy, examples)
    if isinstance(task, root.TrainTask):
        return train_parts(cfg, place, clips, typed, policy, reward)
    cache = feature_cache(typed["feature_cache"], clips, policy)
    if isinstance(task, root.EvaluateTask):
        return EvaluateParts(place, clips, task, policy, cache, make(cfg.rollout))
    if isinstance(task, root.AttributeTask):
        return AttributeParts(place, clips, task, policy, cache, make(cfg.lexicon), reward)
    if isinstance(task, root.CacheTask):
        if cache is None:
            raise UserError("feature_cache.enabled=false: task=cache has nothing to fill")
        return CacheParts(place, clips, task, policy, cache)
    labels = probability_labels(task.labels, dataset, policy)
    rollout, left_out = make(cfg.rollout), files.left_out
    return PredictParts(place, clips, task, labels, policy, cache, rollout, left_out)


def _check_rollout(config: dict[str, Any], typed: dict[str, Any]) -> None:
    """Refuses another rollout where nothing is rolled out: an option that does nothing misleads."""
    task, target = typed["task"], config["rollout"]["_target_"]
    samples = isinstance(typed["stage"], GrpoConfig)
    if isinstance(task, root.TrainTask) and not (samples or task.evaluate_after.splits):
        require(
            target == ROLLOUT,
            "rollout._target_",
            target,
            "left alone with stage=sft, which samples nothing (task.evaluate_after.splits=[test] "
            "would)",
        )


def _devices(config: dict[str, Any], typed: dict[str, Any]) -> list[int]:
    """The devices that a task runs on, checked."""
    if not isinstance(typed["task"], root.TrainTask | root.EvaluateTask):
        return [0]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError(
            f"torchrun: omni-rlvr starts a process a device itself: omni-rlvr ... trainer.devices="
            f"{os.environ['WORLD_SIZE']}"
        )
    trainer, batch_size = config["trainer"], typed["stage"].batch_size
    devices = device_numbers(trainer["accelerator"], trainer["devices"])
    if distributed.num_ranks() > 1:
        require(
            len(devices) == distributed.num_ranks(),
            "trainer.devices",
            trainer["devices"],
            f"{distributed.num_ranks()}, the number of processes that were started",
        )
    if isinstance(typed["task"], root.TrainTask) and batch_size % len(devices):
        raise UserError(
            f"stage.batch_size={batch_size} cannot be split over trainer.devices="
            f"{trainer['devices']}: {len(devices)} devices get equal numbers of prompts, so give a "
            f"batch size that {len(devices)} divides, or another number of devices"
        )
    return devices


def _report_runs(runs: Any) -> list[str]:
    """List what is gathered: a list as it is; a text split at its commas, unless it is a folder."""
    if isinstance(runs, list):
        return [str(place) for place in runs]
    text = str(runs)
    return [text] if Path(text).exists() else [part for part in text.split(",") if part]


def _splits(task: Any, dataset: DatasetConfig) -> list[str]:
    if isinstance(task, root.TrainTask):
        return list(dict.fromkeys([dataset.train_split, *task.evaluate_after.splits]))
    if isinstance(task, root.PreviewTask):
        return [task.split]
    if isinstance(task, root.CheckTask) and not task.splits:
        return [split for split in dataset.splits if not lacks_file(dataset, split)]
    return list(task.splits) or list(dataset.splits)


def _check_attribution(clips: Clips) -> None:
    """Refuses what has no two modalities to compare, or gold answers that cannot be scored."""
    if not (clips.modality.video and clips.modality.audio):
        raise UserError(
            f"modality={clips.modality.name}: task=attribute compares picture and sound; "
            "use modality=video_audio"
        )
    labels = clips.dataset.labels
    require(len({*labels}) == len(labels) > 1, "dataset.labels", labels, "two labels or more")
    for example in (e for rows in clips.examples.values() for e in rows):
        if example.answer not in labels:
            raise UserError(
                f"{example.source}: the answer {example.answer!r} is not of dataset.labels; "
                "task=attribute scores that list: use a split with its words (task.splits)"
            )


def _check_texts(policy: Policy, examples: dict[str, Sequence[Example]]) -> None:
    for rows in examples.values():
        tokens = policy.processor.tokenizer.get_added_vocab()
        for index in suspects(rows, list(tokens)):
            example = rows[index]
            policy.processor.check_text(example.question, example.source)
            policy.processor.check_text(example.target, example.source)


def check_target(to: Path) -> None:
    """Refuses to write over anything.

    Raises:
        UserError: ``to`` is there already.
    """
    if to.exists():
        raise UserError(f"task.to={to} is there already; give a folder that does not exist")
