"""Video projectors: from patch features of a clip's frames to tokens of the language model.

``PatchMlp`` merges m x m neighbouring patches and projects them. ``ThreeBranch`` is HumanOmni's:
two convolutional branches (interaction, body) and a per-patch one (face) take the same frames and
are summed with three weights, which ``InstructionGate`` computes from the prompt. ``SlowFast`` is
the frame compressor of HumanOmni-7B. RegNet stages are timm's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from omni_rlvr.types import UserError

THREE_BRANCH = {"all_in_one_small": (2, 0), "all_in_one": (4, 1)}
"""Type -> (blocks of each RegNet stage, spatial padding of the convolution between stages)."""
KINDS = ("mlp2x_gelu", *THREE_BRANCH)
NUM_BRANCHES = 3
STRIDE = 4
"""``SlowFast`` keeps all tokens of every STRIDE-th frame, beginning with the first."""


def mlp(width: int, hidden: int) -> nn.Sequential:
    """Build an MLP: linear, GELU, linear."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))


def build_video_projector(kind: str, width: int, hidden: int, *, merge: int) -> nn.Module:
    """Build the projector that ``OmniConfig.video_projector`` names.

    Raises:
        UserError: There is no projector of that name.
    """
    if kind in THREE_BRANCH:
        depth, padding = THREE_BRANCH[kind]
        return ThreeBranch(width, hidden, depth=depth, padding=padding)
    if kind != "mlp2x_gelu":
        raise UserError(f"video_projector={kind!r} is unknown; choose one of {', '.join(KINDS)}")
    return PatchMlp(width, hidden, merge=merge)


