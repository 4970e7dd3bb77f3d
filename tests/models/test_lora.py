"""Adapters go where they are asked to, change nothing while new, and merge exactly."""

from __future__ import annotations

import shutil

import pytest
import torch
from make_lora import adapted, base, batch, config, logits, move, saved
from peft.tuners.tuners_utils import BaseTunerLayer

from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.models.adapters import lora
from omni_rlvr.models.adapters.trainable import apply, weights_of
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.models.modules import parts_of
from omni_rlvr.tasks.export import write_merged
from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow

__all__ = ["base", "batch", "saved"]  # fixtures


def test_a_new_adapter_changes_nothing_and_trains_alone_in_the_language_model(base, batch):
    plain = load_policy(str(base), "float32", None)
    policy = adapted(base)
    # to rounding: with adapters the layers run in their modules
    torch.testing.assert_close(logits(policy, batch), logits(plain, batch), atol=1e-5, rtol=1e-5)
    by_part = weights_of(policy)
    trained = {name for name, ws in by_part.items() if any(w.requires_grad for w in ws.values())}
    assert trained == {"lora", "video_projector", "audio_projector"}
    # rank 4 on 4 layers: q 160+160, k and v 160+80, o 160+160, gate and up 160+432, down 432+160
    each = 320 + 240 + 240 + 320 + 592 + 592 + 592
    assert sum(w.numel() for w in by_part["lora"].values()) == 4 * 4 * each
    own = load_policy(str(base), "float32", None)
    apply(own, TrainableConfig(lora=LoraConfig(enabled=True), language_model=True), base)
    assert all(w.requires_grad for w in weights_of(own)["language_model"].values())


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"r": 8}, "shape"),
        ({"targets": ["q_proj"]}, "names"),
        ({"parts": ["vision_tower", "language_model"]}, "names"),
        ({"alpha": 3}, "scale"),
        ({"use_rslora": True}, "scale"),
        ({"dropout": 0.5}, "training"),
    ],
)
def test_every_setting_changes_something(base, batch, changes, differs):
    def seen(**settings):
        policy = adapted(base, **settings)
        weights = weights_of(policy)["lora"]
        out = {"names": {*weights}, "shape": [w.shape for w in weights.values()]}
        with torch.no_grad():
            for weight in weights.values():
                weight.fill_(0.01)
        out["scale"] = logits(policy, batch).sum().item()
        out["training"] = logits(policy.train(), batch).sum().item()
        return out

    assert seen()[differs] != seen(**changes)[differs]


def test_the_scale_is_that_of_the_papers(base):
    layers = [adapted(base, r=4, alpha=6, use_rslora=on) for on in (False, True)]
    scales = [p.language_model.model.layers[0].mlp.up_proj.scaling["default"] for p in layers]
    assert scales == [6 / 4, 6 / 4**0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"targets": ["q_proj", "query"]},
            "lora.targets: 'query' matches no linear layer of language_model; there are e.g. "
            r"model\.layers\.0\.self_attn\.q_proj, .*",
        ),
        ({"targets": ["roj"]}, "lora.targets: 'roj' matches no linear layer"),  # a suffix by steps
        ({"targets": ["lm_head"]}, r"'lm_head' matches .*a head tied to the embeddings cannot"),
        ({"targets": ["embed_tokens"]}, "'embed_tokens' matches no linear layer"),
        ({"parts": ["gate"]}, r"lora.parts: this model has no part 'gate'; it has vision_tower, "),
        (
            {"parts": ["language_model", "audio_projector"]},
            "lora.parts: no target matches a linear layer of audio_projector; there are e.g. 0",
        ),
    ],
)
def test_a_target_or_part_that_is_not_there_is_named(base, changes, message):
    with pytest.raises(UserError, match=message):
        adapted(base, **changes)


def test_a_longer_suffix_picks_one_layer(base):
    policy = adapted(base, targets=["layers.2.self_attn.q_proj"])
    assert {name.split(".lora_")[0] for name in weights_of(policy)["lora"]} == {
        "language_model.model.layers.2.self_attn.q_proj"
    }


def test_the_reference_is_the_policy_without_adapter_in_the_same_memory(base, batch):
    plain = load_policy(str(base), "float32", None)
    policy = adapted(base)
    reference = policy.frozen_copy()
    assert not lora.adapted(parts_of(reference))
    mine = {p.data_ptr() for p in policy.parameters()}
    own = sum(p.numel() for p in reference.parameters() if p.data_ptr() not in mine)
    projectors = (policy.video_projector, policy.audio_projector)
    assert own == sum(p.numel() for part in projectors for p in part.parameters())
    with torch.no_grad():  # keeps the claim honest: what is shared is what is computed with
        policy.language_model.model.norm.weight.mul_(2)
        plain.language_model.model.norm.weight.mul_(2)
    move(policy)
    assert torch.equal(logits(reference, batch), logits(plain, batch))
    assert not torch.equal(logits(policy, batch), logits(plain, batch))


