"""The task ``plan``, and the check of memory before training: what a run needs of its device."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from omni_rlvr import distributed
from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.policies import check_modality, has_skeleton, skeleton
from omni_rlvr.assembly.stage import ROLLOUT as SHARED
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.config.tasks import PlanTask
from omni_rlvr.models.adapters.lora import is_adapter
from omni_rlvr.models.adapters.trainable import arrange, count, weights_of
from omni_rlvr.models.families import family_of
from omni_rlvr.models.loading.quantize import linear_layers, packed_bytes
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.prefix.attention_hook import can_share
from omni_rlvr.models.prefix.kernels import score_bytes
from omni_rlvr.models.prefix.measure import measure_pass
from omni_rlvr.models.sharding import units_of
from omni_rlvr.record import write_json
from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.tasks.plan.memory import (
    MOMENTS,
    Model,
    Options,
    Row,
    Shares,
    peak,
    rows_of,
    smaller,
    state_factor,
)
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.training.devices import DeviceMemory, device_numbers, device_of, memory_of
from omni_rlvr.types import Batch, Example, UserError, require

GB = 1e9
LOOKED_AT = 256
"""Number of targets that are tokenised to find the longest one."""


@dataclass(frozen=True)
class Plan:
    """The memory that a training run needs, and that its device has."""

    rows: Sequence[Row]
    model: Model
    options: Options
    device: DeviceMemory
    clip: str
    """A description of the clips that the plan is for."""

    @property
    def num_bytes(self) -> int:
        """The most memory that is used at a time."""
        return peak(self.rows)[1]

    @property
    def fits(self) -> bool:
        """Whether the device has enough memory, or its memory is unknown."""
        return self.device.num_bytes is None or self.num_bytes <= self.device.num_bytes

    def line(self) -> str:
        """Write the total in one line."""
        has = self.device.num_bytes
        there = "" if has is None else f"; {self.device.name} has {has / GB:.1f} GB"
        moment, most = peak(self.rows)
        return f"memory plan: {most / GB:.2f} GB at the {moment} ({self.clip}){there}"

    def advice(self) -> str:
        """Name an option that makes the run fit, or else options that make it smaller."""
        has = self.device.num_bytes or 0
        options = [(text, size) for text, size in smaller(self.model, self.options)]
        enough = [text for text, size in options if size <= has]
        texts = [f"{enough[0]} makes it fit"] if enough else [text for text, _ in options]
        if all(one.part != "lora" for one in self.model.counts):
            texts.append("model/trainable=lora")
        texts += ["model.dtype=bfloat16", "stage.batch_size=N"]
        texts += ["trainer.strategy=fsdp2 with trainer.devices=N, which share the weights"]
        return ", ".join(texts[:1]) if enough else "try " + ", ".join(texts)


@dataclass(frozen=True)
class PlanInputs:
    """The inputs of ``run``."""

    place: Place
    plan: Plan


def build(composed: Composed) -> PlanInputs:
    """Build the model without weights, and estimate the plan."""
    return PlanInputs(composed.place, plan_of(composed, composed.task, None))


def run(inputs: PlanInputs) -> None:
    """Print the plan as a table and write it to plan.json in the run's folder.

    Raises:
        UserError: The run does not fit the device.
    """
    plan = inputs.plan
    with recorded(inputs.place, device="cpu"):
        Console().print(plan_table(plan))
        file = inputs.place.run_dir / "plan.json"
        write_json(
            file,
            {
                "num_bytes": plan.num_bytes,
                "device_bytes": plan.device.num_bytes,
                "fits": plan.fits,
                "clip": plan.clip,
                "prompt_length": plan.model.prompt_length,
                "rows": [asdict(row) for row in plan.rows],
            },
        )
        print(plan.line())
        print(f"written: {file}")
        check_fits(plan)


def check_before_loading(composed: Composed, examples: Sequence[Example]) -> None:
    """Print the total of a training run's plan, and refuse what cannot fit its device.

    A model with a custom loader has no plan.

    Raises:
        UserError: The run needs more memory than the device has.
    """
    if not distributed.is_first() or not has_skeleton(composed.cfg.model):
        return
    learnt = itertools.islice(examples, LOOKED_AT)
    targets = None if composed.stage.samples else [example.target for example in learnt]
    with torch.random.fork_rng(devices=()):  # only this rank draws random adapters here
        plan = plan_of(composed, PlanTask(), targets)
    print(plan.line())
    check_fits(plan)


def check_fits(plan: Plan) -> None:
    """Refuse a plan that needs more memory than the device has.

    Raises:
        UserError: It does; says what to change.
    """
    if not plan.fits:
        raise UserError(f"{plan.line()}; it cannot fit: {plan.advice()}")


def plan_of(composed: Composed, task: PlanTask, targets: Sequence[str] | None) -> Plan:
    """Estimate the plan of a training run.

    Args:
        composed: The run.
        task: The clip and the device to plan for.
        targets: Targets of SFT, of which the longest counts; None takes ``task.target_length``.
    """
    config = composed.place.config
    policy = skeleton(composed.cfg.model)
    check_modality(policy, composed.modality)
    arrange(policy, composed.trainable)
    device, number, num_devices = _device(config["trainer"], task)
    stage, is_sharded = composed.stage, config["trainer"].get("strategy") == "fsdp2"
    num_prompts = max(1, stage.batch_size // num_devices)
    length = task.target_length
    if isinstance(stage, GrpoConfig):
        length = stage.sampling.max_completion_length
    elif targets is not None:
        length = max((len(policy.processor.target_ids(text)) for text in targets), default=length)
    half = torch.bfloat16 if config["trainer"].get("precision") == "bf16-mixed" else None
    options = Options(
        num_prompts=num_prompts,
        num_generations=stage.num_generations if isinstance(stage, GrpoConfig) else 1,
        samples=stage.samples,
        completion_length=length,
        micro_batch_size=stage.micro_batch_size,
        max_tokens_per_micro_batch=stage.max_tokens_per_micro_batch,
        gradient_checkpointing=stage.gradient_checkpointing,
        has_reference=stage.needs_reference,
        shares_prefix=config["rollout"]["_target_"] == SHARED and can_share(policy.language_model),
        keeps_activations=isinstance(stage, GrpoConfig)
        and stage.keeps_activations(num_prompts)
        and not is_sharded,
        state_factor=state_factor(make(composed.cfg.optimizer)),
        step_copies=device.type == "cuda" and not config["optimizer"].get("fused"),
        autocast_bytes=0 if half is None or policy.dtype == half else half.itemsize,
        sums_in_buckets=num_devices > 1 and not is_sharded,
        no_sync=stage.no_sync,
    )
    wanted = (composed.modality.video, composed.modality.audio)
    on_cpu = device.type == "cpu"
    model = _measured(policy, options, task, wanted, on_cpu=on_cpu, autocast=half)
    if is_sharded:
        sizes = replace(model.sizes, packed_bytes=0, recorded=0.0)  # layers run in their modules
        model = replace(model, sizes=sizes, shares=_shares(policy, num_devices))
    elif (config["model"].get("options") or {}).get("quantize"):
        model = _rounded(model, policy)
    if task.device_gb is None:
        memory = memory_of(device, number)
    else:
        memory = DeviceMemory("the device", round(task.device_gb * GB))
    ranks_here = num_devices // int(config["trainer"].get("num_nodes", 1))
    if device.type == "cpu" and ranks_here > 1 and memory.num_bytes is not None:
        each = f"each of {ranks_here} ranks on {memory.name}"
        memory = DeviceMemory(each, memory.num_bytes // ranks_here)
    clip = f"clips of {task.clip_s:g} s at {task.frame_width} x {task.frame_height}"
    return Plan(rows_of(model, options), model, options, memory, clip)


def plan_table(plan: Plan) -> Table:
    """Lay the plan out for a terminal of 80 columns."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("memory of one device")
    table.add_column("GB", justify="right")
    table.add_column("")
    for row in plan.rows:
        table.add_row(row.name, f"{row.num_bytes / GB:.3f}", row.note)
    table.add_section()
    for moment in MOMENTS:
        size = sum(row.num_bytes for row in plan.rows if moment in row.moments)
        table.add_row(f"at the {moment}", f"{size / GB:.3f}", "")
    return table


