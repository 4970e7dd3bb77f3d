"""A check before training: do the gold answers earn the full reward?

Without it, a label that no answer can match, or targets that break the format, would only show as a
reward that never rises. Nothing is sampled and no model is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.text.parse import parse
from omni_rlvr.types import Example, RewardOutput, UserError

_BATCH = 256  # rows per call, as in a large training step, since each call has a time limit
_TOLERANCE = 1e-6  # relative
_ROUNDING = 2.0**-23  # relative, per term: both sides add the same float32 numbers
_MAX_SHOWN = 10


def check_gold(mixture: Mixture, examples: Sequence[Example]) -> None:
    """Score the gold answers and refuse data that cannot earn the full reward.

    Examples with the same answer and target score the same: ``example_table.distinct``
    gives one of each. Each distinct answer is scored once, written as ``<think>gold</think>`` and
    ``<answer>LABEL</answer>``; an annotated target that holds tags is scored as it stands. Terms
    that return None for a row are left out of what it should earn, but a row that no weighted term
    can judge is refused.

    Args:
        mixture: The reward that training will use.
        examples: The training examples.

    Raises:
        UserError: A gold answer earns less; names the example, what was scored and each term's
            score.
    """
    seen: set[str] = set()
    for start in range(0, len(examples), _BATCH):
        _check(mixture, _gold_rows(examples[start : start + _BATCH], seen))


def _check(mixture: Mixture, rows: Sequence[tuple[str, Example]]) -> None:
    if not rows:
        return
    completions, gold_examples = zip(*rows, strict=True)
    output = mixture(completions, gold_examples, [0] * len(rows))  # no length is too long here
    attainable = _attainable(mixture, output)
    tolerance = max(_TOLERANCE, len(mixture.terms) * _ROUNDING)
    full = torch.isclose(output.rewards, attainable, rtol=tolerance, atol=0.0)
    if not full.all():
        row = int(full.long().argmin())
        completion, example = rows[row]
        raise UserError(_message(mixture, output, row, completion, example))


def _gold_rows(examples: Sequence[Example], seen: set[str]) -> list[tuple[str, Example]]:
    rows: list[tuple[str, Example]] = []
    for example in examples:
        if example.answer not in seen:
            seen.add(example.answer)
            rows.append((f"<think>gold</think>\n<answer>{example.answer}</answer>", example))
        if parse(example.target).bare is None:
            rows.append((example.target, example))
    return rows


def _attainable(mixture: Mixture, output: RewardOutput) -> Tensor:
    """Return the most that each row can earn from the terms that scored it, [N]."""
    attainable = torch.zeros_like(output.rewards)
    for name, term in mixture.terms.items():
        weight, judged = mixture.weights[name], ~output.terms[name].isnan()
        if term.max_score is None:  # it is not known what gold answers should earn from this term
            attainable += weight * output.terms[name].nan_to_num()
        else:
            attainable += max(weight, 0.0) * term.max_score * judged
    return attainable


def _missed(mixture: Mixture, output: RewardOutput, name: str, row: int) -> float:
    """Return how much of a term's attainable reward a row misses; 0 if that is not known."""
    best, score = mixture.terms[name].max_score, float(output.terms[name][row])
    if best is None or score != score:
        return 0.0
    weight = mixture.weights[name]
    return max(weight, 0.0) * best - weight * score


def _message(
    mixture: Mixture, output: RewardOutput, row: int, completion: str, example: Example
) -> str:
    shown = list(mixture.terms)
    if len(shown) > _MAX_SHOWN:  # those that miss most come first
        shown.sort(key=lambda name: _missed(mixture, output, name, row), reverse=True)
    scores = ", ".join(
        f"{name} {float(output.terms[name][row]):g} (weight {mixture.weights[name]:g})"
        for name in shown[:_MAX_SHOWN]
    )
    if more := len(shown[_MAX_SHOWN:]):
        scores += f", and {more} more terms"
    return (
        f"{example.source}: the gold answer does not earn the full reward\n"
        f"  example: {example.id}, answer {example.answer!r}\n"
        f"  target: {example.target!r}\n"
        f"  scored: {completion!r}\n"
        f"  reward: {float(output.rewards[row]):g} of {mixture.max_reward:g}: {scores}\n"
        "  Correct the annotation, or the terms and weights of reward."
    )
