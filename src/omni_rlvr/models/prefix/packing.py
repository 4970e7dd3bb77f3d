"""Pack prompts and their completions into one row without padding: [p1 p3 | c1 c2 .. | p2 | c9 ..].

Linear layers process real tokens only, and each prompt once. Attention runs block by block: causal
within the prompts, and from all completions to their prompt in one product (``attention``). Short
prompts of one length with equally many completions form one block. With one completion for each
prompt this is ordinary packing, which SFT uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_rlvr.models.prefix.attention import Block, attend

SHORT = 256
"""Tokens. Longer prompts are a block of their own: batching them would not be faster."""


class Packed:
    """The layout of one packed row."""

    def __init__(self, prompt_lengths: Sequence[int], row_lengths: Sequence[Sequence[int]]):
        """Choose the place of every token.

        Args:
            prompt_lengths: Number of tokens of each prompt.
            row_lengths: For each prompt, the number of tokens of each of its completions;
                completions without tokens are left out.
        """
        self.starts = [0] * len(prompt_lengths)
        """Index of each prompt's first token."""
        self.row_starts: list[list[int]] = [[] for _ in prompt_lengths]
        """For each prompt, the index of the first token of each of its completions."""
        self.prefixes: dict[int, tuple[Tensor, Tensor]] | None = None
        """Layer -> keys and values: filled by ``attend`` if not None."""
        self.blocks: list[Block] = []
        self.tail_blocks: list[Block] = []
        tail: list[int] = []
        self.length = 0
        rows = [[n for n in lengths if n] for lengths in row_lengths]
        for members in _groups(prompt_lengths, rows):
            size = prompt_lengths[members[0]]
            stretch = _Stretch(self.length, size, [rows[i] for i in members], len(tail))
            self.blocks.append(stretch.block())
            self.tail_blocks.append(stretch.tail_block())
            for i in members:
                self.starts[i] = self.length
                self.length += size
                tail.append(self.length - 1)
            first = self.length
            for i in members:
                for length in rows[i]:
                    self.row_starts[i].append(self.length)
                    self.length += length
            tail += range(first, self.length)
        self.tail = torch.tensor(tail, dtype=torch.long)
        """[T]: the indices of each prompt's last token and of all completion tokens, which predict
        completion tokens. The last layer needs only keys and values of the others."""

    def attend(
        self,
        layer: int,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        known: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend within the packed row, from all tokens or from ``tail``; see ``Layout``."""
        query, keys = (
            query.to(values.dtype),
            keys.to(values.dtype),
        )  # under autocast their dtypes differ
        if self.prefixes is not None:
            self.prefixes[layer] = (keys, values)
        blocks = self.blocks if query.shape[2] == self.length else self.tail_blocks
        return attend(query, keys, values, blocks, scale, known)


@dataclass(frozen=True)
class _Stretch:
    """Adjacent prompts of one length, followed by their completions."""

    start: int
    size: int
    rows: list[list[int]]
    """For each prompt, the lengths of its completions."""
    first: int
    """Index of its first query among those of the tail."""

    def block(self) -> Block:
        """Make the block with the queries of all tokens.

        A single completion directly follows its prompt, so the two are one causal sequence.
        """
        b, lengths, size = len(self.rows), [n for row in self.rows for n in row], self.size
        if b == 1 and len(lengths) == 1:
            size, lengths = size + lengths[0], []
        prompt, rest = _slices(self.start, b * size, lengths)
        return Block(b, prompt, prompt, True, rest, rest, *_padded(lengths))

    def tail_block(self) -> Block:
        """Make the block with the queries of the prompts' last tokens and the completions."""
        b, lengths = len(self.rows), [n for row in self.rows for n in row]
        prompt, rest = _slices(self.start, b * self.size, lengths)
        asking, rest_asking = _slices(self.first, b, lengths)
        return Block(b, prompt, asking, False, rest, rest_asking, *_padded(lengths))


class Order:
    """The places of the tokens of prompts and completions in one packed row."""

    def __init__(self, sizes: Sequence[int], lengths: Sequence[int], owners: Sequence[int]):
        """Pack B prompts and N completions.

        Args:
            sizes: Number of tokens of each prompt.
            lengths: Number of input tokens of each completion, without its last token.
            owners: The prompt of each completion.
        """
        self.sizes, self.lengths, self.owners = sizes, lengths, owners
        members: list[list[int]] = [[] for _ in sizes]
        for row, owner in enumerate(owners):
            members[owner].append(row)
        self.packed = Packed(sizes, [[lengths[row] for row in group] for group in members])
        """The layout for attention."""
        self.starts, self.length = self.packed.starts, self.packed.length
        self.predicts = torch.zeros(len(lengths), max(lengths, default=0) + 1, dtype=torch.long)
        """[N, T]: the index of the hidden state that predicts token t: that of input t - 1."""
        self.source = torch.zeros(self.length, dtype=torch.long)
        """[S]: for each place, the index of its token among all prompts' tokens followed by all
        completions' input tokens."""
        prompts = torch.arange(sum(sizes)).split(list(sizes))
        inputs = (torch.arange(sum(lengths)) + sum(sizes)).split(list(lengths) or [0])
        for b, start in enumerate(self.starts):
            self.source[start : start + sizes[b]] = prompts[b]
            self.predicts[members[b], 0] = start + sizes[b] - 1
            there = [row for row in members[b] if lengths[row]]
            for row, place in zip(there, self.packed.row_starts[b], strict=True):
                self.source[place : place + lengths[row]] = inputs[row]
                self.predicts[row, 1 : lengths[row] + 1] = place + torch.arange(lengths[row])
        self.in_tail = torch.full((self.length + 1,), len(self.packed.tail))
        """[S + 1]: the index in the tail of each token; beyond its end if it is not in the tail."""
        self.in_tail[self.packed.tail] = torch.arange(len(self.packed.tail))
        ends = torch.tensor([start + n - 1 for start, n in zip(self.starts, sizes, strict=True)])
        self.ends = self.in_tail[ends]
        """[B]: the index in the tail of each prompt's last token."""


def _groups(sizes: Sequence[int], rows: Sequence[Sequence[int]]) -> Iterable[list[int]]:
    """Group prompts into blocks: by length and number of completions, or each alone."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, (size, lengths) in enumerate(zip(sizes, rows, strict=True)):
        alone = size > SHORT or len(lengths) == 1
        groups.setdefault((size, len(lengths), i if alone else -1), []).append(i)
    return groups.values()


def _slices(start: int, size: int, lengths: list[int]) -> tuple[slice, slice]:
    return slice(start, start + size), slice(start + size, start + size + sum(lengths))


def _padded(lengths: list[int]) -> tuple[int, int, Tensor | None, Tensor | None]:
    """Return the number of rows, their width, and ``Block.pad`` and ``Block.unpad``."""
    width = max(lengths, default=0)
    if len(set(lengths)) <= 1:
        return len(lengths), width, None, None
    there = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    unpad = there.flatten().nonzero().squeeze(1)
    # padding repeats token 0; its results are not used
    pad = torch.zeros(len(lengths) * width, dtype=torch.long)
    pad[unpad] = torch.arange(sum(lengths))
    return len(lengths), width, pad, unpad