def _device(trainer: dict[str, Any], task: PlanTask) -> tuple[torch.device, int, int]:
    """Find the kind of device, the index of the first, and how many there are.

    With ``task.device_gb`` the device need not exist on this machine.
    """
    try:
        device = device_of(trainer["accelerator"])
        numbers = device_numbers(trainer["accelerator"], trainer["devices"])
        return device, numbers[0], len(numbers) * int(trainer.get("num_nodes", 1))
    except UserError:
        if task.device_gb is None:
            raise
    asked, accelerator = trainer["devices"], trainer["accelerator"]
    kinds = {"gpu": "cuda", "cuda": "cuda", "mps": "mps"}
    require(accelerator in kinds, "trainer.accelerator", accelerator, "gpu, cuda or mps")
    known = isinstance(asked, list) or str(asked).isdigit()
    require(known, "trainer.devices", asked, "a number, or a list of numbers, of devices elsewhere")
    num_here = len(asked) if isinstance(asked, list) else int(asked)
    return torch.device(kinds[accelerator]), 0, num_here * int(trainer.get("num_nodes", 1))


def _measured(
    policy: Policy,
    options: Options,
    task: PlanTask,
    wanted: tuple[bool, bool],
    *,
    on_cpu: bool,
    autocast: torch.dtype | None,
) -> Model:
    """Measure a model on the meta device."""
    text = policy.language_model.config.get_text_config()
    prompt_length, batch = _batch(policy, options.num_prompts, task, wanted)
    encoded = family_of(policy.config.model_type).encoding(policy, batch)
    features = encoded.features
    embed = policy.language_model.get_input_embeddings()
    embedded = embed(torch.zeros(1, dtype=torch.long, device="meta"))
    held = (*batch.pixel_values, *batch.input_features, *features.video, *features.audio)
    weights = {part: [*found.values()] for part, found in weights_of(policy).items()}
    trained = [w for part in weights.values() for w in part if w.requires_grad]
    return Model(
        counts=count(policy),
        weight_bytes={part: sum(w.nbytes for w in found) for part, found in weights.items()},
        trained_bytes=sum(w.nbytes for w in trained),
        largest_trained_bytes=max(w.nbytes for w in trained),
        sizes=measure_pass(
            policy.language_model,
            autocast=autocast,
            has_fast_path=on_cpu,
            checkpoints=options.gradient_checkpointing,
            has_axes=batch.prompt_positions.ndim == 3,
        ),
        score_bytes=0.0 if on_cpu else score_bytes(autocast or policy.dtype),
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        vocab_size=text.vocab_size,
        embed_bytes=embedded.nbytes,
        prompt_length=prompt_length,
        feature_bytes=sum(x.nbytes for x in held if x is not None) // options.num_prompts,
        tower_bytes=encoded.kept_bytes // options.num_prompts,
        encoding_bytes=encoded.working_bytes,
        shares=None,
    )


