"""Evaluation by hand: what counts as an answer, what it is with_outcome with, and every score."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from every_case import every_case

from omni_rlvr.config.sampling import SamplingConfig, greedy
from omni_rlvr.config.tasks import EvaluateTask
from omni_rlvr.rollout import label_scoring
from omni_rlvr.rollout.encode import encode
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.tasks import evaluate as evaluating
from omni_rlvr.tasks.evaluate import OUTCOMES, answered, judge, score, scored, with_outcome
from omni_rlvr.tasks.predict import predict
from omni_rlvr.types import Features, Rollout, SkippedClip, UserError

LABELS = ("happy", "sad", "neutral")


def judged(label: str, completion: str, labels=LABELS) -> dict[str, object]:
    return judge("clip", label, completion, labels)


def well_formed(answer: str) -> str:
    return f"<think>a smile</think>\n<answer>{answer}</answer>"


def test_a_row_by_hand():
    assert judged("sad", well_formed("sad")) == {
        "id": "clip",
        "label": "sad",
        "predicted": "sad",
        "correct": True,
        "well_formed": True,
        "completion": well_formed("sad"),
    }


@every_case(
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
    row = judged("sad", completion)
    assert row["predicted"] == predicted
    assert row["well_formed"] is is_well_formed
    assert row["correct"] is (predicted == "sad")


def test_a_label_keeps_the_spelling_of_the_list():
    row = judged("Happy", "happy", labels=("Happy", "Sad"))
    assert row["predicted"] == "Happy"
    assert row["correct"]


def test_scores_by_hand():
    rows = [
        judged("happy", well_formed("happy")),
        judged("happy", "happy"),
        judged("happy", well_formed("sad")),
        judged("happy", well_formed("joy")),
        judged("sad", well_formed("sad")),
        judged("sad", ""),
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
    rows = [judged("happy", "happy")] * 9 + [judged("sad", "happy")]
    scores = score(rows, LABELS, num_resamples=200)
    # 9 of 10; (100 + 0) / 2.
    assert (scores["war"], scores["uar"]) == (90.0, 50.0)
    low, high = scores["war_ci"]
    assert 60 <= low < 90 < high <= 100


def test_all_right_or_wrong_on_few_clips_is_not_certain():
    scores = score([judged("sad", well_formed("sad"))] * 5, LABELS, num_resamples=50)
    # 0.025^(1/5) = 0.4782: a model that is right in 47.8 % answers five in a row with chance 0.025
    assert scores["war_ci"] == scores["uar_ci"] == [47.82, 100.0]
    wrong = score([judged("sad", "happy")] * 7, LABELS, num_resamples=50)
    assert wrong["war_ci"] == [0.0, 40.96]  # 1 - 0.025^(1/7)
    assert scores["format"] == 100.0
    assert scores["outside"] == 0.0


def test_the_order_of_clips_changes_no_score():
    rows = [judged("happy", "happy"), judged("sad", "joy"), judged("neutral", "sad")]
    forward, backward = (score(r, LABELS, num_resamples=100) for r in (rows, rows[::-1]))
    assert forward == backward


def test_no_answer_is_not_the_label_none():
    labels = ("None", "happy")
    rows = [judged("None", "", labels), judged("happy", "happy", labels)]
    scores = score(rows, labels, num_resamples=50)
    assert scores["war"] == 50.0
    assert scores["outside"] == 50.0
    assert judged("None", "none", labels)["correct"]


@pytest.mark.parametrize(
    ("completion", "chosen", "outcome"),
    [
        (well_formed("sad"), "sad", "right"),
        ("<think>sad</think>", "sad", "unparseable"),
        ("<answer></answer><answer>sad</answer>", "sad", "unparseable"),
        (well_formed("gloomy"), "sad", "outside"),
        ("I think sad", "sad", "outside"),  # a bare text is an answer as a whole
        (well_formed(""), "sad", "unparseable"),
        ("", "sad", "unparseable"),  # nothing was said
        (well_formed("happy"), "sad", "another_label"),
        (well_formed("sad"), "happy", "won"),
        (well_formed("happy"), "happy", "wrong"),
        ("", "happy", "wrong"),
    ],
)
def test_the_outcome_of_a_clip(completion: str, chosen: str, outcome: str):
    row = with_outcome(judged("sad", completion), chosen, behind_reasoning=True)
    assert (row["chosen"], row["outcome"], row["scored_after"]) == (chosen, outcome, "completion")
    assert outcome in OUTCOMES


def test_scores_of_chosen_labels_by_hand():
    said = [
        ("happy", well_formed("happy"), "happy"),  # right
        ("happy", well_formed("joy"), "happy"),  # outside
        ("happy", well_formed("joy"), "sad"),  # wrong
        ("sad", well_formed("happy"), "sad"),  # another label
        ("sad", "<think>", "sad"),  # unparseable
        ("neutral", well_formed("neutral"), "sad"),  # won
    ]
    rows = [
        with_outcome(judged(label, text), chosen, behind_reasoning=text != "<think>")
        for label, text, chosen in said
    ]
    scores = score(rows, LABELS, num_resamples=100)
    counts = dict.fromkeys(OUTCOMES, 1)
    assert scores["outcomes"] == counts
    # Chosen right: 4 of 6; recalls 2/3, 2/2, 0/1.
    # Generated right: 2 of 6 = (4 - 1 - 1 - 1 + 1) / 6.
    assert (scores["chosen_war"], scores["chosen_uar"]) == (66.67, 55.56)
    assert scores["war"] == 33.33
    # Answers "happy" 2, "sad" 0, "neutral" 1; F1 2/(3+2), 0, 2/(1+1): (3 * 0.4 + 0 + 1) / 6.
    assert scores["weighted_f1"] == 36.67
    assert scores["chosen_after_prompt"] == 16.67  # 1 of 6
    low, high = scores["chosen_war_ci"]
    assert low <= 66.67 <= high


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


def run(policy, batches, *, engine: RolloutEngine | None = None, length: int = 7):
    task, engine = (
        EvaluateTask(max_completion_length=length, num_resamples=20),
        engine or SharedPrefix(),
    )
    rows = []
    for batch in batches:
        features = encode(policy, batch) if len(batch) else Features([], [])
        rows += answered(policy, engine, batch, features, LABELS, task)
    return scored(rows, LABELS, task)


def test_batches_are_judged_row_by_row(tiny_policy, make_batch):
    engine = Told(["happy", "sad"], [well_formed("happy")])
    batches = [make_batch(tiny_policy, 2), make_batch(tiny_policy, 1)]  # every gold label is happy
    result = run(tiny_policy, batches, engine=engine)
    assert [row["id"] for row in result.predictions] == ["clip0", "clip1", "clip0"]
    assert [row["correct"] for row in result.predictions] == [True, False, True]
    assert result.scores["war"] == 66.67
    how = SamplingConfig(num_generations=1, max_completion_length=7, temperature=0)
    assert engine.calls == [(2, how), (1, how)]


def test_a_batch_without_a_clip_is_not_asked_about(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2)
    lost = SkippedClip(batch.examples[0], "torn file")
    empty = replace(batch, examples=[], skipped=[lost])
    batches = [replace(batch, skipped=[lost]), empty]
    result = run(tiny_policy, batches, engine=Told(["happy", "happy"]))
    assert len(result.predictions) == 2
    assert result.scores["war"] == 100.0


def test_batch_size_changes_no_prediction(tiny_policy, make_batch):
    whole = run(tiny_policy, [make_batch(tiny_policy, 4)])
    again = run(tiny_policy, [make_batch(tiny_policy, 4)])
    assert whole.predictions == again.predictions
    assert any(row["completion"] for row in whole.predictions)
    shorter = run(tiny_policy, [make_batch(tiny_policy, 4)], length=1)
    for short, long in zip(shorter.predictions, whole.predictions, strict=True):
        assert str(long["completion"]).startswith(str(short["completion"]).rstrip("\ufffd"))


def test_the_chosen_label_is_the_most_likely_behind_the_own_reasoning(
    tiny_policy, make_batch, monkeypatch
):
    """The choice is that of ``predict``, which gives every label a probability."""
    batch = make_batch(tiny_policy, 5)
    features = encode(tiny_policy, batch)
    monkeypatch.setattr(label_scoring, "LOGITS_AT_ONCE", 2 * 3 * 570 * 12)  # not all five at once
    task = EvaluateTask(max_completion_length=7, num_resamples=20)
    rows = answered(tiny_policy, SharedPrefix(), batch, features, LABELS, task)
    predictions = predict(
        tiny_policy,
        SharedPrefix(),
        batch,
        features,
        LABELS,
        answer_form="auto",
        sampling=greedy(max_completion_length=7),
        generator=torch.Generator(),
        on_tokens=None,
    )
    for row, prediction in zip(rows, predictions, strict=True):
        assert row["completion"] == prediction.completion
        assert row["chosen"] == max(prediction.probabilities, key=prediction.probabilities.get)
        assert row["scored_after"] == prediction.scored_after
    without = EvaluateTask(max_completion_length=7, score_labels=False)
    (row, *_) = answered(tiny_policy, SharedPrefix(), batch, features, LABELS, without)
    assert "chosen" not in row
    assert "outcome" not in row


def test_labels_whose_scores_are_not_finite_are_refused(tiny_policy, make_batch, monkeypatch):
    batch = make_batch(tiny_policy, 2)
    nan = torch.full((2, len(LABELS)), float("nan"))
    monkeypatch.setattr(evaluating, "label_logps", lambda *_, **__: nan)
    task = EvaluateTask(max_completion_length=3)
    with pytest.raises(UserError, match="clip0: the log-probabilities of the labels are not"):
        answered(tiny_policy, SharedPrefix(), batch, encode(tiny_policy, batch), LABELS, task)
