"""Measures on splits what each modality did, and whether the reasoning is true to it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omni_rlvr.assembly.composed import Clips, Composed, Place
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.policies import feature_cache, load_policy
from omni_rlvr.assembly.splits import read_clips
from omni_rlvr.config.sampling import greedy
from omni_rlvr.config.tasks import AttributeTask
from omni_rlvr.data.features.cache import FeatureCache
from omni_rlvr.folders import whole_folder
from omni_rlvr.models.policy import Policy
from omni_rlvr.record import write_json
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rollout.encode import encode, make_prompts
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.tasks.attribute.page_clips import write_chosen
from omni_rlvr.tasks.attribute.reasoning import read_reasoning
from omni_rlvr.tasks.attribute.subset_scores import Blanks, Method, score_batch
from omni_rlvr.tasks.clips import batches, keeper
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.training.devices import device_of
from omni_rlvr.training.progress import progress_bar
from omni_rlvr.types import (
    LEADS,
    Batch,
    ClipNote,
    Example,
    Features,
    SkippedClip,
    UserError,
    require,
)

if TYPE_CHECKING:
    from omni_rlvr.tasks.attribute.tables import ClipScores

log = logging.getLogger(__name__)

TRUSTED = 0.8
"""Share of answers that the scored label must have in common with the generated ones."""
FILES = ("attribution.parquet", "distributions.parquet", "swap.parquet", "faithfulness.parquet")


@dataclass(frozen=True)
class AttributeInputs:
    """All that measuring modalities needs."""

    place: Place
    clips: Clips
    task: AttributeTask
    policy: Policy
    cache: FeatureCache | None
    engine: RolloutEngine
    lexicon: Lexicon
    reward: Mixture | None
    """Scores completions of chosen clips, where they are asked for."""


def build(composed: Composed) -> AttributeInputs:
    """Read the splits, check that there is something to compare, and load the policy."""
    cfg, task = composed.cfg, composed.task
    clips = read_clips(composed, task.splits)
    check_attribution(clips)
    # it judges what is shown and nothing learns from it, so that gold answers are not scored
    reward = make(cfg.reward) if task.num_chosen and task.num_generations else None
    policy = load_policy(composed, clips.examples)
    cache = feature_cache(composed.feature_cache, clips, policy)
    engine, lexicon = make(cfg.rollout), make(cfg.lexicon)
    return AttributeInputs(composed.place, clips, task, policy, cache, engine, lexicon, reward)


def check_attribution(clips: Clips) -> None:
    """Refuse what has no two modalities to compare, or gold answers that cannot be scored."""
    if not (clips.modality.video and clips.modality.audio):
        raise UserError(
            f"modality={clips.modality.name}: task=attribute compares picture and sound; "
            "use modality=video_audio"
        )
    labels = clips.dataset.labels
    require(len({*labels}) == len(labels) > 1, "dataset.labels", labels, "two labels or more")
    for example in (e for rows in clips.examples.values() for e in rows):
        if example.answer not in labels:
            raise UserError(
                f"{example.source}: the answer {example.answer!r} is not of dataset.labels; "
                "task=attribute scores that list: use a split with its words (task.splits)"
            )


@dataclass
class Measured:
    """What was scored so far of one split."""

    examples: list[Example] = field(default_factory=list)
    has_video: list[bool] = field(default_factory=list)
    has_audio: list[bool] = field(default_factory=list)
    logps: list[Tensor] = field(default_factory=list)
    swaps: list[Tensor] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    """Completions of the clips that were reasoned about."""
    skipped: list[SkippedClip] = field(default_factory=list)
    notes: list[tuple[str, ClipNote]] = field(default_factory=list)


def run(parts: AttributeInputs) -> dict[str, dict]:
    """Measures each split of the task; returns each split's report."""
    device = device_of(parts.place.config["trainer"]["accelerator"])
    parts.policy.eval().to(device=device)
    reports = {}
    with recorded(parts.place, device=str(device)) as record:
        for split in parts.task.splits:
            measured = _measure(parts, split, device)
            record.add_skipped((clip.example.id, clip.reason) for clip in measured.skipped)
            record.add_notes(measured.notes)
            reports[split] = _write(parts, split, measured)
            print(f"{split}: {_sentence(reports[split])}")
            if parts.task.num_chosen:
                write_chosen(parts, split, measured.examples, device)
        record.finish("finished")
    move_latest(parts.place)
    return reports


