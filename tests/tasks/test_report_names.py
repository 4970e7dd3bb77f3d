"""What a report calls a setting, what it averages, and how large its pictures are."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pandas as pd
import pytest
from case_reports import make_quickstart, make_sweep
from make_runs import make_run, weight
from matplotlib.figure import Figure

from omni_rlvr.config.tasks import ReportTask
from omni_rlvr.tasks.report import figures
from omni_rlvr.tasks.report.columns import differing, in_order, setting_names, settings_of
from omni_rlvr.tasks.report.gather import gather
from omni_rlvr.tasks.report.write import write_all

OPTIONS = {"allow_different_labels": False, "num_resamples": 10, "max_groups": 8, "baseline": ""}
TEN = [True] * 10


def report(tmp_path: Path, place: Path, **changed) -> Path:
    out = tmp_path / "report"
    out.mkdir()
    write_all(out, [str(place)], dict, ReportTask(**{**OPTIONS, **changed}))
    return out


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Every figure of a report, by the name of its file."""
    kept: dict[str, Figure] = {}
    real = Figure.savefig

    def keep(figure: Figure, path: Path, **options) -> None:
        kept[Path(path).name] = figure
        real(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return kept


@pytest.mark.slow
def test_each_model_of_a_quickstart_has_its_own_row(tmp_path: Path, saved) -> None:
    out = report(tmp_path, make_quickstart(tmp_path / "quickstart"))
    table = pd.read_csv(out / "settings.csv", keep_default_na=False)
    assert list(table)[:4] == ["model.path", "modality.name", "run folder", "runs"]
    rows = table[["model.path", "modality.name", "run folder", "runs"]].to_numpy().tolist()
    assert rows == [
        ["cold_start", "video_audio", "", 1],
        ["rlvr", "audio", "", 1],
        ["rlvr", "video", "", 1],
        ["rlvr", "video_audio", "modality_video_audio", 1],
        ["rlvr", "video_audio", "rlvr", 1],
        ["sft_labels", "video_audio", "", 1],
        ["tiny_base", "video_audio", "", 1],
    ]
    assert " nan " not in (out / "settings.md").read_text()
    assert " nan " not in (out / "runs.md").read_text()
    assert [text.get_text() for text in saved["scores_ood.png"].axes[0].get_yticklabels()] == [
        "model=cold_start, modality=video_audio",
        "model=rlvr, modality=video_audio, run=rlvr",
        "model=sft_labels, modality=video_audio",
        "model=tiny_base, modality=video_audio",
    ]


@pytest.mark.slow
def test_a_model_has_one_colour_and_a_picture_its_own_title(tmp_path: Path, saved) -> None:
    report(tmp_path, make_quickstart(tmp_path / "quickstart"))
    legend = saved["curves.png"].legends[0]
    names = [text.get_text() for text in legend.get_texts()]
    curves = dict(zip(names, (line.get_color() for line in legend.get_lines()), strict=True))
    dots = saved["scores_ood.png"].axes[0]
    named = [text.get_text() for text in dots.get_yticklabels()]
    colours = dict(zip(named, (line.get_color() for line in dots.lines), strict=True))
    bars = saved["recall_ood.png"]
    shown = [text.get_text() for text in bars.legends[0].get_texts()]
    faces = [part[0].get_facecolor()[:3] for part in bars.axes[0].containers]
    assert shown == named
    assert [tuple(colours[name]) for name in named] == faces
    assert curves["cold start"] == colours["model=cold_start, modality=video_audio"]
    assert curves["RLVR"] == colours["model=rlvr, modality=video_audio, run=rlvr"]
    titles = [
        figure.get_suptitle() or figure.axes[0].get_title()
        for name, figure in saved.items()
        if not name.startswith("heat")
    ]
    assert len({*titles}) == len(titles)


@pytest.mark.slow
def test_seeds_of_a_quickstart_are_averaged_and_nothing_else_is(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_quickstart(tmp_path / "quickstart" / f"2026-01-0{seed + 1}_12-00-00", seed=seed)
    runs = in_order(gather([str(tmp_path / "quickstart")], dict))
    counted = settings_of(runs)
    assert len(runs) == 20
    assert len(counted) == 14
    keys, rows = differing(counted)
    assert keys == ["model.path", "modality.name", "run folder", "seed"]
    settings = [tuple(row[key] for key in keys[:2]) for row in rows if row["run folder"] is None]
    assert {setting: settings.count(setting) for setting in settings} == {
        ("cold_start", "video_audio"): 2, ("rlvr", "audio"): 2, ("rlvr", "video"): 2,
        ("sft_labels", "video_audio"): 2, ("tiny_base", "video_audio"): 2,
    }  # fmt: skip


def test_what_is_measured_at_once_is_no_setting(tmp_path: Path) -> None:
    for i, splits in enumerate((["test"], ["test", "ood"])):
        task = {"name": "evaluate", "splits": splits, "batch_size": 10 + i, "num_resamples": 5 + i}
        config = {"task": task, "model": {"path": f"o/m{i}/checkpoint"}, "stage": {"beta": i}}
        make_run(tmp_path / f"run{i}", TEN, config=config)
    assert differing(gather([str(tmp_path)], dict))[0] == ["model.path"]


def test_models_are_called_by_what_tells_their_paths_apart(tmp_path: Path) -> None:
    paths = [
        "outputs/rlvr/2026-01-01_12-00-00/checkpoint",
        "outputs/rlvr/2026-01-02_12-00-00/checkpoints/step_000150",
        "/elsewhere/cold_start/2026-01-01_12-00-00/checkpoint",
        "StarJiaxing/R1-Omni-0.5B",
    ]
    for i, path in enumerate(paths):
        config = {"task": {"name": "evaluate"}, "model": {"path": path}}
        make_run(tmp_path / f"run{i}", TEN, config=config)
    _, rows = differing(gather([str(tmp_path)], dict))
    assert [row["model.path"] for row in rows] == [
        "rlvr/2026-01-01_12-00-00",
        "rlvr/2026-01-02_12-00-00",
        "cold_start/2026-01-01_12-00-00",
        "R1-Omni-0.5B",
    ]


def test_two_steps_of_one_run_stay_different(tmp_path: Path) -> None:
    for step in (1, 2):
        path = f"o/rlvr/r/checkpoints/step_{step:06d}"
        config = {"task": {"name": "evaluate"}, "model": {"path": path}}
        make_run(tmp_path / f"run{step}", TEN, config=config)
    _, rows = differing(gather([str(tmp_path)], dict))
    assert [row["model.path"] for row in rows] == ["step_000001", "step_000002"]


def test_a_run_that_was_done_twice_is_no_seed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name, TEN, config=weight(1) | {"name": name})
    keys, rows = differing(gather([str(tmp_path)], dict))
    assert keys == ["run folder"]
    assert [row["run folder"] for row in rows] == ["a", "b"]
    make_run(tmp_path / "c", TEN, config=weight(1), seed=1)
    keys, rows = differing(gather([str(tmp_path)], dict))
    assert keys == ["run folder", "seed"]
    assert [row["run folder"] for row in rows] == ["a", "b", None]


def test_long_names_lose_keys_that_are_not_needed() -> None:
    rows = [{"stage.a": i, "b": i % 2, "c": "same" * 9} for i in range(4)]
    keys = ["stage.a", "b", "c"]
    assert setting_names(rows, keys, limit=99)[1] == f"a=1, b=1, c={'same' * 9}"
    assert setting_names(rows, keys, limit=20) == ["a=0", "a=1", "a=2", "a=3"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 14, 80])
def test_pictures_of_any_number_of_runs_are_of_a_size_to_look_at(
    tmp_path: Path, count: int, saved
) -> None:
    out = report(tmp_path, make_sweep(tmp_path / "sweep", count))
    for picture in (out / "figures").glob("*.png"):
        height, width = matplotlib.image.imread(picture).shape[:2]
        assert max(height, width) <= 3000, picture.name
        assert min(height, width) >= 120, picture.name
    assert len(saved["scores_test.png"].axes[0].get_yticklabels()) == count // 2
    for name in ("recall_test.png", "scores_test.png", "curves.png"):
        assert all(axes.get_position().width > 0.2 for axes in saved[name].axes), name


@pytest.mark.slow
def test_very_many_settings_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_DOTS", 3)
    text = (report(tmp_path, make_sweep(tmp_path / "sweep", 10)) / "report.html").read_text()
    assert "The 3 best are shown, 2 are not." in text
