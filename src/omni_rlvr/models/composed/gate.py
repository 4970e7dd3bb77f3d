"""HumanOmni's instruction gate: a prompt's text decides how much each branch of the video counts.

text -> BERT's first token -> MLP -> softmax: three weights a prompt, for video, body and face
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import BertConfig, BertModel

from omni_rlvr.models.composed.projectors import THREE_BRANCH

NUM_BRANCHES = 3


class InstructionGate(nn.Module):
    """BERT and a two-layer MLP; BERT drops nothing out unless ``dropout`` is set."""

    def __init__(self, config: BertConfig, hidden: int, *, dropout: bool):
        super().__init__()
        self.bert = BertModel(config)
        self.head = nn.Sequential(
            nn.Linear(config.hidden_size, hidden), nn.GELU(), nn.Linear(hidden, NUM_BRANCHES)
        )
        self.dropout = dropout

    def train(self, mode: bool = True) -> InstructionGate:
        """Switch the MLP; BERT too only where its dropout is wanted."""
        super().train(mode)
        # the authors trained with BERT's dropout on, frozen or not; an option does as they did
        self.bert.train(mode and self.dropout)
        return self

    def summary(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode texts ([N, L] ids and mask) to BERT's first token, [N, width]."""
        return self.bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Weigh the branches for each text ([N, L] ids and mask): [N, 3], rows add up to 1."""
        return self.head(self.summary(ids, mask)).softmax(dim=1)

    def reset(self) -> None:
        """Draw the MLP's weights anew: the reference loses them when a stage starts."""
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()


def needs_gate(video_projector: str) -> bool:
    """Say whether a projector has branches to weigh."""
    return video_projector in THREE_BRANCH
