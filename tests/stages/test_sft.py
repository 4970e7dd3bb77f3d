"""SFT: the loss row by row, micro-batches leave the gradient, towers run once, learning."""

from __future__ import annotations

import pytest
import torch

from omni_rlvr.config.stage import SftConfig
from omni_rlvr.rollout.experience import select
from omni_rlvr.stages.sft import SftStage
from omni_rlvr.types import Experience

TARGETS = (
    "<think>raised brows</think>\n<answer>surprise</answer>",
    "happy",
    "<think>a low pitch, a slow pace</think>\n<answer>sad</answer>",
    "<answer>angry</answer>",
)


def prepare(policy, batch) -> Experience:
    prepared = SftStage(SftConfig()).prepare(policy, batch, torch.Generator())
    assert prepared.metrics == {}
    assert prepared.completions == []
    (experience,) = SftStage(SftConfig()).minibatches(prepared.experience)
    return experience


def backward(policy, experience, micro_batch_size: int) -> tuple[torch.Tensor, dict[str, float]]:
    """Adds up a step's micro-batches; returns the whole gradient as a vector, and the metrics."""
    policy.zero_grad()
    sums: dict[str, float] = {}
    for rows in torch.arange(len(experience)).split(micro_batch_size):
        out = SftStage(SftConfig()).loss(policy, select(experience, rows), experience)
        out.loss.backward()
        for name, value in out.metrics.items():
            sums[name] = sums.get(name, 0) + value.item()
    grads = [p.grad.flatten() for p in policy.parameters() if p.requires_grad]
    return torch.cat(grads), sums


def test_loss_is_the_token_mean_over_rows_read_alone(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4, targets=TARGETS)
    total = hits = tokens = 0.0
    with torch.no_grad():
        for row in range(4):
            alone = make_one(tiny_policy, make_batch, row)
            out = SftStage(SftConfig()).loss(tiny_policy, alone, alone)
            size = alone.completion_mask.sum()
            total += out.loss * size
            hits += out.metrics["mean_token_accuracy"] * size
            tokens += size
        whole = prepare(tiny_policy, batch)
        out = SftStage(SftConfig()).loss(tiny_policy, whole, whole)
    assert len({len(tiny_policy.processor.target_ids(t)) for t in TARGETS}) == 4
    assert out.loss.item() == pytest.approx((total / tokens).item(), rel=1e-5)
    accuracy = out.metrics["mean_token_accuracy"].item()
    assert accuracy == pytest.approx((hits / tokens).item(), abs=1e-6)


def make_one(policy, make_batch, row: int) -> Experience:
    """Row ``row`` of the mixed batch, cut out before anything is encoded and padded."""
    batch = make_batch(policy, 4, targets=TARGETS)
    prompt, target = batch.prompt_mask[row].bool(), batch.completion_mask[row].bool()
    fields = vars(batch) | {
        "examples": [batch.examples[row]],
        "prompt_ids": batch.prompt_ids[row : row + 1, prompt],
        "prompt_mask": batch.prompt_mask[row : row + 1, prompt],
        "prompt_positions": batch.prompt_positions[row : row + 1, prompt],
        "video_shapes": [batch.video_shapes[row]],
        "audio_shapes": [batch.audio_shapes[row]],
        "pixel_values": [batch.pixel_values[row]],
        "input_features": [batch.input_features[row]],
        "completion_ids": batch.completion_ids[row : row + 1, target],
        "completion_mask": batch.completion_mask[row : row + 1, target],
    }
    return prepare(policy, type(batch)(**fields))


def test_micro_batches_leave_gradient_and_metrics(tiny_policy, make_batch):
    experience = prepare(tiny_policy, make_batch(tiny_policy, 8, targets=TARGETS))
    whole, at_once = backward(tiny_policy, experience, 8)
    for size in (1, 3):
        parts, summed = backward(tiny_policy, experience, size)
        assert (parts - whole).norm() < 1e-5 * whole.norm()
        assert summed == pytest.approx(at_once, rel=1e-5)
    assert whole.norm() > 0.01


def test_padding_of_targets_changes_nothing(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4, targets=TARGETS)
    junk = torch.where(batch.completion_mask.bool(), batch.completion_ids, 77)
    other = type(batch)(**{**vars(batch), "completion_ids": junk})
    grads = [backward(tiny_policy, prepare(tiny_policy, b), 2)[0] for b in (batch, other)]
    assert torch.equal(*grads)


