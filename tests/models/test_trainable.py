"""What the config block says trains is what trains, and nothing else; the counts add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from every_case import every_case

from omni_rlvr.config.stage import SftConfig
from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.models.adapters.trainable import apply, weights_of
from omni_rlvr.models.modules import frozen_parts, parts_of, trains
from omni_rlvr.models.prefix.scoring import Rows, completion_logits
from omni_rlvr.rollout.experience import completion_scores, select
from omni_rlvr.stages.sft import SftStage
from omni_rlvr.types import UserError

BASE = Path("nowhere")
PARTS = [
    "vision_tower",
    "audio_tower",
    "video_projector",
    "audio_projector",
    "language_model",
    "embeddings",
]
TARGETS = ("happy", "<answer>sad</answer>")


def trained(policy) -> set[str]:
    """Parts of which every weight trains; none may train in part."""
    out = set()
    for part, weights in weights_of(policy).items():
        names = {name for name in weights if name != "audio_tower.embed_positions.weight"}
        flags = {weights[name].requires_grad for name in names}
        assert len(flags) == 1
        out |= {part} if flags.pop() else set()
    return out


def test_by_default_all_but_the_towers_trains(tiny_policy):
    counts = apply(tiny_policy, TrainableConfig(), BASE)
    assert trained(tiny_policy) == {*PARTS} - {"vision_tower", "audio_tower"}
    by_part = {count.part: (count.num_weights, count.num_trained) for count in counts}
    vocabulary, hidden = len(tiny_policy.processor.tokenizer), 160
    assert by_part["embeddings"] == (vocabulary * hidden,) * 2  # one matrix: the head is tied
    # the projector: 4 x 96 merged inputs -> 160, 160 -> 160, with biases
    assert by_part["video_projector"][1] == (4 * 96 * hidden + hidden) + (hidden * hidden + hidden)
    assert by_part["vision_tower"][1] == by_part["audio_tower"][1] == 0
    assert sum(n for n, _ in by_part.values()) == sum(p.numel() for p in tiny_policy.parameters())


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_train_alone(tiny_policy, part):
    nothing = dict.fromkeys(PARTS, False)
    apply(tiny_policy, TrainableConfig(**{**nothing, part: True}), BASE)
    assert trained(tiny_policy) == {part}
    tiny_policy.train()
    # embeddings are in the language model, which then is in training mode
    home = "language_model" if part == "embeddings" else part
    for name, module in parts_of(tiny_policy).items():
        assert all(one.training is (name == home) for one in module.modules())


def test_what_is_null_goes_with_the_rest():
    assert TrainableConfig().language_model is True
    assert TrainableConfig(language_model=False).embeddings is False
    lora = TrainableConfig(lora=LoraConfig(enabled=True))
    assert (lora.language_model, lora.embeddings) == (False, False)
    assert TrainableConfig(lora=LoraConfig(enabled=True), embeddings=True).embeddings is True


@pytest.mark.parametrize("part", ["gate", "bert"])
def test_a_part_that_is_not_there_is_an_error_that_names_those_that_are(tiny_policy, part):
    with pytest.raises(UserError) as caught:
        apply(tiny_policy, TrainableConfig(**{part: True}), BASE)
    assert str(caught.value) == (
        f"model.trainable.{part}=true: this model has no {part}; it has {', '.join(PARTS)}"
    )


def test_nothing_to_train_is_an_error(tiny_policy):
    with pytest.raises(UserError, match=r"^model\.trainable: nothing trains; set one of vision_t"):
        apply(tiny_policy, TrainableConfig(**dict.fromkeys(PARTS, False)), BASE)


def test_a_part_inside_another_trains_or_freezes_for_itself(tiny_policy):
    tiny_policy.gate = torch.nn.Sequential(torch.nn.Linear(2, 2))
    tiny_policy.gate.dropout = False
    tiny_policy.gate.bert = torch.nn.Linear(3, 3)
    assert {*weights_of(tiny_policy)} == {*PARTS, "gate", "bert"}
    apply(tiny_policy, TrainableConfig(), BASE)
    assert trained(tiny_policy) >= {"gate"}
    assert "bert" not in trained(tiny_policy)
    tiny_policy.train()
    assert (tiny_policy.gate.training, tiny_policy.gate.bert.training) == (True, False)
    apply(tiny_policy, TrainableConfig(gate=False, bert=True), BASE)
    assert trained(tiny_policy) & {"gate", "bert"} == {"bert"}


def test_the_sinusoids_of_the_audio_tower_never_train(tiny_policy):
    counts = {c.part: c for c in apply(tiny_policy, TrainableConfig(audio_tower=True), BASE)}
    positions = tiny_policy.audio_tower.embed_positions.weight
    assert not positions.requires_grad
    tower = counts["audio_tower"]
    assert tower.num_weights - tower.num_trained == positions.numel() > 0


def test_a_head_on_the_audio_tower_is_part_of_it(tiny_policy):
    tiny_policy.audio_head = torch.nn.Linear(2, 2)
    apply(tiny_policy, TrainableConfig(), BASE)
    assert "audio_tower" not in trained(tiny_policy.train())
    assert not tiny_policy.audio_head.training
    assert parts_of(tiny_policy)["audio_tower"] is tiny_policy.audio_tower
    apply(tiny_policy, TrainableConfig(audio_tower=True), BASE)
    assert "audio_tower" in trained(tiny_policy)
    tiny_policy.audio_tower.requires_grad_(False)
    assert trains(tiny_policy, "audio_tower")  # its head does


@pytest.mark.parametrize("base", [None, "StarJiaxing/HumanOmni-0.5B"])
def test_adapters_need_a_base_that_is_a_folder(tiny_policy, base):
    with pytest.raises(UserError, match=r"^model\.path=.*: adapters need a base in a folder"):
        apply(tiny_policy, TrainableConfig(lora=LoraConfig(enabled=True)), base)


def gradients(policy) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def scored(policy, experience) -> torch.Tensor:
    """Log-probs of the completions, [N, T]."""
    how = {"temperature": 1.0, "gradient_checkpointing": False, "entropy_gradient": False}
    return completion_scores(policy, experience, **how).logps


@pytest.mark.parametrize("tower", ["vision_tower", "audio_tower"])
@pytest.mark.parametrize("micro_batch_size", [4, 1])
def test_a_tower_that_trains_has_the_gradient_of_a_plain_forward(
    tiny_policy, make_batch, tower, micro_batch_size
):
    apply(tiny_policy, TrainableConfig(**{tower: True}), BASE)
    batch, stage = make_batch(tiny_policy, 4, targets=TARGETS), SftStage(SftConfig())
    whole = stage.prepare(tiny_policy, batch, torch.Generator()).experience
    for rows in torch.arange(4).split(micro_batch_size):
        stage.loss(tiny_policy, select(whole, rows), whole).loss.backward()
    got = gradients(tiny_policy)
    assert any(name.startswith(f"{tower}.") for name in got)
    tiny_policy.zero_grad()
    every = Rows(  # everything at once, with gradient everywhere
        tiny_policy.prompts(batch, tiny_policy.encode(batch)),
        torch.arange(4),
        batch.completion_ids,
        batch.completion_mask,
    )
    logits = completion_logits(tiny_policy.language_model, every)
    picked = logits.log_softmax(-1).gather(-1, batch.completion_ids.unsqueeze(-1)).squeeze(-1)
    (-(picked * batch.completion_mask).sum() / batch.completion_mask.sum()).backward()
    expected = gradients(tiny_policy)
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=2e-6, rtol=1e-4, msg=name)


def test_only_the_tower_that_trains_runs_again(tiny_policy, make_batch):
    apply(tiny_policy, TrainableConfig(audio_tower=True), BASE)
    runs = {"vision_tower": 0, "audio_tower": 0}

    def counted(name):
        def hook(*_):
            runs[name] += 1

        return hook

    for name in runs:
        parts_of(tiny_policy)[name].register_forward_hook(counted(name))
    batch, stage = make_batch(tiny_policy, 4, kinds=("av",), targets=TARGETS), SftStage(SftConfig())
    whole = stage.prepare(tiny_policy, batch, torch.Generator()).experience
    assert runs == {"vision_tower": 1, "audio_tower": 0}
    for rows in torch.arange(4).split(2):
        part = select(whole, rows)
        assert part.batch.pixel_values == [None] * 2  # its features stand for it
        assert None not in part.batch.input_features
        scored(tiny_policy, part)
    assert runs == {"vision_tower": 1, "audio_tower": 2}


def test_the_reference_keeps_the_tower_it_began_with(tiny_policy, make_batch):
    apply(tiny_policy, TrainableConfig(vision_tower=True), BASE)
    batch = make_batch(tiny_policy, 2, kinds=("v",), targets=TARGETS)
    reference = tiny_policy.frozen_copy()
    whole = SftStage(SftConfig()).prepare(tiny_policy, batch, torch.Generator()).experience
    with torch.no_grad():
        before = scored(reference, whole)
        assert torch.equal(before, scored(tiny_policy, whole))
        for weight in tiny_policy.vision_tower.parameters():
            weight.mul_(1.1)
        assert torch.equal(scored(reference, whole), before)
        assert not torch.equal(scored(tiny_policy, whole), before)


def test_the_reference_shares_the_memory_of_all_that_is_frozen(tiny_policy):
    apply(tiny_policy, TrainableConfig(language_model=False, audio_projector=False), BASE)
    twin = tiny_policy.frozen_copy()
    mine = {p.data_ptr(): p.requires_grad for p in tiny_policy.parameters()}
    own = [p for p in twin.parameters() if p.data_ptr() not in mine]
    assert sum(p.numel() for p in own) == sum(
        p.numel() for p in tiny_policy.video_projector.parameters()
    )
    assert not any(mine.get(p.data_ptr(), False) for p in twin.parameters())
    assert twin.language_model is tiny_policy.language_model


def test_frozen_is_what_has_no_weight_that_trains(tiny_policy):
    apply(tiny_policy, TrainableConfig(language_model=False, embeddings=True), BASE)
    assert trains(tiny_policy, "language_model")
    assert tiny_policy.language_model not in frozen_parts(tiny_policy)
    assert not trains(tiny_policy, "gate")


@every_case(
    ("change", "message"),
    [
        ({"r": 0}, "lora.r=0 is out of range"),
        ({"alpha": 0}, "lora.alpha=0 is out of range"),
        ({"dropout": 1.0}, "lora.dropout=1.0 is out of range"),
        ({"targets": []}, r"lora.targets=\[\] is out of range"),
        ({"parts": []}, r"lora.parts=\[\] is out of range"),
    ],
)
def test_lora_out_of_range_is_named(change, message):
    with pytest.raises(UserError, match=f"model.trainable.{message}"):
        LoraConfig(enabled=True, **change)


def test_lora_settings_without_lora_are_refused():
    with pytest.raises(UserError, match=r"lora\.r does nothing without LoRA; add model/trainable"):
        LoraConfig(r=8)
    assert replace(LoraConfig(enabled=True), r=8).r == 8
