"""Reports: which columns, means over seeds, pairs with the baseline, files, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from make_runs import make_run, weight

from omni_rlvr.config.tasks import ReportTask
from omni_rlvr.record import append_jsonl, read_json, read_jsonl
from omni_rlvr.tasks.report import write
from omni_rlvr.tasks.report.cells import latex, markdown
from omni_rlvr.tasks.report.columns import differing, in_order, label
from omni_rlvr.tasks.report.frames import printed, runs_table, settings_table
from omni_rlvr.tasks.report.gather import gather
from omni_rlvr.tasks.report.write import named_runs, write_all
from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow  # figures are drawn

TEN = [True] * 10
OPTIONS = {"allow_different_labels": False, "num_resamples": 200, "max_groups": 8}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Weights 0 and 1, seeds 0 and 1; WAR 60, 80 and 90, 100; and a run that failed."""
    home = tmp_path / "sweep"
    for value, hits in ((0, (6, 8)), (1.0, (9, 10))):
        for seed in (0, 1):
            right = [i < hits[seed] for i in range(10)]
            make_run(home / f"w{value:g}_s{seed}", right, config=weight(value), seed=seed)
    make_run(home / "broken", TEN, config=weight(2), seed=0, status="failed")
    return home


def report(tmp_path: Path, *places: Path | str, baseline: str = "", **changed) -> Path:
    out = tmp_path / "report"
    out.mkdir(exist_ok=True)
    write_all(
        out, [str(p) for p in places], dict, ReportTask(baseline=baseline, **{**OPTIONS, **changed})
    )
    return out


def test_only_what_differs_is_a_column_and_the_seed_is_last(sweep: Path) -> None:
    runs = in_order(gather([str(sweep)], dict))
    keys, values = differing(runs)
    assert keys == ["reward.weights.format", "seed"]
    assert [run.name for run in runs] == ["w0_s0", "w0_s1", "w1_s0", "w1_s1", "broken"]
    assert values[2] == {"reward.weights.format": 1, "seed": 0}
    assert label(values[2], keys[:1]) == "format=1"


def test_a_group_stands_by_its_name_where_the_rest_follows(tmp_path: Path) -> None:
    for name, video in (("audio", False), ("both", True)):
        config = {"modality": {"name": name, "video": video}}
        make_run(tmp_path / name, TEN, config=config)
    assert differing(gather([str(tmp_path)], dict))[0] == ["modality.name"]
    make_run(tmp_path / "odd", TEN, config={"modality": {"name": "both", "video": False}})
    assert differing(gather([str(tmp_path)], dict))[0] == ["modality.name", "modality.video"]


def test_a_start_that_restates_the_run_is_no_column(tmp_path: Path) -> None:
    def start(name: str, modality: str, epochs: int, num_examples: int) -> None:
        over = [f"modality={modality}", f"stage.num_train_epochs={epochs}", "paths.data_root=d"]
        config = {
            "modality": {"name": modality},
            "model": {"path": f"outputs/{name}"},
            "task": {"name": "train"}
            | {"start_from": {"overrides": over, "num_examples": num_examples}},
        }
        make_run(tmp_path / name, TEN, config=config)

    start("a", "audio", 3, -1)
    start("b", "video", 3, -1)
    assert differing(gather([str(tmp_path)], dict))[0] == ["modality.name"]
    start("c", "video", 4, -1)  # another cold start is a difference
    assert differing(gather([str(tmp_path)], dict))[0] == ["modality.name", "task.start_from"]


def test_means_and_spread_over_seeds(sweep: Path) -> None:
    runs = in_order(gather([str(sweep)], dict))
    keys, values = differing(runs)
    frame = runs_table(runs, keys, values)
    assert list(frame["test/war"]) == [60, 80, 90, 100, 100]
    assert list(frame["seconds"]) == [90] * 5
    table = settings_table(frame, keys)
    assert list(table["reward.weights.format"]) == [0, 1]  # the failed run is in no mean
    assert list(table["test/war/mean"]) == [70, 95]
    # ddof 1 over two values: |a - b| / sqrt(2)
    assert list(table["test/war/std"]) == pytest.approx([20 / 2**0.5, 10 / 2**0.5])


