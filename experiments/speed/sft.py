"""Time one SFT step at mixed lengths: this project's packing against TRL's SFTTrainer.

    python experiments/speed/sft.py --samples 16 --json FILE

Prompts of 64 to P tokens, completions of 8 to C, drawn once; the loss is over completion tokens on
both sides. TRL pads a batch to its longest row, as it does by default.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import clock
import torch
import transformers
from clock import now
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer
from trl_grpo import word_tokenizer
from workload import LEARNING_RATE, Cell, TextPolicy, add_arguments, cell_of, make_model

from omni_rlvr.config.stage import SftConfig
from omni_rlvr.data.collate import pad_rows
from omni_rlvr.functional.masks import position_ids
from omni_rlvr.rollout.experience import select
from omni_rlvr.stages.sft import SftStage
from omni_rlvr.training.trainer import keep_freed_memory
from omni_rlvr.types import Batch, Example

Samples = list[tuple[list[int], list[int]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--samples", type=int, default=16, help="rows a step")
    parser.add_argument("--json", type=Path, required=True, help="where the medians go")
    args = parser.parse_args()
    clock.choose(args.clock)
    keep_freed_memory()  # for all contestants
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)
    cell = cell_of(args)
    samples = draw(cell, args.samples)
    ours, rounds = Ours(cell, samples), []
    run_trl(cell, samples, args.repeats + 1, lambda seconds: rounds.append((seconds, ours.step())))
    trl, mine = zip(*rounds[1:], strict=True)
    result = {
        **vars(cell),
        "samples": args.samples,
        "tokens": sum(len(p) + len(c) for p, c in samples),
        "threads": args.threads,
        "clock": args.clock,
        "ours_s": statistics.median(mine),
        "trl_s": statistics.median(trl),
        "over_trl": statistics.median(t / m for t, m in rounds[1:]),
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def draw(cell: Cell, count: int) -> Samples:
    """Draws prompts and completions of mixed lengths."""
    generator = torch.Generator().manual_seed(2)

    def tokens(low: int, high: int) -> list[int]:
        size = int(torch.randint(min(low, high), high + 1, (), generator=generator))
        return torch.randint(1, cell.vocabulary - 1, (size,), generator=generator).tolist()

    return [(tokens(64, cell.prompt), tokens(8, cell.completion)) for _ in range(count)]


class Ours:
    """The SFT stage that trains, without Lightning around it."""

    def __init__(self, cell: Cell, samples: Samples):
        self.policy = TextPolicy(make_model(cell))
        self.stage = SftStage(SftConfig(micro_batch_size=len(samples)))
        prompts, targets = zip(*samples, strict=True)
        ids, mask = pad_rows(prompts, pad=0, left=True)
        target_ids, target_mask = pad_rows(targets, pad=0, left=False)
        none = [None] * len(ids)
        examples = [Example(str(i), "", "", "", None) for i in range(len(ids))]
        self.batch = Batch(
            examples,
            ids,
            mask,
            position_ids(mask),
            none,
            none,
            none,
            none,
            completion_ids=target_ids,
            completion_mask=target_mask,
        )
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATE, fused=True)

    def step(self) -> float:
        """Takes one step; returns its seconds."""
        started = now()
        whole = self.stage.prepare(self.policy, self.batch, torch.Generator()).experience
        self.optimizer.zero_grad()
        for rows in self.stage.micro_batches(whole):
            self.stage.loss(self.policy, select(whole, rows), whole).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        return now() - started


class _Watch(TrainerCallback):
    """Times whole steps, and calls ``between`` after each."""

    def __init__(self, between: Callable[[float], None]):
        self.between, self.started = between, 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = now()

    def on_step_end(self, args, state, control, **kwargs):
        self.between(now() - self.started)


def run_trl(cell: Cell, samples: Samples, steps: int, between: Callable[[float], None]) -> None:
    """Trains TRL's SFTTrainer for some steps on one batch."""
    rows = [
        {"input_ids": prompt + target, "completion_mask": [0] * len(prompt) + [1] * len(target)}
        for prompt, target in samples
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=make_model(cell),
            args=TrlConfig(
                output_dir=folder,
                learning_rate=LEARNING_RATE,
                per_device_train_batch_size=len(samples),
                max_length=None,
                completion_only_loss=True,
                gradient_checkpointing=False,
                max_steps=steps,
                lr_scheduler_type="constant",
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=word_tokenizer(cell.vocabulary),
            callbacks=[_Watch(between)],
        )
        trainer.train()


if __name__ == "__main__":
    main()
