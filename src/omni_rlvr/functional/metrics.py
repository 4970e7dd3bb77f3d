"""How well answers agree with gold labels: confusion counts, recall, WAR, UAR and weighted F1.

The confusion matrix is the one sufficient statistic: every score is read off it, a stack of
resampled matrices included. An answer outside the label list sits in the last column and is always
wrong. Scores are fractions in [0, 1]; percent, label text and parsing live elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

OUTSIDE = -1
"""The predicted class of an answer that is no word of the label list, or no answer at all."""


def confusion_matrix(truth: Tensor, predicted: Tensor, *, num_classes: int) -> Tensor:
    """Count how often each gold class (row) was answered with each class (column).

    Args:
        truth: [N] int64 gold classes in ``[0, num_classes)``.
        predicted: [N] int64 answered classes in ``[0, num_classes)``, or ``OUTSIDE`` (-1).
        num_classes: C, the length of the label list.

    Returns:
        [C, C + 1] int64 counts that add up to N; the last column holds ``OUTSIDE``.

    Raises:
        ValueError: The shapes differ, or a class lies outside its range.
    """
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise ValueError(
            "truth and predicted must both be [N], "
            f"got {list(truth.shape)} and {list(predicted.shape)}"
        )
    _check_range(truth, "truth", low=0, high=num_classes)
    _check_range(predicted, "predicted", low=OUTSIDE, high=num_classes)
    columns = num_classes + 1
    # Modulo C + 1 sends -1 to the last column and leaves every listed class where it is.
    cells = truth.long() * columns + predicted.long() % columns
    return torch.bincount(cells, minlength=num_classes * columns).view(num_classes, columns)


def per_class_recall(matrix: Tensor) -> Tensor:
    """Divide the right answers of each gold class by the size of that class.

    ``recall_c = m[c, c] / sum_j m[c, j]``

    Args:
        matrix: [..., C, C + 1] counts from ``confusion_matrix``.

    Returns:
        [..., C] float64 fractions; NaN for a class without a gold sample.
    """
    return _hits(matrix) / matrix.double().sum(-1)


def war(matrix: Tensor) -> Tensor:
    """Weighted average recall: recall weighted by class size, which is plain accuracy.

    ``WAR = sum_c (n_c / N) recall_c = sum_c m[c, c] / N``

    Args:
        matrix: [..., C, C + 1] counts from ``confusion_matrix``.

    Returns:
        [...] float64 fraction; NaN for an empty matrix.
    """
    return _hits(matrix).sum(-1) / matrix.double().sum((-2, -1))


def uar(matrix: Tensor) -> Tensor:
    """Unweighted average recall: the plain mean over the classes that have a gold sample.

    ``UAR = mean over {c : n_c > 0} of recall_c``

    Args:
        matrix: [..., C, C + 1] counts from ``confusion_matrix``.

    Returns:
        [...] float64 fraction; NaN for an empty matrix.

    Note:
        As in R1-Omni's script, whose classes are those found in the gold labels. HumanOmni's script
        averages over gold and answered classes together: there each word outside the list adds a
        zero, so its UAR is lower.
    """
    return per_class_recall(matrix).nanmean(-1)


def weighted_f1(matrix: Tensor) -> Tensor:
    """F1 of each class, weighted by class size: the official measure of MELD and MER.

    ``wF1 = sum_c (n_c / N) 2 m[c, c] / (n_c + a_c)``, ``a_c = sum_i m[i, c]`` the answers "c"

    Args:
        matrix: [..., C, C + 1] counts from ``confusion_matrix``.

    Returns:
        [...] float64 fraction; NaN for an empty matrix.

    Note:
        Equal to scikit-learn's ``f1_score(average="weighted", labels=range(C))``: an answer outside
        the label list is a miss of its gold class and a false answer of no class.
    """
    sizes = matrix.double().sum(-1)
    answered = matrix.double().sum(-2)[..., :-1]
    f1 = 2 * _hits(matrix) / (sizes + answered)
    # A class without a clip has weight 0, and without an answer 0 / 0 as well.
    return (sizes * f1.nan_to_num(0.0)).sum(-1) / sizes.sum(-1)


def _hits(matrix: Tensor) -> Tensor:
    """Return the right answers of each class, [..., C] float64: the diagonal of its counts."""
    return matrix.double().diagonal(dim1=-2, dim2=-1)


def _check_range(classes: Tensor, name: str, *, low: int, high: int) -> None:
    """Refuse a class outside ``[low, high)``, naming the first one."""
    bad = classes[(classes < low) | (classes >= high)]
    if bad.numel():
        raise ValueError(f"{name} must lie in [{low}, {high}), got {bad[0].item()}")
