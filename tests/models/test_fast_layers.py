"""Layers on their weights against the modules, and what goes through the modules."""

from functools import partial

import pytest
import torch
from every_case import every_case
from make_lms import MODELS, make

from omni_rlvr.models.prefix.attention_hook import run_layers
from omni_rlvr.models.prefix.cpu_float32.entry import FastPath
from omni_rlvr.models.prefix.cpu_float32.layers import FastLayers
from omni_rlvr.models.prefix.decoding import SharedDecoder, make_decoder
from omni_rlvr.models.prefix.packing import Packed
from omni_rlvr.types import Prompts

POSITIONS = torch.arange(4).unsqueeze(0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(
    ("sizes", "rows"),
    [((4,), [[3, 2, 2]]), ((2, 2), [[3, 1], [2, 1]]), ((2, 2, 3), [[1], [2], [1]])],
)
def test_running_on_weights_equals_the_modules(name, kernel, sizes, rows, monkeypatch):
    if not kernel:
        monkeypatch.setattr("omni_rlvr.models.prefix.attention.has_kernel", lambda device: False)
    model = make(name)
    generator = torch.Generator().manual_seed(3)
    embeds = torch.randn(1, 11, 64, generator=generator)
    layout = Packed(sizes, rows)
    num_tail = 11 - sum(sizes) + len(sizes)  # the prompts' last tokens and all others
    weights = torch.randn(1, num_tail, 64, generator=generator)
    grads, hiddens = [], []
    for run in (FastLayers(model), partial(run_layers, model)):
        model.zero_grad()
        inputs = embeds.clone().requires_grad_()
        hidden = run(inputs, torch.arange(11).unsqueeze(0), layout)
        (hidden * weights).sum().backward()
        hiddens.append(hidden.detach())
        used = [p.grad for p in model.model.parameters() if p.grad is not None]
        grads.append(torch.cat([inputs.grad.flatten(), *(g.flatten() for g in used)]))
    assert hiddens[0].shape == (1, num_tail, 64)
    torch.testing.assert_close(*hiddens, atol=1e-5, rtol=1e-5)
    assert (grads[0] - grads[1]).norm() < 1e-5 * grads[1].norm()


def test_the_last_layer_computes_keys_and_values_only_for_what_predicts_nothing():
    model, record = make("qwen2"), []
    with torch.no_grad():
        run, embeds = FastLayers(model), torch.randn(1, 11, 64)
        run(embeds, torch.arange(11).unsqueeze(0), Packed([4], [[3, 2, 2]]), record=record)
    sizes = [[len(part) for part in layer] for layer in record]
    assert sizes == [[11] * 7, [11] * 7, [8, 11, 8, 8, 8, 8, 8]]


def hooked(model):
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)


def subclassed(model):
    class Own(torch.nn.Linear):
        pass

    model.model.layers[2].mlp.up_proj.__class__ = Own


def halved(model):
    model.model.layers[1].to(torch.bfloat16)


def checkpointed(model):
    model.model.layers[1].gradient_checkpointing = True


def forwarded(model):
    layer = model.model.layers[0].mlp.up_proj
    forward = layer.forward
    layer.forward = lambda x: 2 * forward(x)


def turned_by_length(model):
    model.model.rotary_emb.rope_type = "dynamic"


@every_case("change", [hooked, subclassed, halved, checkpointed, forwarded, turned_by_length])
def test_anything_unusual_goes_through_the_modules(change):
    model = make("qwen2")
    assert FastPath.supports(model, POSITIONS)
    change(model)
    assert not FastPath.supports(model, POSITIONS)


def test_autocast_goes_through_the_modules():
    model = make("qwen2")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not FastPath.supports(model, POSITIONS)


def test_positions_on_three_axes_go_through_the_modules():
    # [3, 1, 4]: taken for [1, 4], its first axis would be the row, and the positions those of time
    model, positions = make("qwen2"), POSITIONS.expand(3, 1, 4)
    assert not FastPath.supports(model, positions)
    prompts = Prompts(torch.randn(1, 4, 64), torch.ones(1, 4, dtype=torch.long), positions)
    decoder = make_decoder(model, prompts, num_generations=2, max_completion_length=3)
    assert type(decoder) is SharedDecoder
