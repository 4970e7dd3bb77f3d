"""What a person tunes of a model: which parts train, and LoRA. Dataclasses that are Hydra schemas.

A typo or a wrong type fails while Hydra composes; ranges are checked in ``__post_init__``. No torch
is imported: the command line reads this file first.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields

from omni_rlvr.types import UserError, require


@dataclass
class LoraConfig:
    """Low-rank adapters on linear layers: y = W x + s B A x, of which A and B train.

    Reference: LoRA, arXiv 2106.09685.
    """

    enabled: bool = False
    """Whether there are adapters; ``model/trainable=lora`` sets it."""
    r: int = 16
    """Rank of B A."""
    alpha: int = 32
    """The scale s is alpha / r."""
    dropout: float = 0.0
    """Share of x that an adapter does not see while training, in [0, 1)."""
    targets: list[str] = field(
        default_factory=lambda: [
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ]
    )
    """Suffixes of the names of linear layers; one that matches no layer is an error."""
    parts: list[str] = field(default_factory=lambda: ["language_model"])
    """Where the targets are looked for; one in which nothing matches is an error."""
    use_rslora: bool = False
    """Scales by alpha / sqrt(r) (arXiv 2312.03732)."""

    def __post_init__(self) -> None:
        key = "model.trainable.lora"
        if not self.enabled and (inert := self._changed()):
            raise UserError(f"{key}.{inert[0]} does nothing without LoRA; add model/trainable=lora")
        require(self.r >= 1, f"{key}.r", self.r, "1 or more")
        require(self.alpha >= 1, f"{key}.alpha", self.alpha, "1 or more")
        require(0 <= self.dropout < 1, f"{key}.dropout", self.dropout, "in [0, 1)")
        require(bool(self.targets), f"{key}.targets", self.targets, "at least one suffix")
        require(bool(self.parts), f"{key}.parts", self.parts, "at least one part")

    def _changed(self) -> list[str]:
        """Names what differs from its default."""
        out = []
        for one in fields(self):
            factory = one.default_factory
            default = one.default if factory is MISSING else factory()
            if vars(self)[one.name] != default:
                out.append(one.name)
        return out


@dataclass
class TrainableConfig:
    """Which parts train. True for a part that the model does not have is an error."""

    vision_tower: bool = False
    """Trained, it runs in every micro-batch; frozen, once a prompt and step."""
    audio_tower: bool = False
    """As the vision tower."""
    video_projector: bool | None = None
    """Null trains it, where the model has one."""
    audio_projector: bool | None = None
    """Null trains it, where the model has one."""
    gate: bool | None = None
    """Weighs picture against sound; without the BERT in it. Null trains it, where there is one."""
    bert: bool = False
    """Reads the question for the gate."""
    language_model: bool | None = None
    """Its own weights, an output head that is not tied included; null trains them unless ``lora``
    is on."""
    embeddings: bool | None = None
    """The token embeddings, with the output head where that is tied to them (one matrix, then);
    null goes with ``language_model``."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters, saved without their base."""

    def __post_init__(self) -> None:
        # null is resolved here, so that whoever reads these fields finds what will be done
        if self.language_model is None:
            self.language_model = not self.lora.enabled
        if self.embeddings is None:
            self.embeddings = self.language_model
