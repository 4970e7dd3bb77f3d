"""The task ``evaluate``: generate answers greedily, parse them and compare them with the labels.

The answer is the text in the answer tag. A completion without any tag is the answer as a whole,
because a model that is trained only on labels writes just "happy". An answer that is not in the
label list is wrong, and counted as ``outside``. Questions without a label list are judged by their
kind; an answer that cannot be read as one of its kind is counted as ``unparsed``.

In addition to the generated answer, the label that is most likely after the model's own reasoning
is chosen. If a model recognises the emotion but names it by a word outside the list, the chosen
label is right and the generated answer, which WAR counts, is wrong; ``OUTCOMES`` distinguish these
cases for each clip.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from omni_rlvr import distributed
from omni_rlvr.assembly.composed import Clips, Composed
from omni_rlvr.assembly.splits import check_gold_labels, read_clips
from omni_rlvr.config.dataset import DatasetConfig, OfficialConfig
from omni_rlvr.config.sampling import greedy
from omni_rlvr.config.tasks import EvaluateTask
from omni_rlvr.folders import whole_folder
from omni_rlvr.functional import bootstrap, metrics
from omni_rlvr.models.policy import Policy
from omni_rlvr.record import RunRecord, append_jsonl, write_json
from omni_rlvr.rollout.encode import make_prompts
from omni_rlvr.rollout.engine import RolloutEngine, require_finite
from omni_rlvr.rollout.label_scoring import label_logps, prompt_slot, reply_slots
from omni_rlvr.tasks.clips import PolicyInputs, for_each_batch, policy_inputs
from omni_rlvr.tasks.launch import Launch, launch_of
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.tasks.report.cells import markdown_cell
from omni_rlvr.tasks.report.drawing import spared
from omni_rlvr.tasks.report.plots import confusion_figure
from omni_rlvr.text.parse import label_named, parse
from omni_rlvr.text.questions import KIND, KINDS, score_answer
from omni_rlvr.types import Batch, Example, Features, UserError

OUTCOMES = ("right", "unparseable", "outside", "another_label", "won", "wrong")
"""What happened to a clip, by two answers: the label chosen by likelihood and the generated answer.

