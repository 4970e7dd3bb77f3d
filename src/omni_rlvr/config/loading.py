"""The options for loading a checkpoint; None keeps what the checkpoint was saved with.

R1-Omni and HumanOmni were trained and evaluated with some peculiarities. They are options here, off
by default; the experiments of ``+experiment=r1_omni/...`` whose names hold ``as_published`` set
them as the authors ran them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

from omni_rlvr.text.prompts import WORDINGS
from omni_rlvr.types import UserError, field_check


@dataclass(frozen=True)
class LoadOptions:
    """How a checkpoint is read, and what is changed in its prompt, frames and gate."""

    allow_pickle: bool = False
    """Whether pickled weights are read if there are no safetensors; code in them is not run."""
    quantize: str | None = None
    """How the linear layers of the language model are rounded: "nf4", to 4 bits, on which adapters
    are trained (QLoRA; needs the extra qlora); null leaves them in ``model.dtype``."""
    gate_vocab: str | None = None
    """The vocab.txt of the gate's BERT; null takes that of bert-base-uncased, which is included."""
    num_frames: int | None = None
    """The number of frames sampled from a clip, for models that take a fixed number."""
    fps: float | None = None
    """The frames sampled for each second, for models that sample at a rate (Qwen-Omni: 2)."""
    min_frames: int | None = None
    """The fewest frames that are sampled from a clip at that rate (Qwen-Omni: 4)."""
    max_frames: int | None = None
    """The most frames that are sampled from a clip at that rate (Qwen-Omni: 64). Of a longer clip
    fewer are sampled for each second, and its positions tell the model so."""
    min_pixels: int | None = None
    """The least height times width of a frame; smaller frames are enlarged. The default is 4
    tokens: 56 x 56 in Qwen2.5-Omni, 64 x 64 in Qwen3-Omni."""
    max_pixels: int | None = None
    """The greatest height times width of a frame; larger frames are shrunk. The default is 768
    tokens: 602,112 in Qwen2.5-Omni, 786,432 in Qwen3-Omni."""
    use_audio_in_video: bool | None = None
    """Whether the sound of a clip is interleaved with its picture in time (Qwen-Omni: true); false
    puts it after the picture."""
    image_fit: str | None = None
    """How a frame becomes square: "pad", as in training, or "squash", as in the authors'
    inference."""
    wording: str | None = None
    """The name of a published prompt in ``text.prompts.WORDINGS``, whose question and instruction
    are used."""
    media_end: str | None = None
    """The text between the media and the question: one newline; three in the authors' SFT."""
    stray_vision_tokens: bool | None = None
    """Whether the three vision tokens of Qwen2-VL precede the media, as in the authors' RL."""
    gate_text: str | None = None
    """The text that the gate reads: the "prompt", or the user's "turn" as in the authors' SFT."""
    mask_stops: bool | None = None
    """Whether a completion also ends at the model's other stop token (151643 in Qwen2.5). With
    false, as in the authors' RL, the padding after that token counts as part of it."""
    bert_dropout: bool = False
    """Whether dropout is on in the gate's BERT while the policy trains, as it was for the authors.
    """
    reset_gate: bool = False
    """Whether the gate's MLP is initialised again when a published checkpoint is loaded, as in the
    authors' cold start. A checkpoint that this package saved keeps its own."""

    def __post_init__(self) -> None:
        check = field_check(self, "model.options")
        known = self.wording is None or self.wording in WORDINGS
        check("wording", known, f"one of {', '.join(WORDINGS)}")
        check("quantize", self.quantize in (None, "nf4"), "nf4 or null")
        check("fps", self.fps is None or self.fps > 0, "above 0")
        for name in ("num_frames", "min_frames", "max_frames", "min_pixels", "max_pixels"):
            check(name, vars(self)[name] is None or vars(self)[name] >= 1, "1 or more")

    def prompt_text(self, instruction: str | None) -> dict[str, str]:
        """Return the settings of a prompt's text that are changed.

        Args:
            instruction: The text after the question, in place of the wording's; None keeps that.
        """
        changes = {}
        if self.wording is not None:
            wording = WORDINGS[self.wording]
            changes = {"question": wording.question, "question_end": wording.separator}
            changes["instruction"] = wording.instruction
        return changes if instruction is None else {**changes, "instruction": instruction}

    def refuse_others(self, known: Collection[str], title: str) -> None:
        """Refuse an option that the model ignores; ``quantize`` applies to every model.

        Args:
            known: The options that the model reads.
            title: Name of the model, for the message.

        Raises:
            UserError: Another option has a value that is not its default.
        """
        for option in fields(self):
            value = vars(self)[option.name]
            if value != option.default and option.name not in (*known, "quantize"):
                raise UserError(
                    f"model.options.{option.name}={value!r} changes nothing in {title}, whose "
                    f"options are {', '.join(known)}"
                )
