"""Evaluates a policy on splits: predictions, scores and a confusion matrix each."""

from __future__ import annotations

from pathlib import Path

import torch

from omni_rlvr.parts import EvaluateParts
from omni_rlvr.record import RunRecord, append_jsonl, write_json
from omni_rlvr.run.clips import batches, keeper
from omni_rlvr.run.lifecycle import move_latest, recorded
from omni_rlvr.training.evaluate import Evaluation, device_of, evaluate
from omni_rlvr.training.progress import progress_bar


def evaluate_splits(parts: EvaluateParts) -> dict[str, dict]:
    """Evaluates a policy on each split of the task; returns each split's scores."""
    device = device_of(parts.place.config["trainer"]["accelerator"])
    with recorded(parts.place, device=str(device)) as record:
        scores = score_splits(parts, record, device)
        record.finish("finished")
    move_latest(parts.place)
    return scores


def score_splits(parts: EvaluateParts, record: RunRecord, device: torch.device) -> dict[str, dict]:
    """Evaluates within a run that is open already; returns each split's scores."""
    parts.policy.eval().to(device=device)
    scores = {}
    for split in parts.task.splits:
        result = _evaluate_split(parts, split, device)
        record.add_skipped((clip.example.id, clip.reason) for clip in result.skipped)
        _write_evaluation(parts.place.run_dir / split, split, result)
        scores[split] = result.scores
        print(
            f"{split}: WAR {result.scores['war']:.1f}  UAR {result.scores['uar']:.1f}  "
            f"format {result.scores['format']:.1f}  ({result.scores['num_clips']} clips)"
        )
    return scores


def _evaluate_split(parts: EvaluateParts, split: str, device: torch.device) -> Evaluation:
    task, examples = parts.task, parts.clips.examples[split]
    examples = examples[: task.max_clips] if task.max_clips else examples
    with progress_bar(f"evaluating {split}", len(examples)) as progress:
        return evaluate(
            parts.policy,
            batches(
                parts.clips,
                examples,
                parts.policy.processor,
                parts.cache,
                batch_size=task.batch_size,
                device=device,
            ),
            parts.clips.dataset.labels,
            max_completion_length=task.max_completion_length,
            num_resamples=task.num_resamples,
            on_features=keeper(parts.cache),
            on_batch=lambda done: progress.advance(progress.task_ids[0], done),
        )


def _write_evaluation(folder: Path, split: str, result: Evaluation) -> None:
    from omni_rlvr.analysis.plots import confusion_figure

    scores = result.scores
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").unlink(missing_ok=True)
    append_jsonl(folder / "predictions.jsonl", result.predictions)
    write_json(folder / "metrics.json", scores)
    title = f"{split}: WAR {scores['war']:.1f} %, UAR {scores['uar']:.1f} %"
    confusion_figure(scores["confusion"], scores["labels"], title, folder / "confusion.png")
