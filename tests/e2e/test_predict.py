"""task=predict on real clips: one on the terminal, many into a file, each option."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import case_folders
import pytest
import torch

import omni_rlvr
from omni_rlvr.assembly.instantiate import check
from omni_rlvr.data.synthetic.emotions import LABELS
from omni_rlvr.models.composed.processor import Processor
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.rollout import next_token, shared_prefix
from omni_rlvr.tasks import predict as task_module
from omni_rlvr.types import Interrupted, UserError

PREDICT = ("task=predict", "task.max_completion_length=12")


@pytest.fixture
def some(clips: Path, tmp_path: Path) -> Path:
    """A folder of three clips, one of them silent."""
    folder = tmp_path / "some"
    folder.mkdir()
    for name in ("000000.mp4", "000001.mp4"):
        shutil.copy(clips / "clips" / name, folder / name)
    shutil.copy(clips / "silent.mp4", folder / "silent.mp4")
    return folder


def remux(source: Path, to: Path, container: str) -> None:
    """Copies the streams of a clip into another container."""
    with av.open(str(source)) as read, av.open(str(to), "w", format=container) as out:
        streams = {s.index: out.add_stream_from_template(s) for s in read.streams}
        for packet in read.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)


@pytest.fixture
def rows_of(runner) -> Callable[..., list[dict]]:
    """Predicts and returns the rows of predictions.jsonl."""

    def predict(*overrides: str) -> list[dict]:
        return read_jsonl(runner(*PREDICT, *overrides) / "predictions.jsonl")

    return predict


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the model say a text, whatever it is asked."""

    def install(text: str) -> None:
        tokens: list[int] = []

        def dictated(logits, uniform, **settings):
            step = len(tokens)
            tokens.append(0)
            return torch.full((len(logits),), ids[min(step, len(ids) - 1)])

        def sample(self, policy, prompts, sampling, generator, on_tokens):
            nonlocal ids
            ids = policy.processor.target_ids(text)
            tokens.clear()
            long = replace(sampling, max_completion_length=500)
            return plain(self, policy, prompts, long, generator, on_tokens)

        ids: list[int] = []
        plain = shared_prefix.SharedPrefix.sample
        monkeypatch.setattr(next_token, "next_tokens", dictated)
        monkeypatch.setattr(shared_prefix.SharedPrefix, "sample", sample)

    return install


REASONED = "<think>A 😢 smile.</think>\n<answer>Happy</answer>"


@pytest.mark.parametrize("plus", ["+", ""])
def test_one_clip_streams_and_ends_in_probabilities(runner, some, says, capsys, plus) -> None:
    says(REASONED)
    folder = runner(*PREDICT, f"{plus}video={some}/000000.mp4")
    out = capsys.readouterr().out
    assert out.startswith(f"{REASONED}\n\nanswer: Happy (from video and audio)\n")
    assert "\x1b" not in out  # not a terminal: plain text
    assert "in <answer> tags, behind the reasoning above; " in out
    assert out.endswith(f"written: {folder}/predictions.jsonl\n")
    (row,) = read_jsonl(folder / "predictions.jsonl")
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    for label, p in row["probabilities"].items():
        (line,) = (line for line in out.splitlines() if line.startswith(f"  {label} "))
        assert f" {100 * p:.1f} %" in line
    assert row | {"probabilities": 0, "list_probability": 0} == {
        "id": f"{some}/000000.mp4",
        "completion": REASONED,
        "think": "A 😢 smile.",
        "answer": "Happy",
        "predicted": "happy",
        "probabilities": 0,
        "list_probability": 0,
        "scored_after": "completion",
        "answer_form": "tags",
        "has_video": True,
        "has_audio": True,
        "truncated": False,
        "notes": [],
        "error": None,
    }
    assert 0 < row["list_probability"] <= 1
    assert read_json(folder / "run.json")["status"] == "finished"
    assert (folder.parent / "latest").resolve() == folder.resolve()


def test_text_is_shown_token_by_token_or_at_once(runner, some, says, monkeypatch, capsys) -> None:
    written: list[str] = []
    make = task_module.TextStream

    def spied(decode, write):
        return make(decode, lambda text: (written.append(text), write(text)))

    monkeypatch.setattr(task_module, "TextStream", spied)
    says(REASONED)
    texts = []
    for stream in ("true", "false"):
        written.clear()
        runner(*PREDICT, f"+video={some}/000000.mp4", f"task.stream={stream}")
        assert "".join(written) == f"{REASONED}\n"
        texts.append(capsys.readouterr().out.rpartition("written")[0])
        assert (len(written) > 10) == (stream == "true")
    assert texts[0] == texts[1]


