"""Estimators of the KL divergence to a reference policy from sampled tokens."""

from __future__ import annotations

from torch import Tensor


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """Estimates KL(pi || ref) per token with the k3 estimator.

    k3 = exp(ref - pi) - (ref - pi) - 1, never negative, unbiased under samples of pi.

    Args:
        logps: [N, T] log pi in nats.
        ref_logps: [N, T] log of the reference in nats.

    Returns:
        [N, T].

    Reference:
        Schulman, "Approximating KL Divergence" (2020); GRPO, DeepSeekMath eq. 4, arXiv 2402.03300.
    """
    log_ratio = ref_logps - logps
    return log_ratio.exp() - log_ratio - 1
