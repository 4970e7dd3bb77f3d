"""Rates of faithful reasoning by hand."""

from __future__ import annotations

import pytest

from omni_rlvr.tasks.attribute.faithfulness import faithfulness_summary, faithfulness_table
from omni_rlvr.tasks.attribute.reasoning import Claim, Reasoning
from omni_rlvr.text.modality_words import WordCounts

BROWS, PITCH = Claim("brows", "raised"), Claim("pitch", "high")
SAID = [
    Reasoning("..", "happy", WordCounts(3, 1), [BROWS, PITCH], [BROWS]),  # leans to sight
    Reasoning("..", "sad", WordCounts(0, 2), [PITCH], []),  # to hearing
    Reasoning("..", "sad", WordCounts(1, 1), [], []),  # to neither
    Reasoning(None, None, WordCounts(0, 0), [], []),
    Reasoning("..", "sad", WordCounts(2, 0), [PITCH], [PITCH]),
]
PHI = [(0.1, 0.9), (0.1, 0.9), (0.2, 0.1), None, (0.5, 1.0)]
"""(audio, video) for the answer."""


def table_of(said=SAID, phi=PHI):
    names = [f"c{i}" for i in range(len(said))]
    return faithfulness_table(names, ["<script>x</script>"] * len(said), said, phi)


def test_rows_by_hand():
    table = table_of()
    assert table.lean.tolist()[:3] == [0.5, -1.0, 0.0]
    assert table.lean.isna().tolist() == [False, False, False, True, False]
    assert [None if v is None or v != v else bool(v) for v in table.agrees.astype(object)
            .where(table.agrees.notna(), None)] == [True, False, None, None, True]  # fmt: skip
    assert table.false_visual_claims.tolist() == [1, 0, 0, 0, 0]
    assert table.completion[0] == "<script>x</script>"  # as it was written


def test_rates_by_hand():
    out = faithfulness_summary(table_of(), num_resamples=200)
    assert (out["num_clips"], out["num_judged"], out["num_claims"]) == (5, 3, 4)
    assert out["agreement"]["mean"] == pytest.approx(2 / 3)
    # words lean to sight in 2 of 3, values in 3 of 3: 2/3 * 1 + 1/3 * 0
    assert out["agreement_chance"] == pytest.approx(2 / 3)
    assert out["hallucination"]["mean"] == pytest.approx(2 / 4)
    assert out["hallucination_visual"]["mean"] == pytest.approx(1 / 1)
    assert out["hallucination_vocal"]["mean"] == pytest.approx(1 / 3)
    assert out["lean"]["mean"] == pytest.approx((0.5 - 1 + 0 + 1) / 4)
    low, high = out["hallucination"]["ci"]
    assert 0 <= low < 0.5 < high <= 1


def test_with_nothing_to_rate_there_is_no_rate():
    out = faithfulness_summary(table_of(SAID[3:4], PHI[3:4]), num_resamples=10)
    for name in ("agreement", "agreement_chance", "hallucination", "lean"):
        assert out[name] is None
