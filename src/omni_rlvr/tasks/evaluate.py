"""The task ``evaluate``: generate answers greedily, parse them and compare them with the labels.

The answer is the text in the answer tag. A completion without any tag counts as the answer as a
whole, because a model that is trained on labels alone says just "happy". An answer that is not in
the label list is wrong, and counted as ``outside``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni_rlvr import distributed
from omni_rlvr.assembly.composed import Clips, Composed, Place
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.policies import feature_cache, load_policy
from omni_rlvr.assembly.splits import check_gold_labels, read_clips
from omni_rlvr.config.dataset import DatasetConfig, OfficialConfig
from omni_rlvr.config.sampling import greedy
from omni_rlvr.config.tasks import EvaluateTask
from omni_rlvr.data.features.cache import FeatureCache
from omni_rlvr.folders import whole_folder
from omni_rlvr.functional import bootstrap, metrics
from omni_rlvr.models.policy import Policy
from omni_rlvr.record import RunRecord, append_jsonl, write_json
from omni_rlvr.rollout.encode import encode, make_prompts
from omni_rlvr.rollout.engine import RolloutEngine, require_finite
from omni_rlvr.tasks.clips import batches, keeper
from omni_rlvr.tasks.launch.launcher import Launch, launch_of
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.tasks.report.cells import markdown_cell
from omni_rlvr.tasks.report.drawing import spared
from omni_rlvr.tasks.report.plots import confusion_figure
from omni_rlvr.text.parse import normalise_label, parse
from omni_rlvr.training.devices import take_device
from omni_rlvr.training.progress import progress_bar
from omni_rlvr.types import Batch, ClipNote, Features, SkippedClip, UserError


@dataclass(frozen=True)
class EvaluateInputs:
    """The inputs of ``run``."""

    place: Place
    clips: Clips
    task: EvaluateTask
    policy: Policy
    cache: FeatureCache | None
    engine: RolloutEngine


def build(composed: Composed) -> EvaluateInputs | Launch:
    """Read the splits, load the policy and open the cache."""
    clips = read_clips(composed, composed.task.splits)
    check_gold_labels(clips, composed.task.splits)
    if composed.wants_launch:
        return launch_of(composed)
    policy = load_policy(composed, clips.examples)
    cache = feature_cache(composed.feature_cache, clips, policy)
    engine = make(composed.cfg.rollout)
    return EvaluateInputs(composed.place, clips, composed.task, policy, cache, engine)


@dataclass(frozen=True)
class Evaluation:
    """The answers of a policy on a split, and their scores."""

    predictions: list[dict[str, object]]
    """One row for each clip: id, label, predicted, completion, well_formed, correct."""
    scores: dict[str, Any]
    """war, uar, format, outside, war_ci, uar_ci and recall in percent; confusion in counts."""
    skipped: list[SkippedClip]
    notes: list[tuple[str, ClipNote]]
    """The notes on clips, each with the id of its clip."""


@torch.no_grad()
def evaluate(
    policy: Policy,
    engine: RolloutEngine,
    batches: Iterable[Batch],
    labels: Sequence[str],
    task: EvaluateTask,
    *,
    on_features: Callable[[Batch, Features], None],
    on_batch: Callable[[int], None],
) -> Evaluation:
    """Evaluate a policy greedily. Each of n ranks answers every n-th clip and returns all scores.

    Args:
        policy: The policy, in eval mode.
        engine: The engine that generates the answers.
        batches: The clips of this rank, in order, on the policy's device.
        labels: The fixed label list.
        task: How answers are generated and scores computed.
        on_features: Called with each batch and its features, to fill a feature cache.
        on_batch: Called after each batch with its number of clips, for a progress bar.

    Raises:
        UserError: No clip could be read, or the logits of a clip are not finite.
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
            length, key = task.max_completion_length, "task.max_completion_length"
            prompts = make_prompts(policy, batch, features, num_new=length, key=key)
            sampling = greedy(
                max_completion_length=length, repetition_penalty=task.repetition_penalty
            )
            rollout = engine.sample(policy, prompts, sampling, torch.Generator(), None)
            require_finite(rollout, batch.examples)
            rows = zip(batch.examples, rollout.texts, strict=True)
            predictions += [judge(e.id, e.answer, text, labels) for e, text in rows]
        on_batch(len(batch) + len(batch.skipped))
    step, start = distributed.num_ranks(), distributed.rank()
    predictions = distributed.in_order(predictions, [place * step + start for place in places])
    skipped = [clip for part in distributed.gather(skipped) for clip in part]
    notes = [pair for part in distributed.gather(notes) for pair in part]
    if not predictions:
        raise UserError(f"nothing to evaluate: none of the {len(skipped)} clips could be read")
    scores = score(predictions, labels, num_resamples=task.num_resamples)
    return Evaluation(predictions, scores, skipped, notes)


