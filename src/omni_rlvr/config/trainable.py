"""Which parts of a model are trained, and LoRA: dataclasses that Hydra uses as its schemas.

Hydra refuses an unknown key or a wrong type while it composes the config; ``__post_init__`` checks
ranges. This file imports no torch, because the command line reads it before anything else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omni_rlvr.types import UserError, field_check


@dataclass
class LoraConfig:
    """Low-rank adapters on linear layers: y = W x + s B A x, where only A and B are trained.

    Reference: LoRA, arXiv 2106.09685.
    """

    enabled: bool = False
    """Whether adapters are added; ``model/trainable=lora`` sets this."""
    r: int = 16
    """The rank of B A."""
    alpha: int = 32
    """The scale s is alpha / r."""
    dropout: float = 0.0
    """The dropout probability on the input of an adapter while training, in [0, 1)."""
    targets: list[str] | None = None
    """Linear layers whose names end in one of these get adapters; each must match a layer. null
    takes the model's own: all linear layers of its blocks, or attention alone where its experts are
    no linear layers (Qwen3-Omni)."""
    target_parameters: list[str] = field(default_factory=list)
    """Parameters that are in no linear layer and get adapters too, by the ends of their names:
    [experts.gate_up_proj, experts.down_proj] for the experts of Qwen3-Omni. Each forward pass adds
    the adapters to all experts, so that this takes the memory of one more layer's experts."""
    parts: list[str] = field(default_factory=lambda: ["language_model"])
    """The parts of the model whose layers get adapters; each must hold a match."""
    use_rslora: bool = False
    """Whether the scale is alpha / sqrt(r) instead (arXiv 2312.03732)."""

    def __post_init__(self) -> None:
        key = "model.trainable.lora"
        if not self.enabled:
            default = {**vars(LoraConfig(enabled=True)), "enabled": False}
            for name, value in vars(self).items():
                if value != default[name]:
                    text = "does nothing without LoRA; add model/trainable=lora"
                    raise UserError(f"{key}.{name} {text}")
        check = field_check(self, key)
        check("r", self.r >= 1, "1 or more")
        check("alpha", self.alpha >= 1, "1 or more")
        check("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        check("targets", self.targets is None or bool(self.targets), "at least one suffix")
        bare = not self.target_parameters or self.dropout == 0
        check("dropout", bare, "0 where target_parameters are given, as peft requires")
        check("parts", bool(self.parts), "at least one part")


@dataclass
class TrainableConfig:
    """Which parts are trained. True for a part that the model does not have is an error."""

    vision_tower: bool = False
    """Whether the vision tower is trained. It then runs in every micro-batch; a frozen tower runs
    once for each prompt and step."""
    audio_tower: bool = False
    """Whether the audio tower is trained, as for the vision tower."""
    video_projector: bool | None = None
    """Whether the video projector is trained; null trains it if the model has one."""
    audio_projector: bool | None = None
    """Whether the audio projector is trained; null trains it if the model has one."""
    gate: bool | None = None
    """Whether the gate that weighs picture against sound is trained, without its BERT; null trains
    it if the model has one."""
    bert: bool = False
    """Whether the BERT that reads the question for the gate is trained."""
    language_model: bool | None = None
    """Whether the language model's own weights are trained, with an output head that is not tied to
    the embeddings; null trains them unless ``lora`` is on."""
    embeddings: bool | None = None
    """Whether the token embeddings are trained, with an output head that is tied to them; null
    follows ``language_model``."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """The adapters, which are saved without their base."""

    def __post_init__(self) -> None:
        # null is resolved here, so that these fields say what will be trained
        if self.language_model is None:
            self.language_model = not self.lora.enabled
        if self.embeddings is None:
            self.embeddings = self.language_model
