"""Writes out the clips that a page will show: what is said of each, and G samples with rewards.

Everything that needs the model is done here, so that the page needs none: ``chosen.jsonl`` has a
line a clip, ``completions.jsonl`` a line a sampled completion, as training writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omni_rlvr.config.sampling import SamplingConfig, greedy
from omni_rlvr.data.synthetic.wording import phrase
from omni_rlvr.functional.advantages import compute_advantages
from omni_rlvr.record import append_jsonl
from omni_rlvr.rollout.encode import encode, make_prompts
from omni_rlvr.stages.rollout_metrics import completion_rows
from omni_rlvr.tasks.attribute.reasoning import read_reasoning
from omni_rlvr.tasks.clips import batches, keeper
from omni_rlvr.training.progress import progress_bar
from omni_rlvr.types import Batch, Example

if TYPE_CHECKING:
    import pandas as pd

    from omni_rlvr.tasks.attribute.task import AttributeInputs

FILES = ("chosen.jsonl", "completions.jsonl")
ESTIMATOR = "grpo"
"""Of the advantages that are shown: reward less the group's mean, over its spread."""


@torch.no_grad()
def write_chosen(
    parts: AttributeInputs, split: str, examples: Sequence[Example], device: torch.device
) -> None:
    """Chooses clips of a split whose tables are written, and adds their completions.

    Args:
        parts: of the task.
        split: the split.
        examples: those that were scored.
        device: of the policy.
    """
    folder = parts.place.run_dir / split
    chosen = _choose(parts, folder)
    rows = {row["id"]: row for row in chosen}
    known = {example.id: example for example in examples}
    generator = torch.Generator().manual_seed(parts.place.config["seed"])
    with progress_bar(f"sampling for chosen clips of {split}", len(rows)) as progress:
        for batch in batches(
            parts.clips,
            [known[clip] for clip in rows],
            parts.policy.processor,
            parts.cache,
            batch_size=max(1, parts.task.batch_size // max(1, parts.task.num_generations)),
            device=device,
        ):
            if len(batch) > 0:
                said, sampled = _say(parts, batch, generator)
                about = zip(batch.examples, said, strict=True)
                append_jsonl(
                    folder / FILES[0],
                    [{**rows[e.id], **_described(parts, e, text)} for e, text in about],
                )
                if sampled:
                    append_jsonl(folder / FILES[1], sampled)
            progress.advance(progress.task_ids[0], len(batch) + len(batch.skipped))


def _choose(parts: AttributeInputs, folder: Path) -> list[dict[str, Any]]:
    """Lists the chosen clips with the rules that chose them and what these rank by."""
    import pandas as pd

    from omni_rlvr.tasks.attribute.selection import choose, measured

    def read(name: str) -> pd.DataFrame:
        return pd.read_parquet(folder / f"{name}.parquet")

    clips = measured(read("attribution"), read("distributions"), parts.clips.dataset.labels)
    chosen = choose(clips, num_chosen=parts.task.num_chosen)
    ranks = clips.set_index("clip")[["confidence", "conflict"]]
    return [
        {"id": clip, "rules": rules, **ranks.loc[clip].to_dict()} for clip, rules in chosen.items()
    ]


def _say(
    parts: AttributeInputs, batch: Batch, generator: torch.Generator
) -> tuple[Sequence[str], list[dict[str, object]]]:
    """The greedy completion of each clip, and rows of G sampled ones with their rewards."""
    task, policy = parts.task, parts.policy
    features = encode(policy, batch)
    keeper(parts.cache)(batch, features)
    prompts = make_prompts(
        policy,
        batch,
        features,
        num_new=task.max_completion_length,
        key="task.max_completion_length",
    )
    once = greedy(max_completion_length=task.max_completion_length)
    said = parts.engine.sample(policy, prompts, once, generator, None).texts
    if parts.reward is None:
        return said, []
    sampling = SamplingConfig(
        num_generations=task.num_generations,
        max_completion_length=task.max_completion_length,
        temperature=task.temperature,
    )
    rollout = parts.engine.sample(policy, prompts, sampling, generator, None)
    examples = [e for e in batch.examples for _ in range(task.num_generations)]
    scored = parts.reward(rollout.texts, examples, rollout.completion_mask.sum(dim=1).tolist())
    advantages = compute_advantages(
        scored.rewards,
        num_generations=task.num_generations,
        estimator=ESTIMATOR,
        scale_rewards=None,
    )
    return said, completion_rows(rollout, scored, advantages, examples)


def _described(parts: AttributeInputs, example: Example, text: str) -> dict[str, Any]:
    """Where a clip's media are, what was asked, what was said, and what of it is false."""
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