def _shares(policy: Policy, num_devices: int) -> Shares:
    """Count the share of the device that has most; weights are sharded by rows."""
    units = units_of(policy)

    def held(weights: Iterable[nn.Parameter]) -> int:
        return sum(
            w.nbytes if w in units.kept else -(-len(w) // num_devices) * w[:1].nbytes
            for w in weights
        )

    def whole(weights: Iterable[nn.Parameter], *, trained: bool = False) -> int:
        return sum(w.nbytes for w in weights if w.requires_grad or not trained)

    every = [weight for weights in (*units.layers, units.rest) for weight in weights]
    trains = [weight for weight in every if weight.requires_grad]
    language_model = list(policy.language_model.parameters())
    shared = any(weight.requires_grad for weight in language_model)
    base = [w for name, w in policy.named_parameters() if not is_adapter(name)]
    largest = max(units.layers, key=whole)
    return Shares(
        num_devices=num_devices,
        weight_bytes={part: held(found.values()) for part, found in weights_of(policy).items()},
        trained_bytes=held(trains),
        # a reference that shares a frozen language model has few own weights, which are not sharded
        reference_bytes=held(w for w in base if w not in units.kept) if shared else whole(trains),
        gathered_bytes=whole(every),
        layer_bytes=whole(largest),
        layer_trained_bytes=whole(largest, trained=True),
        rest_bytes=whole(units.rest),
        rest_trained_bytes=whole(units.rest, trained=True),
    )


def _rounded(model: Model, policy: Policy) -> Model:
    """Adjust the sizes of a model for a language model in 4 bits."""
    layers = [layer.weight for layer in linear_layers(policy).values()]
    saved = sum(weight.nbytes - packed_bytes(weight) for weight in layers)
    sizes = model.weight_bytes
    return replace(
        model,
        weight_bytes=sizes | {"language_model": sizes["language_model"] - saved},
        dequantized_bytes=max(weight.nbytes for weight in layers),
        sizes=replace(
            model.sizes, recorded=0.0, packed_bytes=0
        ),  # the fast path does not support them
    )


def _batch(
    policy: Policy, num_prompts: int, task: PlanTask, wanted: tuple[bool, bool]
) -> tuple[int, Batch]:
    """Make a batch of clips of the given length without content.

    Returns:
        The number of prompt tokens, and the batch, with media on the meta device.
    """
    processor = policy.processor
    pixels = sound = video = audio = None
    if wanted[0]:
        num_frames = processor.sampling.num_frames(task.clip_s)
        frames = np.zeros((num_frames, task.frame_height, task.frame_width, 3), np.uint8)
        times_s = (np.arange(num_frames) + 0.5) * task.clip_s / num_frames
        pixels, video = processor.video(frames, times_s)
    if wanted[1]:
        seconds = min(task.clip_s, processor.window_s or task.clip_s)
        sound, audio = processor.audio(np.zeros(round(seconds * processor.sample_rate), np.float32))
    ids, positions = processor.prompt(EMOTION_QUESTION, video, audio)
    example = Example("clip", EMOTION_QUESTION, "", "", Path("clip.mp4"))
    row = torch.tensor([ids])
    return len(ids), Batch(
        examples=[example] * num_prompts,
        prompt_ids=row.expand(num_prompts, -1),
        prompt_mask=torch.ones_like(row).expand(num_prompts, -1),
        prompt_positions=positions.unsqueeze(-2).expand(*positions.shape[:-1], num_prompts, -1),
        video_shapes=[video] * num_prompts,
        audio_shapes=[audio] * num_prompts,
        pixel_values=[None if pixels is None else pixels.to("meta")] * num_prompts,
        input_features=[None if sound is None else sound.to("meta")] * num_prompts,
    )
