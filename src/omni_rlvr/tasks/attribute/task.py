"""Measure on splits what each modality did, and whether the reasoning agrees with it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omni_rlvr import distributed
from omni_rlvr.assembly.composed import Clips, Composed
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.splits import read_clips
from omni_rlvr.folders import whole_folder
from omni_rlvr.record import RunRecord, write_json
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rollout.encode import make_prompts
from omni_rlvr.rollout.next_token import seed_of
from omni_rlvr.tasks.attribute.page_clips import write_selection
from omni_rlvr.tasks.attribute.reasoning import read_reasoning
from omni_rlvr.tasks.attribute.subset_scores import Method, SubsetScorer, reasoned
from omni_rlvr.tasks.clips import PolicyInputs, for_each_batch, policy_inputs
from omni_rlvr.tasks.launch import Launch, launch_of
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.types import (
    LEADS,
    Batch,
    Example,
    Features,
    UserError,
    require,
)

if TYPE_CHECKING:
    from omni_rlvr.tasks.attribute.tables import ClipScores

log = logging.getLogger(__name__)

TRUSTED = 0.8
"""Share of clips whose scored label is the generated answer, below which a warning is due."""


@dataclass(frozen=True)
class AttributeInputs(PolicyInputs):
    """The inputs of task=attribute."""

    lexicon: Lexicon
    reward: Mixture | None
    """Scores the sampled completions of selected clips; None if none are sampled."""

    def examples(self, split: str) -> Sequence[Example]:
        """Return the clips of a split that are measured."""
        return self.clips.examples[split][: self.task.max_clips or None]


def build(composed: Composed) -> AttributeInputs | Launch:
    """Read the splits, check that there is something to compare, and load the policy."""
    cfg, task = composed.cfg, composed.task
    clips = read_clips(composed, task.splits)
    check_attribution(clips)
    if composed.launches:
        return launch_of(composed)
    # this reward is only shown and nothing learns from it, so gold answers need no check
    reward = make(cfg.reward) if task.num_chosen and task.num_generations else None
    inputs = policy_inputs(composed, clips)
    return AttributeInputs(**vars(inputs), lexicon=make(cfg.lexicon), reward=reward)


def check_attribution(clips: Clips) -> None:
    """Refuse clips without two modalities to compare, or gold answers that cannot be scored."""
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
                f"{example.source}: the answer {example.answer!r} is not in dataset.labels; "
                "task=attribute scores these labels: use a split with them (task.splits)"
            )


@dataclass
class Measured:
    """The scores of one batch, or of a split so far."""

    examples: list[Example] = field(default_factory=list)
    has_video: list[bool] = field(default_factory=list)
    has_audio: list[bool] = field(default_factory=list)
    logps: list[Tensor] = field(default_factory=list)
    swaps: list[Tensor] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    """Completions of the first examples, as many as were to be reasoned about."""

    def add(self, batch: Measured) -> None:
        """Add the scores of the next batch."""
        before = len(self.examples)
        pairs = [(before + picture, before + sound) for picture, sound in batch.pairs]
        for name, values in (vars(batch) | {"pairs": pairs}).items():
            vars(self)[name].extend(values)


def run(parts: AttributeInputs) -> dict[str, dict]:
    """Measure each split of the task; the first rank returns each split's report."""
    reports = {}
    with recorded(parts.place, device=str(parts.device)) as record:
        for split in parts.task.splits:
            measured = _measure(parts, split, record)
            if distributed.is_first():
                reports[split] = _write(parts, split, measured)
                print(f"{split}: {_sentence(reports[split])}")
            if parts.task.num_chosen:
                write_selection(parts, split, measured.examples, record)
    move_latest(parts.place)
    return reports


def _measure(parts: AttributeInputs, split: str, record: RunRecord) -> Measured:
    """Score every clip, in a shuffled order, since donors come from the same batch."""
    task, examples, seed = parts.task, parts.examples(split), parts.place.config["seed"]
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    method = Method(
        labels=parts.clips.dataset.labels,
        num_players=3 if task.text else 2,
        absent=task.absent,
        lead=task.lead,
        swap=task.swap,
        max_completion_length=task.max_completion_length,
        num_prompts=task.batch_size,
    )
    scorer, out = SubsetScorer(parts.policy, parts.engine, method), Measured()

    def measured(batch: Batch, features: Features) -> Measured:
        if len(batch) == 0:
            return Measured()
        donors = torch.Generator().manual_seed(seed_of(seed, f"donors {batch.places[0]}"))
        scores = scorer.score(batch, features, donors)
        return Measured(
            examples=list(batch.examples),
            has_video=[shape is not None for shape in batch.video_shapes],
            has_audio=[shape is not None for shape in batch.audio_shapes],
            logps=[scores.logps.cpu()],
            swaps=[scores.swaps.cpu()],
            pairs=list(scores.pairs),
            texts=list(scores.texts or _texts(parts, batch, features)),
        )

    for_each_batch(
        parts,
        record,
        [examples[i] for i in order],
        measured,
        out.add,
        batch_size=math.ceil(len(examples) / math.ceil(len(examples) / task.batch_size)),
        title=f"attributing {split}",
    )
    if not out.examples:
        raise UserError(f"nothing to attribute: none of the {len(examples)} clips could be read")
    return out


