"""An option that does nothing is a defect: each is flipped here, and something seen must change.

``FLIPS`` says for each option what to flip and what then changes; a test holds it against the
schemas and option files, so that a new option without an effect cannot slip in. Most rows compare
two runs of a step or two.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import yaml

from omni_rlvr import run as running
from omni_rlvr.config import schema
from omni_rlvr.data import options as data_options
from omni_rlvr.functional import metrics
from omni_rlvr.parts import EvaluateParts, PreviewParts, TrainParts
from omni_rlvr.record import read_jsonl
from omni_rlvr.stages import options as stage_options
from omni_rlvr.training import callbacks
from omni_rlvr.types import Example

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("e2e_fixtures", ROOT / "tests/e2e/conftest.py")
assert _spec is not None
assert _spec.loader is not None
e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(e2e)
clips, checkpoint, common, runner = e2e.clips, e2e.checkpoint, e2e.common, e2e.runner


class Spread:
    """A reward that a random model can earn."""

    max_score = 1.0

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        return [1.0 if "<answer>" in text else len(set(text)) % 7 / 7 for text in completions]


SFT = ("stage=sft", "stage.max_steps=2", "stage.batch_size=2")
LONG = ("stage=sft", "stage.max_steps=4", "stage.batch_size=1")
EPOCHS = (*LONG, "stage.max_steps=-1", "stage.num_train_epochs=0.1")
GRPO = (
    "stage=grpo", "stage.max_steps=1", "stage.batch_size=2", "stage.num_generations=3",
    "stage.sampling.max_completion_length=8",
    "+reward.terms.spread._target_=test_options.Spread", "+reward.weights.spread=1",
)  # fmt: skip
AGAIN = (*GRPO, "stage.num_iterations=3", "optimizer.lr=0.003")
EVALUATE = ("task=evaluate", "task.max_completion_length=4", "task.num_resamples=10")
PREVIEW = ("task=preview", "task.split=test")  # five clips; train has twelve


FLIPS = {
    "seed": (GRPO, "1", "completions"),
    "name": (SFT, "other", "folder"),
    # stage, any
    "stage.num_train_epochs": (EPOCHS, "0.25", "steps"),
    "stage.max_steps": (SFT, "1", "steps"),
    "stage.batch_size": (SFT, "1", "num_tokens"),
    "stage.micro_batch_size": (SFT, "1", "backward passes"),
    "stage.max_grad_norm": (SFT, "0.01", "weights"),
    "stage.lr_scheduler_type": (LONG, "linear", "learning_rate"),
    "stage.warmup_ratio": (LONG, "0.7", "learning_rate"),
    "stage.save_steps": (LONG, "3", "saves"),
    "stage.logging_steps": (LONG, "2", "steps"),
    # stage=grpo
    "stage.num_generations": (GRPO, "2", "completions"),
    "stage.beta": (GRPO, "0", "kl"),
    "stage.epsilon": (AGAIN, "0.0001", "clip_ratio/region_mean"),
    "stage.epsilon_high": (AGAIN, "0.0001", "clip_ratio/region_mean"),
    "stage.num_iterations": (GRPO, "2", "backward passes"),
    "stage.num_minibatches": (GRPO, "2", "backward passes"),
    "stage.scale_rewards": (GRPO, "none", "advantages"),
    "stage.sampling.temperature": (GRPO, "0.2", "completions"),
    "stage.sampling.top_p": (GRPO, "0.2", "completions"),
    "stage.sampling.top_k": (GRPO, "2", "completions"),
    "stage.sampling.max_completion_length": (GRPO, "4", "completions"),
    "modality.video": (SFT, "false", "num_tokens"),
    "modality.audio": (SFT, "false", "num_tokens"),
    "optimizer.lr": (SFT, "0.01", "weights"),
    "optimizer.betas": (SFT, "[0.5,0.9]", "weights"),
    "optimizer.weight_decay": (SFT, "0.5", "weights"),
    "model.instruction": (SFT, "Answer.", "num_tokens"),
    "dataset.max_train_examples": ((*SFT, "stage.batch_size=12"), "2", "weights"),
    "dataset.train_split": ((*SFT, "stage.batch_size=6"), "test", "weights"),
    # task=evaluate
    "task.batch_size": (EVALUATE, "2", "batches"),
    "task.max_completion_length": (EVALUATE, "2", "predictions"),
    "task.max_clips": (EVALUATE, "2", "predictions"),
    "task.num_resamples": (EVALUATE, "20", "resamples"),
    "task.splits": (EVALUATE, "[test,train]", "folders"),
    # task=preview
    "task.split": (PREVIEW, "train", "sheet"),
    "task.num_clips": (PREVIEW, "2", "sheet"),
    "task.max_reasoning_chars": (PREVIEW, "9", "sheet"),
}
"""Option -> what it is flipped on top of, its other value, and what then changes."""
ELSEWHERE = {
    "resume": "e2e/test_resume.py",
    **dict.fromkeys(
        ("feature_cache.enabled", "feature_cache.folder", "feature_cache.dtype"),
        "e2e/test_cached_runs.py",
    ),
    "feature_cache.max_gb": "e2e/test_cached_runs.py",
    "runs": "analysis/test_report.py",
    "task.evaluate_after": "e2e/test_sweep.py",
    "task.start_from.overrides": "e2e/test_sweep.py",
    "task.start_from.num_examples": "e2e/test_sweep.py",
    "task.baseline": "analysis/test_report.py",
    "task.allow_different_labels": "analysis/test_report.py",
    "task.max_groups": "analysis/test_report.py",
    **{f"task.{name}": "the quickstart" for name in schema.PipelineTask.__dataclass_fields__},
}
"""Options whose effect another test shows."""
BUILT = """
    dataset.name dataset.splits dataset.labels dataset.root dataset.annotations
    dataset.on_bad_media dataset.decode_timeout_s dataset.max_clips_per_process dataset.num_workers
    paths.output_root paths.data_root modality.name model.path model.dtype
    reward.terms.accuracy.synonyms reward.weights.accuracy reward.weights.format
    trainer.accelerator trainer.devices trainer.precision
    trainer.enable_checkpointing trainer.enable_model_summary trainer.enable_progress_bar
    trainer.log_every_n_steps
