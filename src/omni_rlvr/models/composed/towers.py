"""Build vision towers and audio encoders from configs, and read patch features from them."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import (
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipVisionModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder


def build_audio_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a Whisper encoder, or the transformers model of another config."""
    if isinstance(config, WhisperConfig):
        return WhisperEncoder(config)
    return AutoModel.from_config(config)


def build_audio_head(config: WhisperConfig) -> nn.ModuleDict:
    """Build the classification head that published checkpoints have; it is not used."""
    size, num_labels = config.classifier_proj_size, config.num_labels or 0
    projector, classifier = nn.Linear(config.hidden_size, size), nn.Linear(size, num_labels)
    return nn.ModuleDict({"projector": projector, "classifier": classifier})


def grid_side(config: PreTrainedConfig) -> int:
    """Count the patches along a side of a picture."""
    return config.image_size // config.patch_size


def patch_features(tower: PreTrainedModel, pixels: Tensor, layer: int | None) -> Tensor:
    """Encode pictures ([N, 3, size, size]) to patch features, [N, patches, D].

    Args:
        tower: A transformers vision encoder; class and register tokens are left out.
        pixels: The pictures.
        layer: Index into the hidden states, e.g. -2 for the output of the last layer but one;
            None takes the tower's output, after its last norm.
    """
    if layer is None:
        hidden = tower(pixel_values=pixels).last_hidden_state
    elif isinstance(tower, SiglipVisionModel):
        hidden = tower.embeddings(pixels)
        layers = tower.encoder.layers
        for block in layers[: range(len(layers) + 1)[layer]]:  # later ones are not needed
            hidden = block(hidden, None)
    else:
        hidden = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[layer]
    return hidden[:, -(grid_side(tower.config) ** 2) :]
