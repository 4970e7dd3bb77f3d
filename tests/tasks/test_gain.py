"""A gain taken apart: five differences that add up, paired intervals, what is written of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from omni_rlvr.config.tasks import PipelineTask
from omni_rlvr.tasks.evaluate import OUTCOMES, judge, score, with_outcome
from omni_rlvr.tasks.report import plots
from omni_rlvr.tasks.report.baseline import Resolution, resolution
from omni_rlvr.tasks.report.gain import differences, gain_parts
from omni_rlvr.tasks.report.summary import summarise, write_summary
from omni_rlvr.tasks.report.text_tables import PARTS, resolution_text, summary_markdown
from omni_rlvr.types import UserError

LABELS = ["happy", "sad", "neutral"]
SAID = {"unparseable": "<think>", "outside": "<answer>gloomy</answer>"}


def row(clip: int, outcome: str) -> dict:
    """Make the row of a clip whose gold label is happy and that had an outcome."""
    wrong = "<answer>sad</answer>"
    said = {**SAID, "another_label": wrong, "wrong": wrong}.get(outcome, "<answer>happy</answer>")
    made = with_outcome(
        judge(f"{clip}.mp4", "happy", said, LABELS),
        "sad" if outcome in ("won", "wrong") else "happy",
        behind_reasoning=outcome != "unparseable",
    )
    assert made["outcome"] == outcome
    return made


def rows(**counts: int) -> list[dict]:
    outcomes = [name for name, count in counts.items() for _ in range(count)]
    return [row(i, outcome) for i, outcome in enumerate(outcomes)]


def test_a_gain_by_hand() -> None:
    # C = 4 + 1 + 3 + 1 = 9, right answers 9 - 1 - 3 - 1 + 0 = 4
    before = rows(right=4, unparseable=1, outside=3, another_label=1, wrong=1)
    # C = 7 + 0 + 1 + 0 = 8, right answers 8 - 0 - 1 - 0 + 2 = 9
    after = rows(right=7, outside=1, won=2)
    assert gain_parts(before, after) == {
        "gain": 5,
        "num_clips": 10,
        "recognition": -1,
        "unparseable": 1,
        "outside": 2,
        "another_label": 1,
        "won": 2,
    }


@pytest.mark.parametrize("seed", range(20))
def test_the_five_differences_add_up_to_the_gain_exactly(seed: int) -> None:
    draw = random.Random(seed)
    before, after = (
        [row(i, draw.choice(OUTCOMES)) for i in draw.sample(range(37), 37)] for _ in range(2)
    )
    parts = gain_parts(before, after)
    assert sum(parts[name] for name in PARTS) == parts["gain"]
    scores = [
        score(sorted(r, key=lambda one: one["id"]), LABELS, num_resamples=5)
        for r in (before, after)
    ]
    war, chosen = ([one[key] for one in scores] for key in ("war", "chosen_war"))
    assert 100 * parts["gain"] / 37 == pytest.approx(war[1] - war[0], abs=0.011)
    assert 100 * parts["recognition"] / 37 == pytest.approx(chosen[1] - chosen[0], abs=0.011)
    found = differences(before, after)
    assert found["war"]["difference"] == pytest.approx(100 * parts["gain"] / 37, abs=0.006)
    assert found["chosen_war"]["difference"] == pytest.approx(
        100 * parts["recognition"] / 37, abs=0.006
    )


def test_differences_are_of_the_same_clips() -> None:
    before, after = rows(right=20, outside=20), rows(right=40)
    shuffled = random.Random(0).sample(after, 40)
    assert differences(before, after) == differences(before, shuffled)
    found = differences(before, after)
    # On 20 of 40 clips +1 and on no other: mean 50, and the choice is right on both sides.
    assert found["war"]["difference"] == 50
    assert found["chosen_war"] == {"difference": 0, "low": 0, "high": 0}
    assert differences(before, after[:-1])["war"]["difference"] == pytest.approx(
        100 * 19 / 39,
        abs=0.006,  # clip 39 has one answer only
    )


@pytest.fixture
def summary() -> dict:
    answers = {
        "cold_start": {"test": rows(right=12, outside=6, another_label=2, wrong=10)},
        "sft_labels": {"test": rows(right=22, wrong=8)},
        "rlvr": {"test": rows(right=23, outside=1, won=1, wrong=5)},
    }
    models = {
        name: {split: score(found, LABELS, num_resamples=50) for split, found in splits.items()}
        for name, splits in answers.items()
    }
    return summarise(models, {}, {}, {}, answers=answers, gain=["cold_start", "rlvr"])


def test_the_sentence_and_the_tables_say_both_measures(summary: dict) -> None:
    # Of 30 clips 12 and 24 are right: +12 (40.0). Chosen right: 20 and 24, so 4 (13.3) are
    # recognition; outside 6 -> 1 (+16.7), another label 2 -> 0 (+6.7), won 0 -> 1 (+3.3).
    text = summary_markdown(summary)
    for words in (
        "On test, RLVR changes WAR of cold start by +40.0 [",
        "points, and WAR, chosen from the list, by +13.3 [",
        "the latter is recognition, the other +26.7 points are vocabulary (fewer outside the list "
        "+16.7, fewer another label +6.7, right though not chosen +3.3).",
        "after the prompt, where a reply has no answer in tags.",
    ):
        assert words in text
    assert "WAR, chosen from the list [95%]" in text.splitlines()[0]
    assert "| RLVR minus | WAR [95%] | WAR, chosen from the list [95%] |" in text
    assert "| SFT labels, test | +6.7 [" in text  # 24 - 22 of 30
    assert "On test, two rows that differ by less than" in text
    assert "30 clips, one seed: others may differ more)" in text


def test_without_scored_labels_the_gain_stands_alone(summary: dict) -> None:
    bare = [{key: r[key] for key in r if key not in ("chosen", "outcome")} for r in rows(right=3)]
    assert gain_parts(bare, bare) == {"gain": 0, "num_clips": 3}
    assert list(differences(bare, bare)) == ["war"]
    answers = {name: {"test": bare} for name in ("a", "b")}
    models = {name: {"test": score(bare, LABELS, num_resamples=5)} for name in answers}
    made = summarise(models, {}, {}, {}, answers=answers, gain=["a", "b"])
    text = summary_markdown(made)
    assert "On test, b changes WAR of a by +0.0 [+0.0, +0.0] points." in text
    assert "chosen" not in text


def test_the_waterfall_goes_from_one_score_to_the_other(summary: dict, tmp_path: Path) -> None:
    figure = plots.gain_waterfall(summary, "test", tmp_path / "gain.png")
    bars = figure.axes[0].patches
    heights = [bar.get_height() for bar in bars]
    assert heights[:2] == pytest.approx([40, 80], abs=0.01)  # the two models are drawn first
    assert heights[2:] == pytest.approx([400 / 30, 0, 500 / 30, 200 / 30, 100 / 30])
    assert bars[-1].get_y() + bars[-1].get_height() == pytest.approx(80)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["40.0", "+13.3", "+0.0", "+16.7", "+6.7", "+3.3", "80.0"]
    assert (tmp_path / "gain.png").stat().st_size > 10_000


def test_the_files_of_a_summary(summary: dict, tmp_path: Path) -> None:
    answers = summary["models"]
    full = {
        name: {"test": {**found["test"], "recall": {"happy": 50.0, "sad": None, "neutral": None}}}
        for name, found in answers.items()
    }
    files = write_summary(tmp_path, summary, full, {}, LABELS)
    assert "gain_test.png" in [file.name for file in files]


@pytest.mark.parametrize("gain", [["a"], ["a", "a"], ["a", "c"], ["a", "b", "a"]])
def test_a_gain_is_between_two_models_that_are_evaluated(gain: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"task.gain=.*two different models of task.evaluate \(a, b\)"
    ):
        PipelineTask(stages={"s": []}, evaluate={"a": [], "b": []}, splits=["test"], gain=gain)


def test_models_that_miss_clips_are_compared_on_those_that_both_answered() -> None:
    """A clip that one modality cannot be read of must not end a pipeline after its trainings."""
    full, less = rows(right=6, outside=4), rows(right=8, outside=1)
    answers = {"cold_start": {"test": full}, "rlvr": {"test": less}, "other": {"test": []}}
    models = {
        name: {"test": score(found["test"] or full, LABELS, num_resamples=5)}
        for name, found in answers.items()
    }
    summary = summarise(models, {}, {}, {}, answers=answers, gain=["cold_start", "rlvr"])
    assert summary["unshared"] == {"test": 10}
    assert summary["gain"]["parts"]["test"]["num_clips"] == 9
    assert list(summary["differences"]["other"]) == []
    text = summary_markdown(summary)
    assert "Some models lack an answer to clips that others have (10 of test)" in text
    nothing = summarise(
        models, {}, {}, {}, answers={**answers, "rlvr": {"test": []}}, gain=["cold_start", "rlvr"]
    )
    assert nothing["gain"]["parts"] == {}
    summary_markdown(nothing)


def test_rows_of_other_seeds_are_in_no_pair() -> None:
    def seeds(*numbers: int, hits: int) -> dict[int, dict[str, bool]]:
        return {s: {str(i): i + s < hits for i in range(10)} for s in numbers}

    rows = {"a": seeds(0, 1, hits=5), "b": seeds(0, 1, hits=8), "c": seeds(0, hits=9), "d": {}}
    found = resolution(rows)
    assert found is not None
    assert (found.num_clips, found.num_seeds, found.left_out) == (10, 2, 2)
    assert "10 clips, 2 seeds; 2 rows of other seeds or clips, or of lower WAR, are left out" in (
        resolution_text("test", found)
    )
    many = {str(n): seeds(0, hits=n % 10 + 1) for n in range(20)}
    best = resolution(many)
    assert best is not None
    assert best.left_out == 8  # twelve are compared
    assert resolution({"a": rows["a"], "c": rows["c"]}) is None
    assert resolution({"a": rows["a"], "b": rows["a"]}) is None  # no difference, no interval
    assert isinstance(found, Resolution)


def test_a_waterfall_below_zero_and_above_a_hundred_stays_inside(tmp_path: Path) -> None:
    answers = {
        "a": {"test": rows(won=9, wrong=1)},
        "b": {"test": rows(right=10)},
        "c": {"test": rows(outside=5, wrong=5)},
    }
    models = {
        name: {split: score(found, LABELS, num_resamples=5) for split, found in splits.items()}
        for name, splits in answers.items()
    }
    for pair in (["a", "b"], ["b", "c"], ["c", "a"]):
        summary = summarise(models, {}, {}, {}, answers=answers, gain=pair)
        axes = plots.gain_waterfall(summary, "test", tmp_path / "gain.png").axes[0]
        low, high = axes.get_ylim()
        for bar in axes.patches:
            assert low <= bar.get_y() <= bar.get_y() + bar.get_height() <= high