""".split()  # noqa: SIM905 (a word a line would take a page)
"""Options whose effect is seen on what is built, by test_options_built.py."""


def leaves_of(node: type, key: str) -> Iterator[str]:
    """All fields of a schema, nested ones too."""
    for name in node.__dataclass_fields__:
        default = node.__dataclass_fields__[name].default_factory
        below = default if isinstance(default, type) and is_dataclass(default) else None
        if below is not None:
            yield from leaves_of(below, f"{key}.{name}")
        else:
            yield f"{key}.{name}"


def leaves_in(group: str, option: str) -> Iterator[str]:
    """All values of an option file, without Hydra's own keys."""

    def walk(value: object, key: str) -> Iterator[str]:
        if isinstance(value, dict) and value:
            for name, below in value.items():
                if not name.startswith("_"):
                    yield from walk(below, f"{key}.{name}")
        else:
            yield key

    yield from walk(yaml.safe_load((ROOT / f"conf/{group}/{option}.yaml").read_text()), group)


def test_every_option_is_flipped() -> None:
    nodes = {
        "stage": (stage_options.SftConfig, stage_options.GrpoConfig),
        "modality": (data_options.ModalityConfig,),
        "dataset": (data_options.DatasetConfig,),
        "task": (
            schema.TrainTask,
            schema.EvaluateTask,
            schema.CacheTask,
            schema.PreviewTask,
            schema.PipelineTask,
            schema.ReportTask,
        ),
        "paths": (schema.PathsConfig,),
        "feature_cache": (data_options.FeatureCacheConfig,),
    }
    leaves = {
        leaf
        for group, group_nodes in nodes.items()
        for n in group_nodes
        for leaf in leaves_of(n, group)
    }
    leaves |= {"seed", "name", "runs", "resume"}
    for group, option in (
        ("model", "tiny"),
        ("optimizer", "adamw"),
        ("trainer", "default"),
        ("reward", "accuracy_format"),
    ):
        leaves |= set(leaves_in(group, option))
    leaves -= {"task.name"}  # says which task it is; not for the user to set
    assert leaves - {*FLIPS, *ELSEWHERE, *BUILT} == set()
    assert {*FLIPS, *BUILT} - leaves == set()  # nothing here that is gone there
    assert not {*FLIPS} & {*BUILT}


