"""Compute attention within a packed row, block by block; ``packing`` defines the layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omni_rlvr.models.prefix.kernels import (
    has_kernel,
    plain_prompt,
    plain_shared,
    prompt_flash,
    prompt_flash_backward,
    shared_flash,
    shared_flash_backward,
)


@dataclass(frozen=True)
class Block:
    """b prompts of one length with n completions each, as slices of a packed row."""

    num_prompts: int
    prompt: slice
    """Keys of the prompts, one prompt after the other. A single completion of a single prompt is
    included if all queries are causal."""
    asking: slice
    """Queries of the prompts: of all their tokens, or of the last token of each."""
    causal: bool
    """Whether ``asking`` has the queries of all tokens, which then attend causally."""
    rest: slice
    """Keys of the completions, one completion after the other."""
    rest_asking: slice
    """Queries of the completions."""
    num_rows: int
    """b * n."""
    width: int
    """Tokens of the longest completion."""
    pad: Tensor | None
    """[num_rows * width] index in ``rest`` of each token of the padded rows; None if all
    completions have one length."""
    unpad: Tensor | None
    """[tokens of rest] the inverse of ``pad``."""


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    blocks: Sequence[Block],
    scale: float,
    known: tuple[Tensor, Tensor | None] | None,
) -> tuple[Tensor, Tensor | None]:
    """Compute attention of all blocks; see ``attention_hook.Layout``.

    Args:
        query: [1, H, L, D].
        keys: [1, kvH, S, D].
        values: [1, kvH, S, D].
        blocks: The blocks, which together have all queries.
        scale: The factor of the scores, q k^T.
        known: Output and log-sum-exp of an earlier pass, [L, H * D] and [L, H].

    Returns:
        Output [1, L, H, D] and log-sum-exp [1, L, H], or None for it without a kernel.
    """
    if not has_kernel(query.device):
        return _plain(query, keys, values, blocks, scale), None
    if known is None or known[1] is None:
        # detached: ``_Flash`` has one backward for all blocks, which uses the merged lse
        known = _flash(query.detach(), keys.detach(), values.detach(), blocks, scale)
    else:
        shape = (1, query.shape[2], query.shape[1])
        known = (known[0].view(*shape, -1), known[1].view(shape))
    return _Flash.apply(query, keys, values, *known, blocks, scale), known[1]


def _flash(
    query: Tensor, keys: Tensor, values: Tensor, blocks: Sequence[Block], scale: float
) -> tuple[Tensor, Tensor]:
    """Compute all blocks' attention with the CPU's flash kernel.

    [1, H, L, D] -> output [1, L, H, D] and lse [1, L, H].
    """
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    lse = out.new_empty(out.shape[:-1], dtype=torch.float32)
    by_head, lse_by_head = out.transpose(1, 2), lse.transpose(1, 2).unsqueeze(-1)
    for b in blocks:
        prompt = (_prompts(keys[:, :, b.prompt], b), _prompts(values[:, :, b.prompt], b))
        asked = _prompts(query[:, :, b.asking], b)
        found, found_lse = prompt_flash(asked, *prompt, scale, causal=b.causal)
        by_head[:, :, b.asking] = _row(found)
        lse_by_head[:, :, b.asking] = _row(found_lse.unsqueeze(-1))
        if b.num_rows > 0:
            q = _rows(query[:, :, b.rest_asking], b)
            k, v = (_rows(x[:, :, b.rest], b) for x in (keys, values))
            rest, rest_lse = shared_flash(q, prompt, k, v, scale)
            by_head[:, :, b.rest_asking] = _tokens(rest, b)
            lse_by_head[:, :, b.rest_asking] = _tokens(rest_lse.unsqueeze(-1), b)
    return out, lse


class _Flash(torch.autograd.Function):
    """Adds a backward to ``_flash``, given its inputs and its results."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor, out, lse, blocks, scale):
        ctx.save_for_backward(query, keys, values, out, lse)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        query, keys, values, out, lse = ctx.saved_tensors
        grad, out, scale = grad.transpose(1, 2), out.transpose(1, 2), ctx.scale
        lse = lse.transpose(1, 2).unsqueeze(-1)
        dq, dk, dv = (torch.empty_like(x) for x in (query, keys, values))
        for b in ctx.blocks:
            prompt = (_prompts(keys[:, :, b.prompt], b), _prompts(values[:, :, b.prompt], b))
            asked = [_prompts(x[:, :, b.asking], b) for x in (grad, query, out, lse)]
            q, far_k, far_v = prompt_flash_backward(
                asked[0], asked[1], *prompt, asked[2], asked[3][..., 0], scale, causal=b.causal
            )
            dq[:, :, b.asking] = _row(q)
            if b.num_rows > 0:
                q, o, rows_lse = (_rows(x[:, :, b.rest_asking], b) for x in (query, out, lse))
                k, v = (_rows(x[:, :, b.rest], b) for x in (keys, values))
                saved = (q, k, v, o, rows_lse[..., 0])
                rows_grad = _row_grads(grad[:, :, b.rest_asking], b)
                q, more_k, more_v, k, v = shared_flash_backward(rows_grad, saved, prompt, scale)
                far_k, far_v = far_k + more_k, far_v + more_v
                dq[:, :, b.rest_asking] = _tokens(q, b)
                dk[:, :, b.rest], dv[:, :, b.rest] = _tokens(k, b), _tokens(v, b)
            dk[:, :, b.prompt], dv[:, :, b.prompt] = _row(far_k), _row(far_v)
        return dq, dk, dv, None, None, None, None


