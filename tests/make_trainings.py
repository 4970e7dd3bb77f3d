"""Trainings of a step or two on batches made of tensors, under any strategy and on any device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from omni_rlvr import distributed
from omni_rlvr.config.sampling import SamplingOptions
from omni_rlvr.config.stage import GrpoConfig, SftConfig
from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.data.collate import Collate
from omni_rlvr.data.loader import move
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.families import family_of
from omni_rlvr.models.policy import Policy, Processor
from omni_rlvr.models.sharding import gathered, is_sharded, state_of, whole
from omni_rlvr.record import RunRecord, read_jsonl
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.stages.sft import SftStage
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.training.parallel import parallel_of
from omni_rlvr.training.trainer import build_trainer
from omni_rlvr.types import Batch, Clip, Example, RewardOutput, Sample

TARGETS = ("happy", "<answer>sad</answer>", "a long face, <answer>sad</answer>")
ALL = ("av", "v", "a", "t")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A training of one step or two, and which rows each of two ranks has."""

    split: tuple[list[int], list[int]]
    model: str | None = None
    """The ``model_type`` of a family's tiny model; None for the composed one of the fixtures."""
    kinds: Sequence[str] = ALL
    trainable: TrainableConfig = field(default_factory=TrainableConfig)
    is_tied: bool = True
    stage: dict[str, Any] = field(default_factory=dict)
    grpo: bool = False
    num_steps: int = 1
    precision: str = "32-true"
    is_counted: bool = False

    @property
    def num_rows(self) -> int:
        return sum(map(len, self.split))


LORA = TrainableConfig(lora=LoraConfig(enabled=True, r=4))
ALONE = replace(LORA, video_projector=False, audio_projector=False)


@dataclass(frozen=True)
class Tools:
    """What the fixtures of the tests give."""

    base: Path
    build_policy: Callable[..., OmniModel]
    make_batch: Callable[..., Batch]


class ByText:
    """Rewards a completion by its text alone, whatever rank it is on."""

    def __init__(self) -> None:
        self.weights = {"only": 1.0}

    def __call__(self, completions, examples, lengths) -> RewardOutput:
        scores = torch.tensor([float(sum(map(ord, text)) % 3) for text in completions])
        return RewardOutput(scores, {"only": scores})


class Given(pl.LightningDataModule):
    """Batches that are there."""

    def __init__(self, batches: Sequence[Batch]):
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return move(batch, device)


class Gradients(pl.Callback):
    """Keeps the gradients of the first update, whole."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if not self.found:
            self.found = {
                name: whole(weight.grad).clone()
                for name, weight in pl_module.policy.named_parameters()
                if weight.grad is not None
            }


class Traffic(pl.Callback):
    """Counts the collectives of the last of several steps, by PyTorch's profiler."""

    def __init__(self) -> None:
        self.found: dict[str, list[int]] = {}
        """Collective -> the number of elements of each call."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx + 1 == trainer.num_training_batches:
            self.profiled = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.profiled.start()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx + 1 < trainer.num_training_batches:
            return
        self.profiled.stop()
        for event in self.profiled.events():
            if event.name.startswith("gloo:"):
                sizes = [torch.Size(shape).numel() for shape in event.input_shapes if shape]
                name = event.name.removeprefix("gloo:")
                self.found.setdefault(name, []).append(sum(sizes))


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    """A rank's part of a batch."""
    assert batch.completion_ids is not None
    assert batch.completion_mask is not None
    fields = ("examples", "video_shapes", "audio_shapes", "pixel_values", "input_features")
    return replace(
        batch,
        prompt_ids=batch.prompt_ids[rows],
        prompt_mask=batch.prompt_mask[rows],
        prompt_positions=batch.prompt_positions[..., rows, :],
        completion_ids=batch.completion_ids[rows],
        completion_mask=batch.completion_mask[rows],
        places=rows,
        notes=[batch.notes[row] for row in rows] if batch.notes else batch.notes,
        **{name: [getattr(batch, name)[row] for row in rows] for name in fields},
    )


@cache
def tiny(model_type: str) -> Policy:
    """A family's tiny policy, made once; nobody may change it."""
    return family_of(model_type).tiny(0, model_type)


