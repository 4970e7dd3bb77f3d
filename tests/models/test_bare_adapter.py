"""Adapters that peft itself trained and saved: every setting is applied as peft applies it, or
refused by name.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from make_lora import base, batch, config, logits, move
from safetensors.torch import load_file, save_file

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.adapters.lora import merge
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.types import UserError

__all__ = ["base", "batch"]  # fixtures
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Adapter 'default'.*invalid shape"),  # it has lora_bias
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning"),
]
Q = "layers.0.self_attn.q_proj"


def peft_trains(base: Path, folder: Path, place: str = "language_model", **settings) -> object:
    """Puts an adapter on the policy or its language model as peft does, moves it, saves it."""
    policy = load_policy(str(base), "float32", None)
    plain = policy if not place else policy.get_submodule(place)
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"], **settings}
    model = peft.get_peft_model(plain, peft.LoraConfig(**settings))
    move(model)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(folder)
    return policy.eval()


def change(folder: Path, **settings) -> None:
    """Changes adapter_config.json."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def wrong(folder: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        load_policy(str(folder), "float32", None, LoadOptions(**options))
    assert "\n" not in str(error.value)
    return str(error.value)


SETTINGS = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_alpha": 3, "lora_dropout": 0.5},
    "ranks": {"rank_pattern": {Q: 2, "v_proj": 6}},
    "alphas": {"alpha_pattern": {Q: 1, r"layers\.1\..*": 40}, "rank_pattern": {"v_proj": 2}},
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True, "target_modules": ["q_proj"]},
    "all biases": {"bias": "all"},
    "own biases": {"bias": "lora_only"},
    "some layers": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "a pattern": {"target_modules": r".*layers\.0.*(q_proj|down_proj)"},
    "all": {"target_modules": "all-linear"},
    "but": {"exclude_modules": r".*layers\.1.*"},
    "norms": {"modules_to_save": ["norm", "input_layernorm"]},
    "turned": {"fan_in_fan_out": True},
    "gaussian": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=[*SETTINGS])
def test_it_computes_what_peft_computes(base: Path, batch, tmp_path: Path, settings: dict) -> None:
    theirs = peft_trains(base, tmp_path / "adapter", **settings)
    plain = logits(load_policy(str(base), "float32", None), batch)
    ours = load_policy(str(tmp_path / "adapter"), "float32", None)
    expected = logits(theirs, batch)
    torch.testing.assert_close(logits(ours, batch), expected, atol=1e-6, rtol=0)
    assert not torch.allclose(expected, plain, atol=1e-3)
    ours.save(tmp_path / "saved")
    again = load_policy(str(tmp_path / "saved"), "float32", None)
    assert torch.equal(logits(again, batch), logits(ours, batch))
    merge(again)
    torch.testing.assert_close(logits(again, batch), expected, atol=1e-5, rtol=0)


