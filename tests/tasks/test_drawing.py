"""Texts in pictures are texts in any script; a picture that fails costs nothing else."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest
from case_reports import make_quickstart

from omni_rlvr.config.tasks import ReportTask
from omni_rlvr.record import read_json
from omni_rlvr.tasks.evaluate import Evaluation, score, write_evaluation
from omni_rlvr.tasks.report import drawing, plots
from omni_rlvr.tasks.report.summary import summarise, write_summary
from omni_rlvr.tasks.report.write import write_all

pytestmark = pytest.mark.slow

ODD = [
    "a$\\foo$", "$a^b$", "50 %_{x}", "高兴", "حزين", "radość", "\U0001fae8", "tab\tand\x00nul",
    "two\nlines", "é" * 300, "&<b>", "\ud800",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _told_anew() -> None:
    drawing.tell_lacking.cache_clear()


def scores_over(labels: list[str]) -> tuple[dict, list[dict]]:
    rows: list[dict] = [
        {"id": str(i), "label": x, "predicted": x, "correct": True, "well_formed": True}
        for i, x in enumerate(labels)
    ]
    return score(rows, labels, num_resamples=5), rows


def test_every_label_is_drawn_as_it_stands(tmp_path: Path) -> None:
    labels = ODD[:3]
    figure = plots.confusion_figure([[1, 0, 0, 0]] * 3, labels, "$t$", tmp_path / "c.png")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [*labels, "other"]
    assert not any(text.get_parse_math() for text in figure.axes[0].get_xticklabels())
    assert not figure.axes[0].title.get_parse_math()
    recalls = {"$m$": [0.5] * 3, "a_b": [0.1] * 3}
    colours = drawing.model_colours(recalls)
    figure = plots.recall_bars(recalls, labels, tmp_path / "r.png", split="$s$", colours=colours)
    assert figure.axes[0].get_title() == "Recall per class on $s$"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["$m$", "a b"]


def test_a_sign_without_a_font_is_named_once_and_no_warning_of_matplotlib(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "fonts_for", lambda signs: ())
    matrix = [[1] * (len(ODD) + 1)] * len(ODD)
    for name in ("a.png", "b.png"):
        figure = plots.confusion_figure(matrix, ODD, "高", tmp_path / name)
    texts = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert texts[3:5] == ["\\u9ad8\\u5174", "حزين"]
    assert texts[6:9] == ["\\U0001fae8", "tab\\tand\\x00nul", "two\nlines"]
    assert texts[11] == "\\ud800"
    assert figure.axes[0].get_title() == "\\u9ad8"
    (message,) = caplog.messages
    assert message.startswith("pictures: no font of this machine has ")
    assert "兴高" in message


def test_a_font_that_has_the_signs_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "FONT", "DejaVu Sans Mono")  # which lacks this sign, and
    sign = next(s for s in map(chr, range(0x2D30, 0x2D60)) if drawing.has_sign("DejaVu Sans", s))
    assert not drawing.has_sign("DejaVu Sans Mono", sign)
    drawing.fonts_for.cache_clear()
    labels = [sign, "b"]
    figure = plots.confusion_figure([[1, 0, 0]] * 2, labels, "t", tmp_path / "c.png")
    drawing.fonts_for.cache_clear()
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [sign, "b", "other"]
    assert figure.axes[0].title.get_fontfamily()[1].startswith("DejaVu Sans")
    assert not caplog.messages


@pytest.mark.parametrize("count", [1, 7, 120])
def test_a_confusion_matrix_stays_a_page(tmp_path: Path, count: int) -> None:
    labels = [f"class number {i}" for i in range(count)]
    matrix = [[int(i == k) for k in range(count + 1)] for i in range(count)]
    plots.confusion_figure(matrix, labels, "t", tmp_path / "c.png")
    height, width = matplotlib.image.imread(tmp_path / "c.png").shape[:2]
    assert max(height, width) <= 3000
    assert height >= 250


def test_a_picture_that_fails_costs_no_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_, **__):
        raise RuntimeError("no luck")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    labels = ["happy", "sad"]
    scores, rows = scores_over(labels)
    write_evaluation(tmp_path / "test", Evaluation(rows, scores))
    assert read_json(tmp_path / "test" / "metrics.json")["war"] == 100.0
    assert caplog.messages == [
        f"{tmp_path}/test/confusion.png: the picture was not drawn: RuntimeError: no luck"
    ]
    models, answers = {"rlvr": {"test": scores}}, {"rlvr": {"test": rows}}
    summary = summarise(models, {}, {}, {}, answers=answers, gain=[])
    files = write_summary(tmp_path, summary, models, {}, labels)
    assert [file.name for file in files] == ["summary.json", "summary.md"]
    run = make_quickstart(tmp_path / "runs")
    (tmp_path / "out").mkdir()
    options = {"allow_different_labels": False, "num_resamples": 10, "max_groups": 8}
    files = write_all(tmp_path / "out", [str(run)], dict, ReportTask(**options))
    assert "Settings" in files[0].read_text()
    assert "scores_test.png: the picture was not drawn" in caplog.text


def test_short_names_stay_different_and_colours_are_those_of_the_mapping() -> None:
    names = [f"{'x' * 30}{i}{'y' * 30}" for i in range(12)]
    short = drawing.shortened(names, limit=20)
    assert len({*short}) == 12
    assert max(map(len, short)) <= 21
    assert drawing.shortened(["short", "b"], limit=20) == ["short", "b"]
    assert len({*drawing.model_colours(names).values()}) == 12
    few = drawing.model_colours(["a", "b", "a"])
    assert list(few) == ["a", "b"]
