"""Gold answers that earn the full reward pass; one that does not is named before training."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from omni_rlvr.rewards.accuracy import Accuracy
from omni_rlvr.rewards.format import Format
from omni_rlvr.rewards.gold import check_gold
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.types import Example, UserError

MIXTURE = Mixture(
    {"accuracy": Accuracy(synonyms={}), "format": Format()}, {"accuracy": 1.0, "format": 0.1}
)


def example(answer: str, target: str, index: int = 0) -> Example:
    return Example(
        id=f"clip{index}",
        question="?",
        answer=answer,
        target=target,
        video=None,
        source=f"train.json[{index}]",
    )


class Recorder:
    """A term that notes what it scores and judges only some rows."""

    max_score = 1.0

    def __init__(self, judged: bool) -> None:
        self.judged = judged
        self.seen: list[str] = []

    def __call__(
        self, completions: Sequence[str], examples: Sequence[Example]
    ) -> list[float | None]:
        self.seen += completions
        return [1.0 if self.judged else None] * len(completions)


def test_labels_and_reasoning_pass() -> None:
    tagged = "<think>She cries.</think>\n<answer>sad</answer>"
    check_gold(MIXTURE, [example("happy", "happy"), example("sad", tagged, 1)])


def test_no_examples() -> None:
    check_gold(MIXTURE, [])


def test_each_distinct_answer_once_and_each_tagged_target() -> None:
    recorder = Recorder(judged=True)
    tagged = ["<think>a</think><answer>sad</answer>", "<think>b</think><answer>sad</answer>"]
    labels = [example("sad", "sad"), example("sad", "sad"), example("happy", "happy")]
    check_gold(
        Mixture({"r": recorder}, {"r": 1.0}),
        [*labels, *(example("sad", target) for target in tagged)],
    )
    sad, happy = (f"<think>gold</think>\n<answer>{label}</answer>" for label in ("sad", "happy"))
    assert sorted(recorder.seen) == sorted([sad, happy, *tagged])


def test_a_target_that_breaks_the_format_is_named() -> None:
    target = "<think></think>\n<answer>sad</answer>"
    examples = [example("happy", "happy"), example("sad", target, 7)]
    with pytest.raises(UserError) as caught:
        check_gold(MIXTURE, examples)
    message = str(caught.value)
    for word in ("clip7", "train.json[7]", repr(target), "accuracy 1 ", "format 0 ", "1 of 1.1"):
        assert word in message


def test_an_answer_no_completion_can_match_is_named() -> None:
    with pytest.raises(UserError, match=r"train\.json\[3\]") as caught:
        check_gold(MIXTURE, [example("a</answer>b", "a", 3)])
    assert "accuracy 0 " in str(caught.value)


def test_a_penalty_that_gold_answers_avoid_passes() -> None:
    class Never:
        max_score = 1.0

        def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
            return [0.0] * len(completions)

    terms = {"accuracy": Accuracy(synonyms={}), "penalty": Never()}
    check_gold(Mixture(terms, {"accuracy": 1.0, "penalty": -1.0}), [example("sad", "sad")])


def test_a_penalty_on_a_gold_answer_is_named() -> None:
    terms = {"accuracy": Accuracy(synonyms={}), "penalty": Recorder(judged=True)}
    with pytest.raises(UserError, match=r"penalty 1 \(weight -1\)"):
        check_gold(Mixture(terms, {"accuracy": 1.0, "penalty": -1.0}), [example("sad", "sad")])


def test_a_metric_need_not_be_full() -> None:
    terms = {"accuracy": Accuracy(synonyms={}), "format": Format()}
    mixture = Mixture(terms, {"accuracy": 1.0, "format": 0.0})
    check_gold(mixture, [example("sad", "<answer> sad </answer>")])


def test_a_term_that_cannot_judge_is_left_out() -> None:
    terms = {"accuracy": Accuracy(synonyms={}), "judge": Recorder(judged=False)}
    check_gold(Mixture(terms, {"accuracy": 1.0, "judge": 1.0}), [example("sad", "sad")])


def test_a_row_no_term_can_judge_is_named() -> None:
    mixture = Mixture({"judge": Recorder(judged=False)}, {"judge": 1.0})
    with pytest.raises(UserError, match="reward: nan of 1: judge nan"):
        check_gold(mixture, [example("sad", "sad")])


class Constant:
    """A term that gives the same to all, and says nothing of what it could give."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, completions: Sequence[str]) -> list[float]:
        return [self.value] * len(completions)


def test_a_thousand_terms_are_added_up_within_their_rounding() -> None:
    terms = {f"t{k}": Constant((k % 5) / 5) for k in range(1000)}
    mixture = Mixture(
        {"accuracy": Accuracy(synonyms={}), "format": Format(), **terms},
        {"accuracy": 1.0, "format": 0.1, **dict.fromkeys(terms, 1e-3)},
    )
    check_gold(mixture, [example("happy", "happy")])
    with pytest.raises(UserError) as caught:
        check_gold(mixture, [example("happy", "<think></think><answer>happy</answer>")])
    assert "1.4 of" in str(caught.value)  # 1 + 0 * 0.1 + 200 * (0 + .2 + .4 + .6 + .8) * 0.001
    assert ": format 0 (weight 0.1), " in str(caught.value)  # what misses most comes first
    assert str(caught.value).count("(weight") == 10
    assert "and 992 more terms" in str(caught.value)
