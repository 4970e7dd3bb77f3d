"""Every option of every reward file changes a score, and a function can be a term."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from every_case import every_case
from omegaconf import DictConfig, OmegaConf
from test_conf import _hydra, composed
from test_options import leaves_in

from omni_rlvr.assembly.instantiate import check, make
from omni_rlvr.rewards.gold import check_gold
from omni_rlvr.types import Example

pytestmark = pytest.mark.slow  # many configs are composed

__all__ = ["_hydra"]  # a fixture

CONF = Path(__file__).parents[2] / "conf" / "reward"
FILES = sorted(path.stem for path in CONF.glob("*.yaml"))
OK = "<think>A wide smile on her face. Her voice is bright today.</think><answer>{}</answer>"
THREE = "<think>ha ha ha ha ha</think><answer>{}</answer>"
ACCURACY = {
    "terms.accuracy.synonyms": ("{joy: happy}", OK, "joy", "happy"),
    "weights.accuracy": ("3", OK, "happy", "happy"),
    "weights.format": ("3", OK, "happy", "happy"),
}
FLIPS: dict[str, dict[str, tuple[str, str, str, str]]] = {
    "accuracy_format": ACCURACY,
    "as_published": {
        "weights.accuracy": ("3", OK, "happy", "happy"),
        "weights.format": ("3", OK, "happy", "happy"),
    },
    "multiple_choice": {
        "terms.accuracy.choices": ("[A,B]", OK, "B. or C", "B"),
        "weights.accuracy": ("3", OK, "B", "B"),
        "weights.format": ("3", OK, "B", "B"),
    },
    "numeric": {
        "terms.accuracy.abs_tolerance": ("1", OK, "41.5", "42"),
        "terms.accuracy.rel_tolerance": ("0.1", OK, "41.5", "42"),
        "weights.accuracy": ("3", OK, "42", "42"),
        "weights.format": ("3", OK, "42", "42"),
    },
    "open_vocabulary": {
        "terms.set_f1.synonyms": ("{joy: happy}", OK, "joy, sad", "happy, sad"),
        "weights.set_f1": ("3", OK, "happy", "happy"),
        "weights.format": ("3", OK, "happy", "happy"),
    },
    "question": {
        "weights.accuracy": ("3", OK, "happy", "happy"),
        "weights.format": ("3", OK, "happy", "happy"),
    },
    "soft_overlong": {
        "terms.soft_overlong.max_completion_length": ("200", OK, "happy", "happy"),
        "terms.soft_overlong.soft_punish_cache": ("1", OK, "happy", "happy"),
        "weights.soft_overlong": ("3", OK, "happy", "happy"),
    },
    "repetition": {
        "terms.repetition.ngram_size": ("2", THREE, "happy", "happy"),
        "terms.repetition.max_penalty": ("-0.5", THREE, "happy", "happy"),
        "weights.repetition": ("3", THREE, "happy", "happy"),
    },
    "cosine_length": {
        "terms.cosine_length.correct.synonyms": ("{joy: happy}", OK, "joy", "happy"),
        "terms.cosine_length.max_completion_length": ("200", OK, "happy", "happy"),
        "terms.cosine_length.min_value_wrong": ("-2", OK, "sad", "happy"),
        "terms.cosine_length.max_value_wrong": ("0", OK, "sad", "happy"),
        "terms.cosine_length.min_value_correct": ("0.7", OK, "happy", "happy"),
        "terms.cosine_length.max_value_correct": ("3", OK, "happy", "happy"),
        "weights.cosine_length": ("3", OK, "happy", "happy"),
        "weights.format": ("3", OK, "happy", "happy"),
    },
    "cue_coverage": {
        "terms.cue_coverage.min_other_words": ("7", OK, "happy", "happy"),
        "terms.cue_coverage.lexicon.visual": ("[nose]", OK, "happy", "happy"),
        "terms.cue_coverage.lexicon.vocal": ("[hum]", OK, "happy", "happy"),
        "weights.cue_coverage": ("3", OK, "happy", "happy"),
    },
    "math_verify": {
        "weights.accuracy": ("3", OK, "1/2", "0.5"),
        "weights.format": ("3", OK, "1/2", "0.5"),
    },
}
"""File -> option -> its other value, a completion with {}, the answer in it, the gold answer."""
ELSEWHERE = {"math_verify": {"terms.accuracy.timeout_s"}}
"""Options that only a slow answer shows; that a bad one is refused, another test does."""


COMPOSED: dict[tuple[str, ...], DictConfig] = {}
"""Composing takes most of the time: each config is made once."""


def reward(*overrides: str, **changes: str) -> Any:
    if overrides not in COMPOSED:
        COMPOSED[overrides] = composed("stage=grpo", *overrides)
    cfg = copy.deepcopy(COMPOSED[overrides])
    for key, value in changes.items():
        OmegaConf.update(cfg, f"reward.{key}", yaml.safe_load(value), force_add=True)
    check(cfg)
    return make(cfg.reward)


def score(text: str, answer: str, gold: str, *overrides: str, **changes: str) -> float:
    cues = {"question_kind": "text"}  # for reward=question; the others do not look
    example = Example(id="a", question="?", answer=gold, target=gold, video=None, cues=cues)
    mixture = reward(*overrides, **changes)
    return mixture([text.format(answer)], [example], [90]).rewards.item()


@every_case(("file", "option"), [(f, o) for f, table in FLIPS.items() for o in table])
def test_an_option_changes_a_score(file: str, option: str) -> None:
    if file == "math_verify":
        pytest.importorskip("math_verify", reason="math-verify is not installed; it is an extra")
    value, *row = FLIPS[file][option]
    plain = score(*row, f"reward={file}")
    assert score(*row, f"reward={file}", **{option: value}) != pytest.approx(plain)


def test_every_option_of_every_file_is_flipped() -> None:
    assert {*FLIPS} == {*FILES}
    for file in FILES:
        leaves = {leaf.partition(".")[2] for leaf in leaves_in("reward", file)}
        leaves -= {leaf for leaf in leaves if leaf.partition(".")[0] not in ("terms", "weights")}
        assert leaves == {*FLIPS[file]} | ELSEWHERE.get(file, set()), file


def single(completion: str, example: Example) -> float:
    return float(example.answer in completion)


async def awaited(completions: list[str], examples: list[Example]) -> list[float]:
    return [single(text, example) for text, example in zip(completions, examples, strict=True)]


@pytest.mark.parametrize("name", ["single", "awaited"])
def test_a_function_is_a_term_by_its_target(name: str) -> None:
    mine = (
        f"+reward.terms.mine._target_=test_reward_options.{name}",
        "+reward.terms.mine._partial_=true",
        "+reward.weights.mine=5",
    )
    assert score(OK, "happy", "happy", *mine) == 7


def test_a_gold_answer_is_not_too_long_for_a_length_term() -> None:
    example = Example(id="a", question="?", answer="happy", target="happy", video=None)
    for file in ("soft_overlong", "cosine_length", "repetition", "cue_coverage"):
        check_gold(reward(f"reward={file}"), [example])
