"""The command as a process: help, and errors that are one line, if possible before torch."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from omni_rlvr import cli

ROOT = Path(__file__).parents[2]
CLI = Path(sys.executable).with_name("omni-rlvr")
PROBE = """
import sys, atexit
heavy = {"torch", "transformers", "peft", "pytorch_lightning", "av"}
atexit.register(lambda: print("HEAVY:", *sorted(heavy & set(sys.modules))))
from omni_rlvr.cli import main
main()
"""


def probe(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command and prints which heavy libraries were imported by its end."""
    return subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )


@pytest.fixture(scope="module")
def help_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What ``--help`` prints."""
    done = probe("--help", cwd=tmp_path_factory.mktemp("cwd"))
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(help_text: str, group: str) -> set[str]:
    """The options that ``--help`` lists of a group; a list goes on in indented lines."""
    (found,) = re.findall(rf"^{group}: (.*(?:\n    .*)*)$", help_text, re.MULTILINE)
    return set(re.split(r",\s+", found))


def test_help_lists_every_option_that_a_person_chooses(help_text: str) -> None:
    conf = ROOT / "conf"
    named = 0
    for path in conf.glob("*/**/*.yaml"):
        group, _, option = path.relative_to(conf).with_suffix("").as_posix().rpartition("/")
        if group.startswith("experiment/"):  # +experiment=r1_omni/cold_start
            group, option = "experiment", f"{group.removeprefix('experiment/')}/{option}"
        if not group.startswith("hydra") and option != "default":
            assert option in listed(help_text, group)
            named += 1
    assert named > 60


def test_help_lists_no_name_that_nobody_types(help_text: str) -> None:
    lists = help_text.partition("Without any of these")[0]
    assert not {"schema", "official", "default", "TrainTask"} & set(re.findall(r"\w+", lists))
    assert max(map(len, help_text.splitlines())) <= 102


def test_help_says_what_a_run_has_without_options(help_text: str) -> None:
    assert "task=train dataset=synthetic model=tiny modality=video_audio" in help_text


def test_help_lists_the_options_of_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "mine.yaml").write_text("name: mine\n")
    done = probe("--config-dir", "conf", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"mine", "synthetic"} <= listed(done.stdout, "dataset")


def test_help_ends_with_five_commands(help_text: str) -> None:
    commands = re.findall(r"^ +(omni-rlvr .*)$", help_text, re.MULTILINE)
    assert len(commands) == 5
    assert any(" -m " in command for command in commands)
    experiments = re.findall(r"\+experiment=(\w+)", help_text)
    for name in set(experiments) - {"NAME"}:
        assert (ROOT / "conf" / "experiment" / f"{name}.yaml").exists()


def test_help_imports_nothing_heavy(help_text: str) -> None:
    assert help_text.splitlines()[-1].strip() == "HEAVY:"


def test_an_unknown_override_fails_before_torch_is_imported(tmp_path: Path) -> None:
    done = probe("stage.betta=1", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "stage.betta" in line
    assert done.stdout.splitlines()[-1].strip() == "HEAVY:"
    assert not (tmp_path / "outputs").exists()


def test_a_wrong_type_fails_before_torch_and_says_what_is_wrong(tmp_path: Path) -> None:
    done = probe("stage.batch_size=many", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in ("stage.batch_size=many", "could not be converted to Integer"):
        assert part in line
    assert done.stdout.splitlines()[-1].strip() == "HEAVY:"


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a user's error is, after the one that says what a run starts from."""
    assert done.returncode == 1
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("model: "))
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_a_users_error_is_one_line(runner) -> None:
    runner.overrides.append("dataset.annotations.train=missing.json")
    done = runner.command(*runner.sft)
    assert error_of(done).startswith("missing.json: no such annotation file")


def test_an_error_of_what_hydra_builds_is_the_same_one_line(command, runner) -> None:
    runner.overrides.append("model.path=nowhere")
    text = command(*runner.sft)
    assert text.startswith("error: model.path=nowhere is not a folder")
    assert "\n" not in text


def test_a_broken_clip_met_by_a_worker_is_one_line(runner, clips: Path, tmp_path: Path) -> None:
    rows = (clips / "train.json").read_text().replace("clips/000001.mp4", "clips/nowhere.mp4")
    (tmp_path / "bad.json").write_text(rows)
    runner.overrides += ["dataset.num_workers=2", f"dataset.annotations.train={tmp_path}/bad.json"]
    done = runner.command("stage=sft", "stage.max_steps=1", "stage.batch_size=12")
    line = error_of(done)
    for part in ("nowhere.mp4: no such file", "bad.json[1]", "dataset.on_bad_media=skip"):
        assert part in line


def test_an_output_folder_that_cannot_be_written_is_one_line(command, runner) -> None:
    runner.root.write_text("a file where the folder should be")
    text = command(*runner.sft)
    assert text.startswith("error: ")
    assert "\n" not in text
    assert str(runner.root) in text
    assert "paths.output_root" in text
    assert runner.root.read_text() == "a file where the folder should be"


def test_cfg_job_prints_the_config_and_runs_nothing(command, runner, capsys) -> None:
    assert command("--cfg", "job", "+experiment=cold_start", "seed=7") == 0
    printed = capsys.readouterr().out
    assert "seed: 7" in printed
    assert "num_train_epochs: 6" in printed
    assert not runner.root.exists()


def test_a_reader_that_went_away_ends_the_command_quietly(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as head does when it has seen enough
    with os.fdopen(writing, "wb") as nowhere:
        done = subprocess.run(
            [CLI, "--help"], stdout=nowhere, stderr=subprocess.PIPE, cwd=tmp_path, timeout=120
        )
    assert (done.returncode, done.stderr) == (141, b"")  # what a shell shows of SIGPIPE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_what_cannot_be_printed_is_no_fault_of_the_output_folder(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [CLI, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: No space left on device"


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("stage: {bta: 1}\n", ["+experiment=mine"],
         "In 'experiment/mine': stage.bta: there is no such key; did you mean stage.beta?"),
        ("name: a\n  b: 1\n", ["+experiment=mine"], "mine.yaml, line 3: mapping values are"),
        ("name: a\n", ["+experiment=minn"],
         "+experiment=minn: there is no such option; did you mean mine?"),
        ("name: a\n", ["+experiment=mine", "optimizer.lrr=1"],
         "optimizer.lrr: there is no such key; did you mean optimizer.lr?"),
    ],
)  # fmt: skip
def test_a_mistake_with_a_folder_of_ones_own_is_one_line(
    tmp_path: Path, text: str, arguments: list[str], said: str
) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
    done = probe("--config-dir", "own", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_exit_codes_are_those_of_the_table() -> None:
    ends = {
        node.args[0].value
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("sys.exit", "os._exit")
        and isinstance(node.args[0], ast.Constant)
    }
    assert ends == {0, 1}
    assert {*cli.EXIT_CODES} == ends | {2, 130, 137, 141, 143}  # 2 is Python's argparse


@pytest.mark.parametrize(("flag", "code"), [("--help", 0), ("--nothing", 2), ("nothing=1", 1)])
def test_a_command_that_does_no_work_ends_with_its_code(runner, flag: str, code: int) -> None:
    assert runner.command(flag).returncode == code