@torch.no_grad()
def _measure(parts: AttributeInputs, split: str, device: torch.device) -> Measured:
    """Scores every clip; in a shuffled order, since donors come from the same batch."""
    task, examples = parts.task, parts.clips.examples[split]
    examples = examples[: task.max_clips] if task.max_clips else examples
    generator = torch.Generator().manual_seed(parts.place.config["seed"])
    order = torch.randperm(len(examples), generator=generator).tolist()
    even = math.ceil(len(examples) / math.ceil(len(examples) / task.batch_size))
    out, blanks = Measured(), Blanks(parts.policy)
    with progress_bar(f"attributing {split}", len(examples)) as progress:
        for batch in batches(
            parts.clips,
            [examples[i] for i in order],
            parts.policy.processor,
            parts.cache,
            batch_size=even,
            device=device,
        ):
            out.skipped += batch.skipped
            out.notes += batch.noted()
            if len(batch) > 0:
                features = encode(parts.policy, batch)
                keeper(parts.cache)(batch, features)
                _add(out, parts, batch, features, blanks, generator)
            progress.advance(progress.task_ids[0], len(batch) + len(batch.skipped))
    if not out.examples:
        raise UserError(f"nothing to attribute: none of the {len(out.skipped)} clips could be read")
    return out


def _add(
    out: Measured,
    parts: AttributeInputs,
    batch: Batch,
    features: Features,
    blanks: Blanks,
    generator: torch.Generator,
) -> None:
    """Scores one batch."""
    method = _method(parts)
    scores = score_batch(
        parts.policy, parts.engine, batch, features, method, blanks=blanks, generator=generator
    )
    before = len(out.examples)
    out.examples += batch.examples
    out.has_video += [shape is not None for shape in batch.video_shapes]
    out.has_audio += [shape is not None for shape in batch.audio_shapes]
    out.logps.append(scores.logps.cpu())
    out.swaps.append(scores.swaps.cpu())
    out.pairs += [(before + picture, before + sound) for picture, sound in scores.pairs]
    out.texts += scores.texts or _texts(parts, batch, features, before)


def _method(parts: AttributeInputs) -> Method:
    task = parts.task
    return Method(
        labels=parts.clips.dataset.labels,
        num_players=3 if task.text else 2,
        absent=task.absent,
        lead=task.lead,
        swap=task.swap,
        max_completion_length=task.max_completion_length,
        num_prompts=task.batch_size,
    )


def _texts(
    parts: AttributeInputs, batch: Batch, features: Features, before: int
) -> Sequence[str | None]:
    """Greedy completions of whole clips, as an evaluation would get them, so long as any are due.

    Clips come in an order that the seed drew, so that the first ones are a sample of all.
    """
    wanted = len(batch) if parts.task.num_reasoned == -1 else parts.task.num_reasoned - before
    wanted = max(0, min(wanted, len(batch)))
    if wanted == 0:
        return [None] * len(batch)
    rollout = parts.engine.sample(
        parts.policy,
        make_prompts(
            parts.policy,
            batch,
            features,
            num_new=parts.task.max_completion_length,
            key="task.max_completion_length",
        ).first(wanted),
        greedy(max_completion_length=parts.task.max_completion_length),
        torch.Generator(),
        None,
    )
    return [*rollout.texts, *([None] * (len(batch) - wanted))]


def _write(parts: AttributeInputs, split: str, measured: Measured) -> dict[str, Any]:
    """Writes tables, pictures and the report of one split."""
    from omni_rlvr.tasks.attribute import plots, tables
    from omni_rlvr.tasks.report.drawing import spared

    task, names = parts.task, parts.clips.dataset.labels
    scores = tables.ClipScores(
        [e.id for e in measured.examples],
        [e.answer for e in measured.examples],
        measured.has_video,
        measured.has_audio,
        torch.cat(measured.logps),
    )
    clips = tables.clip_table(scores, names, value=task.value)
    report: dict[str, Any] = {
        "dataset": parts.clips.dataset.name,
        "split": split,
        "method": _described(parts),
        "labels": list(names),
        "num_skipped": len(measured.skipped),
        "all": tables.summary(clips, num_resamples=task.num_resamples),
        "by_class": tables.by_class(clips, names, num_resamples=task.num_resamples),
        "swap": None,
        "faithfulness": None,
    }
    frames = {FILES[0]: clips, FILES[1]: tables.distribution_table(scores, names)}
    if task.swap:
        swaps = tables.swap_table(scores, torch.cat(measured.swaps), measured.pairs, names)
        report["swap"] = tables.swap_summary(swaps, num_resamples=task.num_resamples)
        frames[FILES[2]] = swaps
    if any(text is not None for text in measured.texts):
        frames[FILES[3]], report["faithfulness"] = _faithfulness(parts, measured, scores)
    _warn(report)
    title = f"{split}: absent={task.absent}, value={task.value}, lead={task.lead}"
    title += f"\nlabels are scored {LEADS[task.lead]}"
    with whole_folder(parts.place.run_dir / split) as folder:
        for file, table in frames.items():
            about = {"dataset": parts.clips.dataset.name, "split": split, "absent": task.absent}
            table.assign(**about, value=task.value, lead=task.lead).to_parquet(folder / file)
        write_json(folder / "attribution.json", report)
        with spared(folder / "attribution.png"):
            plots.attribution_figure(
                clips,
                report,
                title,
                folder / "attribution.png",
                unit=tables.unit_of(task.value),
            )
    return report


