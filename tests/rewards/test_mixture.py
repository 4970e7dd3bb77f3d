"""The weighted sum, and every way in which a term or a weight can be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_case import every_case
from hydra.utils import instantiate
from omegaconf import OmegaConf

from omni_rlvr.rewards.base import RewardError
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.types import Example, UserError

CONF = Path(__file__).parents[2] / "conf" / "reward" / "accuracy_format.yaml"
EXAMPLES = [
    Example(id=f"clip{i}", question="?", answer="sad", target="sad", video=None, source=f"a[{i}]")
    for i in range(3)
]
TEXTS = ["first", "second", "third"]


class Fixed:
    """A term that returns what it is told to."""

    max_score = 1.0

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> Any:
        return self.scores


class Raising:
    """A term that raises where its condition holds."""

    max_score = 1.0

    def __init__(self, condition: Callable[[Sequence[str]], bool]) -> None:
        self.condition = condition

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        if self.condition(completions):
            raise KeyError("judge")
        return [0.0] * len(completions)


def mix(**terms: tuple[Any, Any]) -> Mixture:
    """A mixture of name=(scores, weight)."""
    return Mixture(
        terms={name: Fixed(scores) for name, (scores, _) in terms.items()},
        weights={name: weight for name, (_, weight) in terms.items()},
    )


def test_weighted_sum() -> None:
    output = mix(a=([1.0, 0.0, 0.5], 2.0), b=([1.0, 1.0, 0.0], -0.25))(TEXTS, EXAMPLES)
    # 2 * 1 - 0.25 * 1, 2 * 0 - 0.25 * 1, 2 * 0.5 - 0.25 * 0
    assert output.rewards.tolist() == [1.75, -0.25, 1.0]
    assert output.terms["a"].tolist() == [1.0, 0.0, 0.5]
    assert output.terms["b"].tolist() == [1.0, 1.0, 0.0]
    assert output.rewards.dtype == output.terms["a"].dtype == torch.float32


def test_weight_zero_is_a_metric_only() -> None:
    output = mix(a=([1, 0, 1], 1), b=([0.5, None, 0.5], 0))(TEXTS, EXAMPLES)
    assert output.rewards.tolist() == [1.0, 0.0, 1.0]
    assert output.terms["b"][[0, 2]].tolist() == [0.5, 0.5]
    assert output.terms["b"][1].isnan()


def test_none_is_left_out_of_the_sum() -> None:
    output = mix(a=([None, 1.0, None], 1.0), b=([0.5, 0.5, None], 2.0))(TEXTS, EXAMPLES)
    assert output.rewards[:2].tolist() == [1.0, 2.0]  # 2 * 0.5; 1 * 1 + 2 * 0.5
    assert output.rewards.isnan().tolist() == [False, False, True]
    assert output.terms["a"].isnan().tolist() == [True, False, True]


def test_a_metric_does_not_rescue_a_row_no_term_can_judge() -> None:
    output = mix(a=([None, 1, 1], 1.0), metric=([1, 1, 1], 0.0))(TEXTS, EXAMPLES)
    assert output.rewards.isnan().tolist() == [True, False, False]


def test_all_weights_zero_give_reward_zero() -> None:
    output = mix(a=([1, None, 1], 0.0))(TEXTS, EXAMPLES)
    assert output.rewards.tolist() == [0.0, 0.0, 0.0]


def test_no_completions() -> None:
    output = mix(a=([], 1.0))([], [])
    assert output.rewards.shape == output.terms["a"].shape == (0,)
    assert output.rewards.dtype == output.terms["a"].dtype == torch.float32


def test_bools_and_numpy_scalars_are_scores() -> None:
    output = mix(a=((True, np.float32(0.5), np.float64(0.25)), 1.0))(TEXTS, EXAMPLES)
    assert output.rewards.tolist() == [1.0, 0.5, 0.25]


def test_order_of_terms_and_weights_may_differ() -> None:
    terms = {"a": Fixed([1.0, 0.0, 0.0]), "b": Fixed([0.0, 1.0, 0.0])}
    output = Mixture(terms, {"b": 10.0, "a": 1.0})(TEXTS, EXAMPLES)
    assert output.rewards.tolist() == [1.0, 10.0, 0.0]


def test_max_reward_counts_positive_weights() -> None:
    half = Fixed([])
    half.max_score = 0.5
    mixture = Mixture(
        {"a": Fixed([]), "b": half, "penalty": Fixed([]), "metric": Fixed([])},
        {"a": 1.0, "b": 3, "penalty": -2.0, "metric": 0},
    )
    assert mixture.max_reward == 2.5  # 1 * 1 + 3 * 0.5


@every_case("weight", [True, False, "1.0", None, math.nan, math.inf, -math.inf, 1e39])
def test_weights_that_are_not_finite_numbers(weight: object) -> None:
    with pytest.raises(UserError, match=r"reward\.weights\.b: .* is not a (finite )?number"):
        mix(a=([], 1.0), b=([], weight))


def test_names_must_agree() -> None:
    with pytest.raises(UserError, match=r"reward\.weights\.formt: no such term; .* a, b"):
        Mixture({"a": Fixed([]), "b": Fixed([])}, {"a": 1.0, "b": 1.0, "formt": 1.0})
    with pytest.raises(UserError, match=r"reward\.weights\.b is missing"):
        Mixture({"a": Fixed([]), "b": Fixed([])}, {"a": 1.0})


@pytest.mark.parametrize("nothing", [{}, None, ["accuracy"]])
def test_terms_and_weights_must_be_mappings(nothing: Any) -> None:
    with pytest.raises(UserError, match=r"reward\.terms"):
        Mixture(nothing, {"a": 1.0})
    with pytest.raises(UserError, match=r"reward\.weights"):
        Mixture({"a": Fixed([])}, nothing)


class Nameless:
    max_score = 1.0


class Endless(Fixed):
    max_score = math.inf


@every_case("term", [len, Nameless(), "accuracy", None, Endless([])])
def test_what_is_not_a_term(term: Any) -> None:
    with pytest.raises(UserError, match=r"reward\.terms\.odd: .*(it needs|max_score)"):
        Mixture({"odd": term}, {"odd": 1.0})


def test_a_term_that_raises_names_term_example_and_completion() -> None:
    mixture = Mixture({"judge": Raising(lambda texts: "second" in texts)}, {"judge": 0.0})
    with pytest.raises(RewardError) as caught:
        mixture(TEXTS, EXAMPLES)
    message = str(caught.value)
    words = ("KeyError", "batch of 3 begins with", "clip0", "a[0]", "'first'", "test_mixture.py:")
    for word in ("judge", *words):
        assert word in message
    assert isinstance(caught.value.__cause__, KeyError)
    assert isinstance(caught.value, UserError)


@every_case("score", [math.nan, math.inf, -math.inf, 1e39, "1.0", [1.0], 1j])
def test_a_score_that_is_not_finite(score: object) -> None:
    with pytest.raises(RewardError, match="neither a finite number nor None") as caught:
        mix(a=([0.0, score, 0.0], 1.0))(TEXTS, EXAMPLES)
    for word in ("term a", repr(score), "clip1", "a[1]", "'second'"):
        assert word in str(caught.value)


@pytest.mark.parametrize("scores", [[], [1.0, 1.0], [1.0] * 4])
def test_a_wrong_number_of_scores(scores: list[float]) -> None:
    with pytest.raises(RewardError, match=f"returned {len(scores)} scores for 3") as caught:
        mix(a=(scores, 1.0))(TEXTS, EXAMPLES)
    for word in ("term a", "clip0", "'first'"):
        assert word in str(caught.value)


@every_case("scores", [None, 1.0, "110", {"a": 1.0}, torch.tensor(1.0)])
def test_what_is_not_a_list_of_scores(scores: object) -> None:
    with pytest.raises(RewardError, match="not a list of scores"):
        mix(a=(scores, 1.0))(TEXTS, EXAMPLES)


def test_a_wrong_number_of_scores_for_no_completions() -> None:
    with pytest.raises(RewardError, match="term a returned 1 scores for 0"):
        mix(a=([1.0], 1.0))([], [])


def test_a_long_completion_is_cut_in_the_message() -> None:
    with pytest.raises(RewardError, match=r"\(100000 characters\)") as caught:
        mix(a=([math.nan], 1.0))(["y" * 100_000], EXAMPLES[:1])
    assert len(str(caught.value)) < 3000


def test_completions_and_examples_must_pair() -> None:
    with pytest.raises(ValueError, match="2 completions for 3 examples"):
        mix(a=([], 1.0))(TEXTS[:2], EXAMPLES)


def test_the_default_config() -> None:
    mixture = instantiate(OmegaConf.load(CONF))
    assert mixture.max_reward == 2.0
    text = "<think>She cries.</think>\n<answer>sad</answer>"
    output = mixture([text, "<answer>sad</answer>", "sad"], EXAMPLES)
    assert output.rewards.tolist() == [2.0, 1.0, 0.0]
    assert list(output.terms) == ["accuracy", "format"]