def test_a_folder_goes_to_a_file(runner, some, capsys) -> None:
    folder = runner(*PREDICT, f"+video={some}", "task.batch_size=2")
    rows = read_jsonl(folder / "predictions.jsonl")
    assert [Path(row["id"]).name for row in rows] == ["000000.mp4", "000001.mp4", "silent.mp4"]
    assert [(row["has_video"], row["has_audio"]) for row in rows] == [
        (True, True),
        (True, True),
        (True, False),
    ]
    for row in rows:
        assert list(row["probabilities"]) == list(LABELS)
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert row["truncated"]  # a random model does not end within 12 tokens
    out = capsys.readouterr().out
    assert "3 clips: no label of the list 3, cut short 3" in out
    assert "\x1b" not in out


def test_batches_change_nothing(rows_of, some) -> None:
    one, three = (rows_of(f"+video={some}", f"task.batch_size={n}") for n in (1, 3))
    for a, b in zip(one, three, strict=True):
        assert a["completion"] == b["completion"]
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)


def test_a_glob_and_the_same_clip_alone(rows_of, some) -> None:
    many = rows_of(f"+video='{some}/0*.mp4'")
    assert len(many) == 2
    (alone,) = rows_of(f"+video={some}/000001.mp4")
    assert alone["completion"] == many[1]["completion"]
    assert alone["probabilities"] == pytest.approx(many[1]["probabilities"], abs=1e-5)


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("task.temperature=2", "completion"),
        ("task.max_completion_length=3", "completion"),
        ("task.question=What?", "probabilities"),
        ("task.labels=[yes,no]", "probabilities"),
        ("task.answer_form=tags", "answer_form"),
        ("modality=video", "has_audio"),
        ("modality=audio", "has_video"),
        ("model.instruction='Use <answer> tags.'", "answer_form"),
    ],
)
def test_every_option_changes_something(rows_of, some, override: str, changes: str) -> None:
    base = [f"+video={some}/000000.mp4"]
    (plain,), (flipped,) = rows_of(*base), rows_of(*base, override)
    assert plain[changes] != flipped[changes]
    assert sum(flipped["probabilities"].values()) == pytest.approx(1, abs=1e-6)


def test_a_sampled_answer_is_a_function_of_the_seed(rows_of, some) -> None:
    how = (f"+video={some}/000000.mp4", "task.temperature=2")
    (a,), (b,), (c,) = rows_of(*how), rows_of(*how), rows_of(*how, "seed=1")
    assert a == b
    assert a["completion"] != c["completion"]


def test_a_bare_form_scores_a_bare_reply_whatever_was_said(rows_of, some, says) -> None:
    says(REASONED)
    base = f"+video={some}/000000.mp4"
    (auto,), (bare,) = rows_of(base), rows_of(base, "task.answer_form=bare")
    assert (auto["answer_form"], auto["scored_after"]) == ("tags", "completion")
    assert (bare["answer_form"], bare["scored_after"]) == ("bare", "prompt")
    assert auto["completion"] == bare["completion"]
    assert auto["probabilities"] != bare["probabilities"]


def test_a_model_is_asked_what_it_was_trained_on(
    runner, rows_of, clips: Path, some, capsys
) -> None:
    """A checkpoint, its export and the Python API; options come first, then the model's file."""
    (clips / "own.csv").write_text(
        "video,label,question\n"
        + "".join(
            f"clips/00000{i}.mp4,{('cough', 'speech')[i % 2]},What is heard?\n" for i in range(4)
        )
    )
    own = (
        f"dataset.root={clips}",
        "dataset.annotations.train=own.csv",
        "dataset.on_bad_media=skip",
    )
    train = ("stage=sft", "stage.max_steps=1", "stage.batch_size=2", "stage.micro_batch_size=2")
    run = runner("dataset=csv", "dataset.labels=[cough,speech]", *own, *train)
    assert read_json(run / "checkpoint" / "trained_on.json") == {
        "dataset": "csv", "labels": ["cough", "speech"], "question": "What is heard?",
    }  # fmt: skip
    merged = clips / "merged"
    runner("task=export", f"model.path={run}/checkpoint", f"task.to={merged}")
    clip, asked = f"+video={some}/000000.mp4", []

    def watch(self, question, *shapes):
        asked.append(question)
        return plain(self, question, *shapes)

    plain = Processor.prompt
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processor, "prompt", watch)
        for path in (run / "checkpoint", merged):
            capsys.readouterr()
            (row,) = rows_of(f"model.path={path}", clip)
            assert [*row["probabilities"]] == ["cough", "speech"]
            assert set(asked) == {"What is heard?"}
            told = capsys.readouterr().err
            assert "labels: cough, speech (the model's; task.labels=[...] sets others)" in told
        api = omni_rlvr.predict(omni_rlvr.load_policy(merged), some / "000000.mp4")
        assert [*api.probabilities] == ["cough", "speech"]
        assert set(asked) == {"What is heard?"}
        options = ("task.labels=[music,noise]", "task.question=What now?")
        (row,) = rows_of(f"model.path={merged}", clip, *options)
        assert [*row["probabilities"]] == ["music", "noise"]
        assert asked[-1] == "What now?"
    (merged / "trained_on.json").write_text("{")
    (merged / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"trained_on.json is damaged .*set\s+task.labels"):
        rows_of(f"model.path={merged}", clip)