def test_the_reference_of_a_trained_adapter_keeps_it(saved, batch):
    folder, expected = saved
    policy = load_policy(str(folder), "float32", None)
    apply(policy, config(), folder)
    reference = policy.frozen_copy()
    move(policy)
    assert torch.equal(logits(reference, batch), expected)
    mine = {p.data_ptr() for p in policy.parameters() if not p.requires_grad}
    assert all(w.data_ptr() in mine for w in weights_of(reference)["language_model"].values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 8}, r"lora\.r=8: the checkpoint's adapter of language_model has 4; give"),
        ({"alpha": 8}, r"lora\.alpha=8: .* has 32"),
        ({"dropout": 0.5}, r"lora\.dropout=0\.5: .* has 0\.0"),
        ({"targets": ["q_proj"]}, r"lora\.targets=\['q_proj'\]: "),
        ({"use_rslora": True}, r"lora\.use_rslora=True: "),
        ({"parts": ["vision_tower"]}, r"lora\.parts=.*: the checkpoint has \['language_model'\]"),
    ],
)
def test_going_on_with_other_settings_is_refused(saved, changes, message):
    policy = load_policy(str(saved[0]), "float32", None)
    with pytest.raises(UserError, match=message):
        apply(policy, config(**changes), saved[0])


def test_going_on_without_lora_is_refused(saved):
    policy = load_policy(str(saved[0]), "float32", None)
    with pytest.raises(UserError, match=r"has an adapter .*add model/trainable=lora, or merge"):
        apply(policy, TrainableConfig(), saved[0])


@pytest.mark.parametrize("use_rslora", [False, True])
def test_merging_is_exact_but_for_rounding(base, batch, use_rslora):
    policy = adapted(base, use_rslora=use_rslora, parts=["language_model", "audio_tower"])
    move(policy)
    policy.double()  # in float32 rounding alone is 1e-5 where the adapters outweigh the base
    generator = torch.Generator().manual_seed(4)

    def outputs(layers, inputs):
        with torch.no_grad():
            return {name: layer(inputs[name]) for name, layer in layers.items()}

    layers = {n: m for n, m in policy.named_modules() if isinstance(m, BaseTunerLayer)}
    inputs = {
        name: torch.randn(3, layer.in_features, generator=generator, dtype=torch.float64)
        for name, layer in layers.items()
    }
    by_layer, expected = outputs(layers, inputs), logits(policy, batch)
    lora.merge(policy)
    merged = outputs({name: policy.get_submodule(name) for name in layers}, inputs)
    assert len(merged) > 28  # seven in each of the language model's four layers, and the tower's
    for name, output in merged.items():
        torch.testing.assert_close(output, by_layer[name], atol=1e-10, rtol=0)
    # transformers' norms and softmax compute in float32 even here: where a difference of 1e-16
    # tips one of their roundings, the logits differ by a float32 rounding
    torch.testing.assert_close(logits(policy, batch), expected, atol=1e-6, rtol=0)


def test_an_exported_checkpoint_has_the_logits_of_the_policy(base, batch, tmp_path):
    policy = adapted(base, parts=["language_model", "audio_tower"])
    move(policy)
    expected = logits(policy, batch)
    write_merged(policy, tmp_path / "merged", "omni")
    assert not (tmp_path / "merged" / "base.json").exists()
    shutil.rmtree(base)
    merged = load_policy(str(tmp_path / "merged"), "float32", None)
    torch.testing.assert_close(logits(merged, batch), expected, atol=1e-5, rtol=0)
    assert {*merged.state_dict()} == {*policy.state_dict()}
    lm = merged.language_model
    assert lm.lm_head.weight is lm.get_input_embeddings().weight
    apply(merged, config(), tmp_path / "merged")  # nothing of the adapter is left in the way
    assert merged.adapter_checkpoint.base == tmp_path / "merged"


def test_an_adapter_that_is_not_finite_is_not_merged(base, tmp_path):
    policy = adapted(base)
    with torch.no_grad():
        next(iter(weights_of(policy)["lora"].values())).fill_(float("nan"))
    with pytest.raises(UserError, match="the adapter cannot be merged"):
        write_merged(policy, tmp_path / "merged", "omni")
    assert not (tmp_path / "merged").exists()
