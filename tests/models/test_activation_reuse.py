"""An update that takes over what its rollout computed: the same gradients, and only if it may."""

from __future__ import annotations

import pytest
import torch
from make_lms import MODELS, make

from omni_rlvr.functional.masks import position_ids
from omni_rlvr.models.prefix.cpu_float32.activation_reuse import ActivationReuse
from omni_rlvr.models.prefix.cpu_float32.decoder import FastDecoder
from omni_rlvr.models.prefix.cpu_float32.layers import FastLayers
from omni_rlvr.models.prefix.packing import Packed
from omni_rlvr.models.prefix.scoring import Rows, completion_hidden
from omni_rlvr.types import Prompts

PROMPTS = {"uneven": (9, 4, 7), "equal": (6, 6, 6), "some": (6, 9, 6)}
"""Tokens of three prompts; equal ones stand together and are attended to together."""
LENGTHS = (5, 1, 4, 6, 2, 3, 5, 6, 1)
"""Of the nine completions, three a prompt; rows of a prompt leave at different steps."""


def make_prompts(model, sizes: str) -> tuple[Prompts, torch.Tensor]:
    mask = (torch.arange(9) >= 9 - torch.tensor(PROMPTS[sizes]).unsqueeze(1)).long()
    ids = torch.randint(1, 97, mask.shape, generator=torch.Generator().manual_seed(0))
    return Prompts(model.get_input_embeddings()(ids), mask, position_ids(mask)), ids


