"""Evaluates a policy on splits: predictions, scores and a confusion matrix each."""

from __future__ import annotations

import torch

from omni_rlvr import ranks
from omni_rlvr.analysis.published import published_markdown
from omni_rlvr.parts import EvaluateParts
from omni_rlvr.record import RunRecord
from omni_rlvr.run.clips import batches, keeper
from omni_rlvr.run.lifecycle import move_latest, recorded
from omni_rlvr.training.devices import take_device
from omni_rlvr.training.evaluate import Evaluation, evaluate
from omni_rlvr.training.progress import progress_bar


def evaluate_splits(parts: EvaluateParts) -> dict[str, dict]:
    """Evaluates a policy on each split of the task; returns each split's scores."""
    device = take_device(parts.place.config["trainer"], ranks.rank())
    with recorded(parts.place, device=str(device)) as record:
        scores = score_splits(parts, record, device)
        _compare(parts, scores)
        record.finish("finished")
    move_latest(parts.place)
    return scores


def score_splits(parts: EvaluateParts, record: RunRecord, device: torch.device) -> dict[str, dict]:
    """Evaluates within a run that is open already; returns each split's scores."""
    from omni_rlvr.analysis.evaluation import write_evaluation  # matplotlib: not for --help

    parts.policy.eval().to(device=device)
    scores = {}
    for split in parts.task.splits:
        result = _evaluate_split(parts, split, device)
        record.add_skipped((clip.example.id, clip.reason) for clip in result.skipped)
        record.add_notes(result.notes)
        if ranks.is_first():
            write_evaluation(parts.place.run_dir / split, split, result.scores, result.predictions)
        scores[split] = result.scores
        print(
            f"{split}: WAR {result.scores['war']:.1f}  UAR {result.scores['uar']:.1f}  "
            f"format {result.scores['format']:.1f}  ({result.scores['num_clips']} clips)"
        )
    return scores


def _compare(parts: EvaluateParts, scores: dict[str, dict]) -> None:
    """Shows published scores of the data set beside these, where there are any."""
    if parts.clips.dataset.published_scores and ranks.is_first():
        text = published_markdown(scores, parts.clips.dataset)
        (parts.place.run_dir / "published.md").write_text(text, encoding="utf-8")
        print(f"\n{text}")


def _evaluate_split(parts: EvaluateParts, split: str, device: torch.device) -> Evaluation:
    task, examples = parts.task, parts.clips.examples[split]
    examples = examples[: task.max_clips] if task.max_clips else examples
    examples = examples[ranks.rank() :: ranks.num_ranks()]
    with progress_bar(f"evaluating {split}", len(examples)) as progress:
        return evaluate(
            parts.policy,
            parts.roll_out,
            batches(
                parts.clips,
                examples,
                parts.policy.processor,
                parts.cache,
                batch_size=task.batch_size,
                device=device,
            ),
            parts.clips.dataset.labels,
            repetition_penalty=task.repetition_penalty,
            max_completion_length=task.max_completion_length,
            num_resamples=task.num_resamples,
            on_features=keeper(parts.cache),
            on_batch=lambda done: progress.advance(progress.task_ids[0], done),
        )