def batch_of_clips(processor: Processor, num_rows: int, kinds: Sequence[str]) -> Batch:
    """Clips of noise through a family's own processor, each of its own size."""
    made, num_frames = [], processor.sampling.num_frames(2.0)
    for i in range(num_rows):
        random, kind = np.random.default_rng(i), kinds[i % len(kinds)]
        frames = random.integers(0, 256, (num_frames, 56 + 28 * i, 84, 3), np.uint8)
        sound = random.uniform(-0.3, 0.3, 9_000 + 4_000 * i).astype(np.float32)
        clip = Clip(
            frames=frames if "v" in kind else None,
            waveform=sound if "a" in kind else None,
            duration_s=2.0,
            frame_times_s=np.arange(num_frames) * 2 / num_frames,
        )
        question, target = f"{'Which ' * i}emotion?", TARGETS[i % len(TARGETS)]
        made.append(Sample(Example(f"{i}", question, "happy", target, video=None), clip))
    return Collate(processor, with_target=True)(made)


def prepared_policy(case: Case, tools: Tools) -> Any:
    if case.model is None:
        policy: Any = tools.build_policy()
    else:
        made = tiny(case.model)
        policy = copy.deepcopy(made, {id(made.processor): made.processor})
    if not case.is_tied:
        policy.config.text_config.tie_word_embeddings = False
        head = policy.language_model.lm_head
        head.weight = torch.nn.Parameter(0.5 * head.weight.detach().clone())
    torch.manual_seed(0)  # new adapters are drawn
    apply(policy, case.trainable, tools.base)
    generator = torch.Generator().manual_seed(1)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:  # at 0 no gradient would reach A
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    return policy


def stage_of(case: Case, policy: Policy):
    if not case.grpo:
        return SftStage(SftConfig(micro_batch_size=1, max_grad_norm=0.0, **case.stage))
    sampling = SamplingOptions(max_completion_length=6)
    options = {"num_generations": 4, "micro_batch_size": 4, "max_grad_norm": 0.0, "beta": 0.04}
    config = GrpoConfig(sampling=sampling, warmup_ratio=0.0, **options | case.stage)
    return GrpoStage(config, ByText(), policy.frozen_copy(), SharedPrefix())


def trained(
    case: Case,
    strategy: str,
    optimizer: Callable[..., torch.optim.Optimizer],
    folder: Path,
    tools: Tools,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """What a training of a case comes to, on this rank of however many there are."""
    policy = prepared_policy(case, tools)
    if case.model is None:
        batch = tools.make_batch(policy, case.num_rows, case.kinds, targets=TARGETS)
    else:
        batch = batch_of_clips(policy.processor, case.num_rows, case.kinds)
    split = case.split if distributed.num_ranks() == 2 else [[*case.split[0], *case.split[1]]]
    stage = stage_of(case, policy)
    if distributed.rank() > 0:  # what a rank drew for itself gives way to the first rank's
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.data.add_(1.0)
    gradients, traffic = Gradients(), Traffic() if case.is_counted else None
    record = RunRecord(folder, {"seed": 0}, device=str(device), writes=distributed.is_first())
    options = ("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar")
    make = partial(
        pl.Trainer,
        accelerator=device.type,
        precision=case.precision,
        **dict.fromkeys(options[1:], False),
    )
    with parallel_of(strategy, device, no_sync=stage.config.no_sync) as parallel:
        trainer = build_trainer(
            make, [gradients, *([traffic] if traffic else [])], device, parallel
        )
        module = RLVRModule(
            policy.train(),
            stage,
            SharedPrefix(),
            optimizer,
            stage.config,
            record,
            parallel=parallel,
            on_features=lambda batch, features: None,
            num_updates=case.num_steps * stage.config.updates_per_step,
            seed=0,
        )
        batches = [rows_of(batch, split[distributed.rank()])] * case.num_steps
        trainer.fit(module, datamodule=Given(batches))
        assert is_sharded(policy) == (strategy == "fsdp2")
        with gathered(policy):
            weights = copy.deepcopy({**state_of(policy)})
    timed = ("tokens/s", "step_time")
    return {
        "gradients": gradients.found,
        "weights": weights,
        "metrics": {k: v for k, v in module.last_metrics.items() if k not in timed},
        "completions": read_jsonl(folder / "completions.jsonl") if case.grpo else [],
        "traffic": traffic.found if traffic else {},
        "num_trained": sum(w.numel() for w in policy.parameters() if w.requires_grad),
    }
