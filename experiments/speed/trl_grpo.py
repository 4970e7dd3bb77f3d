"""One step of TRL's GRPOTrainer on the same model, prompts and token counts.

Settings are those of ``contestants``: beta, learning rate, temperature, one update a batch,
float32. Gradient checkpointing is TRL's own default (on) or off. The prompts reach it as text of P
words, one token each, and ``min_new_tokens`` keeps completions at C.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

from clock import now
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from workload import LEARNING_RATE, TEMPERATURE, Cell, make_model, prompt_ids, rewards_of

Times = dict[str, float]


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words ``w0 .. w<size>`` are the tokens; the last one ends a completion."""
    words = {f"w{i}": i for i in range(size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="w0",
        pad_token="w0",
        eos_token=f"w{size - 1}",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


class _Watch(TrainerCallback):
    """Times whole steps, and calls ``between`` after each: the other contestants' turn."""

    def __init__(self, between: Callable[[Times], None]):
        self.between, self.rollout, self.started = between, 0.0, 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.started = now()

    def on_step_end(self, args, state, control, **kwargs):
        seconds = now() - self.started
        self.between({"rollout": self.rollout, "update": seconds - self.rollout})


def run(cell: Cell, steps: int, between: Callable[[Times], None], *, checkpointing: bool) -> None:
    """Trains for ``steps`` steps and tells ``between`` the times of each."""
    tokenizer = word_tokenizer(cell.vocabulary)
    watch = _Watch(between)
    with tempfile.TemporaryDirectory() as folder:
        make_model(cell).save_pretrained(folder)  # TRL loads policy and reference by path
        tokenizer.save_pretrained(folder)
        trainer = GRPOTrainer(
            model=folder,
            reward_funcs=lambda completions, **kwargs: rewards_of(len(completions)),
            args=GRPOConfig(
                output_dir=folder,
                beta=cell.beta,
                learning_rate=LEARNING_RATE,
                temperature=TEMPERATURE,
                num_generations=cell.generations,
                per_device_train_batch_size=cell.rows,
                gradient_accumulation_steps=1,
                num_iterations=1,
                max_completion_length=cell.completion,
                generation_kwargs={"min_new_tokens": cell.completion},
                model_init_kwargs={"dtype": "float32"},
                gradient_checkpointing=checkpointing,
                max_steps=steps,
                lr_scheduler_type="constant",
                loss_type="grpo",
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=_dataset(cell, steps),
            processing_class=tokenizer,
            callbacks=[watch],
        )
        generate = trainer._generate

        def timed(prompts):
            started = now()
            out = generate(prompts)
            watch.rollout = now() - started
            return out

        trainer._generate = timed
        trainer.train()


def _dataset(cell: Cell, steps: int) -> Dataset:
    ids = prompt_ids(cell, cell.prompts).repeat(steps, 1).tolist()
    return Dataset.from_list([{"prompt": " ".join(f"w{i}" for i in row)} for row in ids])