In the first four the chosen label is right (C). The generated answer is right too, or it is lost:
its tags hold no answer (U), it is outside the label list (O), or it is another label (W). In the
last two the chosen label is wrong; the generated answer is right (N), or wrong too.
"""


def build(composed: Composed) -> PolicyInputs | Launch:
    """Read the splits, load the policy and open the cache."""
    clips = read_clips(composed, composed.task.splits)
    check_gold_labels(clips, composed.task.splits)
    if composed.launches:
        return launch_of(composed)
    inputs = policy_inputs(composed, clips)
    if composed.task.score_labels:
        for label in clips.dataset.labels:
            inputs.policy.processor.check_text(label, "dataset.labels")
    return inputs


@dataclass(frozen=True)
class Evaluation:
    """The answers of a policy on a split, and their scores."""

    predictions: Sequence[dict[str, object]]
    """One row for each clip: id, label, predicted, completion, well_formed, correct; chosen and
    outcome where labels are scored."""
    scores: dict[str, Any]
    """war, uar, weighted_f1, the same of the chosen labels (chosen_war, ...), their intervals
    (war_ci, ...), format, outside and recall in percent; confusion and outcomes in counts."""


@torch.no_grad()
def answered(
    policy: Policy,
    engine: RolloutEngine,
    batch: Batch,
    features: Features,
    labels: Sequence[str],
    task: EvaluateTask,
) -> list[dict[str, object]]:
    """Generate the answers for a batch greedily, and judge each answer.

    Args:
        policy: The policy, in eval mode.
        engine: The engine that generates the answers.
        batch: The clips, on the policy's device.
        features: Theirs.
        labels: The fixed label list.
        task: How answers are generated.

    Raises:
        UserError: The logits of a clip are not finite.
    """
    if len(batch) == 0:
        return []
    length, key = task.max_completion_length, "task.max_completion_length"
    prompts = make_prompts(policy, batch, features, num_new=length, key=key)
    sampling = greedy(max_completion_length=length, repetition_penalty=task.repetition_penalty)
    rollout = engine.sample(policy, prompts, sampling, torch.Generator(), None)
    require_finite(rollout, batch.examples)
    rows = [
        judge_question(e, text) if KIND in e.cues else judge(e.id, e.answer, text, labels)
        for e, text in zip(batch.examples, rollout.texts, strict=True)
    ]
    if not task.score_labels or any(KIND in example.cues for example in batch.examples):
        return rows
    slots = reply_slots(
        policy.processor,
        rollout.completion_ids,
        rollout.completion_mask,
        otherwise=[prompt_slot(policy.processor, e.question) for e in batch.examples],
    )
    logps = label_logps(policy, prompts, slots=slots, labels=labels)
    for example, row_logps in zip(batch.examples, logps, strict=True):
        if not row_logps.isfinite().all():
            raise UserError(
                f"{example.id}: the log-probabilities of the labels are not finite; try "
                "model.dtype=float32, or task.score_labels=false"
            )
    chosen = [labels[i] for i in logps.argmax(dim=-1).tolist()]
    return [
        with_outcome(row, label, behind_reasoning=bool(slot.ids))
        for row, label, slot in zip(rows, chosen, slots, strict=True)
    ]


def scored(
    predictions: Sequence[dict[str, object]], labels: Sequence[str], task: EvaluateTask
) -> Evaluation:
    """Score judged predictions, of which there is at least one."""
    if "kind" in predictions[0]:
        scores = score_questions(predictions, num_resamples=task.num_resamples)
    else:
        scores = score(predictions, labels, num_resamples=task.num_resamples)
    return Evaluation(predictions, scores)


def judge(clip_id: str, label: str, completion: str, labels: Sequence[str]) -> dict[str, object]:
    """Parse the answer of one completion and compare it with the gold label."""
    parsed = parse(completion)
    predicted = label_named(parsed.said, labels)
    return {
        "id": clip_id,
        "label": label,
        "predicted": predicted,
        "correct": predicted == label,
        "well_formed": parsed.well_formed,
        "completion": completion,
    }


def with_outcome(
    row: Mapping[str, Any], chosen: str, *, behind_reasoning: bool
) -> dict[str, object]:
    """Add to a judged row the label that was chosen by likelihood, and the outcome of both answers.

    Args:
        row: From ``judge``.
        chosen: The most likely label.
        behind_reasoning: Whether it was scored after the model's own reasoning, and not directly
            after the prompt, as for a reply whose tags hold no answer.
    """
    if chosen != row["label"]:
        outcome = "won" if row["correct"] else "wrong"
    elif row["correct"]:
        outcome = "right"
    elif row["predicted"] is not None:
        outcome = "another_label"
    else:
        outcome = "outside" if parse(row["completion"]).said else "unparseable"  # or nothing
    after = "completion" if behind_reasoning else "prompt"
    return {**row, "chosen": chosen, "scored_after": after, "outcome": outcome}


def score(
    predictions: Sequence[Mapping[str, Any]], labels: Sequence[str], *, num_resamples: int
) -> dict[str, Any]:
    """Compute all scores, in percent, from judged predictions."""
    matrix = _confusion(predictions, "predicted", labels)
    recall = zip(labels, metrics.per_class_recall(matrix).tolist(), strict=True)
    scores = {
        "num_clips": len(predictions),
        **averages(matrix, num_resamples=num_resamples),
        "format": _percent(sum(bool(p["well_formed"]) for p in predictions) / len(predictions)),
        "outside": _percent(sum(p["predicted"] is None for p in predictions) / len(predictions)),
        "recall": {name: None if r != r else _percent(r) for name, r in recall},  # NaN: no clip
        "labels": list(labels),
        "confusion": matrix.tolist(),
    }
    if all("chosen" in row for row in predictions):
        matrix = _confusion(predictions, "chosen", labels)
        of_chosen = averages(matrix, num_resamples=num_resamples)
        scores |= {f"chosen_{name}": value for name, value in of_chosen.items()}
        after_prompt = sum(row["scored_after"] == "prompt" for row in predictions)
        scores["chosen_after_prompt"] = _percent(after_prompt / len(predictions))
        counts = Counter(str(p["outcome"]) for p in predictions)
        scores["outcomes"] = {name: counts[name] for name in OUTCOMES}
    return scores


def averages(matrix: Tensor, *, num_resamples: int) -> dict[str, Any]:
    """Compute WAR, UAR and weighted F1 of a confusion matrix in percent, with 95 % intervals."""
    kinds = {"war": metrics.war, "uar": metrics.uar, "weighted_f1": metrics.weighted_f1}
    counts = matrix.flatten()
    cells = counts.nonzero().flatten()  # most cells of a long label list are 0
    values = bootstrap.bootstrap_interval(
        one_hot(cells, matrix.numel()),
        lambda sums: torch.stack(
            [kind(sums.view(-1, *matrix.shape)) for kind in kinds.values()], dim=-1
        ),
        counts=counts[cells],
        num_resamples=num_resamples,
        confidence=0.95,
        seed=0,
    )
    num_clips = int(counts.sum())
    scores: dict[str, Any] = {}
    for name, value, low, high in zip(kinds, *(part.tolist() for part in values), strict=True):
        # exact for WAR; UAR and F1 are 0 or 1 together with it, and get its interval
        low, high = bootstrap.exact_at_the_ends(value, low, high, num_clips, confidence=0.95)
        scores |= {name: _percent(value), f"{name}_ci": [_percent(low), _percent(high)]}
    return scores


def _confusion(
    predictions: Sequence[Mapping[str, Any]], answer: str, labels: Sequence[str]
) -> Tensor:
    place: dict[object, int] = {name: i for i, name in enumerate(labels)}
    truth = torch.tensor([place[str(p["label"])] for p in predictions])
    guess = torch.tensor([place.get(p[answer], metrics.OUTSIDE) for p in predictions])
    return metrics.confusion_matrix(truth, guess, num_classes=len(labels))


def _percent(fraction: float) -> float:
    return round(100 * fraction, 2)


def judge_question(example: Example, completion: str) -> dict[str, object]:
    """Judge a completion; a score of None is that of an unparsed answer."""
    parsed = parse(completion)
    answer = parsed.answer if parsed.bare is None else parsed.bare
    score = score_answer(answer, example.answer, example.cues)
    return {
        "id": example.id,
        "label": example.answer,
        "kind": example.cues[KIND],
        "predicted": None if score is None else answer,
        "score": score,
        "correct": score == 1.0,
        "well_formed": parsed.well_formed,
        "completion": completion,
    }


def score_questions(
    predictions: Sequence[Mapping[str, Any]], *, num_resamples: int
) -> dict[str, Any]:
    """Compute all scores of questions, in percent.

    Returns:
        ``war`` is the share of right answers among all questions and ``uar`` the mean over the
        kinds of questions, as over classes otherwise, both with intervals. ``score`` counts the F1
        of answers with several letters. ``unparsed`` is the share of answers that could not be
        read; the other scores count them as wrong. ``kinds`` has these scores for each kind, and
        ``recall`` its share of right answers.
    """
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in predictions)]
    rows = [[row for row in predictions if row["kind"] == kind] for kind in kinds]
    right = [sum(bool(row["correct"]) for row in some) for some in rows]
    # cells of (kind, wrong or right)
    cells = torch.tensor([[len(some) - n, n] for some, n in zip(rows, right, strict=True)])
    value, low, high = bootstrap.bootstrap_interval(
        torch.eye(cells.numel()),
        lambda sums: _shares(sums.view(-1, *cells.shape)),
        counts=cells.flatten(),
        num_resamples=num_resamples,
        confidence=0.95,
        seed=0,
    )
    of_all = _of(predictions)
    by_kind = {kind: _of(some) for kind, some in zip(kinds, rows, strict=True)}
    return {
        **of_all,
        "war": _percent(value[0].item()),
        "war_ci": [_percent(low[0].item()), _percent(high[0].item())],
        "uar": _percent(value[1].item()),
        "uar_ci": [_percent(low[1].item()), _percent(high[1].item())],
        "outside": of_all["unparsed"],
        "recall": {kind: found["accuracy"] for kind, found in by_kind.items()},
        "labels": kinds,
        "kinds": by_kind,
    }


def scores_line(split: str, scores: Mapping[str, Any]) -> str:
    """Write the scores of a split in a line, and those of the chosen labels in further lines."""

    def interval(name: str) -> str:
        low, high = scores[f"{name}_ci"]
        return f"{scores[name]:.1f} [{low:.1f}, {high:.1f}]"

    line = (
        f"{split}: WAR {interval('war')}  UAR {scores['uar']:.1f}  weighted F1 "
        f"{scores['weighted_f1']:.1f}  format {scores['format']:.1f}  ({scores['num_clips']} clips)"
    )
    if "outcomes" not in scores:
        return line
    counts = scores["outcomes"]
    lost = {name: counts[name] for name in ("unparseable", "outside", "another_label")}
    num_right = counts["right"] + sum(lost.values())
    if num_right + counts["won"] == 0:
        return f"{line}\n  WAR, chosen from the list: {interval('chosen_war')}"
    return (
        f"{line}\n  WAR, chosen from the list: {interval('chosen_war')}. The generated answer "
        f"misses {sum(lost.values())} of these {num_right} clips\n  ({lost['unparseable']} "
        f"unparseable, {lost['outside']} outside the list, {lost['another_label']} another label) "
        f"and gets {counts['won']} others right"
    )


def questions_line(split: str, scores: Mapping[str, Any]) -> str:
    """Write the scores of a split in a line, then those of each kind of question."""

    def told(name: str, one: Mapping[str, Any]) -> str:
        return (
            f"{name}: right {one['accuracy']:.1f}  score {one['score']:.1f}  "
            f"unparsed {one['unparsed']:.1f}  format {one['format']:.1f}  ({one['num_clips']})"
        )

    rows = [f"  {told(kind, found)}" for kind, found in scores["kinds"].items()]
    return "\n".join([told(split, scores), *rows])


def _of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def share(key: str) -> float:
        return _percent(sum(float(row[key] or 0) for row in rows) / len(rows))

    return {
        "num_clips": len(rows),
        "accuracy": share("correct"),
        "score": share("score"),
        "unparsed": _percent(sum(row["score"] is None for row in rows) / len(rows)),
        "format": share("well_formed"),
    }


def _shares(cells: torch.Tensor) -> torch.Tensor:
    """Compute the share of right answers of all, and the mean over kinds: [R, K, 2] -> [R, 2]."""
    right, there = cells[..., 1], cells.sum(dim=-1)
    of_all = right.sum(dim=-1) / there.sum(dim=-1)
    return torch.stack([of_all, (right / there).nanmean(dim=-1)], dim=-1)


def write_evaluation(folder: Path, result: Evaluation) -> None:
    """Write predictions.jsonl and metrics.json, both or neither, and then confusion.png.

    The folder has the name of the split.

    Raises:
        OSError: The disk is full, or cannot be written.
    """
    scores = result.scores
    with whole_folder(folder) as partial:
        append_jsonl(partial / "predictions.jsonl", result.predictions)
        write_json(partial / "metrics.json", scores)
    if "confusion" not in scores:  # questions have no classes that could be confused
        return
    names = {"war": "WAR", "uar": "UAR", "weighted_f1": "weighted F1"}
    shown = ", ".join(f"{name} {scores[key]:.1f} %" for key, name in names.items())
    title = f"{folder.name}: {shown}"
    with spared(folder / "confusion.png"):
        confusion_figure(scores["confusion"], scores["labels"], title, folder / "confusion.png")


def run(inputs: PolicyInputs) -> dict[str, dict]:
    """Evaluate a policy on each split of the task; return the scores of each split."""
    dataset = inputs.clips.dataset
    with recorded(inputs.place, device=str(inputs.device)) as record:
        scores = score_splits(inputs, record)
        if dataset.published_scores and distributed.is_first():
            text = published_markdown(scores, dataset)
            (inputs.place.run_dir / "published.md").write_text(text, encoding="utf-8")
            print(f"\n{text}")
    move_latest(inputs.place)
    return scores


def score_splits(inputs: PolicyInputs, record: RunRecord) -> dict[str, dict]:
    """Evaluate within a run that is already recorded; return the scores of each split.

    Raises:
        UserError: No clip of a split could be read.
    """
    task, clips = inputs.task, inputs.clips
    labels, scores = clips.dataset.labels, {}
    for split in task.splits:
        examples = clips.examples[split][: task.max_clips or None]
        predictions: list[dict[str, object]] = []
        for_each_batch(
            inputs,
            record,
            examples,
            lambda batch, features: answered(
                inputs.policy, inputs.engine, batch, features, labels, task
            ),
            predictions.extend,
            batch_size=_batch_size(len(examples), task.batch_size),
            title=f"evaluating {split}",
        )
        if not predictions:
            raise UserError(f"nothing to evaluate: none of the {len(examples)} clips could be read")
        result = scored(predictions, labels, task)
        if inputs.place.config["task"]["name"] == "train":
            result.scores["num_trained_on"] = _num_trained_on(clips, examples)
        if distributed.is_first():
            write_evaluation(inputs.place.run_dir / split, result)
        scores[split] = result.scores
        say = questions_line if "kinds" in result.scores else scores_line
        print(say(split, result.scores))
        if count := result.scores.get("num_trained_on"):
            print(
                f"  {count} of these {len(examples)} clips were trained on: the scores do not say "
                "how well the model does on other clips"
            )
    return scores


def _num_trained_on(clips: Clips, examples: Sequence[Example]) -> int:
    """Count the examples whose files are those of an example of the training split."""
    trained = {(e.video, e.audio) for e in clips.examples[clips.dataset.train_split]}
    return sum((example.video, example.audio) in trained for example in examples)


def _batch_size(num_clips: int, at_most: int) -> int:
    """Choose a batch size at which all ranks have equally many batches of similar sizes."""
    num_ranks = distributed.num_ranks()
    if num_ranks == 1:
        return at_most
    rounds = max(1, math.ceil(num_clips / (at_most * num_ranks)))
    return max(1, math.ceil(num_clips / (rounds * num_ranks)))


def published_markdown(scores: Mapping[str, Mapping[str, Any]], dataset: DatasetConfig) -> str:
    """Make a Markdown table of the scores of each split, below the published ones.

    Args:
        scores: Split -> scores of an evaluation, in percent.
        dataset: The data set, for its ``published_scores``, labels and fold.

    Returns:
        The table, then the fold, the label list and the source of the published scores.
    """
    rows = [("method", "clips", "WAR", "UAR", "weighted F1"), (":---", *["---:"] * 4)]
    for method, (war, uar) in dataset.published_scores.items():
        rows.append((markdown_cell(method), "", f"{war:.2f}", f"{uar:.2f}", ""))
    for split, found in scores.items():
        name, count = f"**this run**, {markdown_cell(split)}", f"{found['num_clips']:,}"
        low, high = found["war_ci"]
        ours = f"**{found['war']:.2f}** [{low:.1f}, {high:.1f}]"
        f1 = f"{found['weighted_f1']:.2f}" if "weighted_f1" in found else ""  # not of questions
        rows.append((name, count, ours, f"{found['uar']:.2f}", f1))
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    where = dataset.name
    if isinstance(dataset, OfficialConfig) and dataset.fold is not None:
        where += f", fold {dataset.fold} of {dataset.folds}"
    labels = f"{len(dataset.labels)} labels: {', '.join(dataset.labels)}"
    halves = {s: (found["war_ci"][1] - found["war_ci"][0]) / 2 for s, found in scores.items()}
    reach = ", ".join(f"{half:.1f} points on {split}" for split, half in halves.items())
    return (
        f"{table}\n\nthis run: {where}; {labels}\n"
        f"A difference to a published WAR of less than {reach} may be chance: that is half the "
        "95 % interval of this run, and the published score has an interval as well.\n"
        f"published: {dataset.published_scores_note}\n"
    )
