"""task=check: what it counts, what it calls bad, and how it ends."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from hydra import compose, initialize_config_dir

from omni_rlvr.assembly.composed import Clips
from omni_rlvr.assembly.splits import published_counts
from omni_rlvr.cli import conf_dir
from omni_rlvr.config.dataset import DatasetConfig, ModalityConfig
from omni_rlvr.data.synthetic.generate import split_folder
from omni_rlvr.record import read_json
from omni_rlvr.tasks.build import build
from omni_rlvr.tasks.dataset.check import PROBE, CheckInputs, probe_clips
from omni_rlvr.tasks.table import register
from omni_rlvr.types import Example, UserError

_spec = importlib.util.spec_from_file_location(
    "make_clips", Path(__file__).parents[1] / "media" / "make_clips.py"
)
assert _spec is not None
assert _spec.loader is not None
make_clips = importlib.util.module_from_spec(_spec)
sys.modules["make_clips"] = make_clips
_spec.loader.exec_module(make_clips)
Recipe, write = make_clips.Recipe, make_clips.write

TEST_1 = "EmoLabel_DataSplit/test(single-labeled)/set_1.csv"
TRAIN_1 = TEST_1.replace("test", "train")


@pytest.fixture(scope="module")
def dfew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four test clips: whole, silent, sound only, torn; and one for training that is not there."""
    root = tmp_path_factory.mktemp("dfew")
    clips = root / "Clip" / "original"
    clips.mkdir(parents=True)
    small = {"width": 32, "height": 32, "sound_s": 0.4, "times_ms": tuple(range(0, 400, 40))}
    write(clips / "00001.mp4", Recipe(**small))
    write(clips / "00002.mp4", Recipe(**small | {"sound": None}))
    write(clips / "00003.mp4", Recipe(**small | {"picture": None}))
    good = (clips / "00001.mp4").read_bytes()
    (clips / "00004.mp4").write_bytes(good[: len(good) // 2])
    for name, text in ((TEST_1, "1,7\n2,1\n3,1\n4,2\n"), (TRAIN_1, "5,7\n")):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def checked(dfew: Path, tmp_path: Path) -> Callable[..., dict]:
    """Runs task=check and returns check.json."""

    def check(*overrides: str) -> dict:
        register()
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            base = ["task=check", "dataset=dfew", f"dataset.root={dfew}"]
            cfg = compose("config", overrides=[*base, *overrides])
        ready = build(cfg, tmp_path / "run", None)
        assert isinstance(ready.inputs, CheckInputs)
        (tmp_path / "run").mkdir(exist_ok=True)
        ready.run()
        return check_json(tmp_path)

    return check


def check_json(folder: Path) -> dict:
    """The report of the latest check."""
    return read_json(folder / "run" / "check.json")


SKIP = "dataset.on_bad_media=skip"
TEST = "task.splits=[test]"


@pytest.mark.slow
def test_counts_and_clips(checked: Callable, dfew: Path, capsys: pytest.CaptureFixture) -> None:
    report = checked(SKIP, "dataset.known_bad=[Clip/original/00004.mp4]")
    assert list(report) == ["train", "test"]
    test = report["test"]
    assert test["counts"] == {"total": 4, "happy": 2, "fear": 1, "sad": 1, **dict.fromkeys(
        ("neutral", "angry", "surprise", "disgust"), 0)}  # fmt: skip
    assert test["published"]["total"] == 2341
    sound_only, torn = test["bad"]
    assert (sound_only["id"][-9:], torn["id"][-9:]) == ("00003.mp4", "00004.mp4")
    assert "has no picture stream" in sound_only["reason"]
    assert "truncated" in torn["reason"]
    assert torn["path"] == str(dfew / "Clip/original/00004.mp4")
    assert torn["annotation"] == f"{dfew / TEST_1}:4"
    assert (sound_only["known"], torn["known"]) == (False, True)
    assert test["without_sound"] == ["Clip/original/00002.mp4"]
    assert test["duration_s"] == {"min": 0.4, "median": 0.4, "max": 0.4}
    assert "no such file" in report["train"]["bad"][0]["reason"]
    out = " ".join(capsys.readouterr().out.split())
    assert "test total 4 2,341 differs" in out
    assert "train total 1 9,356 differs" in out
    for part in ("happy 2 489", "published: DFEW", "2 1 0 0.4 / 0.4 / 0.4", "(known of this"):
        assert part in out
    assert "checked: " in out


@pytest.mark.slow
def test_bad_clips_end_the_task_with_one_line(checked: Callable) -> None:
    with pytest.raises(UserError) as caught:
        checked(TEST)
    assert "2 of 4 clips are bad" in str(caught.value)
    assert "dataset.on_bad_media=skip leaves them out" in str(caught.value)
    assert checked(TEST, SKIP)["test"]["bad"]


@pytest.mark.slow
def test_modalities_decide_what_is_bad(checked: Callable) -> None:
    audio = checked(TEST, SKIP, "modality=audio")["test"]
    assert [clip["id"][-5] for clip in audio["bad"]] == ["2", "4"]
    assert audio["without_picture"] == ["Clip/original/00003.mp4"]
    assert "has no sound, the only modality in use" in audio["bad"][0]["reason"]
    video = checked(TEST, SKIP, "modality=video")["test"]
    assert [clip["id"][-5] for clip in video["bad"]] == ["3", "4"]


@pytest.mark.slow
def test_bad_clips_listed(checked: Callable, capsys: pytest.CaptureFixture) -> None:
    checked(TEST, SKIP, "task.max_listed=1", "dataset.published_source=hearsay")
    out = capsys.readouterr().out
    assert "... and 1 more in test" in out
    assert "00004.mp4" not in out
    assert "published: hearsay" in out
    with pytest.raises(UserError, match=r"task\.max_listed=-1"):
        checked(TEST, "task.max_listed=-1")
    with pytest.raises(UserError, match=r"dataset\.fold=1 .*folds of dfew are 2"):
        checked("dataset.folds=[2]")


@pytest.mark.slow
def test_a_fault_in_the_middle_is_found_by_decoding_all(
    checked: Callable, dfew: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "torn"
    (root / "Clip/original").mkdir(parents=True)
    (root / TEST_1).parent.mkdir(parents=True)
    (root / TEST_1).write_text("1,7\n2,1\n")
    whole = (dfew / "Clip/original/00001.mp4").read_bytes()
    (root / "Clip/original/00002.mp4").write_bytes(whole)
    path = write(root / "Clip/original/00001.mp4", Recipe(sound=None))
    torn = bytearray(path.read_bytes())  # of the picture alone: all sound is decoded anyway
    with av.open(str(path)) as container:
        last = [p for p in container.demux(video=0) if p.size][-1]
        at, size = last.pos + 8, last.size - 8
    torn[at : at + size] = bytes(size)
    path.write_bytes(torn)
    assert checked(TEST, f"dataset.root={root}")["test"]["bad"] == []
    assert "one frame each; task.decode=all" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UserError, match="1 of 2 clips are bad"):
        checked(TEST, f"dataset.root={root}", "task.decode=all")
    (bad,) = check_json(tmp_path)["test"]["bad"]
    assert bad["id"] == "Clip/original/00001.mp4"
    assert bad["reason"].startswith(f"{path}: its ")
    with pytest.raises(UserError, match=r"task\.decode='most' is out of range: frame or all"):
        checked(TEST, "task.decode=most")


def test_published_counts_are_in_our_words() -> None:
    published = {"test/2": {"total": 9}, "test": {"total": [1, 2], "hap": 3, "exc": 4, "oth": 5}}
    words = {"hap": "happy", "exc": "happy", "oth": None}
    assert published_counts(published, "test", 1, words) == {"total": [1, 2], "happy": 7}
    assert published_counts(published, "test", 2, words) == {"total": 9}
    assert published_counts(published, "dev", None, None) == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "said"),
    [
        ("happy", ["train: no example has these of dataset.labels: Sad, calm",
                   "test: clips of labels that train lacks: Sad (1)"]),
        ("happy sad calm", []),
    ],
)  # fmt: skip
def test_labels_that_no_training_example_has(
    dfew: Path, tmp_path: Path, capsys: pytest.CaptureFixture, train: str, said: list[str]
) -> None:
    for name, labels in (("train", train), ("test", "happy sad")):
        rows = [f"Clip/original/00001.mp4,{label}" for label in labels.split()]
        (tmp_path / f"{name}.csv").write_text("\n".join(["video,label", *rows]))
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        files = [f"dataset.annotations.{name}={tmp_path}/{name}.csv" for name in ("train", "test")]
        own = ["dataset=csv", f"dataset.root={dfew}", "dataset.labels=[happy,Sad,calm]", *files]
        cfg = compose("config", overrides=["task=check", *own])
    build(cfg, tmp_path / "run", None).run()
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "dataset.labels" in line or "lacks" in line] == said
    assert ["split", "label", "clips"] in [line.split() for line in lines]  # none are published


