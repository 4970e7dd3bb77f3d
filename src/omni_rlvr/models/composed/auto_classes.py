"""The model and processor classes by which transformers' Auto classes open our checkpoints.

The model is ``OmniModel`` with transformers' interface: ``forward`` and ``generate`` take the
tensors that the processor makes from clips and questions. Both use the code that training uses, so
that they give the policy's numbers. ``omni_rlvr.hf`` registers them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, GenerationConfig, GenerationMixin, ProcessorMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from omni_rlvr.functional.masks import position_ids
from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.models.adapters.adapter_checkpoint import is_adapter_checkpoint
from omni_rlvr.models.adapters.lora import merge
from omni_rlvr.models.composed.model import OmniModel, generation_fields
from omni_rlvr.models.composed.processor import Processor
from omni_rlvr.models.loading.config_file import GENERATION
from omni_rlvr.models.loading.load import load_policy, load_skeleton
from omni_rlvr.models.loading.pretrained import on_meta
from omni_rlvr.types import Batch, Clip, Prompts, UserError

Media = str | Path | np.ndarray
"""A file, or its frames or waveform."""


class OmniForConditionalGeneration(OmniModel, GenerationMixin):
    """``OmniModel`` with transformers' ``forward`` and ``generate``, and the same weight names."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any
    ) -> Any:
        """Load a checkpoint as transformers does; one with adapters is merged into its base.

        Args:
            pretrained_model_name_or_path: A checkpoint in this package's own layout, or its name
                on the hub.
            model_args: As in transformers.
            kwargs: As in transformers; for a checkpoint with adapters, only ``dtype``.

        Raises:
            UserError: The base of adapters cannot be found, or loading them needs other options.
        """
        path = Path(str(pretrained_model_name_or_path))
        if is_adapter_checkpoint(path):
            return cls._merged(path, **kwargs)
        kwargs.pop(
            "trust_remote_code", None
        )  # the code is in this package, never in the checkpoint
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, trust_remote_code=False, **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # output_loading_info
        if path.is_dir() and not (path / GENERATION).exists():  # written by an earlier version
            processor: Any = load_skeleton(str(path), "float32", None).processor
            fields = generation_fields(model.config, processor)
            model.generation_config = GenerationConfig(**fields)
        return loaded

    @classmethod
    def _merged(cls, folder: Path, *, dtype: Any = "auto", **others: Any) -> Any:
        """Load an adapter checkpoint and merge it, as ``task=export`` does."""
        # the Auto classes always pass these on
        known = ("config", "local_files_only", "trust_remote_code", "adapter_kwargs")
        if given := [name for name in others if name not in known and others[name] is not None]:
            raise UserError(
                f"{folder} holds adapters, for which only dtype can be given, not {given[0]}; "
                f"merge them first: omni-rlvr task=export model.path={folder} task.to=DIR"
            )
        if dtype == "auto":
            config = others.get("config")
            dtype = "float32" if config is None else config.dtype or "float32"
        policy: Any = load_policy(str(folder), str(dtype).removeprefix("torch."), None)
        if policy.adapter_checkpoint.quantized is not None:
            raise UserError(
                f"{folder} holds adapters of a base in 4 bits; merge them first: omni-rlvr "
                f"task=export model.options.quantize=nf4 model.path={folder} task.to=DIR"
            )
        merge(policy)
        with on_meta(policy.dtype):
            model: Any = cls(policy.config)
        for name, part in policy.named_children():
            setattr(model, name, part)
        fields = generation_fields(policy.config, policy.processor)
        model.generation_config = GenerationConfig(**fields)
        return model.eval()

    def forward(  # type: ignore[override]  # OmniModel's own is for sharded policies
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_features: Tensor | None = None,
        gate_input_ids: Tensor | None = None,
        gate_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> CausalLMOutputWithPast:
        """Compute the logits of prompts, or of prompts followed by completions.

        Args:
            input_ids: [B, P] int64; a negative placeholder stands for each token of media.
            attention_mask: [B, P] int64, 1 on tokens; None for prompts of one length.
            pixel_values: [Bv, F, 3, H, W] float32 for the rows that have a picture.
            input_features: [Ba, M, L] float32 log-mel for the rows that have sound.
            gate_input_ids: [Bv, L] int64 of an instruction gate; None for a model without one.
            gate_attention_mask: [Bv, L] int64, 1 on its tokens.
            labels: [B, P] int64; -100 for tokens that do not count in the loss.

        Returns:
            ``logits`` [B, P, V], and ``loss`` if there are labels.
        """
        gate = (gate_input_ids, gate_attention_mask)
        prompts = self._prompts_of(input_ids, attention_mask, pixel_values, input_features, gate)
        language_model: Any = self.language_model
        return language_model(
            inputs_embeds=prompts.embeds,
            attention_mask=prompts.mask,
            position_ids=prompts.positions,
            labels=labels,
        )

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_features: Tensor | None = None,
        gate_input_ids: Tensor | None = None,
        gate_attention_mask: Tensor | None = None,
        **generation: Any,
    ) -> Any:
        """Generate completions.

        Args:
            input_ids: See ``forward``.
            attention_mask: See ``forward``.
            pixel_values: See ``forward``.
            input_features: See ``forward``.
            gate_input_ids: See ``forward``.
            gate_attention_mask: See ``forward``.
            generation: Arguments of transformers' ``generate``, e.g. ``max_new_tokens``.

        Returns:
            [B, T] int64, the completions without their prompts.
        """
        gate = (gate_input_ids, gate_attention_mask)
        prompts = self._prompts_of(input_ids, attention_mask, pixel_values, input_features, gate)
        config = copy.deepcopy(generation.pop("generation_config", None) or self.generation_config)
        others = config.update(
            **generation
        )  # returns the arguments that are not fields of the config
        language_model: Any = self.language_model
        return language_model.generate(
            inputs_embeds=prompts.embeds,
            attention_mask=prompts.mask,
            generation_config=config,
            **others,
        )

    def _prompts_of(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        pixel_values: Tensor | None,
        input_features: Tensor | None,
        gate: tuple[Tensor | None, Tensor | None],
    ) -> Prompts:
        """Embed prompts as the policy does."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        batch = Batch(
            examples=(),
            prompt_ids=input_ids,
            prompt_mask=mask,
            prompt_positions=position_ids(mask),
            video_shapes=(),
            audio_shapes=(),
            pixel_values=[] if pixel_values is None else [*pixel_values],
            input_features=[] if input_features is None else [*input_features],
        )
        weights = None
        if self.gate is not None and pixel_values is not None:
            if gate[0] is None:
                raise ValueError("this model has an instruction gate: give it gate_input_ids")
            weights = self.gate(*gate)
        return self.prompts_with(batch, self.encode(batch), weights)


class OmniProcessor(ProcessorMixin):
    """Turns clips and questions into the inputs of ``OmniForConditionalGeneration``.

    Args:
        processor: The policy's processor.
    """

    def __init__(self, processor: Processor):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_processor = processor.image_processor
        self.feature_extractor = processor.feature_extractor
        self.chat_template = processor.tokenizer.chat_template

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any
    ) -> OmniProcessor:
        """Load the processor of a checkpoint; see ``load_policy`` for what a checkpoint is.

        Args:
            pretrained_model_name_or_path: The checkpoint, or its name on the hub.
            args: Ignored; the Auto classes pass them on.
            kwargs: Ignored, as ``args``.

        Raises:
            UserError: It cannot be read.
        """
        processor = load_skeleton(str(pretrained_model_name_or_path), "float32", None).processor
        assert isinstance(processor, Processor)
        return cls(processor)

    def save_pretrained(
        self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write the processor's files, beside those of a model.

        Args:
            save_directory: The folder.
            push_to_hub: Refused; use the method of that name to upload.
            kwargs: Ignored; transformers' own ``push_to_hub`` passes them.

        Raises:
            ValueError: ``push_to_hub`` is set.
        """
        if push_to_hub:
            raise ValueError("save_pretrained writes a folder; processor.push_to_hub(NAME) uploads")
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.processor.save(Path(save_directory))

    def to_dict(self) -> dict[str, Any]:
        """Return the prompt settings, for ``repr``."""
        return {"processor_class": type(self).__name__, **asdict(self.processor.settings)}

    def __call__(
        self,
        text: str | Sequence[str],
        video: Media | Sequence[Media | None] | None = None,
        audio: Media | Sequence[Media | None] | None = None,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Make the model's inputs for a batch of questions about clips.

        Args:
            text: The question about each clip; the chat template and the instruction are added.
            video: For each question a file, whose sound is used too unless ``audio`` is given;
                or all frames of a clip, [F, H, W, 3] uint8; or None.
            audio: For each question a file, or [S] float32 mono at the feature extractor's
                sampling rate; or None.
            return_tensors: Must be "pt".

        Raises:
            UserError: A question contains a special token.
            MediaError: A clip cannot be read.
            ValueError: A sound is longer than the model's window, or the numbers of entries differ.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors={return_tensors!r}: only 'pt' is supported")
        questions = [text] if isinstance(text, str) else list(text)
        clips = [
            self._clip(picture, sound)
            for picture, sound in zip(
                _listed(video, len(questions), "video"),
                _listed(audio, len(questions), "audio"),
                strict=True,
            )
        ]
        pictures = [
            self.processor.video(clip.frames, np.arange(len(clip.frames), dtype=np.float64))
            for clip in clips
            if clip.frames is not None
        ]
        sounds = [self.processor.audio(c.waveform) for c in clips if c.waveform is not None]
        rows = [self._ids(question, clip) for question, clip in zip(questions, clips, strict=True)]
        pad = self.processor.pad_token_id
        made = {
            "input_ids": pad_sequence(rows, True, pad, padding_side="left"),
            "attention_mask": pad_sequence(
                [torch.ones_like(row) for row in rows], True, 0, padding_side="left"
            ),
        }
        if pictures:
            made["pixel_values"] = torch.stack([pixels for pixels, _ in pictures])
        if sounds:
            made["input_features"] = torch.stack([log_mel for log_mel, _ in sounds])
        if pictures and self.processor.gate_tokenizer is not None:
            asked = zip(questions, clips, strict=True)
            texts = [
                self.processor.gate_text(question, has_audio=clip.waveform is not None)
                for question, clip in asked
                if clip.frames is not None
            ]
            made["gate_input_ids"], made["gate_attention_mask"] = self.processor.gate_tokens(texts)
        return BatchFeature(made)

    def _clip(self, video: Media | None, audio: Media | None) -> Clip:
        """Read files as in training; use arrays as they are, with frames sampled."""
        processor, clip = self.processor, Clip(None, None, duration_s=0.0)
        video_file, audio_file = (
            None if given is None or isinstance(given, np.ndarray) else Path(given)
            for given in (video, audio)
        )
        if video_file is not None or audio_file is not None:
            request = ClipRequest(
                processor.sampling,
                processor.sample_rate,
                want_video=video_file is not None,
                want_audio=not isinstance(audio, np.ndarray),
                window_s=processor.window_s,
            )
            clip = read_clip(video_file, audio_file, request)
        if isinstance(video, np.ndarray):  # sample frames of the whole clip, as for a file
            times_s = np.arange(len(video), dtype=np.float64)
            frames = video[processor.sampling.indices(times_s, float(len(video)))]
            clip = replace(clip, frames=frames)
        return replace(clip, waveform=audio) if isinstance(audio, np.ndarray) else clip

    def _ids(self, question: str, clip: Clip) -> Tensor:
        """Tokenise one prompt: [P] int64."""
        self.processor.check_text(question, "text")
        video = None if clip.frames is None else self.processor.video_shape
        audio = None if clip.waveform is None else self.processor.audio_shape
        return torch.tensor(self.processor.prompt(question, video, audio)[0])


def _listed(given: Any, count: int, name: str) -> list[Media | None]:
    """List the media of each question; a single value belongs to a single question."""
    alone = given is None or isinstance(given, str | Path | np.ndarray)
    listed = [given] * (count if given is None else 1) if alone else list(given)
    if len(listed) != count:
        raise ValueError(f"{count} questions but {len(listed)} entries of {name}")
    return listed
