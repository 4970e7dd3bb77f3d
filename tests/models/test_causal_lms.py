"""Sharing a prefix in transformers' causal LMs: each equals its own plain forward and generate."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import make_lms
import pytest
import torch
from every_case import every_case
from make_lms import MODELS, SIZES
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniThinkerTextModel

from omni_rlvr.functional.masks import position_ids
from omni_rlvr.models.prefix import attention_hook
from omni_rlvr.models.prefix.attention_hook import can_share
from omni_rlvr.models.prefix.cpu_float32.decoder import FastDecoder
from omni_rlvr.models.prefix.decoding import RepeatedDecoder, SharedDecoder, make_decoder
from omni_rlvr.models.prefix.scoring import Rows, completion_hidden
from omni_rlvr.types import Prompts, UserError

PROMPTS, COMPLETIONS = (9, 4, 7), (5, 1, 4, 5, 2, 3, 5)
OWNERS = (0, 2, 0, 1, 2, 0, 2)
"""Groups of three, one and three rows; left padding; the rows of a prompt apart."""
EQUAL, EQUAL_OWNERS = (6, 6, 6), (0, 2, 0, 1, 1, 2, 2)
"""Prompts that are attended to together: two rows each, as the row of one token feeds nothing."""


class Thinker(nn.Module):
    """Qwen2.5-Omni's text model with a head: its rotary positions have three axes."""

    def __init__(self):
        super().__init__()
        rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
        config = Qwen2_5OmniTextConfig(**SIZES, rope_parameters=rope)
        self.config, self.model = config, Qwen2_5OmniThinkerTextModel(config)
        self.lm_head = nn.Linear(64, 97, bias=False)

    is_backend_compatible = Qwen2_5OmniThinkerTextModel.is_backend_compatible

    def get_input_embeddings(self):
        return self.model.embed_tokens


def make(name: str) -> nn.Module:
    if name != "thinker":
        return make_lms.make(name)
    torch.manual_seed(0)
    return make_lms.sharpened(Thinker())


def left_padded(lengths, width: int) -> torch.Tensor:
    return (torch.arange(width) >= width - torch.tensor(lengths).unsqueeze(1)).long()


def make_rows(model: nn.Module, *, axes: int = 1, equal: bool = False) -> Rows:
    generator = torch.Generator().manual_seed(0)
    mask = left_padded(EQUAL if equal else PROMPTS, 9)
    ids = torch.randint(1, 97, mask.shape, generator=generator)
    prompts = Prompts(model.get_input_embeddings()(ids), mask, position_ids(mask))
    if axes == 3:  # as a picture of 2 x 2 patches inside each prompt would have it
        height, width = prompts.positions + torch.randint(0, 3, (2, 3, 9), generator=generator)
        prompts = Prompts(
            prompts.embeds, mask, torch.stack([prompts.positions, height, width]) * mask
        )
    done = (torch.arange(5) < torch.tensor(COMPLETIONS).unsqueeze(1)).long()
    ids = torch.randint(1, 97, done.shape, generator=generator) * done
    return Rows(prompts, torch.tensor(EQUAL_OWNERS if equal else OWNERS), ids, done)


def alone(model: nn.Module, rows: Rows) -> torch.Tensor:
    """[M, hidden]: each completion behind its own prompt, one by one, without padding."""
    out = []
    for ids, mask, owner in zip(rows.ids, rows.mask, rows.prompt_index, strict=True):
        here = rows.prompts.mask[owner].bool()
        tail = model.get_input_embeddings()(ids[: mask.sum() - 1])
        places = rows.prompts.positions[..., owner, here]
        later = places.max() + 1 + torch.arange(len(tail))
        places = torch.cat([places, later.expand(*places.shape[:-1], -1)], dim=-1)
        hidden = model.model(
            inputs_embeds=torch.cat([rows.prompts.embeds[owner, here], tail]).unsqueeze(0),
            position_ids=places.unsqueeze(-2),
            use_cache=False,
        ).last_hidden_state[0]
        out.append(hidden[-len(tail) - 1 :])
    return torch.cat(out)


