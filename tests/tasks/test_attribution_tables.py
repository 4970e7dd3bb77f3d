"""Tables worked by hand from two or three clips; what is averaged, and over which of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from omni_rlvr.tasks.attribute import tables
from omni_rlvr.tasks.attribute.plots import attribution_figure
from omni_rlvr.tasks.attribute.tables import ClipScores

NAMES = ("happy", "sad")


def scores_of(*clips: list[list[float]], labels=("happy", "sad", "happy"), **has) -> ClipScores:
    """Each clip: the probabilities (happy, sad) under none, audio, video, both."""
    logps = torch.tensor(clips).log()
    num = len(clips)
    there = {"has_video": [True] * num, "has_audio": [True] * num, **has}
    return ClipScores([f"c{i}" for i in range(num)], labels[:num], logps=logps, **there)


EVEN = [[0.5, 0.5]] * 4
HEARD = [[0.5, 0.5], [0.8, 0.2], [0.5, 0.5], [0.8, 0.2]]
TOGETHER = [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.1, 0.9]]


def test_a_clip_by_hand():
    row = tables.clip_table(scores_of(HEARD), NAMES, value="log_prob").iloc[0]
    gain = math.log(0.8 / 0.5)
    assert row.v_none == pytest.approx(math.log(0.5))
    assert row.v_audio == row.v_both == pytest.approx(math.log(0.8))
    # 1/2 [(v(A) - v(0)) + (v(AV) - v(V))] = gain; 1/2 [(v(V) - v(0)) + (v(AV) - v(A))] = 0
    assert row.phi_audio == pytest.approx(gain)
    assert row.phi_video == row.interaction == pytest.approx(0.0)
    assert row.predicted == row.predicted_audio == "happy"


def test_probabilities_as_value_by_hand():
    row = tables.clip_table(scores_of(HEARD), NAMES, value="prob").iloc[0]
    assert (row.phi_audio, row.v_both) == (pytest.approx(0.3), pytest.approx(0.8))


def test_gold_and_predicted_are_two_games():
    row = tables.clip_table(scores_of(TOGETHER), NAMES, value="prob").iloc[0]
    assert (row.label, row.predicted) == ("happy", "sad")
    # gold: v = .5 .5 .5 .1; phi = 1/2 [0 + (.1 - .5)] each; interaction .1 - .5 - .5 + .5
    assert row.phi_audio == row.phi_video == pytest.approx(-0.2)
    assert row.interaction == pytest.approx(-0.4)
    assert row.phi_audio_predicted == pytest.approx(0.2)
    assert row.interaction_predicted == pytest.approx(0.4)


def test_only_the_label_list_counts():
    """Values are normalised over the list; what lies outside it is told apart."""
    shrunk = scores_of(HEARD)
    shrunk = ClipScores(shrunk.ids, shrunk.labels, [True], [True], shrunk.logps - 3.0)
    one, other = (tables.clip_table(s, NAMES, value="log_prob") for s in (scores_of(HEARD), shrunk))
    assert other.phi_audio[0] == pytest.approx(one.phi_audio[0])
    table = tables.distribution_table(shrunk, NAMES)
    assert table.subset.tolist() == ["none", "audio", "video", "both"]
    assert table.happy.tolist() == pytest.approx([0.5, 0.8, 0.5, 0.8])
    assert table.outside.tolist() == pytest.approx([1 - math.exp(-3)] * 4)


def test_efficiency_of_every_row():
    logps = torch.randn(50, 4, 2, generator=torch.Generator().manual_seed(0)) * 9
    there = [True] * 50
    scores = ClipScores([str(i) for i in range(50)], ["sad"] * 50, there, there, logps)
    table = tables.clip_table(scores, NAMES, value="log_prob")
    for suffix in ("", "_predicted"):
        gained = table[f"v_both{suffix}"] - table[f"v_none{suffix}"]
        left = table[f"phi_audio{suffix}"] + table[f"phi_video{suffix}"] - gained
        assert left.abs().max() < 1e-6


def test_three_players_keep_the_names_of_two():
    logps = torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(0))
    two = ClipScores(list("abcd"), ["sad"] * 4, [True] * 4, [True] * 4, logps[:, 4:])
    three = ClipScores(list("abcd"), ["sad"] * 4, [True] * 4, [True] * 4, logps)
    small, large = (tables.clip_table(s, NAMES, value="prob") for s in (two, three))
    for column in ("v_none", "v_both", "predicted", "predicted_video"):
        assert large[column].tolist() == small[column].tolist()
    gained = large.v_both - large.v_no_text_none
    total = large.phi_audio + large.phi_video + large.phi_text
    assert (total - gained).abs().max() < 1e-6
    assert "share_text" in tables.summary(large, num_resamples=10)


def test_summary_by_hand():
    table = tables.clip_table(scores_of(HEARD, EVEN, TOGETHER), NAMES, value="prob")
    every = tables.summary(table, num_resamples=300)
    assert every["num_clips"] == every["num_whole"] == 3
    # phi_audio .3, 0, -.2; phi_video 0, 0, -.2
    assert every["phi_audio"]["mean"] == pytest.approx(0.1 / 3)
    assert every["phi_video"]["mean"] == pytest.approx(-0.2 / 3)
    low, high = every["phi_audio"]["ci"]
    assert -0.2001 <= low < 0.1 / 3 < high <= 0.3001
    # .1 / (.1 - .2)
    assert every["share_audio"]["mean"] == pytest.approx(-1.0)
    # labels happy, sad, happy; under both: happy, (even: the first of the list), sad
    assert every["accuracy_both"]["mean"] == pytest.approx(1 / 3)
    classes = tables.by_class(table, NAMES, num_resamples=10)
    assert classes["happy"]["num_whole"] == 2
    assert classes["happy"]["phi_audio"]["mean"] == pytest.approx(0.05)


def test_clips_without_a_modality_or_a_donor_are_counted_and_not_averaged():
    scores = scores_of(HEARD, TOGETHER, TOGETHER, has_audio=[True, False, True])
    scores.logps[2, :3] = torch.nan
    table = tables.clip_table(scores, NAMES, value="prob")
    assert table.predicted.tolist() == ["happy", "sad", "sad"]
    assert table.predicted_audio.isna().tolist() == [False, False, True]
    every = tables.summary(table, num_resamples=10)
    assert (every["num_clips"], every["num_whole"]) == (3, 1)
    assert every["phi_audio"]["mean"] == pytest.approx(0.3)


def test_a_policy_that_gains_nothing_has_no_shares():
    table = tables.clip_table(scores_of(EVEN), NAMES, value="prob")
    assert tables.summary(table, num_resamples=10)["share_audio"] is None


def test_values_for_the_answer_given():
    scores = scores_of(TOGETHER, TOGETHER, TOGETHER, has_video=[True, True, False])
    phi = tables.answer_values(scores, ["sad", None, "sad"], NAMES, value="prob")
    assert phi == [(pytest.approx(0.2), pytest.approx(0.2)), None, None]


def test_swaps_by_hand():
    names = ("happy", "sad", "angry")
    scores = ClipScores(["a", "b"], ["happy", "sad"], [True] * 2, [True] * 2, torch.zeros(2, 4, 3))
    logps = torch.tensor([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]]).log()
    table = tables.swap_table(scores, logps, [(0, 1), (1, 0), (0, 1)], names)
    assert table.follows.tolist() == ["video", "audio", "neither"]
    assert table.label_video.tolist() == ["happy", "sad", "happy"]
    assert table.sound_of.tolist() == ["b", "a", "b"]
    assert table.p_label_audio.tolist() == pytest.approx([0.2, 0.6, 0.1])
    shares = tables.swap_summary(table, num_resamples=50)
    assert [shares[k]["mean"] for k in ("video", "audio", "neither")] == [pytest.approx(1 / 3)] * 3
    empty = tables.swap_table(scores, torch.zeros(0, 3), [], names)
    assert tables.swap_summary(empty, num_resamples=50) == {"num_swaps": 0}


@pytest.mark.slow  # a figure is drawn
@pytest.mark.parametrize("swapped", [True, False])
def test_the_picture_is_drawn_with_names_as_they_are(tmp_path: Path, swapped: bool):
    names = ("<b>happy</b>", "$sad$")
    scores = scores_of(HEARD, EVEN, TOGETHER, labels=(names[0], names[1], names[0]))
    table = tables.clip_table(scores, names, value="prob")
    share = {"mean": 0.5, "ci": [0.4, 0.6]}
    report = {
        "all": tables.summary(table, num_resamples=20),
        "by_class": tables.by_class(table, names, num_resamples=20),
        "swap": {"num_swaps": 2, **dict.fromkeys(("video", "audio", "neither"), share)},
    }
    report["swap"] = report["swap"] if swapped else None
    figure = attribution_figure(table, report, "$t$ <i>", tmp_path / "a.png", unit="nats")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert len(figure.axes) == 3 if swapped else 2
    texts = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert texts == ["all\n(3)", "<b>happy</b>\n(2)", "$sad$\n(1)"]
