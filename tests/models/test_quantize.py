"""QLoRA: the language model in 4 bits, adapters on it, and what comes of a checkpoint."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from make_trainings import batch_of_clips

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.config.sampling import SamplingOptions
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.families import family_of
from omni_rlvr.models.loading.from_parts import Parts, compose_policy
from omni_rlvr.models.loading.load import load_policy, load_skeleton
from omni_rlvr.models.loading.quantize import (
    bitsandbytes,
    dequantize,
    linear_layers,
    packed_bytes,
    quantized,
)
from omni_rlvr.models.prefix.scoring import Rows, completion_logits
from omni_rlvr.models.qwen_omni.model import QwenOmni
from omni_rlvr.rollout.experience import completion_scores, select
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.tasks.export import write_merged
from omni_rlvr.types import RewardOutput, UserError

PACKAGES = Path(sys.prefix) / "qlora"
"""Where ``make test`` puts bitsandbytes: apart, since peft imports it wherever it is found."""
pytestmark = [
    pytest.mark.slow,  # checkpoints are written and read
    pytest.mark.skipif(
        not PACKAGES.is_dir(), reason="make test installs bitsandbytes; it is not there"
    ),
]

NF4 = LoadOptions(quantize="nf4")
LORA = TrainableConfig(lora=LoraConfig(enabled=True, r=4))
KINDS = ("av", "v", "t")


@pytest.fixture(scope="module", autouse=True)
def _packages() -> Iterator[None]:
    sys.path.append(str(PACKAGES))
    yield
    sys.path.remove(str(PACKAGES))


@pytest.fixture(scope="module", params=["omni_rlvr", "qwen2_5_omni_thinker"])
def base(request, tmp_path_factory) -> Path:
    """A checkpoint of a tiny model whose rows are multiples of 64."""
    folder = tmp_path_factory.mktemp("base") / "model"
    policy: Any = family_of(request.param).tiny(0, request.param)
    fields = policy.config.to_dict()
    fields["text_config"] |= {"hidden_size": 128, "intermediate_size": 192}
    if request.param == "omni_rlvr":
        made: Any = OmniModel(type(policy.config).from_dict(fields))
    else:
        for tower, width in (("vision_config", "out_hidden_size"), ("audio_config", "output_dim")):
            fields[tower][width] = 128
        fields["text_config"]["rope_parameters"]["mrope_section"] = [4, 6, 6]
        made = QwenOmni(policy.generation.thinker(type(policy.config).from_dict(fields)))
    made.processor = policy.processor
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim == 2:
                weight.mul_(3)  # so that what a prompt holds matters
    made.requires_grad_(False).eval().save(folder)
    return folder


def load(folder: Path, options: LoadOptions | None = NF4):
    return load_policy(str(folder), "float32", None, options)


def batch_of(policy):
    return batch_of_clips(policy.processor, 3, KINDS)


@torch.no_grad()
def logits(policy) -> torch.Tensor:
    batch = batch_of(policy)
    prompts = policy.prompts(batch, policy.encode(batch))
    return completion_logits(
        policy.language_model,
        Rows(prompts, torch.arange(3), batch.completion_ids, batch.completion_mask),
    )


def adapted(folder: Path):
    """A policy in 4 bits whose adapters have moved."""
    policy = load(folder)
    torch.manual_seed(0)  # A is drawn
    apply(policy, LORA, folder)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=random))
    return policy


def by_length(completions, examples, lengths) -> RewardOutput:
    scores = torch.tensor([float((i * 7) % 5) for i in range(len(completions))])
    return RewardOutput(scores, {"only": scores})


def gradients(policy) -> dict[str, torch.Tensor]:
    """Of a GRPO step, and how far its log-probs are from those of its rollout."""
    sampling = SamplingOptions(max_completion_length=6)
    config = GrpoConfig(sampling=sampling, num_generations=3, beta=0.04)
    stage = GrpoStage(config, by_length, policy.frozen_copy(), SharedPrefix())
    found = stage.prepare(policy.train(), batch_of(policy), torch.Generator().manual_seed(0))
    policy.zero_grad()
    for minibatch in stage.minibatches(found.experience):
        for rows in stage.micro_batches(minibatch):
            stage.loss(policy, select(minibatch, rows), minibatch).loss.backward()
    return {n: w.grad for n, w in policy.named_parameters() if w.grad is not None}


def test_the_linear_layers_of_the_language_model_are_rounded_and_nothing_else(base):
    plain, policy = load(base, None), load(base)
    assert quantized(policy) == "nf4"
    assert quantized(plain) is None
    rounded = {f"{name}.weight" for name in linear_layers(plain)}
    layers = policy.language_model.config.num_hidden_layers
    assert len(rounded) == 7 * layers
    kept = dict(plain.named_parameters())
    for name, weight in policy.named_parameters():
        assert (weight.dtype == torch.uint8) == (name in rounded), name
        assert name in rounded or torch.equal(weight, kept[name]), name
    dequantize(policy)
    library = bitsandbytes().functional
    for name, weight in policy.named_parameters():
        if name in rounded:
            want = library.dequantize_4bit(
                *library.quantize_4bit(kept[name], compress_statistics=True, quant_type="nf4")
            )
            assert torch.equal(weight, want), name
            # half of what is between the two largest of the 16 values, and the scale's own error
            assert 0 < (weight - kept[name]).abs().max() < 0.16 * kept[name].abs().max()


def test_the_size_is_what_the_plan_estimates(base):
    plain, policy = load(base, None), load(base)
    for name, layer in linear_layers(policy).items():
        state = layer.weight.quant_state
        held = (layer.weight, state.absmax, state.state2.absmax)
        # beside these it holds tables of 16 and 256 numbers, and a mean
        assert sum(tensor.nbytes for tensor in held) == packed_bytes(
            linear_layers(plain)[name].weight
        ), name


def test_it_computes_with_the_rounded_weights(base):
    policy, plain = load(base), load(base)
    dequantize(plain)
    torch.testing.assert_close(logits(policy), logits(plain), atol=1e-4, rtol=1e-4)
    assert (logits(policy) - logits(load(base, None))).abs().max() > 1e-2


def test_gradients_after_a_rollout_are_those_over_the_rounded_weights(base):
    """A pass without gradient, as a probe makes, must not end the way back through a layer."""
    policy, plain = adapted(base), adapted(base)
    dequantize(plain)
    logits(policy.eval())
    got, want = gradients(policy), gradients(plain)
    assert got.keys() == want.keys()
    assert any("layers.0." in name and "lora_A" in name for name in got)
    largest = max(gradient.abs().max() for gradient in want.values())
    for name, gradient in want.items():
        assert (got[name] - gradient).abs().max() < 1e-4 * largest, name


def test_an_update_scores_what_the_rollout_sampled(base):
    policy = adapted(base)
    config = GrpoConfig(sampling=SamplingOptions(max_completion_length=6), num_generations=3)
    batch = batch_of(policy)
    with torch.no_grad():
        features = policy.encode(batch)
        rollout = SharedPrefix().sample(
            policy,
            policy.prompts(batch, features),
            config.sampling_of(len(batch)),
            torch.Generator().manual_seed(0),
            None,
        )
    stage = GrpoStage(config, by_length, policy.frozen_copy(), SharedPrefix())
    experience = stage.prepare(policy, batch, torch.Generator().manual_seed(0)).experience
    scores = completion_scores(
        policy, experience, temperature=1.0, gradient_checkpointing=False, entropy_gradient=False
    )
    torch.testing.assert_close(scores.logps, rollout.per_token_logps, atol=1e-4, rtol=0)


def test_the_reference_is_the_rounded_base_in_the_same_memory(base):
    policy = load(base)
    apply(policy, LORA, base)
    reference = policy.frozen_copy()
    assert torch.equal(logits(reference), logits(load(base)))
    theirs = {w.data_ptr() for w in reference.parameters() if w.dtype == torch.uint8}
    assert theirs == {w.data_ptr() for w in policy.parameters() if w.dtype == torch.uint8}


def test_a_checkpoint_comes_back_and_says_what_it_was_trained_on(base, tmp_path, caplog):
    policy = adapted(base).eval()
    want = logits(policy)
    policy.save(tmp_path / "ours")
    assert json.loads((tmp_path / "ours" / "base.json").read_text())["quantized"] == "nf4"
    assert not list((tmp_path / "ours").glob("model*.safetensors"))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(logits(load(tmp_path / "ours")), want)
    assert not caplog.messages
    other = load(tmp_path / "ours", None)  # onto the base as it was
    assert (logits(other) - want).abs().max() > 1e-3
    (message,) = caplog.messages
    assert "trained on a base with model.options.quantize=nf4" in message
    write_merged(load(tmp_path / "ours"), tmp_path / "merged", "omni")
    merged = load(tmp_path / "merged", None)
    torch.testing.assert_close(logits(merged), want, atol=1e-4, rtol=1e-4)


def test_weights_that_were_trained_whole_do_not_go_onto_rounded_ones(base, tmp_path):
    policy = load(base, None)
    apply(policy, TrainableConfig(lora=LORA.lora, language_model=True), base)
    policy.save(tmp_path / "ours")
    with pytest.raises(UserError, match=r"in 4 bits \(model\.options\.quantize\) in the base"):
        load(tmp_path / "ours")


def test_fused_experts_are_refused_before_weights_are_read(tmp_path):
    model_type = "qwen3_omni_moe_thinker"
    family_of(model_type).tiny(0, model_type).save(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    for way in (load_policy, load_skeleton):
        with pytest.raises(UserError, match=r"quantize=nf4: the experts .*mlp\.experts.*lora"):
            way(str(tmp_path / "model"), "float32", None, NF4)


def test_rows_that_are_no_whole_number_of_blocks_are_refused(tmp_path):
    """On CPUs bitsandbytes gives such weights the scales of others, without an error."""
    family_of("omni_rlvr").tiny(0, "omni_rlvr").save(tmp_path / "model")
    with pytest.raises(UserError, match=r"q_proj has rows of 160 weights, .*multiples of 64"):
        load(tmp_path / "model")


def test_other_ways_of_rounding_are_refused():
    with pytest.raises(UserError, match=r"quantize='int8' is out of range: nf4 or null"):
        LoadOptions(quantize="int8")


def test_a_model_that_is_joined_here_is_refused():
    parts = Parts("v", "a", "l", None, "mlp2x_gelu", 1, 1, "mean", None, 8)
    with pytest.raises(
        UserError, match=r"quantize=nf4: a model that is joined from parts cannot be quantised"
    ):
        compose_policy(None, "float32", None, parts, NF4)