def test_one_that_was_put_on_the_whole_policy_comes_back(base: Path, batch, tmp_path: Path) -> None:
    settings = {"target_modules": r".*(q_proj|audio_projector\.0)"}
    theirs = peft_trains(base, tmp_path / "adapter", "", **settings)
    ours = load_policy(str(tmp_path / "adapter"), "float32", None)
    torch.testing.assert_close(logits(ours, batch), logits(theirs, batch), atol=1e-6, rtol=0)
    ours.save(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved" / "adapters").iterdir()}
    assert names == {"language_model", "vision_tower", "audio_tower", "audio_projector"}


def test_the_base_is_found_where_the_adapter_says(
    base: Path, batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "adapter"
    expected = logits(peft_trains(base, folder), batch)
    for named, place in (("../base", tmp_path), (base.name, base.parent), (str(base), tmp_path)):
        change(folder, base_model_name_or_path=named)
        monkeypatch.chdir(place)
        torch.testing.assert_close(
            logits(load_policy(str(folder), "float32", None), batch), expected
        )
    for named, message in (
        (None, "names no base (base_model_name_or_path); set model.base=DIR"),
        ("", "names no base (base_model_name_or_path); set model.base=DIR"),
        ("nowhere", "its base (adapter_config.json names 'nowhere') is not there; set model.base"),
    ):
        change(folder, base_model_name_or_path=named)
        assert message in wrong(folder)
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm/config.json").write_text('{"model_type": "qwen2"}')
    change(folder, base_model_name_or_path="../lm")
    assert "is not a video + audio model (model_type='qwen2'); set model.base=DIR" in wrong(folder)


def test_it_can_be_trained_on_with_its_own_settings(base: Path, tmp_path: Path) -> None:
    peft_trains(base, tmp_path / "plain", target_modules=["q_proj"], lora_alpha=32)
    policy = load_policy(str(tmp_path / "plain"), "float32", None)
    apply(policy, config(targets=["q_proj"]), tmp_path / "plain")
    with pytest.raises(UserError, match=r"lora\.r=8: the checkpoint's adapter .* has 4"):
        apply(policy, config(targets=["q_proj"], r=8), tmp_path / "plain")
    peft_trains(base, tmp_path / "dora", target_modules=["q_proj"], lora_alpha=32, use_dora=True)
    policy = load_policy(str(tmp_path / "dora"), "float32", None)
    with pytest.raises(UserError, match=r"has use_dora, which is read but not trained here; merge"):
        apply(policy, config(targets=["q_proj"]), tmp_path / "dora")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'; only LORA is read"),
        (
            {"init_lora_weights": "pissa"},
            "the base's weights were changed before training; save the adapter again",
        ),
        ({"trainable_token_indices": [1]}, "is embeddings of single tokens"),
        ({"layer_replication": [[0, 1]]}, "is a model with repeated layers"),
        ({"some_new_thing": 3}, "some_new_thing=3 is a setting that is not known here"),
        ({"r": None}, "r=None, which is not a number"),
        ({"r": 5}, None),  # each layer's rank is that of its weights
        ({"use_dora": True}, "its weights are not those of its config, e.g."),
    ],
)
def test_what_cannot_be_applied_is_named(base: Path, tmp_path: Path, settings, message) -> None:
    peft_trains(base, tmp_path / "adapter")
    change(tmp_path / "adapter", **settings)
    if message is None:
        load_policy(str(tmp_path / "adapter"), "float32", None)
    else:
        assert message in wrong(tmp_path / "adapter")


def test_weights_that_do_not_fit_are_named(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    peft_trains(base, folder)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    first = next(iter(weights))
    for changed, message in (
        (
            {**weights, "base_model.model.nowhere.lora_A.weight": weights[first] + 1},
            "weight nowhere.",
        ),
        ({k: v for k, v in weights.items() if k != first}, "does not fit this model"),
        ({**weights, first: weights[first][:, :3]}, "does not fit this model"),
    ):
        save_file({key: value.contiguous() for key, value in changed.items()}, file)
        assert message in wrong(folder)
    file.write_bytes(file.read_bytes()[:100])
    assert "adapter_model.safetensors cannot be read" in wrong(folder)
    file.unlink()
    assert "adapter_model.safetensors is missing" in wrong(folder)
    torch.save(weights, folder / "adapter_model.bin")
    assert "model.options.allow_pickle=true" in wrong(folder)
    load_policy(str(folder), "float32", None, LoadOptions(allow_pickle=True))
    shutil.rmtree(base)
    assert "set model.base=DIR" in wrong(folder, allow_pickle=True)


def test_modules_to_save_that_part_tied_weights_are_refused(base: Path, tmp_path: Path) -> None:
    policy = load_policy(str(base), "float32", None)
    assert policy.config.text_config.tie_word_embeddings
    for name in ("embed_tokens", "lm_head"):
        peft_trains(base, tmp_path / name, modules_to_save=[name])
        assert "tied to" in wrong(tmp_path / name)
        shutil.rmtree(tmp_path / name)
