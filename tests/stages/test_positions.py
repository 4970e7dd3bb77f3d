"""Prompts whose positions have three axes, through rollout and update, against plain passes."""

from __future__ import annotations

import pytest
import torch
from make_grpo import VARIED
from torch import nn
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from omni_rlvr.config.sampling import SamplingOptions
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.functional.masks import position_ids
from omni_rlvr.rollout.experience import select
from omni_rlvr.rollout.hf import Generate
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.types import Batch, Example, Features, Prompts, UserError

LENGTHS, T = (9, 6), 5


class Thinker(nn.Module):
    """Qwen2.5-Omni's text model with a head."""

    is_backend_compatible = Qwen2_5OmniThinkerTextModel.is_backend_compatible

    def __init__(self):
        super().__init__()
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
        config = Qwen2_5OmniTextConfig(
            vocab_size=97,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            pad_token_id=0,
            rope_parameters=rope,
        )
        config.get_text_config = lambda: config
        self.config, self.model = config, Qwen2_5OmniThinkerTextModel(config)
        self.lm_head = nn.Linear(64, 97, bias=False)

    def get_input_embeddings(self):
        return self.model.embed_tokens


class Policy(nn.Module):
    """Text alone, its tokens placed as those of pictures are."""

    places = {"language_model": "language_model"}

    def __init__(self, processor, *, axes: int):
        super().__init__()
        torch.manual_seed(0)
        self.language_model, self.processor, self.axes = Thinker(), processor, axes
        with torch.no_grad():
            for weight in self.parameters():
                if weight.ndim == 2:
                    weight.mul_(4)

    def encode(self, batch):
        return Features.none(len(batch))

    def prompts(self, batch, features):
        embeds = self.language_model.get_input_embeddings()(batch.prompt_ids)
        positions = (batch.prompt_mask.cumsum(dim=1) - 1).clamp(min=0)
        if self.axes == 3:
            spread = [positions, positions // 2 + 3, positions % 2 + 1]
            positions = torch.stack(spread) * batch.prompt_mask
        return Prompts(embeds, batch.prompt_mask, positions)


class Processor:
    """What decoding asks of one; no token ends a completion."""

    stop_ids = counted_stop_ids = (999,)

    class tokenizer:
        pad_token_id = 0

    def decode(self, ids, mask):
        return [str(row) for row in ids.tolist()]


def make_batch() -> Batch:
    mask = (torch.arange(9) >= 9 - torch.tensor(LENGTHS).unsqueeze(1)).long()
    ids = torch.randint(1, 97, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    examples = [Example(str(i), "", "", "", None) for i in (0, 1)]
    nothing = [None, None]
    return Batch(examples, ids, mask, position_ids(mask), nothing, nothing, nothing, nothing)


def plain_logits(policy, batch, row_of: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """[N, T, V]: each row behind its own prompt, without padding, one by one."""
    out = []
    for owner, tokens in zip(row_of.tolist(), ids, strict=True):
        there = batch.prompt_mask[owner].bool()
        places = policy.prompts(batch, None).positions[:, owner, there]
        later = places.max() + 1 + torch.arange(len(tokens))  # on every axis
        whole = torch.cat([batch.prompt_ids[owner, there], tokens])
        hidden = policy.language_model.model(
            inputs_embeds=policy.language_model.get_input_embeddings()(whole).unsqueeze(0),
            position_ids=torch.cat([places, later.expand(3, -1)], dim=1).unsqueeze(1),
            use_cache=False,
        ).last_hidden_state[0]
        out.append(policy.language_model.lm_head(hidden[int(there.sum()) - 1 : -1]))
    return torch.stack(out)


def make_stage(engine) -> GrpoStage:
    sampling = SamplingOptions(max_completion_length=T)
    config = GrpoConfig(sampling=sampling, num_generations=3, beta=0.0, micro_batch_size=8)
    return GrpoStage(config, VARIED, None, engine)


def test_a_step_with_three_axes_equals_plain_passes():
    policy, batch = Policy(Processor(), axes=3), make_batch()
    stage = make_stage(SharedPrefix())
    whole = stage.prepare(policy, batch, torch.Generator().manual_seed(0)).experience
    ids = whole.completion_ids

    # sampled tokens: the same random numbers, [t] a row, on the plain passes' distributions
    generator = torch.Generator().manual_seed(0)
    uniform = torch.stack(
        [torch.rand(6, generator=generator, dtype=torch.float64) for _ in range(T)]
    )
    with torch.no_grad():
        probs = plain_logits(policy, batch, whole.prompt_index, ids).softmax(dim=-1).double()
    cdf = probs.cumsum(dim=-1)
    wanted = (uniform.t().unsqueeze(-1) * cdf[..., -1:]).contiguous()
    drawn = torch.searchsorted(cdf, wanted, right=True)
    assert torch.equal(drawn.squeeze(-1), ids)
    assert ids.unique().numel() > 5

    policy.zero_grad()
    rows = stage.micro_batches(whole)
    assert len(rows) == 1
    stage.loss(policy, select(whole, rows[0]), whole).loss.backward()
    got = torch.cat([p.grad.flatten() for p in policy.parameters()])
    policy.zero_grad()
    logps = plain_logits(policy, batch, whole.prompt_index, ids).log_softmax(dim=-1)
    logps = logps.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    ratio = (logps - logps.detach()).exp()
    (-(ratio * whole.advantages.unsqueeze(1)).mean(dim=1)).mean().backward()
    want = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert (got - want).norm() < 1e-5 * want.norm()


def test_the_axes_matter():
    outs = [
        make_stage(SharedPrefix())
        .prepare(Policy(Processor(), axes=n), make_batch(), torch.Generator().manual_seed(0))
        .experience.completion_ids
        for n in (1, 3)
    ]
    assert not torch.equal(*outs)


def test_plain_generate_refuses_such_prompts():
    with pytest.raises(UserError, match=r"rollout=hf numbers the tokens.*rollout=shared_prefix"):
        make_stage(Generate()).prepare(
            Policy(Processor(), axes=3), make_batch(), torch.Generator().manual_seed(0)
        )
