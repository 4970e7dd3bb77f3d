"""What a person chooses when a checkpoint is loaded; None keeps what it was saved with.

The quirks with which R1-Omni and HumanOmni were trained and evaluated are options here, off by
default. ``+experiment=r1_omni/...`` with ``as_published`` sets them as the authors ran them.
"""

from __future__ import annotations

from dataclasses import dataclass

from omni_rlvr.text.prompts import WORDINGS
from omni_rlvr.types import field_check


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is read, and what of its prompt and gate is changed."""

    allow_pickle: bool = False
    """Reads pickled weights where there are no safetensors; nothing in them is run."""
    gate_vocab: str | None = None
    """A vocab.txt for the gate's BERT in place of bert-base-uncased's, which comes along."""
    num_frames: int | None = None
    """Frames sampled from a clip."""
    image_fit: str | None = None
    """How a frame becomes square: "pad" (training, the default) or "squash" (the authors'
    inference)."""
    wording: str | None = None
    """Question and instruction of one of the published prompts, ``text.prompts.WORDINGS``."""
    media_end: str | None = None
    """Between the media and the question: one newline; three in the authors' SFT."""
    stray_vision_tokens: bool | None = None
    """Whether Qwen2-VL's three vision tokens stand before the media, as in the authors' RL."""
    gate_text: str | None = None
    """What the gate reads: "prompt", or "turn" as in the authors' SFT."""
    mask_stops: bool | None = None
    """Whether a completion that another stop token ends (151643 in Qwen2.5) counts up to it; false
    in the authors' RL: its padding counts too."""
    bert_dropout: bool = False
    """Whether the gate's BERT drops out while the policy trains, as it did for the authors."""
    reset_gate: bool = False
    """Whether the gate's MLP starts anew when a published checkpoint is loaded, as in the authors'
    cold start; a checkpoint of ours keeps its own."""

    def __post_init__(self) -> None:
        check = field_check(self, "model.options")
        known = self.wording is None or self.wording in WORDINGS
        check("wording", known, f"one of {', '.join(WORDINGS)}")
        check("num_frames", self.num_frames is None or self.num_frames >= 1, "1 or more")
