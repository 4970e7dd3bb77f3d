"""Keys and values during decoding: prefixes are stored once a prompt, suffixes once a row.

The rows of a prompt have ``group`` adjacent places in the tensors, so that one product computes
their scores over the prompt's keys. When rows leave, prompts may have different numbers of rows; a
prompt with fewer fills its last places with copies, whose results are not used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Keys and values of n rows of B prompts, for attention with one query a row."""

    def __init__(self, mask: Tensor, num_generations: int, size: int):
        """Plan for N = B*G rows of at most ``size`` tokens; ``mask`` is the prompts' [B, P]."""
        self.mask, self.size, self.group = mask, size, num_generations
        self.owners = torch.arange(len(mask), device=mask.device).repeat_interleave(self.group)
        """[n]: the index of each row's prompt among those that are stored."""
        self.rows = torch.arange(len(self.owners), device=mask.device)
        """[n]: the number of each present row among the N."""
        self.place_of_row: Tensor | None = None
        """[n]: the place of each row; None while all prompts have equally many rows, so that row i
        is at place i."""
        self.row_of_place: Tensor | None = None
        """[B*group]: the row at each place."""
        self.padding: Tensor | None = None
        """[B, 1, 1, P], -inf at left padding, added to scores; None without padding."""
        self.prefixes: list[tuple[Tensor, Tensor]] = []
        """For each layer keys [B*kvH, P, D] and values."""
        self.suffixes: list[Tensor] = []
        """For each layer [2, B, kvH, group, size, D], keys and then values."""
        self.used = 0
        """Number of tokens in each suffix so far."""

    def fill(self, prefixes: dict[int, tuple[Tensor, Tensor]], starts: Sequence[int]) -> None:
        """Store each layer's keys and values of the prompts.

        Args:
            prefixes: Layer -> keys and values, [1, kvH, S, D] each, without padding; emptied to
                free memory.
            starts: The index in S of each prompt's first token.
        """
        mask = self.mask.bool()
        # [B * P]; left padding repeats a token, whose scores get -inf
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        places = (places + torch.tensor(starts, device=mask.device).unsqueeze(1)).flatten()
        for layer in range(len(prefixes)):
            keys, values = prefixes.pop(layer)
            spread = [part[0].index_select(1, places) for part in (keys, values)]
            each = [part.unflatten(1, mask.shape).transpose(0, 1).flatten(0, 1) for part in spread]
            self.prefixes.append((each[0], each[1]))
            shape = (2, len(mask), keys.shape[1], self.group, self.size, keys.shape[3])
            # allocated for the whole rollout: appending would copy everything at every step
            self.suffixes.append(values.new_empty(shape))
        if not bool(mask.all()):
            zeros = torch.zeros(mask.shape, dtype=values.dtype, device=mask.device)
            self.padding = zeros.masked_fill(~mask, float("-inf"))[:, None, None]

    def attend(
        self, layer: int, query: Tensor, keys_values: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Store a step's keys and values, and compute attention with one query a row.

        Args:
            layer: The index of the layer.
            query: [n, kvH, r, D], scaled; r query heads share a key head.
            keys_values: [n, 2, kvH, D].

        Returns:
            Output [n, kvH * r * D], and the scores and probabilities for ``log_sum_exp``.
        """
        if self.row_of_place is not None:  # copies fill the places of prompts with fewer rows
            query, keys_values = query[self.row_of_place], keys_values[self.row_of_place]
        store, (far_keys, far_values) = self.suffixes[layer], self.prefixes[layer]
        num_prompts, kv_heads, group, _, width = store.shape[1:]
        new = keys_values.view(num_prompts, group, 2, kv_heads, width)
        store.select(4, self.used).copy_(new.permute(2, 0, 3, 1, 4))
        near_keys, near_values = store.narrow(4, 0, self.used + 1).flatten(1, 3).unbind(0)
        # queries by prompt, [B*kvH, group*r, D], and by row, [B*kvH*group, r, D]
        query = query.view(num_prompts, group, kv_heads, -1, width).transpose(1, 2)
        together = query.reshape(num_prompts * kv_heads, -1, width)
        apart = together.view(num_prompts * kv_heads * group, -1, width)
        far = torch.bmm(together, far_keys.transpose(1, 2))
        if self.padding is not None:
            far.view(num_prompts, kv_heads, -1, far.shape[2]).add_(self.padding)
        near = torch.bmm(apart, near_keys.transpose(1, 2))
        scores = torch.cat([far, near.view(*far.shape[:2], -1)], dim=2)
        probs = scores.softmax(dim=2)  # over prompt and completion together: nothing to merge
        out = torch.bmm(probs.narrow(2, 0, far.shape[2]), far_values).view(apart.shape)
        near = probs.narrow(2, far.shape[2], near.shape[2]).view(near.shape)
        out = torch.baddbmm(out, near, near_values)
        out = out.view(num_prompts, kv_heads, group, -1).transpose(1, 2)
        return self._to_rows(out.reshape(num_prompts * group, -1)), (scores, probs)

    def log_sum_exp(self, scores: Sequence[Tensor], probs: Sequence[Tensor]) -> Tensor:
        """Compute the logarithms of layers' softmax denominators: [layers, n, kvH * r]."""
        # from the largest score s and its probability p = exp(s - lse): lse = s - log p
        top = torch.stack([layer.amax(dim=2) for layer in scores])
        lse = top - torch.stack([layer.amax(dim=2) for layer in probs]).log()
        num_prompts, kv_heads = self.suffixes[0].shape[1:3]
        lse = lse.view(len(scores), num_prompts, kv_heads, self.group, -1).permute(1, 3, 0, 2, 4)
        lse = lse.reshape(num_prompts * self.group, len(scores), -1)
        return self._to_rows(lse).transpose(0, 1)

    def _to_rows(self, places: Tensor) -> Tensor:
        """Select the value at each row's place: [B*group, ..] -> [n, ..]."""
        return places if self.place_of_row is None else places[self.place_of_row]

    def keep(self, rows: Tensor) -> None:
        """Continue with some of the present rows, [m] ascending; drop prompts without rows."""
        places = rows if self.place_of_row is None else self.place_of_row[rows]
        prompts, owners, counts = self.owners[rows].unique(return_inverse=True, return_counts=True)
        if len(prompts) < len(self.mask):
            heads = torch.arange(len(self.prefixes[0][0]), device=rows.device)
            heads = heads.view(len(self.mask), -1)[prompts].flatten()
            for layer, (keys, values) in enumerate(self.prefixes):
                self.prefixes[layer] = (keys[heads], values[heads])
            self.padding = None if self.padding is None else self.padding[prompts]
            self.mask = self.mask[prompts]
        self.owners, self.rows = owners, self.rows[rows]
        before, self.group = self.group, int(counts.max())
        first = counts.cumsum(dim=0) - counts
        member = torch.arange(self.group, device=rows.device)
        row_of_place = first.unsqueeze(1) + torch.minimum(member, counts.unsqueeze(1) - 1)
        old = places[row_of_place]
        for layer, suffix in enumerate(self.suffixes):
            # [B, group, 2, kvH, used, D]
            kept = suffix[:, old // before, :, old % before, : self.used]
            kept = kept.permute(2, 0, 3, 1, 4, 5)
            shape = (*kept.shape[:4], self.size, kept.shape[5])
            self.suffixes[layer] = suffix.new_empty(shape)
            self.suffixes[layer].narrow(4, 0, self.used).copy_(kept)
        self.place_of_row = self.row_of_place = None
        if int(counts.min()) < self.group:
            self.row_of_place = row_of_place.flatten()
            member = torch.arange(len(rows), device=rows.device) - first[owners]
            self.place_of_row = owners * self.group + member