def test_the_table_is_printed_too(tmp_path: Path, sweep: Path, capsys) -> None:
    report(tmp_path, sweep, baseline="format:0")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    words = [" ".join(line.split()) for line in lines]
    assert any(word.startswith("format=0 (2 runs) 70.0 ± 14.1 ") for word in words)
    assert any(word.startswith("format=1 (2 runs) 95.0 ± 7.1 ") for word in words)
    after = words[words.index("WAR against format:0") :]
    assert any(word.startswith("format=1 test 2 +25.0 ") for word in after)


def test_training_without_scores_is_printed_too(tmp_path: Path, capsys) -> None:
    shutil.rmtree(make_run(tmp_path / "a", TEN) / "test")
    report(tmp_path, tmp_path / "a")
    (header, _, row, *_) = capsys.readouterr().out.split("\n", 1)[1].splitlines()
    assert header.split() == ["runs", "training/reward"]
    assert row.split() == ["1", "1.000"]


def test_runs_without_scores_show_the_end_of_their_training(tmp_path: Path) -> None:
    for name, factor in (("a", 1.0), ("b", 3.0)):
        run = make_run(tmp_path / name, TEN, seed=int(factor))
        shutil.rmtree(run / "test")
        curve = [{"step": i, "reward": factor * (i > 18), "loss": 9.0} for i in range(1, 21)]
        write_jsonl(run / "metrics.jsonl", curve)
    runs = gather([str(tmp_path)], dict)
    keys, values = differing(runs)
    frame = runs_table(runs, keys, values)
    assert list(frame["training/reward"]) == [1.0, 3.0]  # steps 19 and 20 of 20
    assert "training/loss" not in frame  # says nothing of RL
    table = settings_table(frame, keys)
    assert printed(table)[1] == [["2", "2.000 ± 1.414"]]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.unlink()
    append_jsonl(path, rows)


def test_runs_are_tested_against_the_baseline_of_their_seed(tmp_path: Path, sweep: Path) -> None:
    out = report(tmp_path, sweep, baseline="format:0")
    runs = pd.read_csv(out / "comparisons_runs.csv")
    assert list(runs["baseline"]) == ["w0_s0", "w0_s1"]
    assert list(runs["difference"]) == pytest.approx([30, 20])
    assert list(runs["only run right"]) == [3, 2]
    assert list(runs["only baseline right"]) == [0, 0]
    assert list(runs["p"]) == [0.25, 0.5]  # 2 / 2^3 and 2 / 2^2
    assert list(runs["p Holm"]) == [0.5, 0.5]
    settings = pd.read_csv(out / "comparisons.csv")
    assert settings["difference"].tolist() == pytest.approx([25])
    assert settings["ahead"].tolist() == ["2 of 2"]
    assert 0 <= settings["low"][0] <= 25 <= settings["high"][0] <= 60


def test_one_run_can_be_the_baseline_of_all(tmp_path: Path, sweep: Path) -> None:
    out = report(tmp_path, sweep, baseline="w1_s1")
    runs = pd.read_csv(out / "comparisons_runs.csv")
    assert list(runs["run"]) == ["w0_s0", "w0_s1", "w1_s0"]
    assert list(runs["difference"]) == pytest.approx([-40, -20, -10])


