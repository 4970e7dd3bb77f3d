"""The figures of a study: what they show is read back from the axes, and the files are pictures."""

from __future__ import annotations

import math

import matplotlib.image
import numpy as np
import pytest
import torch

from omni_rlvr.tasks.report.drawing import model_colours
from omni_rlvr.tasks.report.plots import (
    confusion_figure,
    learning_curves,
    recall_bars,
    summary_bars,
)

LABELS = ["happy", "sad", "contemptuous"]
COLOURS = model_colours(["base", "cold_start", "sft_labels", "rlvr", "run", "empty"])
MATRIX = torch.tensor([[6, 2, 0, 2], [0, 0, 0, 0], [1, 0, 3, 0]])


def sft(num_steps: int) -> list[dict]:
    return [{"step": i, "loss": 2.0 / (i + 1), "grad_norm": 1.0} for i in range(num_steps)]


def rl(num_steps: int) -> list[dict]:
    return [
        {
            "step": i,
            "loss": 0.0,
            "reward": 1.0 + i / num_steps,
            "rewards/accuracy/mean": i / num_steps,
            "rewards/format/mean": 1.0,
            "kl": 0.01 * i,
            "completions/mean_length": 60.0 - i,
        }
        for i in range(num_steps)
    ]


def titles(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def legend(figure) -> list[str]:
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


def heights(axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches]


def assert_picture(path, *, least: int) -> None:
    """The file is a picture of some size, with ink on it and a clear border (nothing is cut)."""
    pixels = matplotlib.image.imread(path)[..., :3]
    assert min(pixels.shape[:2]) >= least
    assert pixels.std() > 0.05
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 1.0).all()


def test_confusion_shows_counts_and_row_shares(tmp_path):
    figure = confusion_figure(MATRIX, LABELS, "RLVR, test", tmp_path / "sub" / "confusion.png")
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.texts] == [str(n) for n in MATRIX.flatten().tolist()]
    # Row 0 holds 10 samples: 60, 20, 0, 20 %. Row 1 holds none: 0. Row 2 holds 4: 25, 0, 75, 0 %.
    shares = axes.collections[0].get_array().reshape(3, 4)
    np.testing.assert_allclose(shares, [[60, 20, 0, 20], [0, 0, 0, 0], [25, 0, 75, 0]])
    assert [t.get_text() for t in axes.get_xticklabels()] == [*LABELS, "other"]
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names == ["happy (10)", "sad (0)", "contemptuous (4)"]
    assert axes.get_title() == "RLVR, test"
    assert axes.get_aspect() == 1.0
    assert_picture(tmp_path / "sub" / "confusion.png", least=350)


def test_confusion_takes_nested_lists_too(tmp_path):
    figure = confusion_figure(MATRIX.tolist(), LABELS, "t", tmp_path / "confusion.png")
    assert len(figure.axes[0].texts) == MATRIX.numel()


def test_curves_of_an_sft_run_show_its_loss_alone(tmp_path):
    figure = learning_curves({"cold_start": sft(40)}, tmp_path / "curves.png", colours=COLOURS)
    assert titles(figure) == ["SFT loss"]
    assert "cold start" in figure.get_suptitle()
    assert legend(figure) == []
    raw, smooth = figure.axes[0].lines
    assert raw.get_alpha() < 0.5
    assert smooth.get_linewidth() > raw.get_linewidth()
    assert raw.get_ydata()[1] == 1.0
    assert_picture(tmp_path / "curves.png", least=350)


@pytest.mark.slow
def test_curves_of_an_rl_run_show_rewards_and_no_loss(tmp_path):
    figure = learning_curves({"rlvr": rl(40)}, tmp_path / "curves.png", colours=COLOURS)
    assert titles(figure) == [
        "Reward",
        "Accuracy reward",
        "Format reward",
        "KL to the reference",
        "Completion length",
    ]


@pytest.mark.slow
def test_curves_of_several_runs_share_panels_and_one_legend(tmp_path):
    runs = {"cold_start": sft(30), "sft_labels": sft(20), "rlvr": rl(30)}
    figure = learning_curves(runs, tmp_path / "curves.png", colours=COLOURS)
    assert len(figure.axes) == 6
    assert len(figure.axes[0].lines) == 4  # two SFT runs, each raw and smoothed
    assert len(figure.axes[1].lines) == 2
    assert legend(figure) == ["cold start", "SFT labels", "RLVR"]
    assert figure.axes[0].lines[0].get_color() != figure.axes[0].lines[2].get_color()
    assert_picture(tmp_path / "curves.png", least=500)