def test_without_the_file_r1_omnis_question_and_the_labels_of_the_data_set(rows_of, some) -> None:
    (row,) = rows_of(f"+video={some}/000000.mp4")
    assert [*row["probabilities"]] == [*LABELS]


def test_sound_files(rows_of, clips: Path, some) -> None:
    (alone,) = rows_of(f"+audio={some}/000000.mp4")  # a container's sound
    assert (alone["has_video"], alone["has_audio"]) == (False, True)
    (own,) = rows_of(f"+video={some}/000000.mp4")
    (dubbed,) = rows_of(f"+video={some}/000000.mp4", f"+audio={some}/000001.mp4")
    assert own["has_audio"]
    assert dubbed["has_audio"]
    assert own["probabilities"] != dubbed["probabilities"]


def test_names_and_words_with_markup_are_text(runner, some, says, capsys) -> None:
    odd = some / "[red]x[b] \x1b[31m.mp4"
    shutil.copy(some / "000000.mp4", odd)
    says("[bold]\x1b[31mhappy[/bold]")
    folder = runner(*PREDICT, f"+video='{some}/[[]red*'", "task.labels=['[b]sad[/b]',happy]")
    out = capsys.readouterr().out
    assert "answer: [bold]\ufffd[31mhappy[/bold] (from video and audio; not one of the lab" in out
    assert "  [b]sad[/b]" in out
    assert "\x1b" not in out
    (row,) = read_jsonl(folder / "predictions.jsonl")
    assert row["id"] == str(odd).replace("\x1b", "\ufffd")
    assert row["completion"] == "[bold]\x1b[31mhappy[/bold]"  # data as it is


def test_a_stop_keeps_what_was_predicted(runner, some, monkeypatch) -> None:
    predict, calls = task_module.predict, []

    def stopped(*arguments, **settings):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return predict(*arguments, **settings)

    monkeypatch.setattr(task_module, "predict", stopped)
    with pytest.raises(Interrupted, match=r"predicted by then is in .*predictions\.jsonl"):
        runner(*PREDICT, f"+video={some}", "task.batch_size=1")
    (folder,) = (p for p in (runner.root / "predict").iterdir() if not p.is_symlink())
    assert len(read_jsonl(folder / "predictions.jsonl")) == 1
    assert read_json(folder / "run.json")["status"] == "interrupted"


def test_the_command_as_it_is_written(runner, some) -> None:
    done = runner.command(*PREDICT, f"+video={some}/000000.mp4")
    assert done.returncode == 0, done.stderr
    assert "answer: " in done.stdout
    assert "\x1b" not in done.stdout
    config, _ = check(runner.compose(*PREDICT, f"+video={some}/000000.mp4"))
    folder = (runner.root / "predict" / "latest").resolve()
    saved = read_json(folder / "run.json")["config"]
    assert json.loads(json.dumps(config)) == saved


def test_a_folder_of_a_camera_says_what_it_leaves_out(runner, some: Path, capsys) -> None:
    """Transport streams and upper case are read; what is no clip is counted, named and recorded."""
    for name, container in (("000000", "mpegts"), ("000001", "asf")):
        remux(
            some / f"{name}.mp4", some / f"{name}.{'MTS' if name[-1] == '0' else 'asf'}", container
        )
        (some / f"{name}.mp4").unlink()
    case_folders.odd_entries(some)
    folder = runner(*PREDICT, f"+video={some}")
    rows = read_jsonl(folder / "predictions.jsonl")
    assert [Path(row["id"]).name for row in rows] == ["000000.MTS", "000001.asf", "silent.mp4"]
    assert all(row["error"] is None and row["has_video"] for row in rows)
    assert [row["has_audio"] for row in rows] == [True, True, False]
    out = capsys.readouterr().out
    assert "left out: 1 hidden files (.hidden.mp4); 1 folders below" in out
    assert "; 1 broken links (broken.mp4); 2 pipes, sockets or devices" in out
    left_out = read_json(folder / "run.json")["left_out"]
    assert left_out.items() >= case_folders.ODD_ENTRIES.items()


def test_a_file_name_that_is_no_text_and_steers_the_terminal(clips: Path, make_runner) -> None:
    runner = make_runner()
    folder = runner.root.parent / "odd"
    folder.mkdir()
    name = os.fsdecode(b"odd\xff\x1b[31m.mp4")
    shutil.copy(clips / "clips" / "000000.mp4", folder / name)
    shutil.copy(clips / "clips" / "000001.mp4", folder / "plain.mp4")
    run_dir = runner("task=predict", f"video={folder}", "task.max_completion_length=4")
    rows = read_jsonl(run_dir / "predictions.jsonl")
    assert [row["error"] for row in rows] == [None, None]
    assert rows[0]["id"] == f"{folder}/odd\ufffd\ufffd[31m.mp4"
    alone = runner("task=predict", f'video="{folder / name}"', "task.max_completion_length=4")
    assert read_json(alone / "run.json")["config"]["video"] == str(folder / name)
