"""Estimators of the KL divergence to a reference policy from sampled tokens.

All three estimate KL(pi || ref) from tokens that pi sampled. In a loss they differ by more than
their variance: the gradient of k1 is zero on average, so k1 belongs in the reward.
"""

from __future__ import annotations

from torch import Tensor

ROUNDING = 3e-6
"""Largest difference, in nats, between float32 log-probs of one token that are computed in two
ways: a few units in the last place of logits of about 20."""


def k1(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Estimate KL(pi || ref) per token with the k1 estimator.

    k1 = log pi - log ref, unbiased, of either sign, of high variance.

    Args:
        logps: [N, T] log pi in nats.
        ref_logps: [N, T] log of the reference in nats.

    Returns:
        [N, T].

    Reference:
        Schulman, "Approximating KL Divergence" (2020).

    Note:
        Its gradient is that of log pi, whose mean over samples of pi is zero: in a loss it only
        adds noise. In a reward it gives the gradient of the KL.
    """
    return logps - ref_logps


def k2(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Estimate KL(pi || ref) per token with the k2 estimator.

    k2 = (log pi - log ref)^2 / 2, never negative, biased; its mean gradient is that of the KL.

    Args:
        logps: [N, T] log pi in nats.
        ref_logps: [N, T] log of the reference in nats.

    Returns:
        [N, T].

    Reference:
        Schulman, "Approximating KL Divergence" (2020).
    """
    return (logps - ref_logps) ** 2 / 2


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Estimate KL(pi || ref) per token with the k3 estimator.

    k3 = ref / pi - log(ref / pi) - 1, never negative, unbiased under samples of pi.

    Args:
        logps: [N, T] log pi in nats.
        ref_logps: [N, T] log of the reference in nats.

    Returns:
        [N, T].

    Reference:
        Schulman, "Approximating KL Divergence" (2020); GRPO, DeepSeekMath eq. 4, arXiv 2402.03300.
    """
    log_ratio = ref_logps - logps
    return log_ratio.expm1() - log_ratio


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
"""Name, as in ``stage.kl_estimator`` -> estimator."""
