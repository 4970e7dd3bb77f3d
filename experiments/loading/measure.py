"""Measure the memory of loading a full-size checkpoint, a random one in the published layout.

python experiments/loading/measure.py make DIR         writes 2.75 GB of random bfloat16
python experiments/loading/measure.py load DIR DTYPE   loads it; prints peak and file size
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen2Config

import omni_rlvr.models
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.composed.presets import PRESETS
from omni_rlvr.models.composed.published_layout import AUDIO_POOL, MODEL_TYPE, published_key
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.models.loading.weights import SINGLE

LANGUAGE_MODEL = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
JOINTS = {
    "mm_projector_type": "all_in_one_small",
    "mm_vision_select_layer": -2,
    "num_frames": 8,
    "model_type": MODEL_TYPE,
}


def make(folder: Path) -> None:
    """Writes the folder: weights, config and some tokenizer."""
    towers = {part: next(iter(presets.values())) for part, presets in PRESETS.items()}
    with torch.device("meta"):
        model = OmniModel(
            OmniConfig(
                vision_config=towers["vision"],
                audio_config=towers["audio"],
                text_config=Qwen2Config(**LANGUAGE_MODEL),
                gate_config=towers["bert"],
                video_projector="all_in_one_small",
                audio_merge=AUDIO_POOL,
                audio_pooling="mean",
                audio_head=True,
            )
        )
    folder.mkdir(parents=True)
    weights = {
        published_key(name): torch.empty(w.shape, dtype=torch.bfloat16).normal_(std=0.02)
        for name, w in model.state_dict().items()
        if not name.endswith("lm_head.weight")
    }
    save_file(weights, folder / SINGLE, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**LANGUAGE_MODEL, **JOINTS}))
    for file in (Path(omni_rlvr.models.__file__).parent / "tiny_base").glob("tokenizer*"):
        shutil.copy(file, folder)


def load(folder: Path, dtype: str) -> None:
    """Loads the folder and prints what it took; memory before loading is counted too."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = load_policy(str(folder), dtype, None)
    total = sum(float(w.detach().sum()) for w in model.parameters())  # touch every page
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = (folder / SINGLE).stat().st_size
    print(
        json.dumps(
            {
                "dtype": dtype,
                "file_bytes": size,
                "rss_before_bytes": before * 1024,
                "peak_rss_bytes": peak * 1024,
                "peak_by_file": round(peak * 1024 / size, 3),
                "needed_by_file": round((peak - before) * 1024 / size, 3),
                "load_s": round(time.perf_counter() - start, 1),
                "finite": total == total,
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["make", "load"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("dtype", nargs="?", default="bfloat16")
    args = parser.parse_args()
    make(args.folder) if args.what == "make" else load(args.folder, args.dtype)