def _plain(
    query: Tensor, keys: Tensor, values: Tensor, blocks: Sequence[Block], scale: float
) -> Tensor:
    """Compute all blocks' attention without a kernel: [1, H, L, D] -> [1, L, H, D]."""
    parts = []
    for b in blocks:
        prompt = (_prompts(keys[:, :, b.prompt], b), _prompts(values[:, :, b.prompt], b))
        asked = _prompts(query[:, :, b.asking], b)
        parts.append(_row(plain_prompt(asked, *prompt, scale, causal=b.causal)))
        if b.num_rows > 0:
            q = _rows(query[:, :, b.rest_asking], b)
            k, v = (_rows(x[:, :, b.rest], b) for x in (keys, values))
            parts.append(_tokens(plain_shared(q, prompt, k, v, scale), b))
    return torch.cat(parts, dim=2).transpose(1, 2)


def _prompts(tokens: Tensor, block: Block) -> Tensor:
    """Split the prompts' [1, H, b * P, D] into [b, H, P, D], a view."""
    return tokens[0].unflatten(1, (block.num_prompts, -1)).transpose(0, 1)


def _row(prompts: Tensor) -> Tensor:
    """Undo ``_prompts``."""
    return prompts.transpose(0, 1).flatten(1, 2).unsqueeze(0)


def _rows(tokens: Tensor, block: Block) -> Tensor:
    """Split the completions' [1, H, tokens, D] into padded rows [n, H, T, D]."""
    tokens = tokens[0]
    if block.pad is not None:
        tokens = tokens.index_select(1, block.pad.to(tokens.device))
    return tokens.unflatten(1, (block.num_rows, block.width)).transpose(0, 1)


def _tokens(rows: Tensor, block: Block) -> Tensor:
    """Undo ``_rows``: [n, H, T, D] -> [1, H, tokens, D]."""
    tokens = rows.transpose(0, 1).flatten(1, 2)
    if block.unpad is not None:
        tokens = tokens.index_select(1, block.unpad.to(tokens.device))
    return tokens.unsqueeze(0)


def _row_grads(grads: Tensor, block: Block) -> Tensor:
    """Split gradients of the output as ``_rows`` does, with zeros at padding."""
    rows = _rows(grads, block)
    if block.unpad is None:
        return rows
    there = torch.zeros(block.num_rows * block.width, dtype=rows.dtype, device=rows.device)
    there[block.unpad.to(rows.device)] = 1
    return rows * there.view(block.num_rows, 1, block.width, 1)
