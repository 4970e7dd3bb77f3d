"""Recorded inputs as batches of ours, and what the model makes of them; used by ``parity.py``."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import DynamicCache

from omni_rlvr.data.collate import pad_rows
from omni_rlvr.functional.logprobs import per_token_logps
from omni_rlvr.functional.masks import position_ids
from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.composed.processor import Processor, ProcessorSettings
from omni_rlvr.models.composed.processor_files import media_processors
from omni_rlvr.models.composed.projectors import pool_grid
from omni_rlvr.models.composed.towers import patch_features
from omni_rlvr.models.policy import AUDIO_ID, VIDEO_ID
from omni_rlvr.models.prefix.scoring import Rows, completion_logits
from omni_rlvr.rollout.next_token import penalise
from omni_rlvr.types import AudioShape, Batch, Example, VideoShape

IMAGE_ID = -200
IGNORED = -100


class Case:
    """A recorded batch: tensors ``NAME.*`` of inputs.safetensors."""

    def __init__(self, name: str, inputs: dict[str, Tensor]):
        self.name = name
        part = {k.removeprefix(f"{name}."): v for k, v in inputs.items()}
        self.ids, self.mask, self.labels = part["input_ids"], part["attention_mask"], part["labels"]
        self.frames, self.mel = part["frames"], part.get("mel")
        self.gate = part["bert_input_ids"], part["bert_attention_mask"]

    def parts(self, model: OmniModel) -> dict[str, Tensor]:
        """Every tensor from the media to their tokens, for all rows."""
        layer = model.config.vision_select_layer
        features = patch_features(model.vision_tower, self.frames.flatten(0, 1), layer)
        clips = features.unflatten(0, self.frames.shape[:2])
        video, body, face = model.video_projector.branches(clips)
        raw = model.video_projector.face(features)
        summary = model.gate.summary(*self.gate)
        out = {
            "vision_features": features,
            "branch_video": video,
            "branch_body": body,
            "branch_face": face,
            "branch_face_raw": raw,
            "bert_cls": summary,
            "gate_logits": model.gate.head(summary),
            "gate_probs": model.gate(*self.gate),
            "fused_tokens": model.project_video(clips, model.gate(*self.gate)),
        }
        assert torch.equal(pool_grid(raw).flatten(0, 1), face.flatten(0, 1))
        if self.mel is not None:
            hidden = model.audio_tower(self.mel).last_hidden_state
            out["audio_hidden"], out["audio_pooled"] = hidden, model.merge_audio(hidden)
            out["audio_tokens"] = model.project_audio(hidden)
        return out

    def prompt(self, model: OmniModel) -> dict[str, Tensor]:
        """The language model's input and output on the whole batch, shown right-padded."""
        rows = [ids[mask > 0] for ids, mask in zip(self.ids, self.mask, strict=True)]
        batch = prompt_batch(model, self, range(len(rows)), rows)
        embeds = model.prompts(batch, model.encode(batch)).embeds
        logits = model.language_model(
            inputs_embeds=embeds,
            attention_mask=batch.prompt_mask,
            position_ids=position_ids(batch.prompt_mask),
        ).logits
        wanted = [lab[mask > 0] for lab, mask in zip(self.labels, self.mask, strict=True)]
        spread = [
            torch.tensor(expand(model, i.tolist(), lab.tolist()))
            for i, lab in zip(rows, wanted, strict=True)
        ]
        labels = torch.nn.utils.rnn.pad_sequence(spread, True, IGNORED)
        mask = torch.zeros_like(labels)
        for row, values in enumerate(spread):
            mask[row, : len(values)] = 1
        logits = right_padded(logits, batch.prompt_mask)
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        return {
            "attention_mask": mask,
            "labels": labels,
            "inputs_embeds": right_padded(embeds, batch.prompt_mask),
            "logits": logits,
            "sft_loss": loss,
        }


