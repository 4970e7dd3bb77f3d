"""Write down the selected clips that a page will show: what is said of each, and G samples.

Everything that needs the model is done here, so that the page needs no model: ``chosen.jsonl`` has
a line a clip, ``completions.jsonl`` a line a sampled completion, as training writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.data.synthetic.wording import phrase
from omni_rlvr.functional.advantages import compute_advantages
from omni_rlvr.record import append_jsonl
from omni_rlvr.rollout.encode import make_prompts
from omni_rlvr.stages.rollout_metrics import completion_rows
from omni_rlvr.tasks.attribute.reasoning import read_reasoning
from omni_rlvr.tasks.attribute.subset_scores import reasoned
from omni_rlvr.tasks.clips import encoded_batches
from omni_rlvr.types import Batch, Example, Features

if TYPE_CHECKING:
    from omni_rlvr.tasks.attribute.task import AttributeInputs


@torch.no_grad()
def write_selection(
    parts: AttributeInputs, split: str, examples: Sequence[Example], device: torch.device
) -> None:
    """Select clips of a split whose tables are written, and write down their completions.

    Args:
        parts: of the task.
        split: the split.
        examples: those that were scored.
        device: of the policy.
    """
    import pandas as pd

    from omni_rlvr.tasks.attribute.selection import choose, measured

    task, folder = parts.task, parts.place.run_dir / split
    table, distributions = (
        pd.read_parquet(folder / f"{name}.parquet") for name in ("attribution", "distributions")
    )
    clips = measured(table, distributions, parts.clips.dataset.labels)
    rules = choose(clips, num_chosen=task.num_chosen)
    ranks = clips.set_index("clip")[["confidence", "conflict"]].to_dict("index")
    known = {example.id: example for example in examples}
    generator = torch.Generator().manual_seed(parts.place.config["seed"])
    for batch, features in encoded_batches(
        parts.clips,
        [known[clip] for clip in rules],
        parts.policy,
        parts.cache,
        batch_size=max(1, task.batch_size // max(1, task.num_generations)),
        device=device,
        title=f"sampling for selected clips of {split}",
    ):
        if len(batch) == 0:
            continue
        said, sampled = _say(parts, batch, features, generator)
        rows = [
            {"id": e.id, "rules": rules[e.id], **ranks[e.id], **_described(parts, e, text)}
            for e, text in zip(batch.examples, said, strict=True)
        ]
        append_jsonl(folder / "chosen.jsonl", rows)
        if sampled:
            append_jsonl(folder / "completions.jsonl", sampled)


def _say(
    parts: AttributeInputs, batch: Batch, features: Features, generator: torch.Generator
) -> tuple[Sequence[str], list[dict[str, object]]]:
    """Write the greedy completion of each clip, and rows of G sampled ones with their rewards."""
    task, policy, length = parts.task, parts.policy, parts.task.max_completion_length
    prompts = make_prompts(
        policy, batch, features, num_new=length, key="task.max_completion_length"
    )
    said = reasoned(policy, parts.engine, prompts, length, generator).texts
    if parts.reward is None:
        return said, []
    sampling = SamplingConfig(
        num_generations=task.num_generations,
        max_completion_length=length,
        temperature=task.temperature,
    )
    rollout = parts.engine.sample(policy, prompts, sampling, generator, None)
    examples = [e for e in batch.examples for _ in range(task.num_generations)]
    scored = parts.reward(rollout.texts, examples, rollout.completion_mask.sum(dim=1).tolist())
    # each reward less the mean of its group, divided by the group's spread
    advantages = compute_advantages(
        scored.rewards, num_generations=task.num_generations, estimator="grpo", scale_rewards=None
    )
    return said, completion_rows(rollout, scored, advantages, examples)


def _described(parts: AttributeInputs, example: Example, text: str) -> dict[str, Any]:
    """Tell where a clip's media are, what was asked, what was said, and what of it is false."""
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
