"""Scores by hand and against torchmetrics, what must change none, and the bootstrap's promise.

Three classes unless a test says otherwise; -1 is an answer outside the label list.
"""

from __future__ import annotations

import math

import pytest
import torch
from every_case import every_case
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_recall

from omni_rlvr.functional.bootstrap import bootstrap_interval
from omni_rlvr.functional.metrics import (
    OUTSIDE,
    confusion_matrix,
    per_class_recall,
    uar,
    war,
    weighted_f1,
)

TRUTH = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
PREDICTED = torch.tensor([0, 0, 0, 1, 1, OUTSIDE, 0, OUTSIDE])


def draw(num_samples: int, num_classes: int, *, accuracy: float, seed: int):
    """Random truths, each answered rightly with chance ``accuracy``, else with any class."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(num_classes, (num_samples,), generator=generator)
    guess = torch.randint(num_classes, (num_samples,), generator=generator)
    right = torch.rand(num_samples, generator=generator) < accuracy
    return truth, torch.where(right, truth, guess)


def interval(
    truth, predicted, *, statistic=war, num_classes=3, num_resamples=500, confidence=0.95, seed=0
) -> tuple[float, float]:
    matrix = confusion_matrix(truth, predicted, num_classes=num_classes)
    value, low, high = bootstrap_interval(
        torch.eye(matrix.numel()),
        lambda sums: statistic(sums.view(-1, *matrix.shape))[:, None],
        counts=matrix.flatten(),
        num_resamples=num_resamples,
        confidence=confidence,
        seed=seed,
    )
    assert value.item() == statistic(matrix).item()
    return low.item(), high.item()


def test_matrix_by_hand():
    matrix = confusion_matrix(TRUTH, PREDICTED, num_classes=3)
    # Class 0: three right, one called 1. Class 1: one right, one outside. Class 2: one called 0,
    # one outside.
    assert matrix.tolist() == [[3, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 1]]
    assert matrix.dtype == torch.int64


def test_scores_by_hand():
    matrix = confusion_matrix(TRUTH, PREDICTED, num_classes=3)
    # Recalls 3/4, 1/2, 0/2. WAR = (3 + 1 + 0) / 8 = 0.5. UAR = (0.75 + 0.5 + 0) / 3 = 1.25 / 3.
    assert per_class_recall(matrix).tolist() == [0.75, 0.5, 0.0]
    assert war(matrix).item() == 0.5
    assert uar(matrix).item() == pytest.approx(1.25 / 3)


def test_war_is_recall_weighted_by_class_size():
    matrix = confusion_matrix(TRUTH, PREDICTED, num_classes=3)
    # 4/8 * 3/4 + 2/8 * 1/2 + 2/8 * 0 = 0.375 + 0.125 = 0.5
    weights = torch.tensor([4, 2, 2]) / 8
    assert war(matrix).item() == (weights * per_class_recall(matrix)).sum().item() == 0.5


def test_class_absent_from_the_truth_is_left_out_of_uar():
    truth, predicted = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2])
    matrix = confusion_matrix(truth, predicted, num_classes=4)
    recalls = per_class_recall(matrix)
    # Classes 1 and 3 have no gold sample, though 1 was answered once: UAR = (1/2 + 1) / 2 = 0.75.
    assert recalls[[0, 2]].tolist() == [0.5, 1.0]
    assert recalls[[1, 3]].isnan().all()
    assert uar(matrix).item() == 0.75


def test_longer_label_list_changes_no_score():
    small = confusion_matrix(TRUTH, PREDICTED, num_classes=3)
    large = confusion_matrix(TRUTH, PREDICTED, num_classes=11)
    assert war(small) == war(large)
    assert uar(small) == uar(large)


def test_outside_answers_are_wrong_and_stay_in_the_denominator():
    truth = torch.tensor([0, 1, 1, 1])
    # One of four right whatever the wrong ones said: 1/4; recalls 0 and 1/3.
    outside = confusion_matrix(truth, torch.tensor([-1, 1, -1, -1]), num_classes=2)
    listed = confusion_matrix(truth, torch.tensor([1, 1, 0, 0]), num_classes=2)
    for matrix in (outside, listed):
        assert war(matrix).item() == 0.25
        assert per_class_recall(matrix).tolist() == pytest.approx([0.0, 1 / 3])
    assert outside[:, -1].tolist() == [1, 2]


def test_all_right_and_all_wrong():
    assert uar(confusion_matrix(TRUTH, TRUTH, num_classes=3)) == 1.0
    assert war(confusion_matrix(TRUTH, torch.full_like(TRUTH, OUTSIDE), num_classes=3)) == 0.0


def test_no_sample_scores_nan():
    matrix = confusion_matrix(torch.tensor([]).long(), torch.tensor([]).long(), num_classes=3)
    assert matrix.shape == (3, 4)
    assert math.isnan(war(matrix))
    assert math.isnan(uar(matrix))
    assert math.isnan(weighted_f1(matrix))


def test_scores_of_a_stack_are_the_stack_of_scores():
    matrices = [
        confusion_matrix(*draw(50, 3, accuracy=0.5, seed=s), num_classes=3) for s in range(4)
    ]
    for statistic in (war, uar, weighted_f1, per_class_recall):
        stacked = statistic(torch.stack(matrices))
        assert torch.equal(stacked, torch.stack([statistic(matrix) for matrix in matrices]))


def test_weighted_f1_by_hand():
    matrix = confusion_matrix(TRUTH, PREDICTED, num_classes=3)
    # Sizes 4, 2, 2; answers 4 ("0"), 2 ("1"), 0 ("2"); right 3, 1, 0.
    # F1 2*3/(4+4) = 3/4, 2*1/(2+2) = 1/2, 0; weighted (4 * 3/4 + 2 * 1/2 + 0) / 8 = 1/2.
    assert weighted_f1(matrix).item() == 0.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_classes", [2, 7, 11])
def test_weighted_f1_is_sklearns(num_classes: int, seed: int):
    truth, predicted = draw(60, num_classes, accuracy=0.5, seed=seed)
    truth = truth.clamp(max=max(1, num_classes - 2))  # in a longer list a class has no clip
    predicted[::7] = OUTSIDE
    ours = weighted_f1(confusion_matrix(truth, predicted, num_classes=num_classes)).item()
    theirs = f1_score(
        truth.numpy(), predicted.numpy(), labels=range(num_classes), average="weighted",
        zero_division=0,
    )  # fmt: skip
    assert ours == pytest.approx(theirs, abs=1e-12, rel=0)


def test_order_of_samples_changes_nothing():
    truth, predicted = draw(200, 5, accuracy=0.4, seed=1)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    assert torch.equal(
        confusion_matrix(truth, predicted, num_classes=5),
        confusion_matrix(truth[order], predicted[order], num_classes=5),
    )
    assert interval(truth, predicted, num_classes=5) == interval(
        truth[order], predicted[order], num_classes=5
    )


def test_renaming_classes_moves_recalls_along_and_no_average():
    truth, predicted = draw(200, 5, accuracy=0.4, seed=3)
    renamed = torch.tensor([3, 0, 4, 1, 2])
    before = confusion_matrix(truth, predicted, num_classes=5)
    after = confusion_matrix(renamed[truth], renamed[predicted], num_classes=5)
    assert torch.equal(per_class_recall(after)[renamed], per_class_recall(before))
    assert war(after) == war(before)
    assert uar(after).item() == pytest.approx(uar(before).item(), abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 7, 11])
def test_torchmetrics_agrees(num_classes):
    truth, predicted = draw(400, num_classes, accuracy=0.6, seed=num_classes)
    matrix = confusion_matrix(truth, predicted, num_classes=num_classes)
    peer = {"preds": predicted, "target": truth, "num_classes": num_classes}
    assert war(matrix).item() == pytest.approx(multiclass_accuracy(**peer, average="micro").item())
    assert uar(matrix).item() == pytest.approx(multiclass_recall(**peer, average="macro").item())
    recalls = multiclass_recall(**peer, average="none").double()
    torch.testing.assert_close(per_class_recall(matrix), recalls, atol=1e-6, rtol=0)


@every_case(
    ("truth", "predicted", "message"),
    [
        ([0, 3], [0, 0], r"truth must lie in \[0, 3\), got 3"),
        ([0, -1], [0, 0], r"truth must lie in \[0, 3\), got -1"),
        ([0, 0], [0, 3], r"predicted must lie in \[-1, 3\), got 3"),
        ([0, 0], [0, -2], r"predicted must lie in \[-1, 3\), got -2"),
        ([0, 0], [0], r"got \[2\] and \[1\]"),
    ],
)
def test_bad_classes_are_named(truth, predicted, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(torch.tensor(truth), torch.tensor(predicted), num_classes=3)


@pytest.mark.parametrize("statistic", [war, uar])
def test_interval_contains_the_point_value(statistic):
    truth, predicted = draw(300, 3, accuracy=0.6, seed=4)
    lo, hi = interval(truth, predicted, statistic=statistic)
    assert 0.0 <= lo < statistic(confusion_matrix(truth, predicted, num_classes=3)) < hi <= 1.0


def test_interval_shrinks_with_the_root_of_n():
    truth, predicted = draw(100, 3, accuracy=0.6, seed=5)
    lo, hi = interval(truth, predicted, num_resamples=4000)
    narrow_lo, narrow_hi = interval(truth.repeat(16), predicted.repeat(16), num_resamples=4000)
    # The same shares from 16 times the samples: 1/sqrt(16) = a quarter of the width.
    assert (narrow_hi - narrow_lo) / (hi - lo) == pytest.approx(0.25, rel=0.15)


def test_interval_widens_with_confidence():
    truth, predicted = draw(200, 3, accuracy=0.6, seed=6)
    lo, hi = interval(truth, predicted, confidence=0.5)
    wide_lo, wide_hi = interval(truth, predicted, confidence=0.99)
    assert wide_lo < lo < hi < wide_hi


def test_interval_depends_on_the_seed_alone():
    truth, predicted = draw(200, 3, accuracy=0.6, seed=7)
    first = interval(truth, predicted, statistic=uar, seed=1)
    torch.rand(5)  # the global stream moves on; the interval must not care
    assert interval(truth, predicted, statistic=uar, seed=1) == first
    assert interval(truth, predicted, statistic=uar, seed=2) != first


def test_global_stream_is_left_alone():
    before = torch.get_rng_state()
    interval(TRUTH, PREDICTED)
    assert torch.equal(torch.get_rng_state(), before)


def test_interval_of_a_perfect_score_is_a_point():
    assert interval(TRUTH, TRUTH) == (1.0, 1.0)
    assert interval(TRUTH, torch.full_like(TRUTH, OUTSIDE), statistic=uar) == (0.0, 0.0)


def test_interval_equals_resampling_the_samples_one_by_one():
    truth, predicted = draw(80, 3, accuracy=0.5, seed=8)
    picks = torch.randint(80, (4000, 80), generator=torch.Generator().manual_seed(9))
    cells = torch.nn.functional.one_hot(truth * 4 + predicted, 12).view(80, 3, 4)
    matrices = torch.stack([cells[pick].sum(0) for pick in picks])
    for statistic in (war, uar):
        naive = torch.quantile(statistic(matrices), torch.tensor([0.025, 0.975]).double())
        ours = interval(truth, predicted, statistic=statistic, num_resamples=4000)
        # Quantiles of 4000 draws with a standard error of 0.05 scatter by about 0.002.
        assert ours == pytest.approx(naive.tolist(), abs=0.013)


def test_interval_covers_the_true_accuracy_about_95_times_in_100():
    rights = torch.rand(400, 150, generator=torch.Generator().manual_seed(10)) < 0.7
    truth = torch.zeros(150, dtype=torch.int64)
    covered = 0
    for right in rights:
        predicted = torch.where(right, truth, OUTSIDE)
        lo, hi = interval(truth, predicted, num_classes=1, num_resamples=400)
        covered += lo <= 0.7 <= hi
    # Binomial(400, 0.95) has a standard deviation of 1.1 points; the percentile interval runs
    # slightly short.
    assert 0.92 <= covered / 400 <= 0.98


def test_interval_without_samples_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        interval(torch.tensor([]).long(), torch.tensor([]).long())
