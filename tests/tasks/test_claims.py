"""Claims are read back from the very wording that makes them, and checked by hand."""

from __future__ import annotations

import numpy as np

from omni_rlvr.data.synthetic import emotions, wording
from omni_rlvr.tasks.attribute.reasoning import Claim, find_claims


def test_every_cue_value_is_read_back():
    rng = np.random.default_rng(0)
    for label in emotions.LABELS:
        values = emotions.draw_cues(label, rng)
        claims = find_claims(wording.reasoning(values, label))
        assert {claim.cue: claim.value for claim in claims} == values
        assert all(claim.is_true(values) for claim in claims)


def test_claims_by_hand():
    claims = find_claims("Raised brows and a gaping mouth, but a trembling tone; sad eyes.")
    assert claims == [
        Claim("brows", "raised"),
        Claim("mouth", "gaping"),
        Claim("tremor", "trembling"),
    ]
    assert [claim.is_visual for claim in claims] == [True, True, False]
    clip = {"brows": "raised", "mouth": "smiling"}  # it has no sound
    assert [claim.is_true(clip) for claim in claims] == [True, False, False]


def test_what_is_said_otherwise_is_no_claim():
    assert find_claims("The brows are raised; praised brows; raised browser") == []