def test_the_end_token_is_learned(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4, targets=TARGETS)
    eos = tiny_policy.processor.tokenizer.eos_token_id
    last = batch.completion_mask.sum(dim=1, keepdim=True) - 1
    assert (batch.completion_ids.gather(1, last) == eos).all()
    assert batch.completion_mask.sum() == sum(
        len(tiny_policy.processor.target_ids(target)) for target in TARGETS
    )


def test_gradient_reaches_projectors_and_lm_but_no_tower(tiny_policy, make_batch):
    experience = prepare(tiny_policy, make_batch(tiny_policy, 4, targets=TARGETS))
    SftStage(SftConfig()).loss(tiny_policy, experience, experience).loss.backward()
    for part in (tiny_policy.video_projector, tiny_policy.audio_projector):
        assert all(p.grad.abs().sum() > 0 for p in part.parameters())
    assert all(p.grad is not None for p in tiny_policy.language_model.parameters())
    for tower in (tiny_policy.vision_tower, tiny_policy.audio_tower):
        assert all(p.grad is None for p in tower.parameters())


def test_towers_run_once(tiny_policy, make_batch):
    calls = []
    for tower in (tiny_policy.vision_tower, tiny_policy.audio_tower):
        tower.register_forward_hook(lambda module, args, out: calls.append(type(module).__name__))
    backward(tiny_policy, prepare(tiny_policy, make_batch(tiny_policy, 4, targets=TARGETS)), 1)
    assert sorted(calls) == ["SiglipVisionModel", "WhisperEncoder"]


@pytest.mark.slow
def test_overfits_one_batch(tiny_policy, make_batch):
    experience = prepare(tiny_policy, make_batch(tiny_policy, 4, targets=TARGETS))
    weights = [p for p in tiny_policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.0)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        out = SftStage(SftConfig()).loss(tiny_policy, experience, experience)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(out.loss.item())
    assert losses[0] > 4
    assert losses[-1] < 0.1
    assert out.metrics["mean_token_accuracy"] > 0.99


def test_packing_under_a_token_budget_leaves_gradient_and_metrics(tiny_policy, make_batch):
    experience = prepare(tiny_policy, make_batch(tiny_policy, 8, targets=TARGETS))
    whole, at_once = backward(tiny_policy, experience, 8)
    stage = SftStage(SftConfig(max_tokens_per_micro_batch=110))
    parts = stage.micro_batches(experience)
    prompts = experience.batch.prompt_mask.sum(dim=1)
    sizes = prompts + experience.completion_mask.sum(dim=1)
    assert sorted(torch.cat(parts).tolist()) == list(range(8))
    assert all(sizes[rows].sum() <= 110 or len(rows) == 1 for rows in parts)
    assert torch.equal(sizes[torch.cat(parts)], sizes.sort().values)  # like lengths together
    assert 1 < len(parts) < 8
    tiny_policy.zero_grad()
    seen, sums = [], {"loss": 0.0, "mean_token_accuracy": 0.0}
    tiny_policy.language_model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    for rows in parts:
        out = stage.loss(tiny_policy, select(experience, rows), experience)
        out.loss.backward()
        for name in sums:
            sums[name] += out.metrics[name].item()
    grads = [p.grad.flatten() for p in tiny_policy.parameters() if p.requires_grad]
    assert (torch.cat(grads) - whole).norm() < 1e-5 * whole.norm()
    assert sums == pytest.approx(at_once, rel=1e-5)
    # No padding: the tokens that are there, less each target's last, which is never fed.
    assert seen == [int(sizes[rows].sum()) - len(rows) for rows in parts]


def test_gradient_checkpointing_leaves_the_gradient(tiny_policy, make_batch):
    experience = prepare(tiny_policy.train(), make_batch(tiny_policy, 4, targets=TARGETS))
    plain, _ = backward(tiny_policy, experience, 4)
    tiny_policy.zero_grad()
    stage = SftStage(SftConfig(gradient_checkpointing=True))
    stage.loss(tiny_policy, experience, experience).loss.backward()
    grads = [p.grad.flatten() for p in tiny_policy.parameters() if p.requires_grad]
    assert (torch.cat(grads) - plain).norm() < 1e-5 * plain.norm()
