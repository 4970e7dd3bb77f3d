"""Published models, built without memory: of the 0.5B model every key and shape, and the number of
weights; of it and larger ones the memory plan.

Lists and sizes are written from the fact sheets of the published checkpoints, not from our code.
"""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from make_humanomni import build_humanomni

from omni_rlvr.cli import conf_dir
from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.composed.publish import export_published
from omni_rlvr.models.composed.published_layout import (
    our_key,
    published_key,
    read_config,
    read_settings,
)
from omni_rlvr.models.families import family_of
from omni_rlvr.tasks.build import build
from omni_rlvr.tasks.table import register
from omni_rlvr.types import UserError

H, V, INNER, KV, D, A, MEL = 896, 151_936, 4864, 128, 768, 1280, 128
CONFIG = {
    "_name_or_path": "/mnt/data/nobody/ckpts/finetune_HumanOmni",
    "architectures": ["HumanOmniQwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "audio_hidden_size": A,
    "bos_token_id": 151_643,
    "eos_token_id": 151_645,
    "freeze_mm_mlp_adapter": False,
    "hidden_act": "silu",
    "hidden_size": H,
    "hyper_layers": [15, 22],
    "image_aspect_ratio": "pad",
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_position_embeddings": 32_768,
    "max_window_layers": 21,
    "mm_audio_projector_type": "mlp2x_gelu",
    "mm_audio_tower": "/mnt/data/nobody/whisper-large-v3",
    "mm_hidden_size": D,
    "mm_projector_lr": None,
    "mm_projector_type": "all_in_one_small",
    "mm_tunable_parts": "mm_mlp_adapter,audio_projector,mm_language_model",
    "mm_use_x_start_end": True,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "/mnt/data/nobody/siglip-base-patch16-224",
    "model_type": "HumanOmni_qwen2",
    "num_attention_heads": 14,
    "num_frames": 8,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1_000_000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "tokenizer_model_max_length": 2048,
    "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.49.0",
    "tune_mm_mlp_adapter": False,
    "use_cache": True,
    "use_mm_proj": True,
    "use_sliding_window": False,
    "vocab_size": V,
}
Shapes = dict[str, tuple[int, ...]]
Fields = dict[str, Any]


def linear(name: str, out: int, into: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name: str, size: int) -> Shapes:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def language_model() -> Shapes:
    shapes: Shapes = {"model.embed_tokens.weight": (V, H), "model.norm.weight": (H,)}
    for i in range(24):
        layer = f"model.layers.{i}"
        for name, size in (("q", H), ("k", KV), ("v", KV)):
            shapes |= linear(f"{layer}.self_attn.{name}_proj", size, H)
        shapes |= linear(f"{layer}.self_attn.o_proj", H, H, bias=False)
        for name, out, into in (("gate", INNER, H), ("up", INNER, H), ("down", H, INNER)):
            shapes |= linear(f"{layer}.mlp.{name}_proj", out, into, bias=False)
        for name in ("input", "post_attention"):
            shapes[f"{layer}.{name}_layernorm.weight"] = (H,)
    return shapes


def block(name: str, into: int) -> Shapes:
    shapes: Shapes = {
        f"{name}.conv1.conv.weight": (H, into, 1, 1),
        f"{name}.conv2.conv.weight": (H, 1, 3, 3),
        f"{name}.conv3.conv.weight": (H, H, 1, 1),
        f"{name}.se.fc1.weight": (into // 4, H, 1, 1),
        f"{name}.se.fc1.bias": (into // 4,),
        f"{name}.se.fc2.weight": (H, into // 4, 1, 1),
        f"{name}.se.fc2.bias": (H,),
    }
    for i in (1, 2, 3):
        shapes |= norm(f"{name}.conv{i}.bn", H)
    if into != H:
        shapes |= {f"{name}.downsample.conv.weight": (H, into, 1, 1)}
        shapes |= norm(f"{name}.downsample.bn", H)
    return shapes


def projectors() -> Shapes:
    shapes: Shapes = {}
    for branch in ("video", "body"):
        for stage, first in (("s1", D), ("s2", H)):
            shapes |= block(f"model.mm_projector.{stage}_{branch}.b1", first)
            shapes |= block(f"model.mm_projector.{stage}_{branch}.b2", H)
        shapes[f"model.mm_projector.sampler_{branch}.0.weight"] = (H, H, 2, 2, 2)
        shapes[f"model.mm_projector.sampler_{branch}.0.bias"] = (H,)
        for i in (0, 2):
            shapes |= linear(f"model.mm_projector.readout_{branch}.{i}", H, H)
    for name, into in (("mm_projector.mlp_2xgelu_face", D), ("audio_projector", A)):
        shapes |= linear(f"model.{name}.0", H, into) | linear(f"model.{name}.2", H, H)
    return shapes


def bert() -> Shapes:
    shapes = linear("model.bert_gate.0", 3584, D) | linear("model.bert_gate.2", 3, 3584)
    base = "model.bert_model"
    for name, rows in (("word", 30_522), ("position", 512), ("token_type", 2)):
        shapes[f"{base}.embeddings.{name}_embeddings.weight"] = (rows, D)
    shapes |= norm(f"{base}.embeddings.LayerNorm", D) | linear(f"{base}.pooler.dense", D, D)
    for i in range(12):
        layer = f"{base}.encoder.layer.{i}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= linear(f"{layer}.attention.{name}", D, D)
        shapes |= norm(f"{layer}.attention.output.LayerNorm", D)
        shapes |= linear(f"{layer}.intermediate.dense", 4 * D, D)
        shapes |= linear(f"{layer}.output.dense", D, 4 * D) | norm(f"{layer}.output.LayerNorm", D)
    return shapes


def vision() -> Shapes:
    base = "model.vision_tower.vision_tower.vision_model"
    shapes: Shapes = {
        f"{base}.embeddings.patch_embedding.weight": (D, 3, 16, 16),
        f"{base}.embeddings.patch_embedding.bias": (D,),
        f"{base}.embeddings.position_embedding.weight": (196, D),
        f"{base}.head.probe": (1, 1, D),
        f"{base}.head.attention.in_proj_weight": (3 * D, D),
        f"{base}.head.attention.in_proj_bias": (3 * D,),
    }
    shapes |= linear(f"{base}.head.attention.out_proj", D, D) | norm(f"{base}.head.layernorm", D)
    shapes |= norm(f"{base}.post_layernorm", D)
    layers = [f"{base}.encoder.layers.{i}" for i in range(12)]
    for layer in layers:
        for name in ("q", "k", "v", "out"):
            shapes |= linear(f"{layer}.self_attn.{name}_proj", D, D)
        shapes |= norm(f"{layer}.layer_norm1", D) | norm(f"{layer}.layer_norm2", D)
    for owner in (f"{base}.head", *layers):
        shapes |= linear(f"{owner}.mlp.fc1", 4 * D, D) | linear(f"{owner}.mlp.fc2", D, 4 * D)
    return shapes


def audio() -> Shapes:
    tower = "model.audio_tower.audio_tower"
    shapes = linear(f"{tower}.projector", 256, A) | linear(f"{tower}.classifier", 2, 256)
    shapes |= {
        f"{tower}.encoder.conv1.weight": (A, MEL, 3),
        f"{tower}.encoder.conv1.bias": (A,),
        f"{tower}.encoder.conv2.weight": (A, A, 3),
        f"{tower}.encoder.conv2.bias": (A,),
        f"{tower}.encoder.embed_positions.weight": (1500, A),
    }
    shapes |= norm(f"{tower}.encoder.layer_norm", A)
    for i in range(32):
        layer = f"{tower}.encoder.layers.{i}"
        for name in ("q", "k", "v", "out"):
            shapes |= linear(f"{layer}.self_attn.{name}_proj", A, A, bias=name != "k")
        shapes |= norm(f"{layer}.self_attn_layer_norm", A) | norm(f"{layer}.final_layer_norm", A)
        shapes |= linear(f"{layer}.fc1", 4 * A, A) | linear(f"{layer}.fc2", A, 4 * A)
    return shapes


WANTED = language_model() | projectors() | bert() | vision() | audio()


@pytest.fixture(scope="module")
def model() -> OmniModel:
    with torch.device("meta"):
        return OmniModel(read_config(Path(), CONFIG, WANTED))


@pytest.mark.slow
def test_keys_and_shapes(model) -> None:
    seen = {published_key(name): tuple(w.shape) for name, w in model.state_dict().items()}
    assert seen.pop("lm_head.weight") == (V, H)  # tied: not stored
    assert seen == WANTED
    assert {our_key(name) for name in WANTED} <= set(model.state_dict())


def test_number_of_weights(model) -> None:
    assert sum(prod(shape) for shape in WANTED.values()) == 1_373_177_925
    assert sum(weight.numel() for weight in model.parameters()) == 1_373_177_925
    assert sum(w.numel() for w in model.language_model.parameters()) == 494_032_768
    assert sum(w.numel() for w in model.video_projector.video.parameters()) == 16_635_104


def test_prompt_sizes(model) -> None:
    settings = read_settings(model.config, num_frames=8)
    assert (settings.video_tokens, settings.audio_tokens) == (8 * 49, 500)


def test_all_in_one_takes_the_odd_grid_of_so400m() -> None:
    shapes = {
        **WANTED,
        "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight": (
            1152,
            3,
            14,
            14,
        ),
    }
    config = read_config(Path(), {**CONFIG, "mm_projector_type": "all_in_one"}, shapes)
    assert config.vision_config.num_hidden_layers == 27
    assert config.tokens_per_frame == 14 * 14
    with pytest.raises(UserError, match="13 x 13 and 14 x 14"):
        read_config(Path(), CONFIG, shapes).tokens_per_frame  # noqa: B018


def text(hidden: int, inner: int, layers: int, heads: int, kv_heads: int, **more: Any) -> Fields:
    """A language model's sizes, from the fact sheets of the published checkpoints."""
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": 152_064,
        "rope_parameters": rope,
        **more,
    }


EXPERTS = {
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}
ENCODER = {
    "d_model": A,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 4 * A,
}
VISION_2_5 = {
    "hidden_size": 1280, "depth": 32, "num_heads": 16, "intermediate_size": 3420,
    "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
VISION_3 = {
    "hidden_size": 1152, "depth": 27, "num_heads": 16, "intermediate_size": 4304,
    "deepstack_visual_indexes": [8, 16, 24], "num_position_embeddings": 2304,
}  # fmt: skip
QWEN = {
    "qwen2_5_omni_3b": ("qwen2_5_omni_thinker", text(2048, 11_008, 36, 16, 2, vocab_size=V)),
    "qwen2_5_omni_7b": ("qwen2_5_omni_thinker", text(3584, 18_944, 28, 28, 4)),
    "qwen3_omni_30b_a3b": ("qwen3_omni_moe_thinker", text(2048, 768, 48, 32, 4, **EXPERTS)),
}
"""Option of ``model`` -> its type, and the sizes of its language model."""


def write_qwen(folder: Path, name: str) -> None:
    """Write what a plan reads: config.json of the published size, and a processor."""
    model_type, sizes = QWEN[name]
    policy = family_of(model_type).tiny(0, model_type)
    policy.processor.save(folder)
    (folder / "processor_settings.json").unlink()  # so that it is as published
    fields, is_3 = policy.config.to_dict(), model_type.startswith("qwen3")
    out = sizes["hidden_size"]
    fields["text_config"] |= sizes
    fields["text_config"].pop("layer_types", None)
    if is_3:
        fields["text_config"]["rope_parameters"] |= {
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        }
    fields["vision_config"] |= {**(VISION_3 if is_3 else VISION_2_5), "out_hidden_size": out}
    fields["audio_config"] |= {**ENCODER, "output_dim": out}
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "model.safetensors").touch()


def write_humanomni(folder: Path) -> None:
    """Write a config, a tokenizer, and a file of weights that has a header and no content."""
    export_published(build_humanomni(), folder)
    for file in (*folder.glob("*.safetensors*"), folder / "towers.json"):
        file.unlink()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header, end = {}, 0
    for name, shape in WANTED.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


CONF = Path(__file__).parents[2] / "conf" / "hardware"
PLANNED = re.compile(r"^# +(\+experiment=.*\S) +(\d+\.\d) GB$", re.MULTILINE)
PLANS = [
    (file.stem, *line) for file in CONF.glob("*.yaml") for line in PLANNED.findall(file.read_text())
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Option of ``model`` -> a folder of its published size."""
    root = tmp_path_factory.mktemp("published")
    made = {name: root / name for name in (*QWEN, "humanomni_0_5b")}
    for name, folder in made.items():
        folder.mkdir()
        write_qwen(folder, name) if name in QWEN else write_humanomni(folder)
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("hardware", "command", "gigabytes"), PLANS, ids=map(" ".join, PLANS))
def test_what_a_file_of_hardware_says_is_planned_and_fits(
    hardware: str, command: str, gigabytes: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    size = {"8gpu": 24}.get(hardware) or int(hardware.removesuffix("gb"))
    named = re.search(r" model=(\w+)", command)
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        cfg = compose(
            "config",
            [
                "task=plan", f"task.device_gb={size}", f"paths.output_root={tmp_path}",
                "dataset.root=c", "dataset.annotations.train=a.json", *command.split(),
                f"+hardware={hardware}",
                f"model.path={folders[named[1] if named else 'humanomni_0_5b']}",
            ],
        )  # fmt: skip
    plan = build(cfg, tmp_path, None).inputs.plan
    assert plan.fits
    assert plan.num_bytes / 1e9 == pytest.approx(float(gigabytes), abs=0.1)
