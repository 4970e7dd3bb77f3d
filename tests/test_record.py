"""What a run leaves: lines come back as they were written, and what is torn is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from every_case import every_case

from omni_rlvr.record import (
    append_jsonl,
    keep_steps,
    read_jsonl,
    read_record,
    say_failed,
    with_present_targets,
    write_json,
)
from omni_rlvr.types import UserError

ODD = "a\u2028b\u2029c\x85d\x0be\x1cf\r\n\ng"
"""Signs that ``str.splitlines`` takes for the end of a line."""


def test_lines_hold_what_was_written(tmp_path: Path) -> None:
    rows = [{"step": 1, "completion": ODD}, {"step": 2, "completion": "x"}]
    append_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == rows
    keep_steps(tmp_path / "a.jsonl", 1)
    assert read_jsonl(tmp_path / "a.jsonl") == rows[:1]
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_a_torn_last_line_goes(tmp_path: Path) -> None:
    append_jsonl(tmp_path / "a.jsonl", [{"step": 1}])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"step": 2, "compl')
    keep_steps(tmp_path / "a.jsonl", 5)
    assert read_jsonl(tmp_path / "a.jsonl") == [{"step": 1}]


FOREIGN = {
    "torn": b'{"step": 3, "lo',
    "torn in a character": '{"step": 3, "completion": "\u00e4'.encode()[:-1],
    "without a step": b'{"loss": 1.0}\n',
    "a list": b"[1, 2]\n",
    "a number": b"3\n",
    "null": b"null\n",
    "a step that is none": b'{"step": "3"}\n{"step": true}\n{"step": null}\n',
    "zero bytes": b"\0" * 40,
    "binary": bytes(range(128, 255)) + b"\n",
    "deep": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("where", ["middle", "end"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_torn_and_foreign_lines_are_cut_off_and_named(
    tmp_path: Path, kind: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    append_jsonl(path, [{"step": 1}])
    own = FOREIGN[kind]
    with path.open("ab") as file:
        file.write(own)
        if where == "middle":
            file.write(b'\n{"step": 2}\n{"step": 3}\n')
    keep_steps(path, 2)
    kept = [{"step": 1}, {"step": 2}] if where == "middle" else [{"step": 1}]
    assert f"{path}: " in caplog.text
    assert "torn or foreign, cut off" in caplog.text
    caplog.clear()
    assert read_jsonl(path) == kept
    assert path.read_bytes() == b"".join(b'{"step": %d}\n' % row["step"] for row in kept)
    assert not caplog.text


def test_zero_bytes_of_a_power_cut_cost_no_line_behind_them(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\0\0\0\0{"step": 2}\r\n\n{"step": 3}')
    keep_steps(path, 9)
    assert [row["step"] for row in read_jsonl(path)] == [1, 2, 3]


def test_a_reader_names_lines_that_are_none(tmp_path: Path, caplog) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_bytes(b'{"id": 1}\n' + b"x\n" * 7 + b'{"id": 2}\n{"id')
    assert read_jsonl(path) == [{"id": 1}, {"id": 2}]
    assert f"{path}: line 2, 3, 4, 5, 6 and 3 more: torn or foreign, left out" in caplog.text


@every_case(
    ("content", "why"),
    [
        ("", "it is empty"),
        ("\0\0\0", "it is empty"),
        ('{"status": "runn', "Unterminated string"),
        ("[]", "not written by a run"),
        ('{"status": "running"}', "not written by a run"),
    ],
)
def test_a_damaged_run_json_is_named(tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=rf"run\.json cannot be read: .*{why}"):
        read_record(tmp_path)


def test_a_full_disk_still_says_that_the_run_failed(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"status": "running", "config": {"status": "running"}})
    size = (tmp_path / "run.json").stat().st_size
    say_failed(tmp_path)
    record = read_record(tmp_path)
    assert (record["status"], record["config"]) == ("failed", {"status": "running"})
    assert (tmp_path / "run.json").stat().st_size == size


@every_case(
    ("before", "now"),
    [
        ("decode.decode", "shared_prefix.SharedPrefix"),
        ("shared_prefix.decode", "shared_prefix.SharedPrefix"),
        ("generate.generate", "hf.Generate"),
        ("hf.generate", "hf.Generate"),
    ],
)
def test_a_rollout_function_of_an_earlier_run_is_the_engine_of_this_one(before, now):
    old = {"_target_": f"omni_rlvr.rollout.{before}", "_partial_": True}
    new = {"_target_": f"omni_rlvr.rollout.{now}"}
    assert with_present_targets({"rollout": old}) == {"rollout": new}
    assert with_present_targets({"rollout": new}) == {"rollout": new}
    kept = {"_target_": "torch.optim.AdamW", "_partial_": True}
    assert with_present_targets({"optimizer": kept}) == {"optimizer": kept}


@every_case("module", ["trackers", "loggers"])
@every_case("logger", ["tensorboard", "wandb", "mlflow", "trackio", "metrics_csv"])
def test_loggers_of_earlier_runs_have_the_names_of_now(module: str, logger: str) -> None:
    then = {"_target_": f"omni_rlvr.training.{module}.{logger}", "_partial_": True, "prefix": ""}
    conf = Path(__file__).parents[1] / "conf" / "logger"
    (now,) = yaml.safe_load((conf / f"{logger.removeprefix('metrics_')}.yaml").read_text()).values()
    present = with_present_targets({"logger": [then]})["logger"][0]
    assert present == {**then, "_target_": now["_target_"]}
