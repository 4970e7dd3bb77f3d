"""Evaluation by hand: what counts as an answer, what it is compared with, and every score."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.config.tasks import EvaluateTask
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.tasks.evaluate import evaluate, judge, score
from omni_rlvr.types import Rollout, SkippedClip, UserError

LABELS = ("happy", "sad", "neutral")


def answered(label: str, completion: str, labels=LABELS) -> dict[str, object]:
    return judge("clip", label, completion, labels)


def well_formed(answer: str) -> str:
    return f"<think>a smile</think>\n<answer>{answer}</answer>"


def test_a_row_by_hand():
    assert answered("sad", well_formed("sad")) == {
        "id": "clip",
        "label": "sad",
        "predicted": "sad",
        "correct": True,
        "well_formed": True,
        "completion": well_formed("sad"),
    }


@pytest.mark.parametrize(
    ("completion", "predicted", "is_well_formed"),
    [
        (well_formed("happy"), "happy", True),
        (well_formed(" Happy\n"), "happy", True),  # case and white space are forgiven
        (well_formed("joy"), None, True),  # outside the list, yet well-formed
        (well_formed("happy."), None, True),  # punctuation is not forgiven
        ("<answer>sad</answer>", "sad", False),  # an answer without thinking is read
        ("sad", "sad", False),  # a bare answer is an answer
        (" SAD \n", "sad", False),
        ("I think sad", None, False),  # a bare text is an answer as a whole
        ("", None, False),
        ("<think>sad</think>", None, False),  # tags, but no answer
        ("<think>sad", None, False),
        ("<answer></answer>", None, False),
        ("<answer>sad</answer><answer>happy</answer>", None, False),
    ],
)
def test_what_is_read_from_a_completion(completion, predicted, is_well_formed):
    row = answered("sad", completion)
    assert row["predicted"] == predicted
    assert row["well_formed"] is is_well_formed
    assert row["correct"] is (predicted == "sad")


def test_a_label_keeps_the_spelling_of_the_list():
    row = answered("Happy", "happy", labels=("Happy", "Sad"))
    assert row["predicted"] == "Happy"
    assert row["correct"]


def test_scores_by_hand():
    rows = [
        answered("happy", well_formed("happy")),
        answered("happy", "happy"),
        answered("happy", well_formed("sad")),
        answered("happy", well_formed("joy")),
        answered("sad", well_formed("sad")),
        answered("sad", ""),
    ]
    scores = score(rows, LABELS, num_resamples=200)
    # Right: 2 of 4 happy, 1 of 2 sad; neutral has no clip. WAR 3/6, UAR (1/2 + 1/2) / 2.
    assert scores["num_clips"] == 6
    assert scores["war"] == 50.0
    assert scores["uar"] == 50.0
    assert scores["recall"] == {"happy": 50.0, "sad": 50.0, "neutral": None}
    assert scores["format"] == 66.67  # 4 of 6
    assert scores["outside"] == 33.33  # "joy" and ""
    assert scores["labels"] == list(LABELS)
    assert scores["confusion"] == [[2, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_war_and_uar_differ_when_classes_do():
    rows = [answered("happy", "happy")] * 9 + [answered("sad", "happy")]
    scores = score(rows, LABELS, num_resamples=200)
    # 9 of 10; (100 + 0) / 2.
    assert (scores["war"], scores["uar"]) == (90.0, 50.0)
    low, high = scores["war_ci"]
    assert 60 <= low < 90 < high <= 100


def test_all_right_leaves_no_interval():
    scores = score([answered("sad", well_formed("sad"))] * 5, LABELS, num_resamples=50)
    assert scores["war_ci"] == scores["uar_ci"] == [100.0, 100.0]
    assert scores["format"] == 100.0
    assert scores["outside"] == 0.0


def test_the_order_of_clips_changes_no_score():
    rows = [answered("happy", "happy"), answered("sad", "joy"), answered("neutral", "sad")]
    forward, backward = (score(r, LABELS, num_resamples=100) for r in (rows, rows[::-1]))
    assert forward == backward


def test_no_answer_is_not_the_label_none():
    labels = ("None", "happy")
    rows = [answered("None", "", labels), answered("happy", "happy", labels)]
    scores = score(rows, labels, num_resamples=50)
    assert scores["war"] == 50.0
    assert scores["outside"] == 50.0
    assert answered("None", "none", labels)["correct"]


class Told:
    """An engine that says given texts; it notes how many it was asked for, and how."""

    def __init__(self, *batches: list[str]):
        self.texts, self.calls = iter(batches), []

    def sample(self, policy, prompts, sampling, generator, on_tokens) -> Rollout:
        self.calls.append((len(prompts), sampling))
        empty = torch.zeros(len(prompts), 1, dtype=torch.long)
        whole = torch.ones(len(prompts), dtype=torch.bool)
        texts = next(self.texts)
        return Rollout(empty, empty, empty.float(), texts, truncated=~whole, finite=whole)

    def sync(self, policy) -> None:
        raise AssertionError("an evaluation updates nothing")


def run(policy, batches, *, engine: RolloutEngine | None = None, done=None, length: int = 7):
    ticks = [] if done is None else done
    return evaluate(
        policy,
        engine or SharedPrefix(),
        batches,
        LABELS,
        EvaluateTask(max_completion_length=length, num_resamples=20),
        on_features=lambda batch, features: None,
        on_batch=ticks.append,
    )


def test_batches_are_judged_row_by_row(tiny_policy, make_batch):
    engine = Told(["happy", "sad"], [well_formed("happy")])
    done: list[int] = []
    batches = [make_batch(tiny_policy, 2), make_batch(tiny_policy, 1)]  # every gold label is happy
    result = run(tiny_policy, batches, engine=engine, done=done)
    assert [row["id"] for row in result.predictions] == ["clip0", "clip1", "clip0"]
    assert [row["correct"] for row in result.predictions] == [True, False, True]
    assert result.scores["war"] == 66.67
    assert result.skipped == []
    assert done == [2, 1]
    how = SamplingConfig(num_generations=1, max_completion_length=7, temperature=0)
    assert engine.calls == [(2, how), (1, how)]


def test_skipped_clips_are_counted_and_not_scored(tiny_policy, make_batch):
    engine = Told(["happy", "happy"])
    batch = make_batch(tiny_policy, 2)
    lost = SkippedClip(batch.examples[0], "torn file")
    empty = replace(batch, examples=[], skipped=[lost])
    done: list[int] = []
    batches = [replace(batch, skipped=[lost]), empty]
    result = run(tiny_policy, batches, engine=engine, done=done)
    assert result.skipped == [lost, lost]
    assert len(result.predictions) == 2
    assert result.scores["war"] == 100.0
    assert done == [3, 1]


def test_nothing_read_is_an_error(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 1)
    lost = replace(batch, examples=[], skipped=[SkippedClip(batch.examples[0], "torn file")])
    with pytest.raises(UserError, match="none of the 2 clips could be read"):
        run(tiny_policy, [lost, lost])


def test_batch_size_changes_no_prediction(tiny_policy, make_batch):
    whole = run(tiny_policy, [make_batch(tiny_policy, 4)])
    again = run(tiny_policy, [make_batch(tiny_policy, 4)])
    assert whole.predictions == again.predictions
    assert any(row["completion"] for row in whole.predictions)
    shorter = run(tiny_policy, [make_batch(tiny_policy, 4)], length=1)
    for short, long in zip(shorter.predictions, whole.predictions, strict=True):
        assert str(long["completion"]).startswith(str(short["completion"]).rstrip("\ufffd"))