def test_a_fault_of_ours_ends_probing(dfew: Path) -> None:
    example = Example("a", "?", "b", "b", video=dfew / "Clip/original/00001.mp4")
    clips = Clips(DatasetConfig(), ModalityConfig(), {})
    with pytest.raises(RuntimeError, match="bug in omni_rlvr"):
        list(probe_clips([example] * 3, clips, "omni_rlvr.types:require", window_s=None))
    findings = probe_clips([example] * 50, clips, PROBE, window_s=None)
    assert next(findings).reason is None
    started = time.monotonic()
    findings.close()  # as Ctrl-C does
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_ctrl_c_ends_the_command(dfew: Path, tmp_path: Path) -> None:
    list_1 = tmp_path / TEST_1
    list_1.parent.mkdir(parents=True)
    list_1.write_text("".join(f"1,{1 + i % 7}\n" for i in range(5000)))
    (tmp_path / "Clip").symlink_to(dfew / "Clip")
    command = [
        str(Path(sys.executable).with_name("omni-rlvr")), "task=check", "dataset=dfew",
        f"dataset.root={tmp_path}", "task.splits=[test]", f"paths.output_root={tmp_path}/outputs",
    ]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # a suite that runs in the background has it ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("outputs/check/*/run.json")):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "stopped while checking test" in printed.splitlines()[-1]
    assert "Traceback" not in printed
    (record,) = tmp_path.glob("outputs/check/*/run.json")
    assert read_json(record)["status"] == "interrupted"


@pytest.mark.slow
def test_clips_that_nobody_asked_for_are_not_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        cfg = compose("config", overrides=["task=check", f"paths.data_root={tmp_path}"])
    told = "caption 6,000, cold_start 580, rlvr 3,000, test 500, ood 500"
    with pytest.raises(UserError, match=rf"not made yet are not checked \({told}\); task.splits="):
        build(cfg, tmp_path / "run", None)
    assert not list(tmp_path.iterdir())

    folder = split_folder(tmp_path / "synthetic", "test", 500, 0)
    folder.mkdir(parents=True)
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "happy"}]
    rows = [{"video": "clips/000000.mp4", "conversations": turns}]
    (folder / "annotations.json").write_text(json.dumps(rows))
    ready = build(cfg, tmp_path / "run", None)
    assert list(ready.inputs.clips.examples) == ["test"]
    assert "(caption 6,000, cold_start 580, rlvr 3,000, ood 500)" in caplog.text
