"""Attention over a shared prefix, computed in two parts and merged; used for packed rows.

A completion's token attends to its prompt and to its own completion. The two parts are computed
separately, each with the logarithm of its softmax's denominator (lse), and merged:

    lse = log(exp lse_1 + exp lse_2);  out = sum_i exp(lse_i - lse) out_i

So one product computes the scores of all completions of a prompt over its keys, which are never
copied. The backward pass of a part, given the merged output and lse, is exact for that part. On a
CPU the parts run in PyTorch's flash kernel, which keeps no score matrix; on other devices, and if
this torch lacks the kernel, in plain operations.

Reference: Hydragen, arXiv 2402.05099; bifurcated attention, arXiv 2403.08845; FlashAttention,
arXiv 2205.14135.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omni_rlvr.models.prefix.private_operators import operators


def has_kernel(device: torch.device) -> bool:
    """Tell whether the parts run in the flash kernel on a device."""
    return device.type == "cpu" and operators().flash is not None


def flash(query: Tensor, keys: Tensor, values: Tensor, scale: float, *, causal: bool):
    """Compute attention with the CPU's kernel: output [b, H, L, D] and lse [b, H, L]."""
    kernel = operators().flash
    assert kernel is not None
    return kernel(query, keys, values, 0.0, causal, scale=scale)


def flash_backward(*tensors: Tensor, scale: float, causal: bool):
    """Compute the gradients of query, keys and values in the CPU's kernel.

    Args:
        tensors: The output's gradient, then query, keys, values, output and lse.
        scale: The factor of the scores, q k^T.
        causal: Whether a query attends only to keys up to its own.
    """
    kernel = operators().flash_backward
    assert kernel is not None
    return kernel(*tensors, 0.0, causal, scale=scale)


def group_heads(query: Tensor, num_kv_heads: int) -> Tensor:
    """Make each key head a batch entry: [b, H, L, D] -> [b * kvH, H / kvH, L, D].

    For one prompt the result is a view.
    """
    return query.unflatten(1, (num_kv_heads, -1)).flatten(0, 1)


def share_heads(keys: Tensor, num_heads: int) -> Tensor:
    """Expand keys to match ``group_heads``: [b, kvH, L, D] -> [b * kvH, H / kvH, L, D], a view."""
    repeats = num_heads // keys.shape[1]
    return keys.flatten(0, 1).unsqueeze(1).expand(-1, repeats, -1, -1)


def ungroup_heads(grouped: Tensor, num_kv_heads: int) -> Tensor:
    """Undo ``group_heads``; also for a log-sum-exp, which has no last axis D."""
    return grouped.unflatten(0, (-1, num_kv_heads)).flatten(1, 2)


