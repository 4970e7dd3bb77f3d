"""Adapters: their names are transformers' own, peers' are read, experts have them on request."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
from make_qwen import Case, batch_of
from safetensors.torch import load_file, save_file

from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.models.prefix.scoring import Rows, completion_logits
from omni_rlvr.models.qwen_omni.generations import QWEN3
from omni_rlvr.tasks.export import write_merged
from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow  # checkpoints are written and read

EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


def logits(policy) -> torch.Tensor:
    batch = batch_of(policy.processor, [Case(4, 2.0, 2.0), Case(sound_s=1.0)])
    with torch.no_grad():
        prompts = policy.prompts(batch, policy.encode(batch))
        owners = torch.arange(2)
        rows = Rows(prompts, owners, batch.completion_ids, batch.completion_mask)
        return completion_logits(policy.language_model, rows)


def load(folder: Path):
    return load_policy(str(folder), "float32", None)


def adapted(folder: Path, **changes):
    """A policy with adapters that have moved."""
    policy = load(folder)
    apply(policy, TrainableConfig(lora=LoraConfig(enabled=True, **{"r": 2, **changes})), folder)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=random))
    return policy.eval()


def test_each_generation_has_its_own_targets(untouched, folder):
    names = [name for name, _ in adapted(folder).named_parameters() if "lora_A" in name]
    layers = {name.split(".")[-4] for name in names}
    attention, mlp = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
    assert layers == (attention if untouched.generation is QWEN3 else attention | mlp)
    assert all(name.startswith("language_model.") for name in names)  # and none in a tower


def test_targets_that_hit_nothing_or_a_tower_alone_are_refused(folder):
    for target in ("query", "qkv", "fc1"):  # the last two are a tower's
        with pytest.raises(UserError, match=f"'{target}' matches no linear layer of language_mod"):
            adapted(folder, targets=[target])
    with pytest.raises(UserError, match=r"target_parameters: 'experts\.up' matches no parameter"):
        adapted(folder, target_parameters=["experts.up"])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_peft_puts_our_adapter_on_the_plain_thinker(untouched, folder, tmp_path):
    policy = adapted(folder)
    policy.save(tmp_path / "ours")
    thinker = copy.deepcopy(untouched).thinker()
    theirs = peft.PeftModel.from_pretrained(
        thinker, tmp_path / "ours" / "adapters" / "language_model"
    )
    names = [name for name, _ in theirs.named_parameters() if "lora_" in name]
    assert names
    assert not any("visual" in name or "audio_tower" in name for name in names)
    ours = policy.language_model.model.language_model
    x = torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = ours(inputs_embeds=x).last_hidden_state
        got = thinker.model.language_model(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "prefix",
    [
        "thinker.model.layers.",  # ms-swift: the whole model, transformers to 5.16
        "thinker.model.language_model.layers.",
        "model.language_model.layers.",
        "model.layers.",  # TRL and HumanOmniV2: the thinker, transformers to 5.16
    ],
)
def test_adapters_of_peers_are_read(folder, tmp_path, prefix):
    policy = adapted(folder)
    policy.save(tmp_path / "ours")
    ours, theirs = tmp_path / "ours" / "adapters" / "language_model", tmp_path / "theirs"
    theirs.mkdir()
    weights = load_file(ours / "adapter_model.safetensors")
    save_file(
        {k.replace("model.language_model.layers.", prefix): v for k, v in weights.items()},
        theirs / "adapter_model.safetensors",
    )
    config = json.loads((ours / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(folder)
    config["target_modules"] = rf"^({prefix})(.*)(q_proj|k_proj|v_proj|o_proj|down_proj)$"
    (theirs / "adapter_config.json").write_text(json.dumps(config))
    torch.testing.assert_close(logits(load(theirs)), logits(policy), atol=1e-5, rtol=0)


def test_an_adapter_of_another_model_is_refused(folder, tmp_path):
    adapted(folder).save(tmp_path / "ours")
    theirs = tmp_path / "ours" / "adapters" / "language_model"
    weights = load_file(theirs / "adapter_model.safetensors")
    moved = {k.replace("layers.0.", "layers.9."): v for k, v in weights.items()}
    save_file(moved, theirs / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit this model"):
        load(tmp_path / "ours")


def test_experts_have_adapters_on_request(untouched, folder, tmp_path):
    if untouched.generation is not QWEN3:
        with pytest.raises(UserError, match="matches no parameter"):
            adapted(folder, target_parameters=EXPERTS)
        return
    base = load(folder)
    policy = adapted(folder, target_parameters=EXPERTS)
    assert any("experts.lora_A" in name for name, _ in policy.named_parameters())
    moved = logits(policy)
    assert (moved - logits(base)).abs().max() > 1e-2
    policy.save(tmp_path / "ours")
    again = load(tmp_path / "ours")
    torch.testing.assert_close(logits(again), moved, atol=1e-5, rtol=0)
    lora = LoraConfig(enabled=True, r=2, target_parameters=EXPERTS)
    apply(again, TrainableConfig(lora=lora), folder)  # goes on training it
    other = LoraConfig(enabled=True, r=2)
    with pytest.raises(UserError, match="target_parameters"):
        apply(load(tmp_path / "ours"), TrainableConfig(lora=other), folder)
    write_merged(policy, tmp_path / "merged", "omni")
    torch.testing.assert_close(logits(load(tmp_path / "merged")), moved, atol=1e-4, rtol=1e-4)


def test_the_reference_of_an_adapter_is_the_base_exactly(folder):
    base = load(folder)
    policy = load(folder)
    apply(policy, TrainableConfig(lora=LoraConfig(enabled=True, r=2)), folder)
    reference = policy.frozen_copy()
    assert not any("lora" in name for name, _ in reference.named_parameters())
    assert torch.equal(logits(reference), logits(base))
