"""Makes the package's base weights: a tiny omni model that describes cues and knows no emotion.

1. towers: each alone, on the cue values of its modality (trained only through the LM, a small
   vision tower is ignored: the LM rides on the sound);
2. alignment: projectors and LM on captions, one modality dropped in half of them, towers frozen;
3. save in float16, measure caption accuracy per cue and modality on held-out clips, write
   results.json.

Run: bash experiments/tiny_base/run.sh (about half an hour on two cores). Caption clips draw every
cue value equally often and no label, so the base has never seen an emotion word as an answer, nor
an answer tag.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from omni_rlvr.data.collate import pad_rows
from omni_rlvr.data.synthetic import cues, generate, wording
from omni_rlvr.functional.logprobs import per_token_logps
from omni_rlvr.functional.losses import sft_loss
from omni_rlvr.media.clip import read_clip
from omni_rlvr.models.omni import OmniModel
from omni_rlvr.models.processing import Processor
from omni_rlvr.models.tiny import build_processor, build_tiny, train_tokenizer
from omni_rlvr.types import Batch, Features

INSTRUCTION = (
    "Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder for the synthetic clips")
    parser.add_argument("--out", type=Path, required=True, help="folder for the base checkpoint")
    parser.add_argument("--clips", type=int, default=6000)
    parser.add_argument("--tower-steps", type=int, default=1500)
    parser.add_argument("--lm-epochs", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    started = time.time()
    processor = build_processor(train_tokenizer(tokenizer_texts()))
    model = build_tiny(processor)
    train = load_split(processor, args.data, "caption", args.clips)
    held_out = load_split(processor, args.data, "test", 500)
    other = load_split(processor, args.data, "ood", 500)
    results = {
        "towers": train_towers(model, train, {"test": held_out, "ood": other}, args.tower_steps)
    }
    model.requires_grad_(False)
    align(model, train, args.lm_epochs)
    model.half().save(args.out)
    model.float()
    results["captions"] = {
        name: {
            kept: caption_accuracy(model, split, kept) for kept in ("video", "audio", "video_audio")
        }
        for name, split in (("test", held_out), ("ood", other))
    }
    results["weights"] = sum(p.numel() for p in model.parameters())
    results["seconds"] = round(time.time() - started)
    (Path(__file__).parent / "results.json").write_text(json.dumps(results, indent=1))
    print(json.dumps(results, indent=1))


def tokenizer_texts() -> Iterator[str]:
    """Every sentence form once per value: the tokenizer sees the words, the weights do not."""
    yield from (
        wording.EMOTION_QUESTION,
        wording.CAPTION_QUESTION,
        INSTRUCTION,
        "user",
        "assistant",
    )
    for i in range(100):
        values = {cue: options[i % len(options)] for cue, options in cues.CUES.items()}
        yield wording.reasoning(values, cues.LABELS[i % len(cues.LABELS)])


def load_split(processor: Processor, data: Path, split: str, num_clips: int) -> dict[str, Tensor]:
    """Decodes a split once.

    Returns:
        pixels [N, F, 3, H, W] uint8-scaled float16, mels [N, M, L] float16, cues [N, K] indices.
    """
    folder = generate.ensure_split(data, split, num_clips=num_clips, seed=0, num_workers=2)
    rows = json.loads((folder / generate.ANNOTATIONS).read_text())

    def read(row: dict) -> tuple[Tensor, Tensor, Tensor]:
        clip = read_clip(
            folder / row["video"],
            None,
            num_frames=4,
            sample_rate=16_000,
            want_video=True,
            want_audio=True,
        )
        values = torch.tensor([cues.CUES[cue].index(row["cues"][cue]) for cue in cues.CUES])
        return (
            processor.pixel_values(clip.frames).half(),
            processor.input_features([clip.waveform])[0].half(),
            values,
        )

    loader = DataLoader(rows, batch_size=None, num_workers=2, collate_fn=read, prefetch_factor=8)
    pixels, mels, values = zip(*loader, strict=True)
    return {"pixels": torch.stack(pixels), "mels": torch.stack(mels), "cues": torch.stack(values)}


def train_towers(model: OmniModel, train: dict, evals: dict[str, dict], steps: int) -> dict:
    """Trains each tower with a linear head per cue; returns accuracy per cue on each eval split."""
    results: dict = {name: {} for name in evals}
    for key, tower, names in (
        ("pixels", model.vision_tower, list(cues.VISUAL)),
        ("mels", model.audio_tower, list(cues.VOCAL)),
    ):
        heads = train_tower(key, tower, names, train, steps)
        for split, data in evals.items():
            results[split] |= tower_accuracy(key, tower, heads, names, data)
        print({split: {n: results[split][n] for n in names} for split in evals}, flush=True)
    return results


def train_tower(
    key: str, tower: nn.Module, names: list[str], train: dict, steps: int
) -> nn.ModuleList:
    """Trains one tower on the named cues; returns its heads."""
    columns = [list(cues.CUES).index(name) for name in names]
    with torch.no_grad():
        width = tower_states(key, tower, train[key][:1]).shape[-1]
    heads = nn.ModuleList(nn.Linear(width, len(cues.CUES[name])) for name in names)
    optimizer = torch.optim.AdamW(
        [*tower.parameters(), *heads.parameters()], lr=1e-3, weight_decay=0.05
    )
    tower.train()
    for step in range(steps):
        rows = torch.randint(len(train["cues"]), (64,))
        set_lr(optimizer, 1e-3, step, steps)
        outs = tower_logits(key, tower, heads, augment(key, train[key][rows]))
        loss = sum(
            F.cross_entropy(o, train["cues"][rows, c]) for o, c in zip(outs, columns, strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"tower {key} step {step} loss {loss.item() / len(names):.3f}", flush=True)
    tower.eval()
    return heads


def tower_states(key: str, tower: nn.Module, x: Tensor) -> Tensor:
    """Reads a face place by place (brows sit above eyes), a voice by its average over time.

    Returns:
        [N, frames, D] for faces, [N, 1, D] for voices.
    """
    if key == "pixels":
        hidden = tower(x.float().flatten(0, 1)).last_hidden_state
        return hidden.flatten(1).unflatten(0, (len(x), -1))
    return tower(x.float()).last_hidden_state.mean(dim=1, keepdim=True)


def tower_logits(key: str, tower: nn.Module, heads: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """Computes each cue's logits ([N, values]), averaged over frames."""
    hidden = tower_states(key, tower, x)
    return [head(hidden).mean(dim=1) for head in heads]


