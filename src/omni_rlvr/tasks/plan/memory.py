"""Estimate the memory of a training run: the size of each item, and which items exist together.

A step has four phases ("moments") that need much memory: encoding by the towers, the rollout, the
update (a forward and backward pass of the largest micro-batch) and the optimiser step. The estimate
is the largest of their sums. Weights, gradients and optimiser states are counted; the activations
of a pass are measured on the meta device (``models/prefix/measure.py``); prompts have the length
that follows from a clip of the given duration. A CUDA context and the allocator's fragmentation are
not included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch.optim import Optimizer

from omni_rlvr.models.adapters.trainable import Count
from omni_rlvr.models.prefix.measure import PassSizes
from omni_rlvr.rollout.experience import LOGITS_AT_ONCE
from omni_rlvr.training.schedule import build_optimizer

ENCODING, ROLLOUT, UPDATE, STEP = "encoding", "rollout", "update", "optimizer step"
MOMENTS = (ENCODING, ROLLOUT, UPDATE, STEP)
LOGITS_COPIES = 3
"""Number of tensors as large as the logits that exist at a time while tokens are scored."""


@dataclass(frozen=True)
class Row:
    """An item that takes memory."""

    name: str
    num_bytes: int
    moments: Sequence[str]
    """The moments at which it exists."""
    note: str
    """How it was estimated, in a few words."""


@dataclass(frozen=True)
class Shares:
    """One device's share of the weights under fsdp2, in bytes."""

    num_devices: int
    weight_bytes: dict[str, int]
    """Weights of each part on the device; frozen parts that are not sharded count whole."""
    trained_bytes: int
    """Its share of the weights that train."""
    reference_bytes: int
    """Its share of the reference, which is sharded as well."""
    gathered_bytes: int
    """All sharded weights, which are gathered for encoding and rollout."""
    layer_bytes: int
    """The largest layer, gathered."""
    layer_trained_bytes: int
    """The weights of this layer that train."""
    rest_bytes: int
    """The sharded weights outside of layers, gathered for a whole pass."""
    rest_trained_bytes: int
    """The weights outside of layers that train."""


@dataclass(frozen=True)
class Model:
    """The quantities of the plan that depend on the model."""

    counts: Sequence[Count]
    weight_bytes: dict[str, int]
    """Weights of each part."""
    trained_bytes: int
    largest_trained_bytes: int
    """The largest weight that trains."""
    sizes: PassSizes
    score_bytes: float
    """Bytes kept for each attention score of a completion's token; 0 if the kernel keeps none."""
    num_layers: int
    num_heads: int
    vocab_size: int
    embed_bytes: int
    """The embedding of a token."""
    prompt_length: int
    """Number of tokens of a prompt."""
    feature_bytes: int
    """The inputs and the outputs of the towers for one clip."""
    tower_bytes: int
    """Activations that the towers that train keep for backward, for one clip."""
    encoding_bytes: int
    """The working memory of the towers while they run on all clips of a step."""
    shares: Shares | None
    """One device's share under fsdp2; None if every device has all weights."""
    dequantized_bytes: int = 0
    """The largest layer in 4 bits, converted to the dtype that it computes in; 0 without any."""


@dataclass(frozen=True)
class Options:
    """The quantities of the plan that depend on the options, for one device."""

    num_prompts: int
    num_generations: int
    """1 if nothing is sampled."""
    samples: bool
    completion_length: int
    """Number of tokens of the longest completion."""
    micro_batch_size: int
    max_tokens_per_micro_batch: int
    gradient_checkpointing: bool
    has_reference: bool
    shares_prefix: bool
    """Whether completions share their prompt's keys and values in a rollout."""
    keeps_activations: bool
    """Whether a rollout keeps activations for the update if the model supports it."""
    state_factor: float
    """Bytes of optimiser states for each byte of weights that train."""
    step_copies: bool
    """Whether the optimiser step copies all weights that train at once, and not one at a time."""
    autocast_bytes: int
    """Bytes of a number in autocast's dtype; 0 without autocast."""
    sums_in_buckets: bool
    """Whether gradients are copied to buckets that are reduced over devices (ddp)."""
    no_sync: bool
    """Whether gradients stay unsharded until the last pass of an update."""


