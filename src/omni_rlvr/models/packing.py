"""Prompts and their completions in one row without padding: [p1 | c1 c2 .. | p2 | c3 ..].

Linear layers see real tokens only, each prompt once. Attention runs prompt by prompt: causal within
the prompt, and from all its completions to it in one product. With one completion a prompt this is
plain packing, which SFT uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omni_rlvr.models.attention_parts import (
    CausalFlash,
    SharedFlash,
    has_kernel,
    plain_causal,
    plain_shared,
)


@dataclass(frozen=True)
class Segment:
    """One prompt with its completions, as a stretch of the packed row."""

    prompt: slice
    rest: slice
    """The completions' tokens, one completion after the other."""
    num_rows: int
    width: int
    """Tokens of the longest completion."""
    pad: Tensor | None
    """[num_rows * width] where in ``rest`` each token of the padded rows stands; None when all
    are equally long."""
    unpad: Tensor | None
    """[tokens of rest] the way back."""

    @property
    def whole(self) -> slice:
        """Prompt and completions."""
        return slice(self.prompt.start, self.rest.stop)


class Packed:
    """The layout of one packed row."""

    def __init__(self, prompt_lengths: Sequence[int], row_lengths: Sequence[Sequence[int]]):
        """Lays tokens out.

        Args:
            prompt_lengths: tokens of each prompt.
            row_lengths: for each prompt, the tokens of each of its completions; 0 is left out.
        """
        self.segments: list[Segment] = []
        self.prefixes: dict[int, tuple[Tensor, Tensor]] | None = None
        start = 0
        for size, lengths in zip(prompt_lengths, row_lengths, strict=True):
            self.segments.append(_segment(start, size, [n for n in lengths if n]))
            start = self.segments[-1].rest.stop
        self.length = start

    def attend(
        self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float
    ) -> Tensor:
        """Attends within the packed row; see ``shared_attention.Layout``."""
        query, keys = query.to(values.dtype), keys.to(values.dtype)  # autocast leaves them apart
        if self.prefixes is not None:
            self.prefixes[layer] = (keys, values)
        if has_kernel(query.device):
            return _Flash.apply(query, keys, values, self.segments, scale)
        return _plain(query, keys, values, self.segments, scale)


def _segment(start: int, size: int, lengths: list[int]) -> Segment:
    middle = start + size
    rest, width = slice(middle, middle + sum(lengths)), max(lengths, default=0)
    pad = unpad = None
    if len(set(lengths)) > 1:
        there = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
        unpad = there.flatten().nonzero().squeeze(1)
        pad = torch.zeros(len(lengths) * width, dtype=torch.long)  # what is padded attends to junk
        pad[unpad] = torch.arange(sum(lengths))
    return Segment(slice(start, middle), rest, len(lengths), width, pad, unpad)


def _rows(tokens: Tensor, segment: Segment) -> Tensor:
    """Cuts the completions' [1, H, tokens, D] into padded rows [n, H, T, D]."""
    tokens = tokens[0]
    if segment.pad is not None:
        tokens = tokens.index_select(1, segment.pad.to(tokens.device))
    return tokens.unflatten(1, (segment.num_rows, segment.width)).transpose(0, 1)


def _tokens(rows: Tensor, segment: Segment) -> Tensor:
    """Undoes ``_rows``: [n, H, T, D] -> [1, H, tokens, D]."""
    tokens = rows.transpose(0, 1).flatten(1, 2)
    if segment.unpad is not None:
        tokens = tokens.index_select(1, segment.unpad.to(tokens.device))
    return tokens.unsqueeze(0)


def _row_grads(grads: Tensor, segment: Segment) -> Tensor:
    """``_rows`` for gradients of the output: those of padding are zero."""
    rows = _rows(grads, segment)
    if segment.unpad is None:
        return rows
    there = torch.zeros(segment.num_rows * segment.width, dtype=rows.dtype, device=rows.device)
    there[segment.unpad.to(rows.device)] = 1
    return rows * there.view(segment.num_rows, 1, segment.width, 1)


class _Flash(torch.autograd.Function):
    """All segments' attention in the CPU's flash kernel, [1, H, L, D] -> [1, L, H, D]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, segments, scale):
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        by_head, lses = out.transpose(1, 2), []
        for s in segments:
            causal = s.whole if s.num_rows <= 1 else s.prompt
            by_head[:, :, causal], lse = CausalFlash.forward(
                query[:, :, causal], keys[:, :, causal], values[:, :, causal], scale
            )
            lses.append(lse)
            if s.num_rows > 1:
                prefix = (keys[:, :, s.prompt], values[:, :, s.prompt])
                rows = (_rows(x[:, :, s.rest], s) for x in (query, keys, values))
                q, k, v = rows
                rest, lse = SharedFlash.forward(q, prefix, k, v, scale)
                by_head[:, :, s.rest] = _tokens(rest, s)
                lses.append(lse)
        ctx.save_for_backward(query, keys, values, out, *lses)
        ctx.segments, ctx.scale = segments, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        query, keys, values, out, *lses = ctx.saved_tensors
        grad, out, scale = grad.transpose(1, 2), out.transpose(1, 2), ctx.scale
        dq, dk, dv = (torch.empty_like(x) for x in (query, keys, values))
        left = iter(lses)
        for s in ctx.segments:
            c = s.whole if s.num_rows <= 1 else s.prompt
            saved = (query[:, :, c], keys[:, :, c], values[:, :, c], out[:, :, c], next(left))
            dq[:, :, c], dk[:, :, c], dv[:, :, c] = CausalFlash.backward(
                grad[:, :, c], saved, scale
            )
            if s.num_rows > 1:
                prefix = (keys[:, :, s.prompt], values[:, :, s.prompt])
                rows = [_rows(x[:, :, s.rest], s) for x in (query, keys, values, out)]
                q, far_k, far_v, k, v = SharedFlash.backward(
                    _row_grads(grad[:, :, s.rest], s), (*rows, next(left)), prefix, scale
                )
                dk[:, :, s.prompt] += far_k
                dv[:, :, s.prompt] += far_v
                for whole, part in ((dq, q), (dk, k), (dv, v)):
                    whole[:, :, s.rest] = _tokens(part, s)
        return dq, dk, dv, None, None


def _plain(query: Tensor, keys: Tensor, values: Tensor, segments, scale: float) -> Tensor:
    """All segments' attention in plain operations, [1, H, L, D] -> [1, L, H, D]."""
    parts = []
    for s in segments:
        causal = s.whole if s.num_rows <= 1 else s.prompt
        q, k, v = (x[:, :, causal] for x in (query, keys, values))
        parts.append(plain_causal(q, k, v, scale))
        if s.num_rows > 1:
            prefix = (keys[:, :, s.prompt], values[:, :, s.prompt])
            q, k, v = (_rows(x[:, :, s.rest], s) for x in (query, keys, values))
            parts.append(_tokens(plain_shared(q, prefix, k, v, scale), s))
    return torch.cat(parts, dim=2).transpose(1, 2)