@pytest.fixture
def observe(runner, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, object]]:
    """Runs overrides and gathers all that can be seen of the run."""

    def seen(*overrides: str) -> dict[str, object]:
        out: dict[str, object] = {"backward passes": 0, "saves": [], "batches": 0, "resamples": 0}
        parts, folder = runner.build(*overrides)
        folder.mkdir(parents=True, exist_ok=True)  # as Hydra does
        out["folder"] = folder.parent.name
        if isinstance(parts, PreviewParts):
            monkeypatch.setattr(
                "omni_rlvr.analysis.preview.preview_sheet",
                lambda samples, path, **how: out.update(sheet=(len(samples), how)),
            )
        with pytest.MonkeyPatch.context() as patch:
            spy(patch, parts, out)
            running.run(parts)
        rows = read_jsonl(folder / "metrics.jsonl")
        out["steps"] = [row["step"] for row in rows]
        for name in ("num_tokens", "learning_rate", "kl", "clip_ratio/region_mean"):
            out[name] = [row.get(name) for row in rows]
        lines = read_jsonl(folder / "completions.jsonl")
        out["completions"] = [row["completion"] for row in lines]
        out["advantages"] = [row["advantage"] for row in lines]
        out["folders"] = sorted(p.name for p in folder.iterdir() if p.is_dir())
        out["predictions"] = read_jsonl(folder / "test" / "predictions.jsonl")
        weights = folder / "checkpoint" / "model.safetensors"
        out["weights"] = weights.read_bytes() if weights.exists() else None
        return out

    return seen


def spy(patch: pytest.MonkeyPatch, parts: object, out: dict) -> None:
    """Counts what a run does and does not write down."""
    if isinstance(parts, TrainParts):
        loss, save = parts.stage.loss, callbacks.save_checkpoint

        def counted(*arguments):
            out["backward passes"] += 1
            return loss(*arguments)

        def noted(*arguments, step: int):
            out["saves"].append(step)
            return save(*arguments, step=step)

        patch.setattr(parts.stage, "loss", counted)
        patch.setattr(callbacks, "save_checkpoint", noted)
    elif isinstance(parts, EvaluateParts):
        encode, interval = parts.policy.encode, metrics.bootstrap_interval

        def encoded(batch):
            out["batches"] += 1
            return encode(batch)

        def resampled(*arguments, num_resamples: int, **how):
            out["resamples"] = num_resamples
            return interval(*arguments, num_resamples=num_resamples, **how)

        patch.setattr(parts.policy, "encode", encoded)
        patch.setattr(metrics, "bootstrap_interval", resampled)


WITHOUT: dict[tuple[str, ...], dict[str, object]] = {}
"""What runs without any flip looked like; each is made once."""


@pytest.mark.parametrize("option", FLIPS)
def test_an_option_does_something(option: str, observe: Callable) -> None:
    base, value, changes = FLIPS[option]
    if base not in WITHOUT:
        WITHOUT[base] = observe(*base)
    assert observe(*base, f"{option}={value}")[changes] != WITHOUT[base][changes]


def test_the_micro_batch_changes_nothing_but_memory(observe: Callable) -> None:
    whole, split = (observe(*GRPO, f"stage.micro_batch_size={n}") for n in (64, 2))
    assert split["backward passes"] == 3 * whole["backward passes"]
    assert split["completions"] == whole["completions"]