@torch.no_grad()
def tower_accuracy(
    key: str, tower: nn.Module, heads: nn.ModuleList, names: list[str], data: dict
) -> dict[str, float]:
    """Measures the share of right values of each cue on a split."""
    parts = [tower_logits(key, tower, heads, x) for x in data[key].split(50)]
    accuracy = {}
    for name, outs in zip(names, zip(*parts, strict=True), strict=True):
        gold = data["cues"][:, list(cues.CUES).index(name)]
        accuracy[name] = round((torch.cat(outs).argmax(1) == gold).float().mean().item(), 3)
    return accuracy


def augment(key: str, x: Tensor) -> Tensor:
    """Mirrors pictures, changes their light; shifts sounds in time and in level."""
    x = x.float()
    if key == "pixels":
        x = torch.where(torch.rand(len(x), 1, 1, 1, 1) < 0.5, x.flip(-1), x)
        contrast = 1 + 0.2 * torch.randn(len(x), 1, 1, 1, 1)
        return x * contrast + 0.15 * torch.randn(len(x), 1, 1, 1, 1)
    shift = int(torch.randint(-40, 41, ()))
    return x.roll(shift, dims=-1) + 0.05 * torch.randn(len(x), 1, 1)


def set_lr(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """Warm-up over 5 %, then cosine to zero."""
    warm = max(1, steps // 20)
    scale = (
        (step + 1) / warm
        if step < warm
        else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
    )
    for group in optimizer.param_groups:
        group["lr"] = peak * scale


@torch.no_grad()
def tower_features(model: OmniModel, data: dict) -> Features:
    """Runs the frozen towers once over a split; float16."""
    video = [
        model.vision_tower(x.float().flatten(0, 1)).last_hidden_state.half()
        for x in data["pixels"].split(50)
    ]
    audio = [model.audio_tower(x.float()).last_hidden_state.half() for x in data["mels"].split(50)]
    return Features(video=torch.cat(video).unflatten(0, (-1, 4)), audio=torch.cat(audio))


def caption_batch(
    model: OmniModel, data: dict, features: Features, rows: Tensor, kept: str
) -> tuple[Batch, Features]:
    """Builds prompts and caption targets of some rows with the kept modality (or both)."""
    seen, heard = kept != "audio", kept != "video"
    processor, names = model.processor, list(cues.CUES)
    values = [
        {n: cues.CUES[n][i] for n, i in zip(names, row, strict=True)}
        for row in data["cues"][rows].tolist()
    ]
    targets = [processor.target_ids(wording.caption(v, seen=seen, heard=heard)) for v in values]
    prompt = processor.prompt_ids(wording.CAPTION_QUESTION, has_video=seen, has_audio=heard)
    prompt_ids, prompt_mask = pad_rows([prompt] * len(rows), pad=0, left=True)
    completion_ids, completion_mask = pad_rows(targets, pad=0, left=False)
    everything = torch.arange(len(rows))
    batch = Batch(
        (),
        prompt_ids,
        prompt_mask,
        None,
        everything,
        None,
        everything,
        completion_ids,
        completion_mask,
    )
    some = Features(
        video=features.video[rows].float() if seen else None,
        audio=features.audio[rows].float() if heard else None,
    )
    return batch, some


def caption_logits(model: OmniModel, batch: Batch, features: Features) -> Tensor:
    embeds = model.embed(batch, features)
    return model.completion_logits(
        embeds, batch.prompt_mask, batch.completion_ids, batch.completion_mask
    )


def align(model: OmniModel, data: dict, epochs: float) -> None:
    """Trains projectors and LM on captions; half of the batches have one modality only."""
    features = tower_features(model, data)
    parts = (model.video_projector, model.audio_projector, model.language_model)
    weights = [p.requires_grad_(True) for part in parts for p in part.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.98))
    size = 32
    steps = int(epochs * len(data["cues"]) / size)
    for step in range(steps):
        kept = ("video_audio", "video", "video_audio", "audio")[step % 4]
        rows = torch.randint(len(data["cues"]), (size,))
        batch, some = caption_batch(model, data, features, rows, kept)
        logps = per_token_logps(
            caption_logits(model, batch, some), batch.completion_ids, temperature=1.0
        )
        loss = sft_loss(logps, batch.completion_mask, num_tokens=batch.completion_mask.sum())
        set_lr(optimizer, 1.5e-3, step, steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 50 < 4 and step % 4 < 4:
            print(f"align step {step}/{steps} {kept} loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def caption_accuracy(model: OmniModel, data: dict, kept: str) -> dict[str, float]:
    """Reads each cue value off the teacher-forced caption.

    Returns:
        For each cue, the share of values that got the highest logit.
    """
    features = tower_features(model, data)
    right: dict[str, list[float]] = {}
    for rows in torch.arange(len(data["cues"])).split(50):
        batch, some = caption_batch(model, data, features, rows, kept)
        guess = caption_logits(model, batch, some).argmax(-1)
        for i, row in enumerate(rows.tolist()):
            for name, place in value_places(model.processor, data["cues"][row], kept).items():
                right.setdefault(name, []).append(
                    float(guess[i, place] == batch.completion_ids[i, place])
                )
    return {name: round(sum(hits) / len(hits), 3) for name, hits in right.items()}


def value_places(processor: Processor, values: Tensor, kept: str) -> dict[str, int]:
    """Finds where in a caption's tokens each cue value starts: the tokens of the text before it."""
    named = {n: cues.CUES[n][i] for n, i in zip(cues.CUES, values.tolist(), strict=True)}
    text = wording.caption(named, seen=kept != "audio", heard=kept != "video")
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    places = {}
    for name, value in named.items():
        start = text.find(wording.phrase(name, value))
        if start >= 0:
            ends = [end for _, end in encoded["offset_mapping"]]
            places[name] = next(k for k, end in enumerate(ends) if end > start)
    return places


if __name__ == "__main__":
    main()