def fold_rows(query: Tensor, num_prompts: int, num_kv_heads: int) -> Tensor:
    """Fold a prompt's n rows, and the r query heads of a key head, into the query axis.

    [b * n, H, T, D] -> [b, kvH, r * n * T, D]. One product then computes the scores of all queries
    of a prompt's rows.
    """
    _, _, t, d = query.shape
    folded = query.view(num_prompts, -1, num_kv_heads, query.shape[1] // num_kv_heads, t, d)
    return folded.permute(0, 2, 3, 1, 4, 5).reshape(num_prompts, num_kv_heads, -1, d)


def unfold_rows(folded: Tensor, like: Tensor) -> Tensor:
    """Undo ``fold_rows``; also for a log-sum-exp, which has no last axis D."""
    n, heads, t, _ = like.shape
    b, kv_heads, *_ = folded.shape
    out = folded.reshape(b, kv_heads, heads // kv_heads, n // b, t, *folded.shape[3:])
    out = out.permute(0, 3, 1, 2, 4, *range(5, out.ndim))
    return out.reshape(n, heads, t, *folded.shape[3:])


def repeat_heads(keys: Tensor, num_heads: int) -> Tensor:
    """Repeat each key head for its query heads: [n, kvH, T, D] -> [n, H, T, D]."""
    return keys.repeat_interleave(num_heads // keys.shape[1], dim=1)


def sum_heads(gradient: Tensor, num_kv_heads: int) -> Tensor:
    """Sum the gradients of the copies that ``repeat_heads`` makes: the backward of it."""
    return gradient.unflatten(1, (num_kv_heads, -1)).sum(dim=2)


def merge(parts: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Merge two parts (output [..., D], lse [...]) of one softmax."""
    (out, lse), (other_out, other_lse) = parts, others
    total = torch.logaddexp(lse, other_lse)
    weight = (lse - total).exp().unsqueeze(-1).to(out.dtype)
    other_weight = (other_lse - total).exp().unsqueeze(-1).to(out.dtype)
    return out * weight + other_out * other_weight, total


def prompt_flash(query: Tensor, keys: Tensor, values: Tensor, scale: float, *, causal: bool):
    """Compute attention of b prompts' queries over their own keys, in the flash kernel.

    [b, H, L, D] over [b, kvH, P, D] -> output [b, H, L, D], lse [b, H, L].
    """
    heads, kv_heads = query.shape[1], keys.shape[1]
    out, lse = flash(
        group_heads(query, kv_heads),
        share_heads(keys, heads),
        share_heads(values, heads),
        scale,
        causal=causal,
    )
    return ungroup_heads(out, kv_heads), ungroup_heads(lse, kv_heads)


def prompt_flash_backward(
    grad: Tensor, query, keys, values, out, lse, scale: float, *, causal: bool
):
    """Compute the gradients of ``prompt_flash`` for query, keys and values."""
    heads, kv_heads = query.shape[1], keys.shape[1]
    dq, dk, dv = flash_backward(
        group_heads(grad, kv_heads),
        group_heads(query, kv_heads),
        share_heads(keys, heads),
        share_heads(values, heads),
        group_heads(out, kv_heads),
        group_heads(lse, kv_heads),
        scale=scale,
        causal=causal,
    )
    return (
        ungroup_heads(dq, kv_heads),
        dk.sum(dim=1).view(keys.shape),
        dv.sum(dim=1).view(values.shape),
    )


def shared_flash(query: Tensor, prefix: tuple[Tensor, Tensor], keys, values, scale: float):
    """Compute attention over the prefixes and over each row itself, in the flash kernel.

    [b * n, H, T, D] over [b, kvH, P, D] and, causally, over [b * n, kvH, T, D] -> merged output
    [b * n, H, T, D] and lse [b * n, H, T].
    """
    heads, kv_heads, b = query.shape[1], keys.shape[1], len(prefix[0])
    far = flash(fold_rows(query, b, kv_heads), *prefix, scale, causal=False)
    near = flash(query, repeat_heads(keys, heads), repeat_heads(values, heads), scale, causal=True)
    return merge(near, (unfold_rows(far[0], query), unfold_rows(far[1], query)))


def shared_flash_backward(grad: Tensor, saved: tuple[Tensor, ...], prefix, scale: float):
    """Compute the gradients of ``shared_flash``: query, prefix keys and values, own ones."""
    query, keys, values, out, lse = saved
    heads, kv_heads, b = query.shape[1], keys.shape[1], len(prefix[0])
    far_q, far_k, far_v = flash_backward(
        fold_rows(grad, b, kv_heads),
        fold_rows(query, b, kv_heads),
        *prefix,
        fold_rows(out, b, kv_heads),
        fold_rows(lse.unsqueeze(-1), b, kv_heads).squeeze(-1),
        scale=scale,
        causal=False,
    )
    dq, dk, dv = flash_backward(
        grad,
        query,
        repeat_heads(keys, heads),
        repeat_heads(values, heads),
        out,
        lse,
        scale=scale,
        causal=True,
    )
    dq = dq + unfold_rows(far_q, query)
    return dq, far_k, far_v, sum_heads(dk, kv_heads), sum_heads(dv, kv_heads)


def plain_prompt(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, *, causal: bool
) -> Tensor:
    """Compute the output of ``prompt_flash`` in differentiable operations, on any device."""
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        repeat_heads(keys, query.shape[1]),
        repeat_heads(values, query.shape[1]),
        is_causal=causal,
        scale=scale,
    )


def score_bytes(dtype: torch.dtype) -> float:
    """Measure what ``plain_shared`` keeps for backward, in bytes for each pair of query and key."""
    n, heads, prefix, own = 2, 2, 256, 128
    query, keys, values, far_keys, far_values = (
        torch.empty(*shape, 1, dtype=dtype, device="meta").requires_grad_()
        for shape in (*[(n, heads, own)] * 3, *[(1, heads, prefix)] * 2)
    )
    kept: dict[int, Tensor] = {}

    def note(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage()._cdata] = saved
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved), torch.enable_grad():
        plain_shared(query, (far_keys, far_values), keys, values, 1.0)
    size = sum(saved.untyped_storage().nbytes() for saved in kept.values())
    return size / (n * heads * own * (prefix + own))


def plain_shared(query: Tensor, prefix: tuple[Tensor, Tensor], keys, values, scale: float):
    """Compute the output of ``shared_flash`` in differentiable operations, which keep scores."""
    kv_heads, length, b = keys.shape[1], query.shape[2], len(prefix[0])
    far = fold_rows(query, b, kv_heads) @ prefix[0].transpose(-1, -2)
    near = query @ repeat_heads(keys, query.shape[1]).transpose(-1, -2)
    later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    near = near.masked_fill(later, float("-inf"))
    scores = torch.cat([unfold_rows(far, query), near], dim=-1) * scale
    # in float32: a sum of many small weights loses digits in bfloat16
    probs = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    far_probs, near_probs = probs.split([prefix[0].shape[2], length], dim=-1)
    from_prefix = unfold_rows(fold_rows(far_probs, b, kv_heads) @ prefix[1], query)
    return from_prefix + near_probs @ repeat_heads(values, query.shape[1])
