"""Numbers are written with points where the locale has decimal commas."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import locale, sys
from pathlib import Path
locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
assert f"{1.5:n}" == "1,5"
from omni_rlvr.record import write_json
from omni_rlvr.tasks.evaluate import score
from omni_rlvr.tasks.report.plots import confusion_figure
from omni_rlvr.training.loggers import MetricsCsv
import matplotlib.pyplot as plt
folder = Path(sys.argv[1])
MetricsCsv(str(folder)).log_metrics({"loss": 1234.5}, step=1)
write_json(folder / "a.json", {"x": 1234.5})
rows = [{"label": "a", "predicted": p, "well_formed": True} for p in "aab"]
print(score(rows, ["a", "b"], num_resamples=9)["war"])
figure, axes = plt.subplots()
axes.plot([0.0, 0.5])
figure.canvas.draw()
print(" ".join(label.get_text() for label in axes.get_yticklabels()))
confusion_figure([[2, 1], [0, 0]], ["a", "b"], "t", folder / "c.png")
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("localedef") is None, reason="no locale can be made")
def test_decimal_commas_stay_out_of_what_is_written(tmp_path: Path) -> None:
    made = tmp_path / "locales"
    made.mkdir()
    command = ["localedef", "-i", "de_DE", "-f", "UTF-8", made / "de_DE.UTF-8"]
    subprocess.run(command, check=True, capture_output=True)
    env = {**os.environ, "LOCPATH": str(made), "LC_ALL": "de_DE.UTF-8"}
    program = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    printed = subprocess.run(program, check=True, env=env, capture_output=True, text=True).stdout
    assert printed.startswith("66.67\n")  # 2 of 3
    assert "0.5" in printed
    assert "," not in printed
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n1,1234.5\n"
    assert "1234.5" in (tmp_path / "a.json").read_text()
