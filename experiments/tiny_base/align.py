"""Train projectors and LM to describe the input of the frozen towers, and measure the result.

Half of the batches lack a modality, and the question varies, so that the model answers the question
and does not describe a modality that is missing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omni_rlvr.data.collate import pad_rows, write_prompts
from omni_rlvr.data.synthetic import emotions, wording
from omni_rlvr.functional.logprobs import per_token_logps
from omni_rlvr.functional.losses import sft_loss
from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.composed.processor import Processor
from omni_rlvr.models.prefix.scoring import Rows, completion_logits
from omni_rlvr.training.schedule import make_schedule
from omni_rlvr.types import Batch, Features

PROMPTS = (
    ("video_audio", "video_audio"),
    ("video", "video"),
    ("video_audio", "video"),
    ("audio", "audio"),
    ("video_audio", "video_audio"),
    ("video", "video_audio"),
    ("video_audio", "audio"),
    ("audio", "video_audio"),
)
"""What is there, and what is asked for: (kept, asked), in turn."""


@torch.no_grad()
def tower_features(model: OmniModel, data: dict) -> Features:
    """Runs the frozen towers once over a split; float16."""
    video = [
        model.vision_tower(x.float().flatten(0, 1)).last_hidden_state.half()
        for x in data["pixels"].split(50)
    ]
    audio = [model.audio_tower(x.float()).last_hidden_state.half() for x in data["mels"].split(50)]
    return Features(video=[*torch.cat(video).unflatten(0, (-1, 4))], audio=[*torch.cat(audio)])


def caption_batch(
    model: OmniModel, data: dict, features: Features, rows: Tensor, kept: str, asked: str
) -> tuple[Batch, Features]:
    """Builds prompts and caption targets of some rows.

    Args:
        model: whose processor writes the prompts.
        data: the split.
        features: of the whole split.
        rows: which clips.
        kept: what is there: "video", "audio" or "video_audio".
        asked: what is to be described, in the same words; only what is there is described.
    """
    seen, heard = kept != "audio", kept != "video"
    face, voice = asked != "audio", asked != "video"
    texts = [
        wording.caption(values, seen=seen and face, heard=heard and voice)
        for values in named_cues(data["cues"][rows])
    ]
    processor = model.processor
    question = wording.CAPTION_QUESTIONS[face, voice]
    nothing = [None] * len(rows)
    video_shapes = [processor.video_shape] * len(rows) if seen else nothing
    audio_shapes = [processor.audio_shape] * len(rows) if heard else nothing
    prompt_ids, prompt_mask, prompt_positions = write_prompts(
        processor, [question] * len(rows), video_shapes, audio_shapes
    )
    completion_ids, completion_mask = pad_rows(
        [processor.target_ids(text) for text in texts], pad=0, left=False
    )
    batch = Batch(
        examples=(),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        prompt_positions=prompt_positions,
        video_shapes=video_shapes,
        audio_shapes=audio_shapes,
        pixel_values=nothing,
        input_features=nothing,
        completion_ids=completion_ids,
        completion_mask=completion_mask,
    )
    some = Features(
        video=[features.video[i].float() for i in rows.tolist()] if seen else nothing,
        audio=[features.audio[i].float() for i in rows.tolist()] if heard else nothing,
    )
    return batch, some


def named_cues(indices: Tensor) -> list[dict[str, str]]:
    """Turns value indices ([N, K]) into cue name -> value."""
    return [
        {cue: options[i] for (cue, options), i in zip(emotions.CUES.items(), row, strict=True)}
        for row in indices.tolist()
    ]


def caption_logits(model: OmniModel, batch: Batch, features: Features) -> Tensor:
    prompts = model.prompts(batch, features)
    owners = torch.arange(len(prompts))
    rows = Rows(prompts, owners, batch.completion_ids, batch.completion_mask)
    return completion_logits(model.language_model, rows)


def align(model: OmniModel, data: dict, epochs: float) -> None:
    """Trains projectors and LM on captions; half of the batches have one modality only."""
    features = tower_features(model, data)
    parts = (model.video_projector, model.audio_projector, model.language_model)
    weights = [p.requires_grad_(True) for part in parts for p in part.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1.5e-3, weight_decay=0.05, betas=(0.9, 0.98))
    size = 32
    steps = int(epochs * len(data["cues"]) / size)
    schedule = make_schedule(optimizer, num_steps=steps, warmup_ratio=0.05, kind="cosine")
    for step in range(steps):
        kept, asked = PROMPTS[step % len(PROMPTS)]
        rows = torch.randint(len(data["cues"]), (size,))
        batch, some = caption_batch(model, data, features, rows, kept, asked)
        logps = per_token_logps(
            caption_logits(model, batch, some), batch.completion_ids, temperature=1.0
        )
        loss = sft_loss(logps, batch.completion_mask, num_tokens=batch.completion_mask.sum())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 < len(PROMPTS):
            print(f"align {step}/{steps} {kept} {asked} {loss.item():.3f}", flush=True)


@torch.no_grad()
def caption_accuracy(model: OmniModel, data: dict, kept: str) -> dict[str, float]:
    """Reads each cue value off the teacher-forced caption.

    Returns:
        For each cue, the share of values that got the highest logit.
    """
    features = tower_features(model, data)
    right: dict[str, list[float]] = {}
    for rows in torch.arange(len(data["cues"])).split(50):
        batch, some = caption_batch(model, data, features, rows, kept, kept)
        guess = caption_logits(model, batch, some).argmax(-1)
        for i, row in enumerate(rows.tolist()):
            for name, place in value_places(model.processor, data["cues"][row], kept).items():
                right.setdefault(name, []).append(
                    float(guess[i, place] == batch.completion_ids[i, place])
                )
    return {name: round(sum(hits) / len(hits), 3) for name, hits in right.items()}


def value_places(processor: Processor, values: Tensor, kept: str) -> dict[str, int]:
    """Finds where in a caption's tokens each cue value starts: the tokens of the text before it."""
    named = named_cues(values.unsqueeze(0))[0]
    text = wording.caption(named, seen=kept != "audio", heard=kept != "video")
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"]]
    starts = {name: text.find(wording.phrase(name, value)) for name, value in named.items()}
    return {
        name: next(k for k, end in enumerate(ends) if end > start)
        for name, start in starts.items()
        if start >= 0
    }