def judge(clip_id: str, label: str, completion: str, labels: Sequence[str]) -> dict[str, object]:
    """Parse the answer of one completion and compare it with the gold label."""
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
    """Compute all scores, in percent, from judged predictions."""
    place: dict[object, int] = {name: i for i, name in enumerate(labels)}
    truth = torch.tensor([place[str(p["label"])] for p in predictions])
    guess = torch.tensor([place.get(p["predicted"], metrics.OUTSIDE) for p in predictions])
    matrix = metrics.confusion_matrix(truth, guess, num_classes=len(labels))
    value, low, high = bootstrap.bootstrap_interval(
        torch.eye(matrix.numel()),
        lambda sums: _averages(sums.view(-1, *matrix.shape)),
        counts=matrix.flatten(),
        num_resamples=num_resamples,
        confidence=0.95,
        seed=0,
    )
    recall = zip(labels, metrics.per_class_recall(matrix).tolist(), strict=True)
    return {
        "num_clips": len(predictions),
        "war": _percent(value[0].item()),
        "war_ci": [_percent(low[0].item()), _percent(high[0].item())],
        "uar": _percent(value[1].item()),
        "uar_ci": [_percent(low[1].item()), _percent(high[1].item())],
        "format": _percent(sum(bool(p["well_formed"]) for p in predictions) / len(predictions)),
        "outside": _percent((guess == metrics.OUTSIDE).float().mean().item()),
        "recall": {name: None if r != r else _percent(r) for name, r in recall},  # NaN: no clip
        "labels": list(labels),
        "confusion": matrix.tolist(),
    }


def _averages(matrices: Tensor) -> Tensor:
    """Compute WAR and UAR of confusion matrices [R, K, K]: [R, 2]."""
    return torch.stack([metrics.war(matrices), metrics.uar(matrices)], dim=-1)


def _percent(fraction: float) -> float:
    return round(100 * fraction, 2)


def write_evaluation(
    folder: Path,
    split: str,
    scores: Mapping[str, Any],
    predictions: Sequence[Mapping[str, object]],
) -> None:
    """Write predictions.jsonl and metrics.json, both or neither, and then confusion.png.

    Raises:
        OSError: The disk is full, or cannot be written.
    """
    title = f"{split}: WAR {scores['war']:.1f} %, UAR {scores['uar']:.1f} %"
    with whole_folder(folder) as partial:
        append_jsonl(partial / "predictions.jsonl", predictions)
        write_json(partial / "metrics.json", scores)
    with spared(folder / "confusion.png"):
        confusion_figure(scores["confusion"], scores["labels"], title, folder / "confusion.png")


def run(inputs: EvaluateInputs) -> dict[str, dict]:
    """Evaluate a policy on each split of the task; return the scores of each split."""
    device = take_device(inputs.place.config["trainer"], distributed.rank())
    dataset = inputs.clips.dataset
    with recorded(inputs.place, device=str(device)) as record:
        scores = score_splits(inputs, record, device)
        if dataset.published_scores and distributed.is_first():
            text = published_markdown(scores, dataset)
            (inputs.place.run_dir / "published.md").write_text(text, encoding="utf-8")
            print(f"\n{text}")
        record.finish("finished")
    move_latest(inputs.place)
    return scores


def score_splits(
    inputs: EvaluateInputs, record: RunRecord, device: torch.device
) -> dict[str, dict]:
    """Evaluate within a run that is open already; return the scores of each split."""
    task, clips, policy = inputs.task, inputs.clips, inputs.policy
    policy.eval().to(device=device)
    scores = {}
    for split in task.splits:
        examples = clips.examples[split][: task.max_clips or None]
        examples = examples[distributed.rank() :: distributed.num_ranks()]
        with progress_bar(f"evaluating {split}", len(examples)) as progress:
            result = evaluate(
                policy,
                inputs.engine,
                batches(
                    clips,
                    examples,
                    policy.processor,
                    inputs.cache,
                    batch_size=task.batch_size,
                    device=device,
                ),
                clips.dataset.labels,
                task,
                on_features=keeper(inputs.cache),
                on_batch=partial(progress.advance, progress.task_ids[0]),
            )
        record.add_skipped((clip.example.id, clip.reason) for clip in result.skipped)
        record.add_notes(result.notes)
        if distributed.is_first():
            folder = inputs.place.run_dir / split
            write_evaluation(folder, split, result.scores, result.predictions)
        scores[split] = result.scores
        print(
            f"{split}: WAR {result.scores['war']:.1f}  UAR {result.scores['uar']:.1f}  "
            f"format {result.scores['format']:.1f}  ({result.scores['num_clips']} clips)"
        )
    return scores


def published_markdown(scores: Mapping[str, Mapping[str, Any]], dataset: DatasetConfig) -> str:
    """Make a Markdown table of WAR and UAR of each split, below the published scores.

    Args:
        scores: Split -> scores of an evaluation, in percent.
        dataset: The data set, for its ``published_scores``, labels and fold.

    Returns:
        The table, then the fold, the label list and the source of the published scores.
    """
    rows = [("method", "clips", "WAR", "UAR"), (":---", "---:", "---:", "---:")]
    for method, (war, uar) in dataset.published_scores.items():
        rows.append((markdown_cell(method), "", f"{war:.2f}", f"{uar:.2f}"))
    for split, found in scores.items():
        name, count = f"**this run**, {markdown_cell(split)}", f"{found['num_clips']:,}"
        low, high = found["war_ci"]
        ours = f"**{found['war']:.2f}** [{low:.1f}, {high:.1f}]"
        rows.append((name, count, ours, f"{found['uar']:.2f}"))
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    where = dataset.name
    if isinstance(dataset, OfficialConfig) and dataset.fold is not None:
        where += f", fold {dataset.fold} of {dataset.folds}"
    labels = f"{len(dataset.labels)} labels: {', '.join(dataset.labels)}"
    return f"{table}\n\nthis run: {where}; {labels}\npublished: {dataset.published_scores_note}\n"
