"""An option that does nothing is a defect: every one is flipped here, and something that can be seen must change.

``FLIPS`` says for each option what to flip and what then changes; a test holds it against the schemas and option files,
so that a new option without an effect cannot slip in. Most rows compare two runs of a step or two.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path

import pytest
import torch
import yaml

from omni_rlvr import run as running
from omni_rlvr.build import EvaluateParts, PreviewParts, TrainParts
from omni_rlvr.config import schema
from omni_rlvr.functional import metrics
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.training import callbacks
from omni_rlvr.types import Example, UserError

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("e2e_fixtures", ROOT / "tests/e2e/conftest.py")
assert _spec is not None
assert _spec.loader is not None
e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(e2e)
clips, checkpoint, common, runner = e2e.clips, e2e.checkpoint, e2e.common, e2e.runner
pytestmark = [pytest.mark.filterwarnings(line) for line in e2e.THIRD_PARTY]


class Spread:
    """A reward that a random model can earn."""

    max_score = 1.0

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        return [1.0 if "<answer>" in text else len(set(text)) % 7 / 7 for text in completions]


SFT = ("stage=sft", "stage.max_steps=2", "stage.batch_size=2")
LONG = ("stage=sft", "stage.max_steps=4", "stage.batch_size=1")
GRPO = (
    "stage=grpo", "stage.max_steps=1", "stage.batch_size=2", "stage.num_generations=3",
    "stage.sampling.max_completion_length=8",
    "+reward.terms.spread._target_=test_options.Spread", "+reward.weights.spread=1",
)  # fmt: skip
AGAIN = (*GRPO, "stage.num_iterations=3", "optimizer.lr=0.003")
EVALUATE = ("task=evaluate", "task.max_completion_length=4", "task.num_resamples=10")
PREVIEW = ("task=preview", "task.split=test", "task.num_clips=1")


@dataclass(frozen=True)
class Flip:
    """What to flip, on top of what, and what changes."""

    base: tuple[str, ...]
    override: str
    changes: str


FLIPS = {
    "seed": Flip(GRPO, "seed=1", "completions"),
    "name": Flip(SFT, "name=other", "folder"),
    "paths.output_root": Flip(SFT, "paths.output_root=elsewhere", "config"),
    "paths.data_root": Flip(
        ("dataset=synthetic", "dataset.root=${paths.data_root}/s", *SFT), "paths.data_root=x", "config"
    ),
    # stage, any
    "stage.num_train_epochs": Flip((*LONG, "stage.max_steps=-1", "stage.num_train_epochs=0.1"),
                                   "stage.num_train_epochs=0.25", "steps"),
    "stage.max_steps": Flip(SFT, "stage.max_steps=1", "steps"),
    "stage.batch_size": Flip(SFT, "stage.batch_size=1", "num_tokens"),
    "stage.micro_batch_size": Flip(SFT, "stage.micro_batch_size=1", "backward passes"),
    "stage.max_grad_norm": Flip(SFT, "stage.max_grad_norm=0.01", "weights"),
    "stage.lr_scheduler_type": Flip(LONG, "stage.lr_scheduler_type=linear", "learning_rate"),
    "stage.warmup_ratio": Flip(LONG, "stage.warmup_ratio=0.7", "learning_rate"),
    "stage.save_steps": Flip(LONG, "stage.save_steps=3", "saves"),
    "stage.logging_steps": Flip(LONG, "stage.logging_steps=2", "steps"),
    # stage=grpo
    "stage.num_generations": Flip(GRPO, "stage.num_generations=2", "completions"),
    "stage.beta": Flip(GRPO, "stage.beta=0", "kl"),
    "stage.epsilon": Flip(AGAIN, "stage.epsilon=0.0001", "clip_ratio/region_mean"),
    "stage.epsilon_high": Flip(AGAIN, "stage.epsilon_high=0.0001", "clip_ratio/region_mean"),
    "stage.num_iterations": Flip(GRPO, "stage.num_iterations=2", "backward passes"),
    "stage.num_minibatches": Flip(GRPO, "stage.num_minibatches=2", "backward passes"),
    "stage.scale_rewards": Flip(GRPO, "stage.scale_rewards=none", "advantages"),
    "stage.sampling.temperature": Flip(GRPO, "stage.sampling.temperature=0.2", "completions"),
    "stage.sampling.top_p": Flip(GRPO, "stage.sampling.top_p=0.2", "completions"),
    "stage.sampling.top_k": Flip(GRPO, "stage.sampling.top_k=2", "completions"),
    "stage.sampling.max_completion_length": Flip(
        GRPO, "stage.sampling.max_completion_length=4", "completions"),
    # modality
    "modality.name": Flip(("modality=audio", *SFT), "modality.name=other", "config"),
    "modality.video": Flip(SFT, "modality.video=false", "num_tokens"),
    "modality.audio": Flip(SFT, "modality.audio=false", "num_tokens"),
    # optimizer
    "optimizer.lr": Flip(SFT, "optimizer.lr=0.01", "weights"),
    "optimizer.betas": Flip(SFT, "optimizer.betas=[0.5,0.9]", "weights"),
    "optimizer.weight_decay": Flip(SFT, "optimizer.weight_decay=0.5", "weights"),
    # model
    "model.instruction": Flip(SFT, "model.instruction=Answer.", "num_tokens"),
    # dataset
    "dataset.train_split": Flip((*SFT, "stage.batch_size=6"), "dataset.train_split=test", "num_tokens"),
    # evaluation
    "task.batch_size": Flip(EVALUATE, "task.batch_size=2", "batches"),
    "task.max_completion_length": Flip(EVALUATE, "task.max_completion_length=2", "predictions"),
    "task.max_clips": Flip(EVALUATE, "task.max_clips=2", "predictions"),
    "task.num_resamples": Flip(EVALUATE, "task.num_resamples=20", "resamples"),
    "task.splits": Flip(EVALUATE, "task.splits=[test,train]", "files"),
    # preview
    "task.split": Flip(PREVIEW, "task.split=train", "config"),
    "task.num_clips": Flip(PREVIEW, "task.num_clips=2", "sheet"),
    "task.max_reasoning_chars": Flip(PREVIEW, "task.max_reasoning_chars=9", "sheet"),
}
ELSEWHERE = {
    "resume": "e2e/test_resume.py",
    "stage.micro_batch_size (gradient)": "stages/",
    **{f"task.{name}": "the quickstart" for name in schema.PipelineTask.__dataclass_fields__},
}
"""Options whose effect another file shows."""
BUILT = {
    "dataset.name", "dataset.splits", "dataset.labels", "dataset.root", "dataset.annotations",
    "dataset.on_bad_media", "dataset.decode_timeout_s", "dataset.max_clips_per_process",
    "dataset.num_workers", "model.path", "model.dtype", "reward.terms.accuracy.synonyms",
    "reward.weights.accuracy", "reward.weights.format", "trainer.accelerator", "trainer.devices",
    "trainer.precision", "trainer.max_epochs", "trainer.enable_checkpointing",
    "trainer.enable_model_summary", "trainer.enable_progress_bar", "trainer.log_every_n_steps",
}  # fmt: skip
"""Options whose effect is seen on what is built, by the tests at the end of this file."""


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
        "stage": (schema.SftConfig, schema.GrpoConfig),
        "modality": (schema.ModalityConfig,),
        "dataset": (schema.DatasetConfig,),
        "task": (schema.EvaluateTask, schema.PreviewTask, schema.PipelineTask),
        "paths": (schema.PathsConfig,),
    }
    leaves = {leaf for group, group_nodes in nodes.items() for n in group_nodes for leaf in leaves_of(n, group)}
    leaves |= {"seed", "name", "resume"}
    for group, option in (("model", "tiny"), ("optimizer", "adamw"), ("trainer", "default"),
                          ("reward", "accuracy_format")):
        leaves |= set(leaves_in(group, option))
    leaves -= {"task.name"}  # says which task it is; not for the user to set
    assert leaves - {*FLIPS, *ELSEWHERE, *BUILT} == set()
    assert {*FLIPS, *BUILT} - leaves == set()  # nothing here that is gone there


@pytest.fixture
def observe(runner, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, object]]:
    """Runs overrides and gathers all that can be seen of the run."""

    def seen(*overrides: str) -> dict[str, object]:
        out: dict[str, object] = {"backward passes": 0, "saves": [], "batches": 0, "resamples": 0}
        parts, folder = runner.build(*overrides)
        config = parts.place.config
        out["config"] = config
        out["folder"] = folder.parent.name
        if isinstance(parts, PreviewParts):
            monkeypatch.setattr("omni_rlvr.analysis.preview.preview_sheet",
                                lambda samples, path, **how: out.update(sheet=(len(samples), how)))
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
        out["files"] = sorted(p.name for p in folder.iterdir() if p.is_dir())
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
def test_an_option_does_something(option: str, observe: Callable, runner) -> None:
    flip = FLIPS[option]
    assert flip.override.partition("=")[0] == option
    if flip.changes == "config":  # nothing but a name or a place
        before, after = (runner.compose(*flip.base, *more) for more in ((), (flip.override,)))
        assert before != after
        return
    if flip.base not in WITHOUT:
        WITHOUT[flip.base] = observe(*flip.base)
    before, after = WITHOUT[flip.base], observe(*flip.base, flip.override)
    assert after[flip.changes] != before[flip.changes]


def test_the_micro_batch_changes_nothing_but_memory(observe: Callable) -> None:
    whole, split = (observe(*GRPO, f"stage.micro_batch_size={n}") for n in (64, 2))
    assert split["backward passes"] == 3 * whole["backward passes"]
    assert split["completions"] == whole["completions"]


def reader_of(parts: TrainParts):
    """The clip reader that a run would use."""
    data = running.clip_dataset(parts.clips, [], num_frames=1, sample_rate=16_000)
    return data, data.reader


def test_dataset_options_reach_what_reads(runner, clips: Path, tmp_path: Path) -> None:
    parts, _ = runner.build(
        *SFT, "dataset.decode_timeout_s=3", "dataset.max_clips_per_process=7",
        "dataset.on_bad_media=skip",
    )  # fmt: skip
    data, reader = reader_of(parts)
    assert (reader.timeout_s, reader.max_clips_per_process, data.on_bad_media) == (3, 7, "skip")
    loaders = []
    with pytest.MonkeyPatch.context() as patch:
        make = running.TrainData
        patch.setattr(running, "TrainData", lambda *a, **k: loaders.append(make(*a, **k)) or loaders[-1])
        parts, _ = runner.build(*SFT, "stage.max_steps=1", "dataset.num_workers=1")
        running.run(parts)
    assert loaders[0].train_dataloader().num_workers == 1
    parts, _ = runner.build(*SFT, f"dataset.root={tmp_path}")
    assert parts.clips.examples["train"][0].video == tmp_path / "clips" / "000000.mp4"
    parts, _ = runner.build(*SFT, f"dataset.annotations.train={clips}/test.json")
    assert len(parts.clips.examples["train"]) == 5
    parts, _ = runner.build(*SFT, f"dataset.splits.train.annotations={clips}/test.json")
    assert len(parts.clips.examples["train"]) == 5
    with pytest.raises(UserError, match="not one of the labels: happy, sad"):
        runner.build(*SFT, "dataset.labels=[happy,sad]")
    with pytest.raises(UserError, match="dataset=mine has no split 'nowhere'"):
        runner.build(*SFT, "dataset.name=mine", "dataset.train_split=nowhere")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_model_dtype_trains_and_evaluates(runner, dtype: str) -> None:
    parts, _ = runner.build(*SFT, f"model.dtype={dtype}")
    assert {str(p.dtype) for p in parts.policy.parameters()} == {f"torch.{dtype}"}
    if dtype == "bfloat16":
        running.run(parts)
        assert runner(*EVALUATE, "task.max_clips=2", "model.dtype=bfloat16")


def test_model_path_decides_the_weights(runner, tmp_path: Path) -> None:
    parts, _ = runner.build(*SFT)
    with torch.no_grad():
        for weight in parts.policy.parameters():
            weight.zero_()
    parts.policy.save(tmp_path / "zero")
    parts, _ = runner.build(*SFT, f"model.path={tmp_path}/zero")
    assert not any(weight.any() for weight in parts.policy.parameters())


def test_reward_options_decide_the_reward(runner) -> None:
    example = Example(id="a", question="?", answer="happy", target="happy", video=None)
    texts = ["<think>a</think><answer>joy</answer>", "<answer>happy</answer>", "happy"]

    def rewards(*overrides: str) -> list[float]:
        parts, _ = runner.build(*GRPO, "reward.weights.spread=0", *overrides)
        return parts.stage.reward(texts, [example] * 3).rewards.tolist()

    assert rewards() == [1, 1, 0]
    assert rewards("reward.weights.accuracy=3") == [1, 3, 0]
    assert rewards("reward.weights.format=0.5") == [0.5, 1, 0]
    assert rewards("+reward.terms.accuracy.synonyms.joy=happy") == [2, 1, 0]


@pytest.mark.parametrize(
    ("override", "seen"),
    [
        ("accelerator=cpu", lambda t: type(t.accelerator).__name__ == "CPUAccelerator"),
        ("devices=2", lambda t: t.num_devices == 2),
        ("precision=bf16-mixed", lambda t: t.precision == "bf16-mixed"),
        ("max_epochs=2", lambda t: t.max_epochs == 2),
        ("enable_checkpointing=true", lambda t: t.checkpoint_callback is not None),
        ("enable_model_summary=true", lambda t: any("Summary" in type(c).__name__ for c in t.callbacks)),
        ("enable_progress_bar=true", lambda t: t.progress_bar_callback is not None),
        ("log_every_n_steps=5", lambda t: t.log_every_n_steps == 5),
    ],
)  # fmt: skip
def test_trainer_options_reach_lightning(runner, override: str, seen: Callable) -> None:
    makes = [runner.build(*SFT, *more)[0].make_trainer for more in ((), (f"trainer.{override}",))]
    plain, flipped = (make(logger=False) for make in makes)
    assert seen(flipped)
    assert override == "accelerator=cpu" or not seen(plain)


def test_precision_trains(runner) -> None:
    folder = runner(*SFT, "trainer.precision=bf16-mixed")
    assert read_json(folder / "run.json")["status"] == "finished"
