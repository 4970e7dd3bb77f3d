"""What the studies share: runs into results.csv, seeds in pairs, and a README made from both."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from experiments import collect, figure, paired  # noqa: E402

_spec = importlib.util.spec_from_file_location("runs", ROOT / "tests/tasks/make_runs.py")
assert _spec is not None
assert _spec.loader is not None
make_runs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_runs)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two weights, two seeds; a third seed of the second failed. Percent right: 50, 75, 100, 75."""
    for weight, seed, right in ((0.5, 0, 2), (0.5, 1, 3), (1.0, 0, 4), (1.0, 1, 3)):
        make_runs.make_run(
            tmp_path / f"w{weight}s{seed}",
            [i < right for i in range(4)],
            config=make_runs.weight(weight),
            seed=seed,
        )
    failed = tmp_path / "failed"
    make_runs.make_run(failed, [True] * 4, config=make_runs.weight(1.0), seed=2, status="failed")
    return tmp_path


def test_runs_become_rows_with_a_seed(sweep: Path, capsys) -> None:
    frame = collect.collect([str(sweep)], ["reward.weights.format"])
    assert list(frame) == ["format", "seed", "metric", "step", "value"]
    assert "left out, failed: failed" in capsys.readouterr().out
    war = frame[frame.metric == "test/war"]
    assert war.value.tolist() == [50, 75, 100, 75]
    assert war.step.isna().all()
    reward = frame[(frame.metric == "reward") & (frame.format == 0.5) & (frame.seed == 0)]
    assert reward[["step", "value"]].to_numpy().tolist() == [[1, 0.5], [2, 1.0]]
    assert set(frame[frame.metric == "steps"].value) == {2}


def test_a_curve_is_cut_into_tenths() -> None:
    rows = [{"step": i, "reward": float(i), "modality/phi_audio": 1.0} for i in range(1, 76)]
    cut = [row for row in collect.windows(rows) if row[0] == "reward"]
    # 75 steps: parts of 7 and 8, the first ends at 7, the last begins at 68
    assert [step for _, step, _ in cut] == [7, 15, 22, 30, 37, 45, 52, 60, 67, 75]
    assert cut[0][2] == 4.0
    assert cut[-1][2] == 71.5
    assert len([row for row in collect.windows(rows) if row[0] == "modality/phi_audio"]) == 10


def test_seeds_are_compared_in_pairs(sweep: Path) -> None:
    frame = collect.collect([str(sweep)], ["reward.weights.format"])
    values = paired.final(frame, "test/war", "format")
    gap = paired.difference(values, 1.0, 0.5)
    # differences 50 and 0: mean 25, sd 35.36, t(0.975, 1) = 12.706, half width 12.706 * 25
    assert gap.mean == 25
    assert gap.high == pytest.approx(25 + 12.706 * 25, rel=1e-4)
    assert (gap.ahead, gap.seeds, gap.is_clear) == (1, 2, False)
    assert paired.final(frame, "reward", "format").loc[1.0, 0] == 1.0  # the last step's


@pytest.mark.parametrize(
    ("gaps", "clear"), [([1.0, 1.1, 0.9], True), ([3.0, 0.1, 0.2], False), ([5.0], False)]
)
def test_clear_is_what_the_spread_leaves_no_zero_in(gaps: list[float], clear: bool) -> None:
    # 1.0 +- 4.303 * 0.1 / sqrt(3) = 0.248; 1.1 +- 4.09
    gap = paired.interval(gaps)
    assert gap.is_clear == clear
    words = paired.sentence("x", gap, "points")
    assert ("within the seeds' spread" in words or "one seed" in words) == (not clear)


def test_nothing_to_compare_is_said() -> None:
    gap = paired.interval([])
    assert math.isnan(gap.mean)
    assert paired.gap_cell(gap) == "-"
    values = pd.DataFrame({0: [1.0]}, index=["a"])
    assert paired.summary(values, {"a": "a"}, "points") == "nothing to compare yet"


def test_a_readme_keeps_what_stands_around_its_results(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# A\n{paired.BEGIN}\nold\n{paired.END}\nend\n")
    for text in ("new", "newer"):
        paired.write_results(readme, text, paired.table(["a", "b"], [["x", 1]]))
    assert readme.read_text() == (
        f"# A\n{paired.BEGIN}\nnewer\n\n| a | b |\n| :--- | ---: |\n| x | 1 |\n{paired.END}\nend\n"
    )


def test_every_setting_has_its_own_colour() -> None:
    looks = figure.looks(dict.fromkeys(range(7), "x"))
    assert len({look.colour for look in looks.values()}) == 7
