"""Train the package's base weights: a tiny omni model that describes cues but not emotions.

1. towers: each alone, on the cue values of its modality (if it is trained only through the LM, a
   small vision tower learns nothing: the LM relies on the sound);
2. alignment: projectors and LM on captions, one modality dropped in half of them, towers frozen;
3. save in float16; measure.py then writes results.json.

Run: bash experiments/tiny_base/run.sh (about half an hour on two cores). Caption clips draw every
cue value equally often and no label, so the base has never seen an emotion word as an answer, nor
an answer tag.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from align import align
from torch import Tensor
from torch.utils.data import DataLoader
from towers import tower_accuracy, train_tower

from omni_rlvr.data.synthetic import emotions, generate, wording
from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.models.composed.processor import Processor
from omni_rlvr.models.composed.tiny import build_processor, build_tiny, train_tokenizer
from omni_rlvr.text.prompts import EMOTION_QUESTION

INSTRUCTION = (
    "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for the synthetic clips")
    parser.add_argument("--out", type=Path, required=True, help="folder for the base checkpoint")
    parser.add_argument("--clips", type=int, default=6000)
    parser.add_argument("--vision-steps", type=int, default=1000)
    parser.add_argument("--audio-steps", type=int, default=2000)
    parser.add_argument("--lm-epochs", type=float, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    processor = build_processor(train_tokenizer(tokenizer_texts()))
    model = build_tiny(processor)
    train = load_split(processor, args.data, "caption", args.clips)
    held_out = load_split(processor, args.data, "test", 500)
    other = load_split(processor, args.data, "ood", 500)
    splits = {"test": held_out, "ood": other}
    towers: dict[str, dict[str, float]] = {name: {} for name in splits}
    for key, tower, names, steps in (
        ("pixels", model.vision_tower, list(emotions.VISUAL), args.vision_steps),
        ("mels", model.audio_tower, list(emotions.VOCAL), args.audio_steps),
    ):
        heads = train_tower(key, tower, names, train, steps)
        for name, data in splits.items():
            towers[name] |= tower_accuracy(key, tower, heads, names, data)
        print(towers, flush=True)
    model.requires_grad_(False)
    align(model, train, args.lm_epochs)
    model.half().save(args.out)


def tokenizer_texts() -> Iterator[str]:
    """Every sentence form once per value: the tokenizer sees the words, the weights do not."""
    yield from (
        EMOTION_QUESTION,
        *wording.CAPTION_QUESTIONS.values(),
        INSTRUCTION,
        "user",
        "assistant",
    )
    for i in range(100):
        values = {cue: options[i % len(options)] for cue, options in emotions.CUES.items()}
        yield wording.reasoning(values, emotions.LABELS[i % len(emotions.LABELS)])


def load_split(processor: Processor, data: Path, split: str, num_clips: int) -> dict[str, Tensor]:
    """Decodes a split once.

    Returns:
        pixels [N, F, 3, H, W] uint8-scaled float16, mels [N, M, L] float16, cues [N, K] indices.
    """
    folder = generate.ensure_split(data, split, num_clips=num_clips, seed=0, num_workers=2)
    rows = json.loads((folder / generate.ANNOTATIONS).read_text())

    def read(row: dict) -> tuple[Tensor, Tensor, Tensor]:
        request = ClipRequest(Sampling.count(4), 16_000, want_video=True, want_audio=True)
        clip = read_clip(folder / row["video"], None, request)
        values = torch.tensor([emotions.CUES[cue].index(row["cues"][cue]) for cue in emotions.CUES])
        return (
            processor.video(clip.frames, clip.frame_times_s)[0].half(),
            processor.audio(clip.waveform)[0].half(),
            values,
        )

    loader = DataLoader(rows, batch_size=None, num_workers=2, collate_fn=read, prefetch_factor=8)
    pixels, mels, values = zip(*loader, strict=True)
    return {"pixels": torch.stack(pixels), "mels": torch.stack(mels), "cues": torch.stack(values)}


if __name__ == "__main__":
    main()
