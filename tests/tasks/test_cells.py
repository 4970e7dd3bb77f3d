"""Texts in csv, LaTeX and Markdown: nothing is computed, broken or lost."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pandas as pd
from every_case import every_case
from make_runs import make_run

from omni_rlvr.tasks.report.cells import csv_cell, latex, latex_cell, markdown, markdown_cell
from omni_rlvr.tasks.report.frames import write_table
from omni_rlvr.tasks.report.gather import names_of


@every_case(
    "text",
    ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "-", "+-1"],
)
def test_a_formula_is_a_text(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@every_case("value", ["-0.5", "-1e-5", "+3", "-inf", -0.5, 3, None, "a=b", "a-b", ""])
def test_a_number_and_an_ordinary_text_stay_as_they_are(value: object) -> None:
    assert csv_cell(value) == value


def test_a_table_that_came_from_outside_is_written_safely(tmp_path: Path) -> None:
    evil = '=HYPERLINK("http://x","y")'
    frame = pd.DataFrame({"run": [evil, "b"], "=key": ["-1", 'x,\n"y"'], "test/war": [-1.5, 2.0]})
    files = write_table(frame, tmp_path / "t")
    rows = list(csv.reader(io.StringIO(files[1].read_text(), newline="")))
    assert rows == [
        ["run", "'=key", "test/war"],
        [f"'{evil}", "-1", "-1.5"],
        ["b", 'x,\n"y"', "2.0"],
    ]
    assert pd.read_parquet(files[0])["run"].tolist() == [evil, "b"]


def test_latex_prints_what_it_is_given() -> None:
    assert latex_cell("a_b & 5% $x$ #1 {y} ~ ^ \\") == (
        r"a\_b \& 5\% \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )
    assert latex_cell("1.0 ± 0.5") == r"1.0 $\pm$ 0.5"
    assert latex_cell('["test"]') == '{}["test"]'  # else an argument of the line's end before
    assert latex_cell("*x") == "{}*x"
    assert latex_cell("two\nlines") == "two lines"
    assert latex(["a&b", "c_d"], [["1", "x & y"]]) == (
        "\\begin{tabular}{ll}\n\\toprule\na\\&b & c\\_d \\\\\n\\midrule\n1 & x \\& y \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def test_markdown_shows_what_it_is_given() -> None:
    cells = ["a|b", "a\\|b", "two\nlines", "<img src=x>", "[x](y)", "a_b", "_a_", "`c`", "*", "*d*"]
    shown = [
        "a\\|b", "a\\\\\\|b", "two lines", "\\<img src=x\\>", "[x\\](y)", "a_b", "\\_a\\_",
        "\\`c\\`", "*", "\\*d*",
    ]  # fmt: skip
    assert [markdown_cell(cell) for cell in cells] == shown
    table = markdown(cells, [cells])
    assert len(table.splitlines()) == 3


@every_case(
    ("text", "shown"),
    [
        ("$x_1$", "\\$x_1\\$"),
        ("&lt;b&#62;", "\\&lt;b\\&#62;"),
        ("a & b", "a & b"),
        ("~~a~", "\\~~a~"),
    ],
)
def test_markdown_takes_no_name_for_mathematics_or_a_sign(text: str, shown: str) -> None:
    assert markdown_cell(text) == shown


def test_a_folder_with_a_name_that_is_no_text_has_a_name(tmp_path: Path) -> None:
    folders = [tmp_path / os.fsdecode(b"a\xff"), tmp_path / "b"]
    for folder in folders:
        make_run(folder, [True] * 4)
    assert names_of(folders) == ["a\\xff", "b"]