def expand(model: OmniModel, ids: Sequence[int], values: Sequence[int]) -> list[int]:
    """Repeats a placeholder once a token, ``IGNORED`` standing for it if ``values`` are labels."""
    frames = model.config.published["config"]["num_frames"]
    per_frame = model.config.tokens_per_frame
    counts = {
        VIDEO_ID: frames * per_frame,
        IMAGE_ID: per_frame,
        AUDIO_ID: model.config.audio_tokens,
    }
    return [v for i, v in zip(ids, values, strict=True) for _ in range(counts.get(i, 1))]


def prompt_batch(
    model: OmniModel, case: Case, rows: Sequence[int], prompts: Sequence[Tensor]
) -> Batch:
    """Makes our left-padded batch of some rows' media with these prompts; sets the gate's texts."""
    expanded = [expand(model, p.tolist(), p.tolist()) for p in prompts]
    expanded = [[VIDEO_ID if i == IMAGE_ID else i for i in ids] for ids in expanded]
    ids, mask = pad_rows(expanded, pad=0, left=True)
    clips = list(zip(rows, expanded, strict=True))
    video = [case.frames[row] if VIDEO_ID in ids else None for row, ids in clips]
    audio = [case.mel[row] if AUDIO_ID in ids else None for row, ids in clips]
    gate = [part[list(rows)] for part in case.gate]
    model.processor = SimpleNamespace(
        gate_text=lambda question, has_audio: int(question),
        gate_tokens=lambda places: (gate[0][places], gate[1][places]),
    )
    return Batch(
        examples=[Example("", str(i), "", "", None) for i in range(len(rows))],
        prompt_ids=ids,
        prompt_mask=mask,
        prompt_positions=position_ids(mask),
        video_shapes=[
            VideoShape(row.count(VIDEO_ID)) if VIDEO_ID in row else None for row in expanded
        ],
        audio_shapes=[
            AudioShape(row.count(AUDIO_ID)) if AUDIO_ID in row else None for row in expanded
        ],
        pixel_values=video,
        input_features=audio,
    )


def right_padded(values: Tensor, mask: Tensor) -> Tensor:
    """Moves rows from left to right padding, zeros beyond."""
    rows = [row[m.bool()] for row, m in zip(values, mask, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def completions(model: OmniModel, batch: Batch, ids: Tensor, mask: Tensor) -> Tensor:
    """Log-probs of G completions of one prompt, [G, C]."""
    index = torch.zeros(len(ids), dtype=torch.long)
    prompts = model.prompts(batch, model.encode(batch))
    logits = completion_logits(model.language_model, Rows(prompts, index, ids, mask))
    return per_token_logps(logits, ids, temperature=1.0)


def greedy(
    model: OmniModel, batch: Batch, *, num_tokens: int, penalty: float, eos: int
) -> tuple[Tensor, Tensor]:
    """Decodes one prompt greedily: new ids [T], and the logits before any penalty [T, V]."""
    embeds = model.prompts(batch, model.encode(batch)).embeds
    cache, ids, seen = DynamicCache(), torch.zeros(1, 0, dtype=torch.long), []
    for _ in range(num_tokens):
        logits = model.language_model(inputs_embeds=embeds, past_key_values=cache).logits[:, -1]
        seen.append(logits)
        token = penalise(logits, ids, penalty).argmax(-1)
        ids = torch.cat([ids, token[:, None]], dim=1)
        if token.item() == eos:
            break
        embeds = model.language_model.get_input_embeddings()(token[:, None])
    return ids[0], torch.cat(seen)


def release_processor(size: int, *, image_fit: str) -> Processor:
    """The processor that a published checkpoint gets, without its tokenizer."""
    settings = ProcessorSettings(1, 1, 1, image_fit, "", "pil")
    image, sound = media_processors(size, num_mel_bins=128, window_s=30)
    return Processor(SimpleNamespace(), image, sound, settings)
