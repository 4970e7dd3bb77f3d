"""HumanOmni-7B's frame compressor: few tokens of every frame, all tokens of every fourth one.

Its two linear layers are in the published weights and read by nothing; they are kept so that a
checkpoint can be exported as it came.

Reference: HumanMLLM/HumanOmni, as described in prose; not compared with numbers of its code.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 4
"""Every so many frames one keeps all its tokens, beginning with the first."""


class SlowFast(nn.Module):
    """Pools each frame 2 x 2 (fast), and appends the whole tokens of every fourth (slow)."""

    def __init__(self, hidden: int, size: int):
        super().__init__()
        self.vlm_query_projector = nn.Linear(hidden, size)
        self.vlm_key_projector = nn.Linear(hidden, size)

    def forward(self, tokens: Tensor, num_frames: int) -> Tensor:
        """Compress [Bv, F * n, hidden] to [Bv, F * n / 4 + F / 4 * n, hidden]."""
        frames = tokens.unflatten(1, (num_frames, -1))
        side = round(frames.shape[2] ** 0.5)
        grid = frames.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))
        fast = functional.avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
        slow = frames[:, ::STRIDE].flatten(1, 2)
        return torch.cat([fast.unflatten(0, (len(tokens), -1)).flatten(1, 2), slow], dim=1)


def compressed_tokens(num_frames: int, per_frame: int) -> int:
    """Count a clip's tokens after compression."""
    side = round(per_frame**0.5)
    return num_frames * (side // 2) ** 2 + len(range(0, num_frames, STRIDE)) * per_frame
