"""Evaluation by greedy generation: decode, parse, compare; WAR, UAR, format rate and everything
behind them.

An answer is what stands in the answer tag; a text without any tag is an answer as a whole (a label-
only model says just "happy"). Answers outside the label list are wrong, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from omni_rlvr import ranks
from omni_rlvr.functional import metrics
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.decode import RollOut, require_finite
from omni_rlvr.rollout.encode import embed_prompts, encode
from omni_rlvr.text.parse import normalise_label, parse
from omni_rlvr.types import Batch, ClipNote, Features, SkippedClip, UserError


@dataclass(frozen=True)
class Evaluation:
    """What a policy answered on a split, and its scores."""

    predictions: list[dict[str, object]]
    """One row a clip: id, label, predicted, completion, well_formed, correct."""
    scores: dict[str, Any]
    """Percent: war, uar, format, outside, war_ci, uar_ci, recall; confusion in counts."""
    skipped: list[SkippedClip]
    notes: list[tuple[str, ClipNote]]
    """The notes on clips, each with its clip's id."""


def device_of(accelerator: str) -> torch.device:
    """Names the device of ``trainer.accelerator``, as Lightning would choose it.

    Raises:
        UserError: this machine has no such device.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    found = [name for name, is_there in there.items() if is_there]
    wanted = {"auto": [*there], "gpu": ["cuda", "mps"]}.get(accelerator, [accelerator])
    usable = [name for name in wanted if name in found]
    if not usable:
        raise UserError(
            f"trainer.accelerator={accelerator}: not on this machine, which has "
            f"{', '.join(found)}; use auto, or one of these"
        )
    return torch.device(usable[0])


@torch.no_grad()
def evaluate(
    policy: Policy,
    roll_out: RollOut,
    batches: Iterable[Batch],
    labels: Sequence[str],
    *,
    repetition_penalty: float,
    max_completion_length: int,
    num_resamples: int,
    on_features: Callable[[Batch, Features], None],
    on_batch: Callable[[int], None],
) -> Evaluation:
    """Evaluates a policy greedily; of several ranks each has every n-th clip and all the scores.

    Args:
        policy: in eval mode.
        roll_out: decodes.
        batches: the rank's clips, in order, on the policy's device.
        labels: the fixed label list.
        repetition_penalty: above 1 makes tokens that an answer has less likely; 1 is off.
        max_completion_length: most tokens an answer may have.
        num_resamples: of the 95 % bootstrap interval.
        on_features: handed what the towers gave each batch (for a feature cache).
        on_batch: told how many clips are done after each batch (for a progress bar).

    Raises:
        UserError: no clip could be read, or a clip's logits are no numbers.
    """
    predictions: list[dict[str, object]] = []
    skipped: list[SkippedClip] = []
    notes: list[tuple[str, ClipNote]] = []
    places: list[int] = []
    num_seen = 0
    for batch in batches:
        skipped += batch.skipped
        notes += batch.noted()
        places += [num_seen + place for place in batch.places or range(len(batch))]
        num_seen += len(batch) + len(batch.skipped)
        if len(batch) > 0:
            features = encode(policy, batch)
            on_features(batch, features)
            rollout = roll_out(
                policy,
                embed_prompts(
                    policy,
                    batch,
                    features,
                    num_new=max_completion_length,
                    key="task.max_completion_length",
                ),
                batch.prompt_mask,
                num_generations=1,
                temperature=0,
                top_p=1,
                top_k=0,
                repetition_penalty=repetition_penalty,
                max_completion_length=max_completion_length,
                generator=torch.Generator(),
            )
            require_finite(rollout, batch.examples)
            rows = zip(batch.examples, rollout.texts, strict=True)
            predictions += [judge(e.id, e.answer, text, labels) for e, text in rows]
        on_batch(len(batch) + len(batch.skipped))
    step, start = ranks.num_ranks(), ranks.rank()
    predictions = ranks.in_order(predictions, [place * step + start for place in places])
    skipped = [clip for part in ranks.gather(skipped) for clip in part]
    notes = [pair for part in ranks.gather(notes) for pair in part]
    if not predictions:
        raise UserError(f"nothing to evaluate: none of the {len(skipped)} clips could be read")
    scores = score(predictions, labels, num_resamples=num_resamples)
    return Evaluation(predictions, scores, skipped, notes)


def judge(clip_id: str, label: str, completion: str, labels: Sequence[str]) -> dict[str, object]:
    """Reads the answer out of one completion and compares it with the gold label."""
    parsed = parse(completion)
    answer = parsed.answer if parsed.bare is None else parsed.bare
    known = {normalise_label(name): name for name in labels}
    predicted = known.get(normalise_label(answer)) if answer is not None else None
    return {
        "id": clip_id,
        "label": label,
        "predicted": predicted,
        "correct": predicted == label,
        "well_formed": parsed.well_formed,
        "completion": completion,
    }


def score(
    predictions: Sequence[dict[str, object]], labels: Sequence[str], *, num_resamples: int
) -> dict[str, Any]:
    """Computes all scores, in percent, from judged predictions."""
    place: dict[object, int] = {name: i for i, name in enumerate(labels)}
    truth = torch.tensor([place[str(p["label"])] for p in predictions])
    guess = torch.tensor([place.get(p["predicted"], metrics.OUTSIDE) for p in predictions])
    matrix = metrics.confusion_matrix(truth, guess, num_classes=len(labels))
    out: dict[str, Any] = {"num_clips": len(predictions)}
    for name, statistic in (("war", metrics.war), ("uar", metrics.uar)):
        low, high = metrics.bootstrap_interval(
            truth,
            guess,
            statistic=statistic,
            num_classes=len(labels),
            num_resamples=num_resamples,
            confidence=0.95,
            seed=0,
        )
        out[name] = _percent(statistic(matrix).item())
        out[f"{name}_ci"] = [_percent(low), _percent(high)]
    out["format"] = _percent(sum(bool(p["well_formed"]) for p in predictions) / len(predictions))
    out["outside"] = _percent((guess == metrics.OUTSIDE).float().mean().item())
    recall = metrics.per_class_recall(matrix).tolist()
    out["recall"] = {
        n: None if r != r else _percent(r) for n, r in zip(labels, recall, strict=True)
    }
    out["labels"] = list(labels)
    out["confusion"] = matrix.tolist()
    return out


def _percent(fraction: float) -> float:
    return round(100 * fraction, 2)