def test_curves_skip_gaps_and_let_a_resumed_step_replace_the_first(tmp_path):
    records = [
        {"step": 0, "loss": 3.0},
        {"step": 1, "loss": math.nan},
        {"step": 2, "test/war": 50.0},
        {"step": 3, "loss": None},
        {"step": 5, "loss": 9.0},
        {"step": 4, "loss": 1.0},
        {"step": 5, "loss": 0.5},
    ]
    figure = learning_curves({"run": records}, tmp_path / "curves.png", colours=COLOURS)
    raw = figure.axes[0].lines[0]
    assert raw.get_xdata().tolist() == [0, 4, 5]
    assert raw.get_ydata().tolist() == [3.0, 1.0, 0.5]


def test_running_mean_is_centred_and_cut_short_at_the_ends(tmp_path):
    records = [{"step": i, "loss": float(i)} for i in range(40)]
    figure = learning_curves({"run": records}, tmp_path / "curves.png", colours=COLOURS)
    smooth = figure.axes[0].lines[1].get_ydata()
    # 5 % of 40 points: one neighbour on either side. Ends: (0 + 1) / 2 and (38 + 39) / 2.
    assert smooth.tolist() == [0.5, *map(float, range(1, 39)), 38.5]


def test_curves_without_a_value_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no values to draw .*empty"):
        learning_curves(
            {"empty": [{"step": 0, "test/war": 1.0}]}, tmp_path / "curves.png", colours=COLOURS
        )


def test_recall_bars_are_percent_and_mark_absent_classes(tmp_path):
    recalls = {"base": [0.5, math.nan, 0.25], "rlvr": torch.tensor([1.0, math.nan, 0.75])}
    figure = recall_bars(recalls, LABELS, tmp_path / "recall.png", split="test", colours=COLOURS)
    axes = figure.axes[0]
    np.testing.assert_array_equal(heights(axes), [50, math.nan, 25, 100, math.nan, 75])
    assert [t.get_text() for t in axes.texts] == ["no samples"]
    assert axes.texts[0].get_position()[0] == 1
    assert legend(figure) == ["base", "RLVR"]
    assert_picture(tmp_path / "recall.png", least=350)


def test_recall_bars_of_one_model_need_no_legend(tmp_path):
    figure = recall_bars(
        {"rlvr": [0.1, 0.2, 0.3]}, LABELS, tmp_path / "recall.png", split="test", colours=COLOURS
    )
    assert legend(figure) == []
    assert figure.axes[0].get_title() == "Recall per class of RLVR on test"


@pytest.fixture
def summary() -> dict:
    base = {"war": 14.0, "uar": 14.0, "format": 0.0, "war_ci": [11.0, 18.0]}
    rlvr = {"war": 88.0, "uar": 87.0, "format": 99.0, "war_ci": [85.0, 90.0]}
    return {
        "models": {"base": {"test": base, "ood": base}, "rlvr": {"test": rlvr, "ood": rlvr}},
        "oracle": {"test": {"war": 97.0}, "ood": {"war": 95.0}},
        "modality": {"video": {"war": 47.0}, "audio": {"war": 39.0}, "video_audio": {"war": 88.0}},
    }


def test_summary_bars_show_scores_whiskers_and_lines(summary, tmp_path):
    figure = summary_bars(summary, tmp_path / "summary.png", chance=100 / 7, colours=COLOURS)
    assert titles(figure) == ["test split", "OOD split", "by modality"]
    test, ood, modality = figure.axes
    assert heights(test) == heights(ood) == [14.0, 88.0]
    assert heights(modality) == [47.0, 39.0, 88.0]
    whiskers = [c.get_segments()[0][:, 1].tolist() for c in test.collections]
    assert whiskers == [[11.0, 18.0], [85.0, 90.0]]
    dashed = [[x.get_ydata()[0] for x in a.lines if x.get_linestyle() == "--"] for a in figure.axes]
    assert dashed == [[97.0], [95.0], []]
    for axes in figure.axes:
        dotted = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert dotted == [100 / 7]
    assert [t.get_text() for t in test.get_xticklabels()] == ["14.0\nbase", "88.0\nRLVR"]
    assert legend(figure) == ["oracle (true cues)", "chance 14.3", "95% interval"]
    assert_picture(tmp_path / "summary.png", least=500)


def test_summary_bars_do_with_less(summary, tmp_path):
    less = {"models": {"rlvr": {"test": summary["models"]["rlvr"]["test"]}}}
    figure = summary_bars(less, tmp_path / "summary.png", chance=50.0, colours=COLOURS)
    assert titles(figure) == ["test split"]
    assert legend(figure) == ["chance 50.0", "95% interval"]
    assert_picture(tmp_path / "summary.png", least=300)
