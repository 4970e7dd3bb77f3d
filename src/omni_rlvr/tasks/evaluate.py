"""Evaluation by greedy generation: decode, parse, compare; WAR, UAR, format rate and everything
behind them.

An answer is what stands in the answer tag; a text without any tag is an answer as a whole (a label-
only model says just "happy"). Answers outside the label list are wrong, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    """All that an evaluation needs."""

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
    """What a policy answered on a split, and its scores."""

    predictions: list[dict[str, object]]
    """One row a clip: id, label, predicted, completion, well_formed, correct."""
    scores: dict[str, Any]
    """Percent: war, uar, format, outside, war_ci, uar_ci, recall; confusion in counts."""
    skipped: list[SkippedClip]
    notes: list[tuple[str, ClipNote]]
    """The notes on clips, each with its clip's id."""


@torch.no_grad()
def evaluate(
    policy: Policy,
    engine: RolloutEngine,
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
        engine: decodes.
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
            rollout = engine.sample(
                policy,
                make_prompts(
                    policy,
                    batch,
                    features,
                    num_new=max_completion_length,
                    key="task.max_completion_length",
                ),
                greedy(
                    max_completion_length=max_completion_length,
                    repetition_penalty=repetition_penalty,
                ),
                torch.Generator(),
                None,
            )
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
    scores = score(predictions, labels, num_resamples=num_resamples)
    return Evaluation(predictions, scores, skipped, notes)


def judge(clip_id: str, label: str, completion: str, labels: Sequence[str]) -> dict[str, object]:
    """Read the answer out of one completion and compares it with the gold label."""
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
    out: dict[str, Any] = {"num_clips": len(predictions)}
    value, low, high = bootstrap.bootstrap_interval(
        torch.eye(matrix.numel()),
        lambda sums: _averages(sums.view(-1, *matrix.shape)),
        counts=matrix.flatten(),
        num_resamples=num_resamples,
        confidence=0.95,
        seed=0,
    )
    for i, name in enumerate(("war", "uar")):
        out[name] = _percent(value[i].item())
        out[f"{name}_ci"] = [_percent(low[i].item()), _percent(high[i].item())]
    out["format"] = _percent(sum(bool(p["well_formed"]) for p in predictions) / len(predictions))
    out["outside"] = _percent((guess == metrics.OUTSIDE).float().mean().item())
    recall = metrics.per_class_recall(matrix).tolist()
    out["recall"] = {
        n: None if r != r else _percent(r) for n, r in zip(labels, recall, strict=True)
    }
    out["labels"] = list(labels)
    out["confusion"] = matrix.tolist()
    return out


def _averages(matrices: Tensor) -> Tensor:
    """WAR and UAR of confusion matrices, [R, 2]."""
    return torch.stack([metrics.war(matrices), metrics.uar(matrices)], dim=-1)


def _percent(fraction: float) -> float:
    return round(100 * fraction, 2)


def write_evaluation(
    folder: Path,
    split: str,
    scores: Mapping[str, Any],
    predictions: Sequence[Mapping[str, object]],
) -> None:
    """Write predictions.jsonl and metrics.json anew, both or none, and then confusion.png.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    title = f"{split}: WAR {scores['war']:.1f} %, UAR {scores['uar']:.1f} %"
    with whole_folder(folder) as partial:
        append_jsonl(partial / "predictions.jsonl", predictions)
        write_json(partial / "metrics.json", scores)
    with spared(folder / "confusion.png"):
        confusion_figure(scores["confusion"], scores["labels"], title, folder / "confusion.png")


def run(parts: EvaluateInputs) -> dict[str, dict]:
    """Evaluates a policy on each split of the task; returns each split's scores."""
    device = take_device(parts.place.config["trainer"], distributed.rank())
    with recorded(parts.place, device=str(device)) as record:
        scores = score_splits(parts, record, device)
        _compare(parts, scores)
        record.finish("finished")
    move_latest(parts.place)
    return scores


def score_splits(parts: EvaluateInputs, record: RunRecord, device: torch.device) -> dict[str, dict]:
    """Evaluates within a run that is open already; returns each split's scores."""
    parts.policy.eval().to(device=device)
    scores = {}
    for split in parts.task.splits:
        result = _evaluate_split(parts, split, device)
        record.add_skipped((clip.example.id, clip.reason) for clip in result.skipped)
        record.add_notes(result.notes)
        if distributed.is_first():
            write_evaluation(parts.place.run_dir / split, split, result.scores, result.predictions)
        scores[split] = result.scores
        print(
            f"{split}: WAR {result.scores['war']:.1f}  UAR {result.scores['uar']:.1f}  "
            f"format {result.scores['format']:.1f}  ({result.scores['num_clips']} clips)"
        )
    return scores


def _compare(parts: EvaluateInputs, scores: dict[str, dict]) -> None:
    """Shows published scores of the data set beside these, where there are any."""
    if parts.clips.dataset.published_scores and distributed.is_first():
        text = published_markdown(scores, parts.clips.dataset)
        (parts.place.run_dir / "published.md").write_text(text, encoding="utf-8")
        print(f"\n{text}")


def _evaluate_split(parts: EvaluateInputs, split: str, device: torch.device) -> Evaluation:
    task, examples = parts.task, parts.clips.examples[split]
    examples = examples[: task.max_clips] if task.max_clips else examples
    examples = examples[distributed.rank() :: distributed.num_ranks()]
    with progress_bar(f"evaluating {split}", len(examples)) as progress:
        return evaluate(
            parts.policy,
            parts.engine,
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


def published_markdown(scores: Mapping[str, Mapping[str, Any]], dataset: DatasetConfig) -> str:
    """Lays out WAR and UAR of each split below the published ones, as Markdown.

    Args:
        scores: split -> scores of an evaluation, in percent.
        dataset: its ``published_scores``, labels and fold.

    Returns:
        A table, then the fold, the label list and where the published scores are from.
    """
    rows: list[tuple[str, ...]] = [
        ("method", "clips", "WAR", "UAR"),
        (":---", "---:", "---:", "---:"),
    ]
    for method, (war, uar) in dataset.published_scores.items():
        rows.append((markdown_cell(method), "", f"{war:.2f}", f"{uar:.2f}"))
    for split, found in scores.items():
        low, high = found["war_ci"]
        ours = f"**{found['war']:.2f}** [{low:.1f}, {high:.1f}]"
        rows.append(
            (
                f"**this run**, {markdown_cell(split)}",
                f"{found['num_clips']:,}",
                ours,
                f"{found['uar']:.2f}",
            )
        )
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    where = dataset.name
    if isinstance(dataset, OfficialConfig) and dataset.fold is not None:
        where += f", fold {dataset.fold} of {dataset.folds}"
    labels = f"{len(dataset.labels)} labels: {', '.join(dataset.labels)}"
    return f"{table}\n\nthis run: {where}; {labels}\npublished: {dataset.published_scores_note}\n"
