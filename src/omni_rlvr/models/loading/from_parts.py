"""Compose a policy from pretrained parts, joined by new projectors.

The parts are any transformers vision encoder, Whisper-type audio encoder and causal LM, each from
its own folder or hub id. Projectors (and a gate's MLP) start with random weights, which the first
stage has to train. Nothing in a part's folder is executed.
"""

from __future__ import annotations

from dataclasses import dataclass

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.families import composed_family
from omni_rlvr.models.loading.load import DTYPES, load_policy, load_skeleton
from omni_rlvr.models.policy import Policy
from omni_rlvr.types import UserError, require


@dataclass(frozen=True)
class Parts:
    """The folders or hub ids of the parts, and how they are joined."""

    vision_tower: str
    """Folder or hub id of a vision encoder with its image processor."""
    audio_tower: str
    """Folder or hub id of a Whisper-type model with its feature extractor."""
    language_model: str
    """Folder or hub id of a causal LM with its tokenizer."""
    gate_bert: str | None
    """Folder or hub id of BERT; required by the all_in_one projectors, None for others."""
    video_projector: str
    """mlp2x_gelu, all_in_one_small or all_in_one."""
    video_merge: int
    """m: m x m patches share a token of mlp2x_gelu."""
    audio_merge: int
    """k: neighbouring sound frames share a token."""
    audio_pooling: str
    """How sound frames are merged: "mean" or "concat"."""
    vision_select_layer: int | None
    """Index of the hidden state to use, e.g. -2; None uses the tower's output."""
    num_frames: int
    """Frames sampled from a clip."""

    def __post_init__(self) -> None:
        for name in ("video_merge", "audio_merge", "num_frames"):
            require(vars(self)[name] >= 1, f"model.parts.{name}", vars(self)[name], "1 or more")


def compose_policy(
    path: str | None,
    dtype: str,
    instruction: str | None,
    parts: Parts,
    options: LoadOptions | None = None,
) -> Policy:
    """Compose a policy, or load one that was composed and trained.

    Args:
        path: A checkpoint of a composed policy; None composes a new one.
        dtype: "float32", "bfloat16" or "float16".
        instruction: Text after the question.
        parts: The parts.
        options: Other load options.

    Raises:
        UserError: A part cannot be read, or the parts do not fit together.
    """
    if path is not None:
        return load_policy(path, dtype, instruction, options)
    options = _checked(dtype, options)
    return composed_family().compose(parts, DTYPES[dtype], options, instruction)


def compose_skeleton(
    path: str | None,
    dtype: str,
    instruction: str | None,
    parts: Parts,
    options: LoadOptions | None = None,
) -> Policy:
    """Build the policy of ``compose_policy`` on the meta device; see ``ComposedFamily``."""
    if path is not None:
        return load_skeleton(path, dtype, instruction, options)
    options = _checked(dtype, options)
    return composed_family().compose_skeleton(parts, DTYPES[dtype], options, instruction)


def _checked(dtype: str, options: LoadOptions | None) -> LoadOptions:
    """Check dtype and options; refuse quantisation, as the new model is saved as a base first."""
    require(dtype in DTYPES, "model.dtype", dtype, f"one of {', '.join(DTYPES)}")
    options = options or LoadOptions()
    if options.quantize is not None:
        raise UserError(
            f"model.options.quantize={options.quantize}: a model that is joined from parts cannot "
            "be quantised; train and save it first, then quantise the checkpoint in model.path"
        )
    return options
