"""Which clips are chosen, by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from omni_rlvr.tasks.attribute.selection import CONFLICT, RIGHT, WRONG, choose, measured

LABELS = ["happy", "sad"]


def tables(**clips: tuple[str, float, float, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Each clip: its gold label, and p(happy) of sound, picture and both."""
    rows = [
        {"clip": clip, "subset": subset, "happy": p, "sad": 1 - p}
        for clip, (_, *ps) in clips.items()
        for subset, p in zip(("audio", "video", "both"), ps, strict=True)
    ]
    table = pd.DataFrame(
        {
            "clip": [*clips],
            "label": [label for label, *_ in clips.values()],
            "predicted": ["happy" if p[-1] > 0.5 else "sad" for p in clips.values()],
            "has_audio": True,
            "has_video": True,
        }
    )
    return table, pd.DataFrame(rows)


def test_confidence_and_conflict_by_hand() -> None:
    clips = measured(*tables(a=("happy", 0.9, 0.2, 0.7), b=("sad", 0.5, 0.5, 0.9)), LABELS)
    assert clips["clip"].tolist() == ["a", "b"]
    assert clips.right.tolist() == [True, False]
    assert clips.confidence.tolist() == pytest.approx([0.7, 0.9])
    # half of |0.9 - 0.2| + |0.1 - 0.8|
    assert clips.conflict.tolist() == pytest.approx([0.7, 0.0])


def test_without_a_modality_there_is_no_conflict() -> None:
    table, spread = tables(a=("happy", 0.9, 0.1, 0.7), b=("happy", 0.9, 0.1, 0.7))
    table.loc[0, "has_audio"] = False
    spread.loc[spread["clip"] == "b", LABELS] = math.nan  # nothing was scored
    clips = measured(table, spread, LABELS)
    assert clips.conflict.isna().all()
    assert choose(clips, num_chosen=5) == {"a": [RIGHT]}


def test_each_rule_takes_its_first_clips_and_a_clip_may_be_chosen_twice() -> None:
    clips = measured(
        *tables(
            a=("happy", 0.9, 0.8, 0.7),
            b=("happy", 0.9, 0.8, 0.8),
            c=("sad", 0.9, 0.1, 0.9),
            d=("sad", 0.6, 0.5, 0.6),
            e=("happy", 0.9, 0.8, 0.7),
        ),
        LABELS,
    )
    assert choose(clips, num_chosen=1) == {"b": [RIGHT], "c": [WRONG, CONFLICT]}
    assert choose(clips, num_chosen=2) == {
        "b": [RIGHT],
        "a": [RIGHT, CONFLICT],  # ties go by name: a before e, and before b and d
        "c": [WRONG, CONFLICT],
        "d": [WRONG],
    }
    assert choose(clips, num_chosen=0) == {}
