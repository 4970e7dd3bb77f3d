"""Count the size and shape of the package, and the depth of the call stack at the loss.

    python experiments/structure/count.py TREE --label before

TREE is a checkout. Source is read as tokens and syntax trees. The depth is measured in one GRPO
step of the tiny model, run with the code of TREE in a separate process: the number of the package's
frames on the stack when the stage returns its loss. Rows are added to results.csv next to this
file; those of the same label are replaced.
"""

from __future__ import annotations

import argparse
import ast
import csv
import io
import json
import statistics
import subprocess
import sys
import tempfile
import tokenize
from collections import Counter
from pathlib import Path

from trees import commit_of, environment

RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = ("label", "commit", "measure", "value", "where")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
WATCH = """
import json, pathlib, sys
from omni_rlvr import cli

package = pathlib.Path(cli.__file__).parent
seen = []


def watch(frame, event, result):
    code = frame.f_code
    if event == "return" and code.co_name == "loss" and not seen:
        if pathlib.Path(code.co_filename).parent == package / "stages":
            while frame is not None:
                file = pathlib.Path(frame.f_code.co_filename)
                if file.is_relative_to(package):
                    place = file.relative_to(package).as_posix()
                    seen.append(f"{place}:{frame.f_code.co_name}")
                frame = frame.f_back
            sys.setprofile(None)


report, *sys.argv[1:] = sys.argv[1:]
sys.setprofile(watch)
try:
    cli.main()
finally:
    pathlib.Path(report).write_text(json.dumps(seen[::-1]))
"""
"""Runs the command and writes which functions were on the stack, the outermost first."""
ONE_STEP = (
    "stage=grpo",
    "stage.max_steps=1",
    "stage.batch_size=2",
    "stage.num_generations=2",
    "stage.sampling.max_completion_length=4",
    "dataset.train_split=rlvr",
    "dataset.splits.rlvr.num_clips=8",
    "dataset.num_workers=0",
    "trainer.accelerator=cpu",
)


def code_lines(text: str) -> int:
    """Count lines that are not blank, comment, docstring, or a string that documents a field."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def shape(source: Path) -> list[tuple[str, float, str]]:
    """Measure a source folder: (measure, value, where it is seen)."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(source.rglob("*.py"))}
    folders = Counter(path.parent for path in texts)
    fullest, most = max(folders.items(), key=lambda item: item[1])
    lines = {path: len(text.splitlines()) for path, text in texts.items()}
    longest = max(lines, key=lambda path: lines[path])
    return [
        ("code lines", sum(map(code_lines, texts.values())), ""),
        ("lines", sum(lines.values()), ""),
        ("Python files", len(texts), ""),
        ("folders with Python files", len(folders), ""),
        ("most Python files in a folder", most, fullest.relative_to(source).as_posix()),
        ("median lines of a file", statistics.median(lines.values()), ""),
        ("most lines of a file", lines[longest], longest.relative_to(source).as_posix()),
    ]


def frames_at_the_loss(tree: Path) -> list[str]:
    """Run one GRPO step and list the package's frames where the stage returns its loss."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "frames.json"
        places = (f"paths.output_root={folder}/outputs", f"paths.data_root={folder}/data")
        done = subprocess.run(
            [sys.executable, "-c", WATCH, str(report), *ONE_STEP, *places],
            env=environment(tree, threads=1),
            cwd=folder,
            capture_output=True,
            text=True,
        )
        frames: list[str] = json.loads(report.read_text()) if report.exists() else []
    if not frames:  # a run that learns nothing ends with an error, behind its loss
        sys.exit(f"{done.stdout}\n{done.stderr}\nno loss was returned (exit {done.returncode})")
    return frames


def main() -> None:
    """Counts, prints, and adds to results.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--label", required=True, choices=["before", "after"])
    args = parser.parse_args()
    source, commit = args.tree / "src", commit_of(args.tree)
    frames = frames_at_the_loss(args.tree.resolve())
    measures = [*shape(source), ("frames at the loss", len(frames), " ".join(frames))]
    rows = [(args.label, commit, name, f"{value:g}", where) for name, value, where in measures]
    before: list[tuple[str, ...]] = []
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            before = [tuple(row) for row in csv.reader(file)][1:]
    kept = [row for row in before if row[0] != args.label]
    with RESULTS.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *kept, *rows])
    for _, _, name, value, where in rows:
        print(f"{name:32} {value:>8}  {where}")


if __name__ == "__main__":
    main()
