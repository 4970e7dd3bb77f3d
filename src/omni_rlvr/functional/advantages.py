"""Advantages of completions: a reward minus a baseline, divided by a spread.

A reward that is equal to its baseline in exact numbers gets an advantage of exactly zero, although
a mean is rounded. ``FLOOR`` is added to every spread before dividing, so that a tiny spread cannot
make an advantage huge. A reward of NaN (no term could score the row) is left out of every mean and
spread, and its advantage is 0. All is computed in float64, in which the squares of the largest
float32 rewards do not overflow.

| estimator | baseline of row i | its own scale |
|---|---|---|
| grpo | mean of the group | group |
| rloo | mean of the other rows of the group | none |
| reinforce_plus_plus | mean of the batch | batch |
| reinforce_plus_plus_baseline | mean of the group | batch |
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOOR = 1e-4
"""Added to every spread, as in TRL."""
OWN_SCALE = {
    "grpo": "group",
    "rloo": "none",
    "reinforce_plus_plus": "batch",
    "reinforce_plus_plus_baseline": "batch",
}
"""Estimator -> the scale that its paper divides by."""
SCALES = ("group", "batch", "none")


def compute_advantages(
    rewards: Tensor, *, num_generations: int, estimator: str, scale_rewards: str | None
) -> Tensor:
    """Compute the advantages of a batch of rollouts.

    A_i = (r_i - b_i) / (spread + 1e-4), std with ddof 1 over scored rows; not divided by anything
    for scale "none".

    Args:
        rewards: [N] float32, row ``b*G + g``; NaN if no term scored it.
        num_generations: G >= 2, divides N.
        estimator: the baseline, one of ``OWN_SCALE``.
        scale_rewards: "group" divides by the group's std, "batch" by the std of the whole batch's
            rewards (for reinforce_plus_plus_baseline: of its r_i - b_i), "none" by nothing; None
            takes the estimator's own.

    Returns:
        [N] float32.

    Raises:
        ValueError: unknown estimator or scale, N is not a multiple of G, or "group" with a baseline
            that is not the group's.

    Reference:
        GRPO, DeepSeekMath sec. 4.1.2, arXiv 2402.03300; no scaling: Dr. GRPO, arXiv 2503.20783;
        batch: "Tricks or Traps", arXiv 2508.08221; RLOO, arXiv 2402.14740; REINFORCE++ and its
        baseline variant, arXiv 2501.03262.
    """
    if estimator not in OWN_SCALE:
        raise ValueError(f"estimator={estimator!r} is none of {', '.join(OWN_SCALE)}")
    scale = OWN_SCALE[estimator] if scale_rewards is None else scale_rewards
    if scale not in SCALES:
        raise ValueError(f"scale_rewards={scale!r} is none of {', '.join(SCALES)}")
    if len(rewards) % num_generations:
        raise ValueError(f"{len(rewards)} rewards do not make groups of {num_generations}")
    whole_batch = estimator == "reinforce_plus_plus"
    if whole_batch and scale == "group":
        raise ValueError("scale_rewards='group' has no meaning for a baseline of the whole batch")
    groups = rewards.double().view(-1, rewards.numel() if whole_batch else num_generations)
    centred = _leave_one_out(groups) if estimator == "rloo" else _centre(groups)
    if scale == "group":
        centred = centred / (_std(groups) + FLOOR)
    elif scale == "batch":
        spread_of = centred if estimator == "reinforce_plus_plus_baseline" else groups
        scored = torch.where(groups.isnan(), groups, spread_of)
        centred = centred / (_std(scored.view(1, -1)) + FLOOR)
    return torch.where(groups.isnan(), 0.0, centred).float().view(-1)


def penalised(
    rewards: Tensor, penalty: Tensor, precision: Tensor, *, num_generations: int
) -> Tensor:
    """Subtract a penalty from rewards, but let no spread arise from its rounding error.

    If all rewards of a group are equal and their penalties are equal within their precision, every
    row gets the mean penalty and the group stays tied: a spread of rounding errors would otherwise
    be divided by itself and become an advantage. If the penalties differ by more, they rank the
    group, and its advantages are of the usual size.

    Args:
        rewards: [N] float32, row ``b*G + g``; NaN if no term scored it.
        penalty: [N] float32.
        precision: [N], the largest rounding error of each penalty.
        num_generations: G; N for a baseline of the whole batch.

    Returns:
        [N] float64.
    """
    groups, off, error = (
        values.double().view(-1, num_generations) for values in (rewards, penalty, precision)
    )
    low, high = off - error, off + error
    tied = zero_spread(groups) & (low.amax(dim=1) <= high.amin(dim=1))
    mean = off.mean(dim=1, keepdim=True)
    return (groups - torch.where(tied.unsqueeze(1), mean, off)).view(-1)


def gdpo_advantages(terms: Tensor, weights: Tensor, *, num_generations: int) -> Tensor:
    """Compute GDPO's advantages: every reward term is normalised in its group, then summed.

    A^k_i = (r^k_i - mean_g(r^k)) / (std_g(r^k) + 1e-4)
    A_i = (sum_k w_k A^k_i - mean) / (std + 1e-4), mean and std over the batch

    A sum of rewards makes the scores (1, 0) and (0, 1) equal; here they stay distinct, and a term
    whose scores differ little within a group counts as much as any other.

    Args:
        terms: [N, K] float32 scores, row ``b*G + g``; NaN where a term gave no score.
        weights: [K]; a term of weight 0 is not read.
        num_generations: G >= 2, divides N.

    Returns:
        [N] float32; exactly 0 in a group where no weighted term has any spread, and in a row that
        no weighted term scored.

    Reference:
        GDPO, arXiv 2601.05242; TRL's ``multi_objective_aggregation="normalize_then_sum"``.
    """
    terms, weights = terms[:, weights != 0].double(), weights[weights != 0].double()
    if terms.shape[1] == 0:
        return torch.zeros(len(terms))
    groups = terms.T.reshape(-1, num_generations)  # [K * B, G]
    normalised = (_centre(groups) / (_std(groups) + FLOOR)).view(len(weights), -1)
    summed = (normalised * weights.unsqueeze(1)).nansum(dim=0)
    scored = ~terms.isnan().all(dim=1)
    if not scored.any():
        return torch.zeros(len(terms))
    flat = zero_spread(groups).view(len(weights), -1).all(dim=0)  # [B]
    mean, std = summed[scored].mean(), _std(summed[scored].unsqueeze(0))
    scaled = ((summed - mean) / (std + FLOOR)).view(-1, num_generations)
    scaled = torch.where(flat.unsqueeze(1), torch.zeros_like(scaled), scaled).view(-1)
    return torch.where(scored, scaled, torch.zeros_like(scaled)).float()


def zero_spread(groups: Tensor) -> Tensor:
    """Find the groups whose rewards, NaN left out, are all equal.

    Args:
        groups: [B, G] rewards, NaN if no term scored it.

    Returns:
        [B] bool; False where a reward is infinite, since nothing can be compared with it.
    """
    scored = ~groups.isnan()
    low = groups.where(scored, torch.inf).amin(dim=1)
    high = groups.where(scored, -torch.inf).amax(dim=1)
    return (low >= high) & ~groups.isinf().any(dim=1)


def _centre(groups: Tensor) -> Tensor:
    """Subtract each group's mean of scored rows; NaN stays NaN, a group without spread gets 0."""
    count = (~groups.isnan()).sum(dim=1, keepdim=True)
    # n r - sum, which is exact for float32 rewards, so that a reward equal to the mean gets 0
    centred = (count * groups - groups.nansum(dim=1, keepdim=True)) / count
    flat = zero_spread(groups).unsqueeze(1) & ~groups.isnan()
    return torch.where(flat, torch.zeros_like(groups), centred)


def _leave_one_out(groups: Tensor) -> Tensor:
    """Subtract from each row the mean of the other scored rows of its group.

    r_i - (S - r_i) / (n - 1) = n / (n - 1) (r_i - S / n); the only scored row of a group gets 0.
    """
    count = (~groups.isnan()).sum(dim=1, keepdim=True)
    return _centre(groups) * count / (count - 1).clamp(min=1)


def _std(groups: Tensor) -> Tensor:
    """Compute each group's sample std (ddof 1) of scored rows, [B, 1]; 0 for fewer than two."""
    count = (~groups.isnan()).sum(dim=1, keepdim=True)
    variance = (_centre(groups) ** 2).nansum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    return variance.sqrt()
