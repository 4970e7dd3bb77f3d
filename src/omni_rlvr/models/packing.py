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
    PromptFlash,
    SharedFlash,
    has_kernel,
    plain_prompt,
    plain_shared,
)


@dataclass(frozen=True)
class Segment:
    """One prompt with its completions: stretches of the packed row's keys, and of its queries."""

    prompt: slice
    """Keys of the prompt; of a single completion too, if queries of both are causal."""
    asking: slice
    """The prompt's queries: all of them, or its last token's alone."""
    causal: bool
    """Whether these are all, each for its own token."""
    rest: slice
    """Keys of the completions, one completion after the other."""
    rest_asking: slice
    """Their queries."""
    num_rows: int
    width: int
    """Tokens of the longest completion."""
    pad: Tensor | None
    """[num_rows * width] where in ``rest`` each token of the padded rows stands; None when all
    are equally long."""
    unpad: Tensor | None
    """[tokens of rest] the way back."""


class Packed:
    """The layout of one packed row."""

    def __init__(self, prompt_lengths: Sequence[int], row_lengths: Sequence[Sequence[int]]):
        """Lays tokens out.

        Args:
            prompt_lengths: tokens of each prompt.
            row_lengths: for each prompt, the tokens of each of its completions; 0 is left out.
        """
        self.segments: list[Segment] = []
        self.tail_segments: list[Segment] = []
        self.prefixes: dict[int, tuple[Tensor, Tensor]] | None = None
        tail: list[int] = []
        start = 0
        for size, lengths in zip(prompt_lengths, row_lengths, strict=True):
            lengths = [n for n in lengths if n]
            self.segments.append(_segment(start, size, lengths))
            self.tail_segments.append(_tail_segment(start, size, lengths, len(tail)))
            tail += range(start + size - 1, start + size + sum(lengths))
            start += size + sum(lengths)
        self.length = start
        self.tail = torch.tensor(tail, dtype=torch.long)
        """[T]: each prompt's last token and all completions', which predict completion tokens. The
        hidden states of the others end in the last layer's keys and values."""

    def attend(
        self,
        layer: int,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        known: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends within the packed row, from all tokens or from ``tail``; see ``Layout``."""
        query, keys = query.to(values.dtype), keys.to(values.dtype)  # autocast leaves them apart
        if self.prefixes is not None:
            self.prefixes[layer] = (keys, values)
        segments = self.segments if query.shape[2] == self.length else self.tail_segments
        if not has_kernel(query.device):
            return _plain(query, keys, values, segments, scale), None
        if known is None or known[1] is None:
            known = _flash(query.detach(), keys.detach(), values.detach(), segments, scale)
        else:
            shape = (1, query.shape[2], query.shape[1])
            known = (known[0].view(*shape, -1), known[1].view(shape))
        return _Flash.apply(query, keys, values, *known, segments, scale), known[1]


class Order:
    """Where the tokens of prompts and completions stand in one packed row."""

    def __init__(self, sizes: Sequence[int], lengths: Sequence[int], owners: Sequence[int]):
        """Packs B prompts and N completions.

        Args:
            sizes: tokens of each prompt.
            lengths: input tokens of each completion; its last token is none.
            owners: the prompt of each completion.
        """
        self.sizes, self.lengths = sizes, lengths
        self.members: list[list[int]] = [[] for _ in sizes]
        for row, owner in enumerate(owners):
            self.members[owner].append(row)
        self.starts: list[int] = []
        """Of the prompts."""
        self.predicts = torch.zeros(len(lengths), max(lengths, default=0) + 1, dtype=torch.long)
        """[N, T]: which hidden state predicts token t; it is that of input token t - 1."""
        prompts = torch.arange(sum(sizes)).split(list(sizes))
        inputs = (torch.arange(sum(lengths)) + sum(sizes)).split(list(lengths))
        pieces, start = [], 0
        for b, group in enumerate(self.members):
            self.starts.append(start)
            pieces.append(prompts[b])
            start += sizes[b]
            self.predicts[group, 0] = start - 1
            for row in group:
                pieces.append(inputs[row])
                self.predicts[row, 1 : lengths[row] + 1] = start + torch.arange(lengths[row])
                start += lengths[row]
        self.length = start
        self.source = torch.cat(pieces)
        """[S]: which of all prompts' tokens, then all completions' input tokens, stands here."""

        self.packed = Packed(sizes, [[lengths[row] for row in group] for group in self.members])
        """Who attends to whom."""
        self.in_tail = torch.full((start + 1,), len(self.packed.tail))
        """[S + 1]: where in the tail each token stands; beyond its end if nowhere."""
        self.in_tail[self.packed.tail] = torch.arange(len(self.packed.tail))


def _segment(start: int, size: int, lengths: list[int]) -> Segment:
    """All tokens ask; a single completion goes on where its prompt ends."""
    if len(lengths) <= 1:
        size, lengths = size + sum(lengths), []
    prompt, rest = _stretches(start, size, lengths)
    return Segment(prompt, prompt, True, rest, rest, *_padded(lengths))


def _tail_segment(start: int, size: int, lengths: list[int], first: int) -> Segment:
    """The prompt's last token and the completions ask; theirs are the queries from ``first``."""
    prompt, rest = _stretches(start, size, lengths)
    asking, rest_asking = _stretches(first, 1, lengths)
    return Segment(prompt, asking, False, rest, rest_asking, *_padded(lengths))


def _stretches(start: int, size: int, lengths: list[int]) -> tuple[slice, slice]:
    return slice(start, start + size), slice(start + size, start + size + sum(lengths))


def _padded(lengths: list[int]) -> tuple[int, int, Tensor | None, Tensor | None]:
    """Number of rows, their width, and the ways to padded rows and back."""
    width = max(lengths, default=0)
    if len(set(lengths)) <= 1:
        return len(lengths), width, None, None
    there = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    unpad = there.flatten().nonzero().squeeze(1)
    pad = torch.zeros(len(lengths) * width, dtype=torch.long)  # what is padded attends to junk
    pad[unpad] = torch.arange(sum(lengths))
    return len(lengths), width, pad, unpad


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


def _flash(
    query: Tensor, keys: Tensor, values: Tensor, segments: list[Segment], scale: float
) -> tuple[Tensor, Tensor]:
    """All segments' attention in the CPU's kernel: [1, H, L, D] -> [1, L, H, D], lse [1, L, H]."""
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    lse = out.new_empty(out.shape[:-1], dtype=torch.float32)
    by_head, lse_by_head = out.transpose(1, 2), lse.transpose(1, 2).unsqueeze(-1)
    for s in segments:
        prompt = (keys[:, :, s.prompt], values[:, :, s.prompt])
        by_head[:, :, s.asking], lse_by_head[:, :, s.asking, 0] = PromptFlash.forward(
            query[:, :, s.asking], *prompt, scale, causal=s.causal
        )
        if s.num_rows > 0:
            q = _rows(query[:, :, s.rest_asking], s)
            k, v = (_rows(x[:, :, s.rest], s) for x in (keys, values))
            rest, rest_lse = SharedFlash.forward(q, prompt, k, v, scale)
            by_head[:, :, s.rest_asking] = _tokens(rest, s)
            lse_by_head[:, :, s.rest_asking] = _tokens(rest_lse.unsqueeze(-1), s)
    return out, lse


class _Flash(torch.autograd.Function):
    """Gives ``_flash``'s output its gradient: query, keys, values and what it returned."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, out, lse, segments, scale):
        ctx.save_for_backward(query, keys, values, out, lse)
        ctx.segments, ctx.scale = segments, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        query, keys, values, out, lse = ctx.saved_tensors
        grad, out, scale = grad.transpose(1, 2), out.transpose(1, 2), ctx.scale
        lse = lse.transpose(1, 2).unsqueeze(-1)
        dq, dk, dv = (torch.empty_like(x) for x in (query, keys, values))
        for s in ctx.segments:
            asked = [x[:, :, s.asking] for x in (query, out, lse)]
            prompt = (keys[:, :, s.prompt], values[:, :, s.prompt])
            dq[:, :, s.asking], dk[:, :, s.prompt], dv[:, :, s.prompt] = PromptFlash.backward(
                grad[:, :, s.asking],
                asked[0],
                *prompt,
                asked[1],
                asked[2][..., 0],
                scale,
                causal=s.causal,
            )
            if s.num_rows > 0:
                q, o, rows_lse = (_rows(x[:, :, s.rest_asking], s) for x in (query, out, lse))
                k, v = (_rows(x[:, :, s.rest], s) for x in (keys, values))
                saved = (q, k, v, o, rows_lse[..., 0])
                rows_grad = _row_grads(grad[:, :, s.rest_asking], s)
                q, far_k, far_v, k, v = SharedFlash.backward(rows_grad, saved, prompt, scale)
                dk[:, :, s.prompt] += far_k
                dv[:, :, s.prompt] += far_v
                dq[:, :, s.rest_asking] = _tokens(q, s)
                dk[:, :, s.rest], dv[:, :, s.rest] = _tokens(k, s), _tokens(v, s)
        return dq, dk, dv, None, None, None, None


def _plain(query: Tensor, keys: Tensor, values: Tensor, segments, scale: float) -> Tensor:
    """All segments' attention in plain operations, [1, H, L, D] -> [1, L, H, D]."""
    parts = []
    for s in segments:
        prompt = (keys[:, :, s.prompt], values[:, :, s.prompt])
        parts.append(plain_prompt(query[:, :, s.asking], *prompt, scale, causal=s.causal))
        if s.num_rows > 0:
            q = _rows(query[:, :, s.rest_asking], s)
            k, v = (_rows(x[:, :, s.rest], s) for x in (keys, values))
            parts.append(_tokens(plain_shared(q, prompt, k, v, scale), s))
    return torch.cat(parts, dim=2).transpose(1, 2)
