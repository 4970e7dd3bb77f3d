"""Record the selected clips for the page: a greedy completion of each, and G sampled ones.

Everything that needs the model is done here, so that the page needs no model: ``chosen.jsonl`` has
a line a clip, ``completions.jsonl`` a line a sampled completion, as training writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from omni_rlvr import distributed
from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.data.synthetic.wording import phrase
from omni_rlvr.functional.advantages import compute_advantages
from omni_rlvr.record import RunRecord
from omni_rlvr.rollout.encode import make_prompts
from omni_rlvr.rollout.next_token import seed_of
from omni_rlvr.stages.rollout_metrics import completion_rows
from omni_rlvr.tasks.attribute.reasoning import read_reasoning
from omni_rlvr.tasks.attribute.subset_scores import reasoned
from omni_rlvr.tasks.clips import for_each_batch
from omni_rlvr.types import Batch, Example, Features

if TYPE_CHECKING:
    from omni_rlvr.tasks.attribute.task import AttributeInputs


def write_selection(
    parts: AttributeInputs, split: str, examples: Sequence[Example], record: RunRecord
) -> None:
    """Select clips of a split whose tables are written, and record their completions.

    Args:
        parts: The inputs of the task.
        split: The name of the split.
        examples: The clips that were scored.
        record: Of the run.
    """
    task = parts.task
    # the first rank has written the tables
    found = distributed.gather(_selected(parts, split) if distributed.is_first() else None)[0]
    assert found is not None
    rules, ranks = found
    known = {example.id: example for example in examples}

    def said(batch: Batch, features: Features) -> tuple[list[dict], list[dict[str, object]]]:
        if len(batch) == 0:
            return [], []
        texts, sampled = _say(parts, batch, features)
        rows = [
            {"id": e.id, "rules": rules[e.id], **ranks[e.id], **_described(parts, e, text)}
            for e, text in zip(batch.examples, texts, strict=True)
        ]
        return rows, sampled

    def keep(found: tuple[list[dict], list[dict[str, object]]]) -> None:
        for name, rows in zip(("chosen", "completions"), found, strict=True):
            if rows:
                record.log(f"{split}/{name}.jsonl", rows)

    for_each_batch(
        parts,
        record,
        [known[clip] for clip in rules],
        said,
        keep,
        batch_size=max(1, task.batch_size // max(1, task.num_generations)),
        title=f"sampling for selected clips of {split}",
    )


def _selected(
    parts: AttributeInputs, split: str
) -> tuple[Mapping[str, Sequence[str]], dict[str, dict[str, Any]]]:
    """Read the tables.

    Returns:
        The rules of each selected clip, and the confidence and conflict of every clip.
    """
    import pandas as pd

    from omni_rlvr.tasks.attribute.selection import choose, measured

    folder = parts.place.run_dir / split
    table, distributions = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("attribution", "distributions")
    )
    clips = measured(table, distributions, parts.clips.dataset.labels)
    ranks = clips.set_index("clip")[["confidence", "conflict"]].to_dict("index")
    return choose(clips, num_chosen=parts.task.num_chosen), ranks


def _say(
    parts: AttributeInputs, batch: Batch, features: Features
) -> tuple[Sequence[str], list[dict[str, object]]]:
    """Write the greedy completion of each clip, and rows of G sampled ones with their rewards."""
    task, policy, length = parts.task, parts.policy, parts.task.max_completion_length
    prompts = make_prompts(
        policy, batch, features, num_new=length, key="task.max_completion_length"
    )
    said = reasoned(policy, parts.engine, prompts, length, torch.Generator()).texts
    if parts.reward is None:
        return said, []
    sampling = SamplingConfig(
        num_generations=task.num_generations,
        max_completion_length=length,
        temperature=task.temperature,
    )
    seeds = [seed_of(parts.place.config["seed"], example.id) for example in batch.examples]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    rollout = parts.engine.sample(policy, prompts, sampling, generators, None)
    examples = [e for e in batch.examples for _ in range(task.num_generations)]
    scored = parts.reward(rollout.texts, examples, rollout.completion_mask.sum(dim=1).tolist())
    # each reward less the mean of its group, divided by the group's spread
    advantages = compute_advantages(
        scored.rewards, num_generations=task.num_generations, estimator="grpo", scale_rewards=None
    )
    return said, completion_rows(rollout, scored, advantages, examples)


def _described(parts: AttributeInputs, example: Example, text: str) -> dict[str, Any]:
    """Describe a clip: its files, the question, the completion, and the false claims in it."""
    said = read_reasoning(text, example, parts.clips.dataset.labels, parts.lexicon)
    files = {"video": example.video, "audio": example.audio}
    return {
        **{name: file and str(file.resolve()) for name, file in files.items()},
        "question": example.question,
        "completion": text,
        "answer": said.answer,
        "num_claims": len(said.claims) if example.cues else None,
        "false_claims": [phrase(claim.cue, claim.value) for claim in said.false_claims],
    }