def test_a_run_without_a_partner_is_left_out_and_named(tmp_path: Path, sweep: Path) -> None:
    make_run(sweep / "w1_s7", TEN, config=weight(1), seed=7)
    out = report(tmp_path, sweep, baseline="format:0")
    assert "w1_s7" not in (out / "comparisons_runs.csv").read_text()
    assert "test against: w1_s7." in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("format:7", "no finished run has it; reward.weights.format is 0, 1, 2"),
        ("format:2", "no finished run has it"),  # it failed
        ("beta:1", "0 columns are called beta; the columns are reward.weights.format, seed"),
        ("nowhere", "0 runs have this name"),
        ("broken", "did not finish"),
    ],
)
def test_a_baseline_that_is_none_is_named(tmp_path, sweep, baseline: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        report(tmp_path, sweep, baseline=baseline)
    assert str(error.value).startswith(f"task.baseline={baseline}: ")


def test_other_clips_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a", TEN, config=weight(0))
    make_run(tmp_path / "b", TEN, config=weight(1), first_clip=1)
    report(tmp_path, tmp_path / "a", tmp_path / "b")  # without a test, they may differ
    with pytest.raises(UserError, match=r"b and a were not tested on the same clips of test"):
        report(tmp_path, tmp_path / "a", tmp_path / "b", baseline="a")


def test_other_labels_are_refused_unless_asked_for(tmp_path: Path) -> None:
    make_run(tmp_path / "a", TEN)
    make_run(tmp_path / "b", TEN, labels=["happy", "angry"], seed=1)
    with pytest.raises(UserError, match=r"b \(test\) is scored over the labels happy, angry, a"):
        report(tmp_path, tmp_path / "a", tmp_path / "b")
    out = report(tmp_path, tmp_path / "a", tmp_path / "b", allow_different_labels=True)
    assert len(pd.read_csv(out / "runs.csv")) == 2


def test_folders_globs_and_pipelines_are_places(tmp_path: Path, sweep: Path) -> None:
    assert len(gather([str(sweep / "w0*")], dict)) == 2
    assert len(gather([str(sweep), str(sweep / "w0_s0")], dict)) == 5  # each once
    top = make_run(sweep / "pipe", TEN, config={"task": {"name": "pipeline"}})
    make_run(top / "evaluate" / "base", TEN, config={"task": {"name": "evaluate"}})
    make_run(sweep / "w0_s0" / "inside", TEN)  # part of the run it lies in
    names = [run.name for run in gather([str(sweep)], dict)]
    assert "pipe/evaluate/base" in names
    assert not any("inside" in name for name in names)
    with pytest.raises(UserError, match="runs=nowhere: there is no run"):
        gather(["nowhere"], dict)


def test_every_picture_of_a_report_is_drawn(
    tmp_path: Path, sweep: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = report(tmp_path, sweep)
    assert not [text for text in caplog.messages if "was not drawn" in text]
    drawn = {path.name for path in (out / "figures").iterdir()}
    assert {"confusion_test.png", "recall_test.png", "scores_test.png"} <= drawn


def test_below_a_table_stands_which_differences_may_be_chance(tmp_path: Path, sweep: Path) -> None:
    """Weights 0 and 1 are 30 and 20 points apart on seeds 0 and 1, on 10 clips."""
    out = report(tmp_path, sweep)
    # Seeds 0 and 1: clips 6, 7, 8 and clips 8, 9 are gained; averaged over seeds 0.5, 0.5, 1, 0.5:
    # sum 2.5, squares 1.75, variance 0.175 - 0.0625; over clips 1.96 sqrt(0.1125 / 10) = 0.2079.
    # Over seeds: means 0.3 and 0.2, s = 0.1 / sqrt(2), t(1) = 12.706: 12.706 * 0.05 = 0.6353.
    # h = sqrt(0.2079^2 + 0.6353^2) = 0.6685
    said = "On test, two rows that differ by less than 66.8 points of WAR may differ by chance"
    assert said in (out / "settings.md").read_text()
    assert said in (out / "report.html").read_text()
    assert "10 clips, 2 seeds)" in (out / "settings.md").read_text()
    # Runs are compared one by one. The widest apart have 6 and 10 right: four differences of 1 and
    # six of 0, 1.96 sqrt(0.24 / 10) = 0.3036.
    assert "less than 30.4 points" in (out / "runs.md").read_text()


def test_a_report_says_what_a_run_gained_over_its_baseline(tmp_path: Path) -> None:
    """Two evaluations that were made one by one are taken apart like a pipeline's."""
    for name, outcomes in (("before", ["right", "outside"]), ("after", ["right", "right"])):
        run = make_run(tmp_path / name, [True, outcomes[1] == "right"])
        rows = read_jsonl(run / "test" / "predictions.jsonl")
        for row, outcome in zip(rows, outcomes, strict=True):
            row |= {"chosen": row["label"], "outcome": outcome}
        write_jsonl(run / "test" / "predictions.jsonl", rows)
    out = report(tmp_path, tmp_path / "before", tmp_path / "after", baseline="before")
    page = (out / "report.html").read_text()
    assert "On test, after changes WAR of before by +50.0 [" in page
    assert "fewer outside the list +50.0" in page


def test_a_report_without_predictions_has_no_limit(tmp_path: Path, sweep: Path) -> None:
    for run in sweep.iterdir():
        (run / "test" / "predictions.jsonl").unlink()
    assert "may differ by chance" not in (report(tmp_path, sweep) / "report.html").read_text()


def test_an_evaluation_of_an_earlier_version_gets_its_weighted_f1(sweep: Path) -> None:
    file = sweep / "w0_s0" / "test" / "metrics.json"
    scores = read_json(file)
    now = scores.pop("weighted_f1")
    file.write_text(json.dumps(scores))
    (run, *_) = gather([str(sweep / "w0_s0")], dict)
    assert run.scores["test"]["weighted_f1"] == now
    assert "test/chosen_war" not in runs_table([run], [], [{}])  # nothing was chosen then


def test_a_single_run_has_its_interval_in_every_table(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "one", [True] * 5 + [False] * 5)
    out = report(tmp_path, tmp_path / "runs")
    low, high = read_json(tmp_path / "runs" / "one" / "test" / "metrics.json")["war_ci"]
    cell = f"50.0 [{low:.1f}, {high:.1f}]"
    for file in ("runs.md", "settings.md", "report.html"):
        assert cell in (out / file).read_text()
    frame = pd.read_csv(out / "runs.csv")
    assert (frame["test/war/low"][0], frame["test/war/high"][0]) == (low, high)


def test_every_format_holds_the_table(tmp_path: Path, sweep: Path) -> None:
    out = report(tmp_path, sweep)
    parquet, csv = pd.read_parquet(out / "settings.parquet"), pd.read_csv(out / "settings.csv")
    pd.testing.assert_frame_equal(parquet, csv, check_dtype=False)
    assert "| 1 | 2 | 95.0 ± 7.1 |" in (out / "settings.md").read_text()
    assert "1 & 2 & 95.0 $\\pm$ 7.1 &" in (out / "settings.tex").read_text()


def test_cells_are_escaped() -> None:
    assert "a\\|b" in markdown(["x"], [["a|b"]])
    assert "a\\_b \\& 5\\%" in latex(["x"], [["a_b & 5%"]])


def test_the_page_needs_nothing_beside_it_and_escapes_names(tmp_path: Path) -> None:
    make_run(tmp_path / "<img src=x>", TEN, config=weight(0))
    make_run(tmp_path / "b", [False] * 10, config=weight(1), seed=1)
    text = (report(tmp_path, tmp_path) / "report.html").read_text()
    assert "<img src=x>" not in text
    assert "&lt;img src=x&gt;" in text
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', text)
    assert sources
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
    for title in ("Settings", "Runs", "Scores", "Learning curves", "Recall", "Confusion"):
        assert f"<h2>{title}" in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.slow
def test_settings_beyond_the_most_are_left_out_and_counted(tmp_path: Path, sweep: Path) -> None:
    whole = (report(tmp_path, sweep) / "report.html").read_text()
    short = (report(tmp_path, sweep, max_groups=1) / "report.html").read_text()
    assert "left out" not in whole
    assert "1 settings are left out here" in short


@pytest.mark.slow
def test_a_heat_map_needs_two_keys(tmp_path: Path, sweep: Path) -> None:
    assert not list((report(tmp_path, sweep) / "figures").glob("heat*"))
    for value in (0, 1):
        for beta in (0.0, 0.1):
            config = weight(value) | {"stage": {"beta": beta}}
            make_run(tmp_path / "grid" / f"{value}{beta}", TEN, config=config)
    figures = report(tmp_path, tmp_path / "grid") / "figures"
    assert len(list(figures.glob("heat_test*"))) == 1


def test_words_stand_on_the_left_and_numbers_on_the_right() -> None:
    text = write.table(["setting", "difference", "ahead"], [["beta=0", "+1.9", "3 of 3"]])
    assert text.count('class="words"') == 2  # the head and the cell of the first column
    assert '<td class="words">beta=0</td><td>+1.9</td><td>3 of 3</td>' in text


def test_a_list_of_runs_is_taken_as_it_stands_and_a_text_is_split(tmp_path: Path) -> None:
    odd = tmp_path / "lr=1,2"
    assert named_runs([str(odd), "b"]) == [str(odd), "b"]
    assert named_runs(f"{odd},b") == [f"{tmp_path}/lr=1", "2", "b"]
    assert named_runs("a,b,") == ["a", "b"]
    odd.mkdir()
    assert named_runs(str(odd)) == [str(odd)]
