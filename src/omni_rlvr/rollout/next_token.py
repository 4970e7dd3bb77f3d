"""Draw the next token of every row from its logits.

Sampling inverts the cumulative distribution at one uniform number per row, so that a row's token
does not depend on which other rows are still being decoded. With one generator per prompt it does
not depend on the other prompts either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from omni_rlvr.config.sampling import SamplingConfig

Generators = torch.Generator | Sequence[torch.Generator]
"""One generator for all prompts, or one for each; on the CPU."""


def seed_of(seed: int, what: str) -> int:
    """Hash the run's seed and a purpose to a seed; those of different purposes are independent.

    Args:
        seed: The seed of the run.
        what: Names the purpose of the random numbers: a prompt, a clip, a batch.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed} {what}".encode(), digest_size=4).digest())


def uniforms(generator: Generators, num_rows: int) -> Tensor:
    """Draw one number per row, equally many for every prompt: [num_rows] float64 in [0, 1)."""
    if isinstance(generator, torch.Generator):
        return torch.rand(num_rows, generator=generator, dtype=torch.float64)
    count = num_rows // max(1, len(generator))
    drawn = [torch.rand(count, generator=one, dtype=torch.float64) for one in generator]
    return torch.cat(drawn) if drawn else torch.zeros(0, dtype=torch.float64)


def branch(generator: Generators) -> Generators:
    """Make a new generator for each prompt, seeded by its old one; return a single one as it is.

    A rollout draws until the last row of its batch has ended, so that the number of draws depends
    on the other prompts. Draws from a branch leave the old generator in a state that does not.
    """
    if isinstance(generator, torch.Generator):
        return generator
    seeds = [int(torch.randint(2**31, (1,), generator=one)) for one in generator]
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def generators_of(generator: Generators, prompts: Tensor) -> Generators:
    """Select the generators of some prompts, given by index, [b] int64."""
    if isinstance(generator, torch.Generator):
        return generator
    return [generator[i] for i in prompts.tolist()]


def next_tokens(
    logits: Tensor, uniform: Tensor, *, temperature: float, top_p: float, top_k: int
) -> Tensor:
    """Draw one token per row.

    Args:
        logits: [N, V].
        uniform: [N] float in [0, 1), one random number per row; not read when greedy.
        temperature: divides the logits; 0 takes the most probable token.
        top_p: keeps the smallest set of tokens whose probability reaches it; 1 keeps all.
        top_k: keeps the k most probable tokens; 0 keeps all.

    Returns:
        [N] int64.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if 0 < top_k < logits.shape[-1]:
        floor = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < floor, float("-inf"))
    probs = logits.softmax(dim=-1)
    if top_p < 1:
        probs = _nucleus(probs, top_p)
    # float64, like the uniform numbers: in float32 a number just below 1 would become 1 and select
    # a token after the last one that may be drawn
    cdf = probs.double().cumsum(dim=-1)
    drawn = torch.searchsorted(cdf, uniform.to(cdf.dtype).unsqueeze(1) * cdf[:, -1:], right=True)
    return drawn.squeeze(1).clamp(max=logits.shape[-1] - 1)


def draw(
    logits: Tensor, penalised: Tensor, uniform: Tensor, sampling: SamplingConfig
) -> tuple[Tensor, Tensor]:
    """Draw one token per row, and score it as the update does.

    Args:
        logits: [N, V].
        penalised: [N, V], the logits after the repetition penalty; tokens are drawn from these.
        uniform: [N] float in [0, 1), one random number per row.
        sampling: The temperature, top-p and top-k.

    Returns:
        [N] int64 and [N] float32, in nats.
    """
    temperature = sampling.temperature
    tokens = next_tokens(
        penalised, uniform, temperature=temperature, top_p=sampling.top_p, top_k=sampling.top_k
    )
    return tokens, token_logps(logits, tokens, temperature=temperature)


def token_logps(logits: Tensor, tokens: Tensor, *, temperature: float) -> Tensor:
    """Compute log pi of drawn tokens as the update does, before top-k, top-p and penalty.

    Args:
        logits: [N, V].
        tokens: [N] int64.
        temperature: The one that the tokens were drawn with; greedy ones (0) are scored at 1.

    Returns:
        [N] float32, in nats.
    """
    logits = logits.float()
    if temperature not in (0, 1):
        logits = logits / temperature
    # one fused kernel: half the time of a gather and a logsumexp
    return logits.log_softmax(dim=-1).gather(1, tokens.unsqueeze(1)).squeeze(1)


def are_finite(logits: Tensor) -> Tensor:
    """Tell which rows of logits [N, V] hold finite numbers only: [N] bool.

    One pass is enough: a NaN or an infinite number makes the sum of its row NaN or infinite, and
    finite logits add up to far less than float32's largest number.
    """
    return logits.sum(dim=-1, dtype=torch.float32).isfinite()


def penalise(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that a completion already holds less likely: z / c if z > 0, else z c.

    Args:
        logits: [N, V].
        seen: [N, t] int64, each row's tokens so far; the prompt is not among them.
        penalty: c; 1 changes nothing, above 1 discourages repetition.

    Returns:
        [N, V].

    Reference:
        CTRL, section 4.1, arXiv 1909.05858; the rule for negative logits is transformers'.
    """
    chosen = logits.gather(1, seen)
    return logits.scatter(1, seen, torch.where(chosen > 0, chosen / penalty, chosen * penalty))


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Zero the probabilities [N, V] outside the smallest set of tokens that reaches ``top_p``."""
    ordered, places = probs.sort(dim=-1, descending=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return torch.zeros_like(probs).scatter(-1, places, ordered.masked_fill(outside, 0.0))