def tokens_per_frame(kind: str, side: int, *, merge: int) -> int:
    """Count the tokens of a frame of ``side`` x ``side`` patches.

    Raises:
        UserError: The projector's branches would give unequal numbers of tokens.
    """
    if kind not in THREE_BRANCH:
        return (side // merge) ** 2
    padding = THREE_BRANCH[kind][1]
    convolved, pooled = (side + 2 * padding - 2) // 2 + 1, _half(side)
    if convolved != pooled:
        raise UserError(
            f"video_projector={kind!r} cannot fuse {side} x {side} patches: its branches make "
            f"{convolved} x {convolved} and {pooled} x {pooled} tokens; use the other all_in_one"
        )
    return pooled**2


class PatchMlp(nn.Sequential):
    """Merges m x m patches and projects each group with a two-layer MLP."""

    def __init__(self, width: int, hidden: int, *, merge: int):
        super().__init__(*mlp(width * merge**2, hidden))
        self.merge = merge

    def forward(self, features: Tensor) -> Tensor:
        """Project [Bv, F, patches, D] to [Bv, F * patches / m^2, hidden]."""
        num_clips, num_frames, patches, width = features.shape
        side, m = round(patches**0.5), self.merge
        grid = features.view(num_clips, num_frames, side // m, m, side // m, m, width)
        merged = grid.permute(0, 1, 2, 4, 3, 5, 6).reshape(num_clips, -1, m * m * width)
        return super().forward(merged)


class ConvBranch(nn.Module):
    """A spatial-temporal connector: RegNet stage, causal 3-D convolution, RegNet stage, MLP."""

    def __init__(self, width: int, hidden: int, *, depth: int, padding: int):
        super().__init__()
        self.s1 = _stage(depth, width, hidden)
        convolution = nn.Conv3d(hidden, hidden, 2, stride=(1, 2, 2), padding=(1, padding, padding))
        self.sampler = nn.Sequential(convolution, nn.SiLU())
        self.s2 = _stage(depth, hidden, hidden)
        self.readout = mlp(hidden, hidden)

    def forward(self, grid: Tensor) -> Tensor:
        """Project [Bv, F, D, h, w] to [Bv, F * tokens, hidden], frame by frame, row by row."""
        num_clips = len(grid)
        frames = self.s1(grid.flatten(0, 1)).unflatten(0, (num_clips, -1))
        # The convolution pads one step at both ends. Dropping the last step makes it causal: a
        # frame sees itself and the one before it.
        clips = self.sampler(frames.transpose(1, 2))[:, :, :-1]
        tokens = self.s2(clips.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)
        return self.readout(tokens.unflatten(0, (num_clips, -1)).flatten(1, 2))


class ThreeBranch(nn.Module):
    """HumanOmni's ``all_in_one`` projectors: interaction, body and face branches of the same
    frames.

    Reference:
        HumanOmni, arXiv 2501.15111.
    """

    def __init__(self, width: int, hidden: int, *, depth: int, padding: int):
        super().__init__()
        self.video = ConvBranch(width, hidden, depth=depth, padding=padding)
        self.body = ConvBranch(width, hidden, depth=depth, padding=padding)
        self.face = mlp(width, hidden)

    def branches(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project [Bv, F, patches, D] by each branch to [Bv, F * tokens, hidden]."""
        side = round(features.shape[2] ** 0.5)
        grid = features.transpose(2, 3).unflatten(3, (side, side))
        face = pool_grid(self.face(features).flatten(0, 1)).unflatten(0, features.shape[:2])
        return self.video(grid), self.body(grid), face.flatten(1, 2)

    def forward(self, features: Tensor, weights: Tensor) -> Tensor:
        """Sum the branches with each clip's weights ([Bv, 3]): [Bv, F * tokens, hidden]."""
        pairs = zip(self.branches(features), weights.unbind(1), strict=True)
        video, body, face = (weight[:, None, None] * branch for branch, weight in pairs)
        return video + body + face


class InstructionGate(nn.Module):
    """HumanOmni's gate: a prompt's text decides how much each branch of the video counts.

    text -> BERT's first token -> MLP -> softmax: three weights a prompt, for video, body and face.
    BERT's dropout is off unless ``dropout`` is set.
    """

    def __init__(self, config: BertConfig, hidden: int, *, dropout: bool):
        super().__init__()
        self.bert = BertModel(config)
        self.head = nn.Sequential(
            nn.Linear(config.hidden_size, hidden), nn.GELU(), nn.Linear(hidden, NUM_BRANCHES)
        )
        self.dropout = dropout

    def train(self, mode: bool = True) -> InstructionGate:
        """Set train mode; BERT stays in eval mode unless ``dropout`` is set."""
        super().train(mode)
        # the authors trained with BERT's dropout on, even with frozen weights; bert_dropout does so
        self.bert.train(mode and self.dropout)
        return self

    def summary(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encode texts ([N, L] ids and mask) to BERT's first token, [N, width]."""
        return self.bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute the branches' weights for texts ([N, L] ids and mask): [N, 3], rows sum to 1."""
        return self.head(self.summary(ids, mask)).softmax(dim=1)

    def reset(self) -> None:
        """Draw new random weights for the MLP, as the reference does when a stage starts."""
        for layer in self.head:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()


def needs_gate(video_projector: str) -> bool:
    """Tell whether a projector has branches, and so needs a gate."""
    return video_projector in THREE_BRANCH


class SlowFast(nn.Module):
    """HumanOmni-7B's compressor: each frame pooled 2 x 2 (fast), every fourth one whole (slow).

    Its two linear layers are in the published weights but not used; they are kept so that a
    checkpoint can be exported unchanged.

    Reference:
        HumanMLLM/HumanOmni, from its description; not compared with the outputs of its code.
    """

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


def pool_grid(tokens: Tensor) -> Tensor:
    """Halve a square grid of tokens, [N, side^2, D], bilinearly; odd sides round up."""
    side = round(tokens.shape[1] ** 0.5)
    grid = tokens.transpose(1, 2).unflatten(2, (side, side))
    size = (_half(side), _half(side))
    return functional.interpolate(grid, size=size, mode="bilinear").flatten(2).transpose(1, 2)


def _half(side: int) -> int:
    return (side + 1) // 2


def _stage(depth: int, width: int, hidden: int) -> nn.Module:
    # imported here: few models need timm, and importing it takes an eighth of the start
    from timm.layers import LayerNorm2d
    from timm.models.regnet import RegStage

    return RegStage(
        depth, width, hidden, stride=1, dilation=1, act_layer=nn.SiLU, norm_layer=LayerNorm2d
    )