def roll_out(model, sizes: str = "uneven") -> tuple[Rows, ActivationReuse]:
    """Feeds given tokens; rows that have ended stay a while, and then leave."""
    mask = (torch.arange(6) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    ids = torch.randint(1, 97, mask.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        prompts, _ = make_prompts(model, sizes)
        decoder = FastDecoder(model, prompts, 3, 6, keep_activations=True)
        decoder.prefill()
        rows = torch.arange(9)
        for t in range(5):
            if t in (2, 4):
                keep = (mask[rows, t] > 0).nonzero().squeeze(1)
                decoder.keep(keep)
                rows = rows[keep]
            decoder.step(ids[rows, t])
    with_graph, _ = make_prompts(model, sizes)
    owners = torch.arange(3).repeat_interleave(3)
    kept = decoder.activations()
    assert kept is not None
    return Rows(with_graph, owners, ids, mask), kept


def some_of(rows: Rows, kept: ActivationReuse, chosen: list[int]) -> tuple[Rows, ActivationReuse]:
    """Rows of one's choice, over those prompts that they need."""
    index = torch.tensor(chosen)
    prompts, owners = rows.prompt_index[index].unique(return_inverse=True)
    few = Prompts(*(part[prompts] for part in vars(rows.prompts).values()))
    return Rows(few, owners, rows.ids[index], rows.mask[index]), kept.select(index)


def gradient(model, rows: Rows, kept: ActivationReuse | None) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    hidden = completion_hidden(model, rows, gradient_checkpointing=False, activations=kept)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    (hidden * weights).sum().backward(retain_graph=True)
    return hidden.detach(), torch.cat([p.grad.flatten() for p in model.model.parameters()])


@pytest.fixture
def passes(monkeypatch) -> list[bool]:
    """For each pass over a packed row, whether it started from a rollout's activations."""
    seen, call = [], FastLayers.__call__

    def seeing(self, embeds, positions, layout, *, record=None, known=None):
        if isinstance(layout, Packed):
            seen.append(known is not None)
        return call(self, embeds, positions, layout, record=record, known=known)

    monkeypatch.setattr(FastLayers, "__call__", seeing)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("chosen", [list(range(9)), [8, 0, 2, 7], [4]])
@pytest.mark.parametrize("sizes", PROMPTS)
def test_gradients_equal_those_of_a_pass_of_its_own(
    name, kernel, chosen, sizes, passes, monkeypatch
):
    if not kernel:
        monkeypatch.setattr("omni_rlvr.models.prefix.attention.has_kernel", lambda device: False)
    model = make(name)
    rows, kept = some_of(*roll_out(model, sizes), chosen)
    passes.clear()
    got, expected = gradient(model, rows, kept), gradient(model, rows, None)
    assert passes == [True, False]
    torch.testing.assert_close(got[0], expected[0], atol=2e-5, rtol=1e-5)
    assert (got[1] - expected[1]).norm() < 1e-5 * expected[1].norm()
    assert expected[1].norm() > 1


@pytest.mark.parametrize("kernel", [True, False])
def test_completions_of_one_token_can_start_from_them(kernel, passes, monkeypatch):
    if not kernel:
        monkeypatch.setattr("omni_rlvr.models.prefix.attention.has_kernel", lambda device: False)
    model = make("qwen2")
    with torch.no_grad():
        prompts, _ = make_prompts(model, "uneven")
        decoder = FastDecoder(model, prompts, 1, 1, keep_activations=True)
        decoder.prefill()
    ones = torch.ones(3, 1, dtype=torch.long)
    rows = Rows(make_prompts(model, "uneven")[0], torch.arange(3), ones, ones)
    passes.clear()
    got = gradient(model, rows, decoder.activations())[1]
    expected = gradient(model, rows, None)[1]
    assert passes == [True, False]
    assert (got - expected).norm() < 1e-5 * expected.norm()


def test_frozen_weights_get_no_gradient():
    model = make("qwen2")
    model.model.layers[1].requires_grad_(False)
    hidden = completion_hidden(model, roll_out(model)[0], gradient_checkpointing=False)
    hidden.sum().backward()
    assert all(p.grad is None for p in model.model.layers[1].parameters())
    assert all(p.grad is not None for p in model.model.layers[0].parameters())


def test_activations_are_used_once(passes):
    model = make("qwen2")
    rows, kept = roll_out(model)
    passes.clear()
    first, second = gradient(model, rows, kept)[1], gradient(model, rows, kept)[1]
    assert passes == [True, False]
    assert (first - second).norm() < 1e-5 * second.norm()
    assert kept.recorded.layers == []  # nothing is held any more


def test_without_gradient_activations_are_left_alone(passes):
    model = make("qwen2")
    rows, kept = roll_out(model)
    passes.clear()
    with torch.no_grad():
        completion_hidden(model, rows, gradient_checkpointing=False, activations=kept)
    gradient(model, rows, kept)
    assert passes == [False, True]


def other_weights(model, rows, kept):
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    return model, rows, kept


def other_embeddings(model, rows, kept):
    prompts = Prompts(rows.prompts.embeds * 1.1, rows.prompts.mask, rows.prompts.positions)
    return model, Rows(prompts, rows.prompt_index, rows.ids, rows.mask), kept


def other_positions(model, rows, kept):
    prompts = Prompts(rows.prompts.embeds, rows.prompts.mask, rows.prompts.positions * 3)
    return model, Rows(prompts, rows.prompt_index, rows.ids, rows.mask), kept


def other_owners(model, rows, kept):
    index = rows.prompt_index.roll(1)
    return model, Rows(rows.prompts, index, rows.ids, rows.mask), kept


def other_tokens(model, rows, kept):
    ids = rows.ids.clone()
    ids[3, 1] = (ids[3, 1] + 1) % 97
    return model, Rows(rows.prompts, rows.prompt_index, ids, rows.mask), kept


def other_rows(model, rows, kept):
    return model, rows, kept.select(torch.arange(9).roll(3))


def longer_rows(model, rows, kept):
    mask = rows.mask.clone()
    mask[1] = 1  # ended after one token, and left at step 2
    return model, Rows(rows.prompts, rows.prompt_index, rows.ids, mask), kept


def other_model(model, rows, kept):
    return make("qwen2"), rows, kept


@pytest.mark.parametrize(
    "change",
    [
        other_weights,
        other_embeddings,
        other_positions,
        other_owners,
        other_tokens,
        other_rows,
        longer_rows,
        other_model,
    ],
)
def test_what_was_not_recorded_is_computed(change, passes):
    source = make("qwen2")
    model, rows, kept = change(source, *roll_out(source))
    passes.clear()
    got = gradient(model, rows, kept)[1]
    assert passes == [False]
    assert (got - gradient(model, rows, None)[1]).norm() < 1e-5 * got.norm()