def _texts(parts: AttributeInputs, batch: Batch, features: Features) -> Sequence[str]:
    """Generate completions of the clips that are among the first ``task.num_reasoned``.

    Clips come in an order drawn with the seed, so that the first ones are a random sample.
    """
    task, length = parts.task, parts.task.max_completion_length
    every = task.num_reasoned == -1
    wanted = sum(every or place < task.num_reasoned for place in batch.places)
    if wanted == 0:
        return []
    prompts = make_prompts(
        parts.policy, batch, features, num_new=length, key="task.max_completion_length"
    ).rows(slice(wanted))
    return reasoned(parts.policy, parts.engine, prompts, length, torch.Generator()).texts


def _write(parts: AttributeInputs, split: str, measured: Measured) -> dict[str, Any]:
    """Write tables, pictures and the report of one split."""
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
        "num_skipped": len(parts.examples(split)) - len(measured.examples),
        "all": tables.summary(clips, num_resamples=task.num_resamples),
        "by_class": tables.by_class(clips, names, num_resamples=task.num_resamples),
        "swap": None,
        "faithfulness": None,
    }
    frames = {"attribution": clips, "distributions": tables.distribution_table(scores, names)}
    if task.swap:
        swaps = tables.swap_table(scores, torch.cat(measured.swaps), measured.pairs, names)
        report["swap"] = tables.swap_summary(swaps, num_resamples=task.num_resamples)
        frames["swap"] = swaps
    if measured.texts:
        frames["faithfulness"], report["faithfulness"] = _faithfulness(parts, measured, scores)
    _warn(report)
    how = {"absent": task.absent, "value": task.value, "lead": task.lead}
    title = f"{split}: {', '.join(f'{key}={value}' for key, value in how.items())}"
    title += f"\nlabels are scored {LEADS[task.lead]}"
    with whole_folder(parts.place.run_dir / split) as folder:
        for name, table in frames.items():
            table = table.assign(dataset=parts.clips.dataset.name, split=split, **how)
            table.to_parquet(folder / f"{name}.parquet")
        write_json(folder / "attribution.json", report)
        path = folder / "attribution.png"
        with spared(path):
            plots.attribution_figure(clips, report, title, path, unit=tables.unit_of(task.value))
    return report


def _faithfulness(
    parts: AttributeInputs, measured: Measured, scores: ClipScores
) -> tuple[Any, Any]:
    """Analyse each clip's reasoning and compare it with the modality that decided the answer."""
    from omni_rlvr.tasks.attribute import faithfulness, tables

    names, texts = parts.clips.dataset.labels, measured.texts
    scores = tables.ClipScores(*(column[: len(texts)] for column in vars(scores).values()))
    rows = zip(texts, measured.examples, strict=False)
    said = [read_reasoning(text, example, names, parts.lexicon) for text, example in rows]
    phi = tables.answer_values(scores, [r.answer for r in said], names, value=parts.task.value)
    table = faithfulness.faithfulness_table(scores.ids, texts, said, phi)
    summary = faithfulness.faithfulness_summary(table, num_resamples=parts.task.num_resamples)
    best = scores.logps[:, -1].argmax(dim=-1).tolist()
    same = [r.answer == names[i] for r, i in zip(said, best, strict=True)]
    return table, {**summary, "same_answer": sum(same) / len(same)}


def _warn(report: dict[str, Any]) -> None:
    """Warn if the scored label often differs from what the policy answers after reasoning."""
    same, lead = report["faithfulness"], report["method"]["lead"]
    if same and same["same_answer"] < TRUSTED:
        log.warning(
            "%s: the most probable label is the generated answer for only %.0f %% of the clips; "
            "these values are of task.lead=%s, not of the reasoned answer%s",
            report["split"],
            100 * same["same_answer"],
            lead,
            "" if lead == "own_reasoning" else ": task.lead=own_reasoning measures that",
        )


def _described(parts: AttributeInputs) -> dict[str, Any]:
    """Describe for every output what was measured and how."""
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
    """Sum up a report in one line."""
    every, method, said = report["all"], report["method"], []
    if every["num_whole"]:
        phi = [f"phi {p} {every[f'phi_{p}']['mean']:+.3f}" for p in method["players"]]
        said += [*phi, f"interaction {every['interaction']['mean']:+.3f}"]
    swap, faith = report["swap"], report["faithfulness"] or {}
    if swap and swap["num_swaps"]:
        shares = [f"{k} {100 * swap[k]['mean']:.1f} %" for k in ("video", "audio", "neither")]
        said.append(f"swapped sounds: {', '.join(shares)}")
    rates = {name: faith[name] for name in ("agreement", "hallucination") if name in faith}
    said += [f"{name} {100 * rate['mean']:.1f} %" for name, rate in rates.items() if rate]
    said.append(f"(absent={method['absent']} value={method['value'].split()[0]}")
    said.append(f"lead={method['lead']}, {every['num_whole']} of {every['num_clips']} clips)")
    return "  ".join(said)
