"""What the page's models say: task=predict's answers, task=attribute's values, every option."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from omni_rlvr.assembly.splits import read_split
from omni_rlvr.record import read_jsonl
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.tasks.serve import answers
from omni_rlvr.tasks.serve.answers import Answer, Clip, Stopped, ask
from omni_rlvr.tasks.serve.inputs import ServeInputs
from omni_rlvr.tasks.serve.uploads import Upload, Uploads
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.types import UserError

SERVE = (
    "task=serve",
    "task.num_examples=0",
    "task.max_completion_length=12",
    "model.instruction='in <answer> </answer> tags'",
)
GO = threading.Event()  # never set: nobody stops


class Asked:
    """One page's parts and what was taken in."""

    def __init__(self, parts: ServeInputs, path: Path, folder: Path):
        self.parts = parts
        uploads = Uploads(parts, folder, torch.device("cpu"))
        self.upload: Upload = uploads.take(path, as_sound=False)
        uploads.measure.close()
        uploads.reader.close()

    def __call__(
        self, *, video: bool = True, audio: bool = True, question: str = EMOTION_QUESTION
    ) -> tuple[list[str], Answer]:
        """Asks, and returns the pieces that came and the answer."""
        clip = Clip(self.upload if video else None, self.upload if audio else None)
        said = ask(self.parts, 0, clip, question, GO)
        pieces = []
        while True:
            try:
                pieces.append(next(said))
            except StopIteration as end:
                return pieces, end.value


@pytest.fixture
def make(runner, clips: Path, tmp_path: Path) -> Callable[..., Asked]:
    """Builds a page's parts and takes the first clip in."""

    def build(*overrides: str) -> Asked:
        parts, _ = runner.build(*SERVE, *overrides)
        for model in parts.models:
            model.policy.eval()
        return Asked(parts, clips / "clips/000000.mp4", tmp_path)

    return build


def test_the_answer_is_that_of_task_predict(make, runner, clips: Path) -> None:
    pieces, said = make()()
    clip = f"+video={clips}/clips/000000.mp4"
    same = (SERVE[2], SERVE[3], "feature_cache.enabled=false")
    (row,) = read_jsonl(runner("task=predict", clip, *same) / "predictions.jsonl")
    for name in ("completion", "answer", "predicted", "truncated", "has_video", "has_audio"):
        assert vars(said.prediction)[name] == row[name]
    assert said.prediction.probabilities == pytest.approx(row["probabilities"])
    assert len(pieces) > 3
    assert "".join(pieces) == row["completion"] + "\n"


@pytest.mark.parametrize("value", ["prob", "log_prob"])
def test_shapley_values_add_up(make, value: str) -> None:
    _, said = make(f"task.value={value}")()
    p = torch.tensor([said.game.probabilities[s] for s in ("none", "audio", "video", "both")])
    none, audio, video, both = (p.log() if value == "log_prob" else p).tolist()
    phi = said.game.phi
    assert phi["audio"] + phi["video"] == pytest.approx(both - none, abs=1e-6)
    assert phi["audio"] == pytest.approx(((audio - none) + (both - video)) / 2, abs=1e-6)
    assert phi["audio"] != 0
    label = said.game.label
    assert label == (
        said.prediction.predicted
        or max(said.prediction.probabilities, key=said.prediction.probabilities.get)
    )
    assert both == pytest.approx(  # scored behind the same reasoning
        said.prediction.probabilities[label]
        if value == "prob"
        else torch.tensor(said.prediction.probabilities[label]).log().item(),
        abs=1e-5,
    )


@pytest.mark.parametrize(("video", "audio"), [(True, False), (False, True)])
def test_what_is_not_shown_did_nothing(make, video: bool, audio: bool) -> None:
    asked = make()
    _, said = asked(video=video, audio=audio)
    assert (said.prediction.has_video, said.prediction.has_audio) == (video, audio)
    p = said.game.probabilities
    assert said.game.phi["audio" if video else "video"] == pytest.approx(0, abs=1e-7)
    assert p["both"] == pytest.approx(p["video" if video else "audio"])
    assert said.prediction.probabilities != asked()[1].prediction.probabilities


def test_options_change_the_answer(make, monkeypatch) -> None:
    _, plain = make()()
    assert len(plain.prediction.probabilities) == 7
    for override in ("task.lead=empty_think", "task.absent=silence_grey"):
        _, other = make(override)()
        assert other.prediction == plain.prediction
        assert other.game.probabilities["none"] != pytest.approx(
            plain.game.probabilities["none"], rel=1e-6
        )
    _, other = make("task.labels=[sad,happy]")()
    assert set(other.prediction.probabilities) == {"sad", "happy"}
    _, other = make("task.max_completion_length=3")()
    assert len(other.prediction.completion) < len(plain.prediction.completion)
    monkeypatch.setattr(SharedPrefix, "sample", lambda *_: pytest.fail("not this engine"))
    asked = make("rollout=hf")
    assert asked()[1].prediction.completion == plain.prediction.completion
    assert asked(question="Why?")[1].prediction.probabilities != plain.prediction.probabilities
    with pytest.raises(UserError, match=r"^question: the text contains the special token"):
        asked(question="<|video|>")


def test_an_answer_that_nobody_waits_for_is_stopped() -> None:
    ended: list[str] = []

    def speak(write: Callable[[str], None]) -> Answer:
        try:
            while True:
                write("a")
        except Stopped:
            ended.append("stopped")
            raise

    said = answers.spoken(speak, threading.Event())
    assert set(next(said)) == {"a"}
    said.close()  # the visitor left
    assert ended == ["stopped"]
    stop = threading.Event()
    said = answers.spoken(speak, stop)
    next(said)
    stop.set()  # the server ends
    with pytest.raises(Stopped):
        list(said)


def test_a_fault_of_the_model_reaches_the_page() -> None:
    def fail(write: Callable[[str], None]) -> Answer:
        write("a")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(answers.spoken(fail, threading.Event()))


def test_clips_to_try_show_different_labels(runner) -> None:
    parts, _ = runner.build(*SERVE, "task.num_examples=3")
    assert len({example.answer for example in parts.examples}) == 3
    parts, _ = runner.build(*SERVE, "task.num_examples=9")
    assert [e.id for e in parts.examples] == [
        e.id for e in read_split(parts.clips.dataset, "test")
    ]  # five rows are all there are
    assert not runner.build(*SERVE, "task.num_examples=3", "task.split=none")[0].examples


def test_without_gradio_it_says_what_to_install(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'omni-rlvr\[serve\]'$"):
        runner.build(*SERVE)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("task.compare=nowhere", "nowhere"),
        ("task.labels=[sad,sad]", "task.labels"),
        ("task.question='<|video|>'", "task.question"),
    ],
)
def test_what_cannot_be_served_is_named(runner, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        runner.build(*SERVE, override)