def gradient(hidden: torch.Tensor, model: nn.Module) -> torch.Tensor:
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    (hidden * weights).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.model.parameters()])


@pytest.fixture(params=["cpu kernel", "plain operations"])
def kernel(request, monkeypatch):
    """Both ways to compute a packed row's attention: other devices have the plain one only."""
    if request.param == "plain operations":
        monkeypatch.setattr("omni_rlvr.models.prefix.attention.has_kernel", lambda device: False)


@pytest.mark.slow
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("name", [*MODELS, "thinker"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("equal", [False, True])
def test_hidden_states_and_gradients_equal_each_row_alone(name, checkpointing, equal):
    model = make(name).train()
    axes = 3 if name == "thinker" else 1
    rows = make_rows(model, axes=axes, equal=equal)
    hidden = completion_hidden(model, rows, gradient_checkpointing=checkpointing)
    expected = alone(model, rows)
    torch.testing.assert_close(hidden, expected, atol=2e-5, rtol=1e-5)
    got = gradient(hidden, model)
    want = gradient(alone(model, make_rows(model, axes=axes, equal=equal)), model)
    assert (got - want).norm() < 1e-5 * want.norm()
    assert model.config._attn_implementation == "sdpa"  # as before


@pytest.mark.parametrize("name", ["qwen2", "thinker"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_plain_path_equals_each_row_alone(name, checkpointing, monkeypatch):
    monkeypatch.setattr("omni_rlvr.models.prefix.scoring.can_share", lambda model: False)
    model = make(name).train()
    rows = make_rows(model, axes=3 if name == "thinker" else 1)
    hidden = completion_hidden(model, rows, gradient_checkpointing=checkpointing)
    torch.testing.assert_close(hidden, alone(model, rows), atol=2e-5, rtol=1e-5)


def test_checkpointing_computes_every_layer_twice():
    model, calls = make("qwen2").train(), []
    for layer in model.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    for checkpointing, expected in ((False, 3), (True, 6)):
        calls.clear()
        hidden = completion_hidden(model, make_rows(model), gradient_checkpointing=checkpointing)
        gradient(hidden, model)
        assert len(calls) == expected
    assert not model.model.layers[0].gradient_checkpointing  # as before


@every_case(
    ("name", "kind"),
    [
        *((name, SharedDecoder) for name in (*MODELS, "thinker")),
        *((n, FastDecoder) for n in MODELS),
    ],
)
def test_decoding_equals_the_plain_decoder(name, kind):
    """Logits step by step, rows leaving on the way: ragged groups, then a prompt without rows."""
    model, tokens = make(name), torch.arange(1, 41).view(5, 8)
    prompts = make_rows(model, axes=3 if name == "thinker" else 1).prompts
    keeps = {1: [0, 2, 3, 5, 6, 7], 3: [0, 3, 4, 5]}  # after 3: rows 0, 5, 6, 7 of prompts 0 and 2
    with torch.no_grad():
        shared = kind(model, prompts, 3, 6)
        plain = RepeatedDecoder(model, prompts, 3)
        pairs = [(shared.prefill(), plain.prefill())]
        rows = torch.arange(9)
        for t in range(5):
            if t in keeps:
                keep = torch.tensor(keeps[t])
                shared.keep(keep)
                plain.keep(keep)
                rows = rows[keep]
            fed = tokens[t].repeat(2)[rows]
            pairs.append((shared.step(fed), plain.step(fed)))
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)
    assert len({tuple(row) for row in pairs[-1][0].argsort()[:, -3:].tolist()}) > 1


@pytest.mark.parametrize("kind", [SharedDecoder, FastDecoder])
def test_a_prompt_is_stored_once_and_suffixes_are_never_copied(kind):
    model = make("qwen2")
    prompts = make_rows(model).prompts
    with torch.no_grad():
        decoder = kind(model, prompts, 4, 6)
        decoder.prefill()
        places = set()
        for _ in range(4):
            decoder.step(torch.arange(12))
            places.add(decoder.cache.suffixes[0].data_ptr())
    assert decoder.cache.prefixes[0][0].shape == (3 * 2, 9, 16)  # 3 prompts, not 12 rows
    assert decoder.cache.suffixes[0].shape == (2, 3, 2, 4, 6, 16)
    assert len(places) == 1


def warned_of_anew(model):
    """Gives a model a class of its own: each class is warned of once."""
    model.__class__ = type(type(model).__name__, (type(model),), {})
    return model


def gemma() -> Gemma2ForCausalLM:
    """A model whose scores are capped and whose layers see a window: neither is shared here."""
    sizes = {name: size for name, size in SIZES.items() if not name.endswith("_id")}
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=16, attn_implementation="eager")).eval()


def test_a_model_that_cannot_share_falls_back_with_one_warning():
    model = warned_of_anew(gemma())
    with pytest.warns(UserWarning, match="Gemma2ForCausalLM: its attention cannot share"):
        assert not can_share(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = make_rows(model)
        hidden = completion_hidden(model, rows, gradient_checkpointing=False)
        decoder = make_decoder(model, rows.prompts, num_generations=2, max_completion_length=4)
    assert isinstance(decoder, RepeatedDecoder)
    torch.testing.assert_close(hidden, alone(model, rows), atol=2e-5, rtol=1e-5)


def test_a_model_outside_the_attention_interface_falls_back():
    class Own(Qwen2ForCausalLM):
        _supports_attention_backend = False

    with pytest.warns(UserWarning, match="cannot share a prefix"):
        assert not can_share(Own(Qwen2Config(**SIZES)))


@pytest.mark.parametrize(
    "model",
    [
        MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
        Qwen2ForCausalLM(Qwen2Config(**SIZES, attention_dropout=0.1)),
        Qwen2ForCausalLM(
            Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1)
        ),
    ],
    ids=["window", "dropout", "some windows"],
)
def test_windows_and_dropout_are_not_shared(model):
    with pytest.warns(UserWarning, match="cannot share a prefix"):
        assert not can_share(warned_of_anew(model))


def test_what_a_layer_wants_besides_is_never_ignored():
    with pytest.raises(UserError, match="NoneType uses softcap"):
        attention_hook.shared_attention(None, *[None] * 4, layout=None, scaling=1.0, softcap=30.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(dtype):
    model = make("qwen2")
    rows = make_rows(model)
    expected = alone(model, rows)
    model = model.to(dtype)
    prompts = Prompts(rows.prompts.embeds.to(dtype), rows.prompts.mask, rows.prompts.positions)
    half = Rows(prompts, rows.prompt_index, rows.ids, rows.mask)
    got = completion_hidden(model, half, gradient_checkpointing=False)
    assert got.dtype == dtype
    assert (got.float() - expected).norm() < 0.05 * expected.norm()


def test_autocast_leaves_queries_and_values_of_one_type():
    model = make("qwen2").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = completion_hidden(model, make_rows(model), gradient_checkpointing=False)
    assert gradient(hidden, model).isfinite().all()


def test_layout_protocol_is_called_once_a_layer():
    seen = []
    layout = SimpleNamespace(
        attend=lambda layer, q, k, v, scale: seen.append(layer) or q.transpose(1, 2)
    )
    model = make("llama")
    with attention_hook.sharing(model), torch.no_grad():
        model.model(
            inputs_embeds=torch.randn(1, 4, 64), attention_mask=torch.empty(1, 1, 1, 1),
            use_cache=False, layout=layout,
        )  # fmt: skip
    assert seen == [0, 1, 2]