def rows_of(model: Model, options: Options) -> list[Row]:
    """List the items that take memory, in the order of a step."""
    shares = model.shares
    trained = model.trained_bytes if shares is None else shares.trained_bytes
    rows, _, tokens = micro_batch(model, options)
    num_micro = -(-options.num_prompts * options.num_generations // rows)
    out = [
        Row(f"weights: {part}", size, MOMENTS, _of(part, model.counts))
        for part, size in (model.weight_bytes if shares is None else shares.weight_bytes).items()
    ]
    out.append(Row("optimizer", round(options.state_factor * trained), MOMENTS, "its states"))
    if options.has_reference:
        size = _copied(model) if shares is None else shares.reference_bytes
        out.append(Row("reference", size, MOMENTS, "a copy of what trains but adapters"))
    if shares is not None:
        out += _gathered(model, shares, no_sync=options.no_sync and num_micro > 1)
    clips = f"{options.num_prompts} clips"
    out.append(Row("encoding", model.encoding_bytes, (ENCODING,), f"the towers on {clips}"))
    out.append(Row("features", options.num_prompts * model.feature_bytes, MOMENTS, clips))
    if options.samples:
        out += _rollout(model, options)
    scored = min(rows * options.completion_length, max(1, LOGITS_AT_ONCE // model.vocab_size))
    one_layer = (ROLLOUT, UPDATE) if options.samples else (UPDATE,)
    out += [
        Row("dequantized", model.dequantized_bytes, one_layer, "weights of 4 bits, a layer's"),
        Row(
            "gradients",
            trained,
            MOMENTS if num_micro > 1 else (ENCODING, ROLLOUT, STEP),
            "until the next",
        ),
        Row("activations", _activations(model, options), (UPDATE,), f"{tokens:,} tokens"),
        Row(
            "logits",
            LOGITS_COPIES * 4 * scored * model.vocab_size,
            (UPDATE,),
            f"{scored:,} at once",
        ),
    ]
    if options.autocast_bytes:
        number = sum(count.num_trained for count in model.counts)
        copies = number * options.autocast_bytes
        out.append(Row("autocast", copies, (UPDATE,), "copies of weights in half precision"))
    if options.sums_in_buckets:
        out.append(Row("gradient buckets", trained, MOMENTS, "summed over devices"))
    largest = model.largest_trained_bytes // (1 if shares is None else shares.num_devices)
    step = trained if options.step_copies else 2 * largest
    out.append(Row("step", step, (STEP,), "what the optimiser computes with"))
    return [row for row in out if row.num_bytes]


def _gathered(model: Model, shares: Shares, *, no_sync: bool) -> list[Row]:
    """List the weights and gradients of other devices that a device holds temporarily.

    In a pass these are the layer that computes, the next one, and the weights outside of layers;
    then their gradients, and the copy of a gradient that is being reduced.
    """
    layer, rest = shares.layer_trained_bytes, shares.rest_trained_bytes
    gradients = model.trained_bytes + max(layer, rest) if no_sync else rest + max(2 * layer, rest)
    passing = shares.rest_bytes + 2 * shares.layer_bytes
    note = "until the last pass, and a copy" if no_sync else "of a layer and the rest, and a copy"
    return [
        Row("gathered weights", shares.gathered_bytes, (ENCODING, ROLLOUT), "of all devices"),
        Row("gathered layers", passing, (UPDATE,), "two layers, and the rest"),
        Row("whole gradients", gradients, (UPDATE,), note),
    ]


def peak(rows: Sequence[Row]) -> tuple[str, int]:
    """Find the moment at which most memory is used, and how many bytes."""
    sums = {m: sum(row.num_bytes for row in rows if m in row.moments) for m in MOMENTS}
    return max(sums.items(), key=lambda pair: pair[1])


def micro_batch(model: Model, options: Options) -> tuple[int, int, int]:
    """Return the rows, prompts and tokens of the largest micro-batch, counting each prompt once."""
    longest, limit = options.completion_length, options.max_tokens_per_micro_batch
    rows = min(options.num_prompts * options.num_generations, options.micro_batch_size)

    def tokens(rows: int) -> int:
        return -(-rows // options.num_generations) * model.prompt_length + rows * longest

    while limit and rows > 1 and tokens(rows) > limit:
        rows -= 1
    return rows, -(-rows // options.num_generations), tokens(rows)


def smaller(model: Model, options: Options) -> Iterator[tuple[str, int]]:
    """Yield options that reduce memory, each with the bytes that would then be used."""
    group = options.num_generations
    if not options.gradient_checkpointing:
        change = replace(options, gradient_checkpointing=True)
        yield "stage.gradient_checkpointing=true", peak(rows_of(model, change))[1]
    if micro_batch(model, options)[0] > group:
        change = replace(options, micro_batch_size=group)
        yield f"stage.micro_batch_size={group}", peak(rows_of(model, change))[1]
    if options.completion_length > 256 and options.samples:
        change = replace(options, completion_length=256)
        yield "stage.sampling.max_completion_length=256", peak(rows_of(model, change))[1]


def _rollout(model: Model, options: Options) -> list[Row]:
    num_rows = options.num_prompts * options.num_generations
    own = num_rows * options.completion_length
    prefixes = (options.num_prompts if options.shares_prefix else num_rows) * model.prompt_length
    cache = round((own + prefixes) * model.sizes.keys_values)
    logits = LOGITS_COPIES * 4 * num_rows * model.vocab_size
    kept = round((own + options.num_prompts * model.prompt_length) * model.sizes.recorded)
    return [
        Row("packed weights", model.sizes.packed_bytes, (ROLLOUT,), "copies for fast decoding"),
        Row("KV cache", cache, (ROLLOUT,), f"{prefixes + own:,} tokens"),
        Row("kept", kept * options.keeps_activations, (ROLLOUT,), "stage.reuse_rollout"),
        Row("sampling", logits, (ROLLOUT,), f"logits of {num_rows} rows"),
    ]


def _activations(model: Model, options: Options) -> int:
    """Count the bytes that a micro-batch keeps for backward, and backward's working memory."""
    rows, prompts, tokens = micro_batch(model, options)
    scores = rows * model.num_heads * options.completion_length * (
        model.prompt_length + options.completion_length
    ) * model.score_bytes  # fmt: skip
    layer = tokens * model.sizes.layer + scores
    if options.gradient_checkpointing:
        kept = tokens * model.sizes.inputs + layer
    else:
        kept = model.num_layers * layer
    embeds = (
        3 * tokens * model.embed_bytes
    )  # embeddings of prompts, of all tokens, and their gradient
    return round(kept + layer / 2 + embeds + prompts * model.tower_bytes)


def _copied(model: Model) -> int:
    adapters = sum(c.num_trained for c in model.counts if c.part == "lora")
    everything = sum(c.num_trained for c in model.counts)
    return round(model.trained_bytes * (1 - adapters / everything)) if everything else 0


def _of(part: str, counts: Sequence[Count]) -> str:
    count = next(count for count in counts if count.part == part)
    trained = {0: "frozen", count.num_weights: "trained"}.get(count.num_trained, "partly trained")
    return f"{count.num_weights:,}, {trained}"


def state_factor(make_optimizer: Callable[..., Optimizer]) -> float:
    """Measure how many bytes of state an optimiser keeps for each byte of weights."""
    weight = torch.nn.Parameter(torch.zeros(64, 64))
    optimizer = build_optimizer(make_optimizer, [weight])
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    states = [s for s in optimizer.state[weight].values() if isinstance(s, torch.Tensor)]
    return sum(s.nbytes for s in states if s.numel() > 1) / weight.nbytes
