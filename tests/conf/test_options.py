"""An option that does nothing is a defect: each is flipped here, and something seen must change.

``FLIPS`` says what to flip and what then changes; most rows compare two runs of a step or two. An
option without a row there must be set by another test, which shows what it does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import yaml
from flips import FLIPS, GRPO, is_set_in_a_test

from omni_rlvr.config import dataset as data_options
from omni_rlvr.config import root, trainable
from omni_rlvr.functional import bootstrap
from omni_rlvr.models.prefix.cpu_float32.activation_reuse import ActivationReuse
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.stages.sft import SftStage
from omni_rlvr.stages.table import STAGES
from omni_rlvr.tasks.clips import PolicyInputs
from omni_rlvr.tasks.dataset.preview import PreviewInputs
from omni_rlvr.tasks.table import TASKS
from omni_rlvr.tasks.train import TrainInputs
from omni_rlvr.training import callbacks

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("e2e_fixtures", ROOT / "tests/e2e/conftest.py")
assert _spec is not None
assert _spec.loader is not None
e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(e2e)
clips, checkpoint, common, runner = e2e.clips, e2e.checkpoint, e2e.common, e2e.runner


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
                if not str(name).startswith("_") and name != "defaults":
                    yield from walk(below, f"{key}.{name}")
        else:
            yield key

    yield from walk(
        yaml.safe_load((ROOT / f"conf/{group}/{option}.yaml").read_text()), group.replace("/", ".")
    )


def test_every_option_is_flipped() -> None:
    nodes = {
        "stage": tuple(row.config for row in STAGES.values()),
        "modality": (data_options.ModalityConfig,),
        "dataset": (data_options.DatasetConfig, data_options.OfficialConfig),
        "task": tuple(row.config for row in TASKS.values()),
        "paths": (root.PathsConfig,),
        "feature_cache": (data_options.FeatureCacheConfig,),
        "model.trainable": (trainable.TrainableConfig,),
    }
    leaves = {
        leaf
        for group, group_nodes in nodes.items()
        for n in group_nodes
        for leaf in leaves_of(n, group)
    }
    leaves |= {"seed", "name", "runs", "html", "resume", "video", "audio", "reward.timeout_s"}
    for group, option in (
        ("model", "tiny"),
        ("optimizer", "adamw"),
        ("trainer", "default"),
        ("reward", "accuracy_format"),
        ("lexicon", "english"),
    ):
        leaves |= set(leaves_in(group, option))
    leaves -= {"task.name"}  # says which task it is; not for the user to set
    assert [leaf for leaf in leaves - {*FLIPS} if not is_set_in_a_test(leaf)] == []
    assert {*FLIPS} - leaves == set()  # nothing here that is gone there


@pytest.fixture
def observe(runner, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, object]]:
    """Runs overrides and gathers all that can be seen of the run."""

    def seen(*overrides: str) -> dict[str, object]:
        out: dict[str, object] = {"backward passes": 0, "saves": [], "batches": 0, "resamples": 0}
        out["layer passes"] = out["activations used"] = 0
        ready, folder = runner.ready(*overrides)
        parts = ready.inputs
        folder.mkdir(parents=True, exist_ok=True)  # as Hydra does
        out["folder"] = folder.parent.name
        if isinstance(parts, PreviewInputs):
            monkeypatch.setattr(
                "omni_rlvr.tasks.dataset.preview.preview_sheet",
                lambda samples, path, **how: out.update(sheet=(len(samples), how)),
            )
        with pytest.MonkeyPatch.context() as patch:
            spy(patch, parts, out)
            ready.run()
        rows = read_jsonl(folder / "metrics.jsonl")
        out["steps"] = [row["step"] for row in rows]
        for name in ("num_tokens", "learning_rate", "kl", "clip_ratio/region_mean"):
            out[name] = [row.get(name) for row in rows]
        lines = read_jsonl(folder / "completions.jsonl")
        out["completions"] = [row["completion"] for row in lines]
        out["advantages"] = [row["advantage"] for row in lines]
        out["folders"] = sorted(p.name for p in folder.iterdir() if p.is_dir())
        out["checkpoints"] = len(list(folder.glob("checkpoints/*")))
        out["predictions"] = read_jsonl(folder / "test" / "predictions.jsonl")
        weights = folder / "checkpoint" / "model.safetensors"
        out["weights"] = weights.read_bytes() if weights.exists() else None
        adapters = folder / "checkpoint/adapters/language_model/adapter_model.safetensors"
        out["adapters"] = adapters.read_bytes() if adapters.exists() else None
        out["trainable"] = read_json(folder / "run.json").get("trainable")
        return out

    return seen


def spy(patch: pytest.MonkeyPatch, parts: object, out: dict) -> None:
    """Counts what a run does and does not write down."""
    if isinstance(parts, TrainInputs):
        loss, save = parts.stage.loss, callbacks.save_checkpoint

        def counted(*arguments):
            out["backward passes"] += 1
            return loss(*arguments)

        def noted(*arguments, step: int, keep: int):
            out["saves"].append(step)
            return save(*arguments, step=step, keep=keep)

        def used(*arguments):
            found = by_layer(*arguments)
            out["activations used"] += found is not None
            return found

        by_layer = ActivationReuse.by_layer
        patch.setattr(ActivationReuse, "by_layer", used)
        if isinstance(parts.stage, SftStage):  # a hook, with which a rollout keeps no activations
            parts.policy.language_model.model.layers[0].mlp.register_forward_pre_hook(
                lambda *_: out.update({"layer passes": out["layer passes"] + 1})
            )
        patch.setattr(parts.stage, "loss", counted)
        patch.setattr(callbacks, "save_checkpoint", noted)
    elif isinstance(parts, PolicyInputs):
        encode, interval = parts.policy.encode, bootstrap.bootstrap_interval

        def encoded(batch):
            out["batches"] += 1
            return encode(batch)

        def resampled(*arguments, num_resamples: int, **how):
            out["resamples"] = num_resamples
            return interval(*arguments, num_resamples=num_resamples, **how)

        patch.setattr(parts.policy, "encode", encoded)
        patch.setattr(bootstrap, "bootstrap_interval", resampled)


WITHOUT: dict[tuple[str, ...], dict[str, object]] = {}
"""What runs without any flip looked like; each is made once."""


@pytest.mark.slow
@pytest.mark.parametrize("option", FLIPS)
def test_an_option_does_something(option: str, observe: Callable) -> None:
    base, value, changes = FLIPS[option]
    if base not in WITHOUT:
        WITHOUT[base] = observe(*base)
    assert observe(*base, f"{option}={value}")[changes] != WITHOUT[base][changes]


@pytest.mark.slow
def test_the_micro_batch_changes_nothing_but_memory(observe: Callable) -> None:
    whole, split = (observe(*GRPO, f"stage.micro_batch_size={n}") for n in (64, 2))
    assert split["backward passes"] == 3 * whole["backward passes"]
    assert split["completions"] == whole["completions"]