def _faithfulness(
    parts: AttributeInputs, measured: Measured, scores: ClipScores
) -> tuple[Any, Any]:
    """Reads the reasoning of each clip and holds it against what drove its answer."""
    from omni_rlvr.tasks.attribute import faithfulness, tables

    names = parts.clips.dataset.labels
    texts = {i: text for i, text in enumerate(measured.texts) if text is not None}
    scores = tables.some(scores, list(texts))
    rows = [(text, measured.examples[i]) for i, text in texts.items()]
    said = [read_reasoning(text, example, names, parts.lexicon) for text, example in rows]
    phi = tables.answer_values(scores, [r.answer for r in said], names, value=parts.task.value)
    table = faithfulness.faithfulness_table(scores.ids, list(texts.values()), said, phi)
    summary = faithfulness.faithfulness_summary(table, num_resamples=parts.task.num_resamples)
    best = scores.logps[:, -1].argmax(dim=-1).tolist()
    same = [r.answer == names[i] for r, i in zip(said, best, strict=True)]
    return table, {**summary, "same_answer": sum(same) / len(same)}


def _warn(report: dict[str, Any]) -> None:
    """Says so where what was scored is not what the policy answers once it has reasoned."""
    same = report["faithfulness"] and report["faithfulness"]["same_answer"]
    if same is not None and same < TRUSTED:
        log.warning(
            "%s: the most probable label is the generated answer for %.0f %% of the clips only; "
            "these values are of task.lead=%s, not of the reasoned answer%s",
            report["split"],
            100 * same,
            report["method"]["lead"],
            ""
            if report["method"]["lead"] == "own_reasoning"
            else ": task.lead=own_reasoning measures that",
        )


def _described(parts: AttributeInputs) -> dict[str, Any]:
    """What was measured and how, for every output."""
    task = parts.task
    return {
        "players": ["audio", "video", *(["text"] if task.text else [])],
        "absent": task.absent,
        "value": f"{task.value} of the label, normalised over the label list",
        "lead": task.lead,
        "labels are scored": LEADS[task.lead],
        "sampling": "none: greedy" if task.lead == "own_reasoning" else "none",
        "intervals": f"95 %, bootstrap over clips, {task.num_resamples} resamples",
        "donors": "another clip of the same batch with another label",
        "model": parts.place.config["model"]["path"],
        "seed": parts.place.config["seed"],
    }


def _sentence(report: dict[str, Any]) -> str:
    """What a reader wants first, in one line."""
    every, said = report["all"], []
    if every["num_whole"]:
        phi = [f"phi {p} {every[f'phi_{p}']['mean']:+.3f}" for p in report["method"]["players"]]
        said += [*phi, f"interaction {every['interaction']['mean']:+.3f}"]
    swap, faith = report["swap"], report["faithfulness"]
    if swap and swap["num_swaps"]:
        shares = [f"{k} {100 * swap[k]['mean']:.1f} %" for k in ("video", "audio", "neither")]
        said.append(f"swapped sounds: {', '.join(shares)}")
    for name in ("agreement", "hallucination"):
        if faith and faith[name]:
            said.append(f"{name} {100 * faith[name]['mean']:.1f} %")
    method = report["method"]
    said.append(f"(absent={method['absent']} value={method['value'].split()[0]}")
    said.append(f"lead={method['lead']}, {every['num_whole']} of {every['num_clips']} clips)")
    return "  ".join(said)
