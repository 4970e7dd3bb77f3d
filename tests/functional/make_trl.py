"""TRL's own trainers, made without a model: their loss and advantages are called, not copied."""

from __future__ import annotations

from collections import defaultdict, deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

ACCELERATOR = SimpleNamespace(
    device=torch.device("cpu"),
    num_processes=1,
    process_index=0,
    sync_gradients=True,
    gather=lambda x: x,
    reduce=lambda x, reduction: x,
    pad_across_processes=lambda x, dim, pad_index: x,
)


def bare(kind: str, **attributes: Any) -> Any:
    """A "GRPO" or "RLOO" trainer that only has what the called method reads."""
    # here, since only one of the processes that collect tests runs these
    trl = pytest.importorskip("trl", reason="trl is not installed; it is in the dev extra")
    trainer = object.__new__(getattr(trl, f"{kind}Trainer"))
    trainer.accelerator = ACCELERATOR
    trainer.model = SimpleNamespace(training=True, is_gradient_checkpointing=False)
    trainer._metrics = {"train": defaultdict(list)}
    trainer._logs = defaultdict(list) | {"rewards": defaultdict(list), "extra": {}}
    for name, value in attributes.items():
        setattr(trainer, name, value)
    return trainer


def trl_loss(tokens: Any, *, num_rollout_tokens: float, **settings: Any) -> tuple[Tensor, dict]:
    """``GRPOTrainer._compute_loss`` on given log-probs and entropies, and what it logs."""
    level = "sequence" if settings["loss_type"] == "gspo" else "token"
    trainer = bare(
        "GRPO",
        loss_type="grpo" if settings["loss_type"] == "gspo" else settings["loss_type"],
        importance_sampling_level=level,
        epsilon_low=settings["epsilon"],
        epsilon_high=settings["epsilon_high"],
        beta=settings["beta"] if tokens.ref_logps is not None else 0.0,
        top_entropy_quantile=settings["top_entropy_quantile"],
        entropy_coef=settings["entropy_coef"],
        _entropy_bonus_enabled=settings["entropy_coef"] != 0,
        use_adaptive_entropy=False,
        max_completion_length=settings["max_completion_length"],
        current_gradient_accumulation_steps=1,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        args=SimpleNamespace(
            delta=settings["delta"],
            use_bias_correction_kl=False,
            steps_per_generation=1,
            sapo_temperature_pos=settings["sapo_temperature_pos"],
            sapo_temperature_neg=settings["sapo_temperature_neg"],
        ),
        _get_per_token_logps_and_entropies=lambda *a, **k: (tokens.logps, tokens.entropy, None),
    )
    ids = torch.zeros_like(tokens.mask)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ids,
        "completion_ids": ids,
        "completion_mask": tokens.mask,
        "advantages": tokens.advantages,
        "num_items_in_batch": torch.tensor(num_rollout_tokens),
        "ref_per_token_logps": tokens.ref_logps,
    }
    if tokens.old_logps is not None:
        inputs["old_per_token_logps"] = tokens.old_logps
    loss = trainer._compute_loss(trainer.model, inputs)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


def trl_advantages(
    terms: Tensor, *, num_generations: int, weights: list[float], **settings: Any
) -> Tensor:
    """Advantages of ``_generate_and_score_completions`` for given scores of terms [N, K].

    Args:
        terms: NaN where a term could not judge.
        num_generations: G.
        weights: of the terms.
        settings: ``rloo`` (which trainer), ``scale_rewards``, ``aggregation``, and for RLOO
            ``normalize_advantages``, ``beta``, ``logps`` and ``ref_logps``.
    """
    num_rows = len(terms)
    ids = [[5, 6]] * num_rows
    rloo = settings.get("rloo", False)
    generated: tuple = (ids, ids, ["x"] * num_rows)
    if not rloo:
        generated = (ids, ids, None, ["x"] * num_rows, None, {}, None, None)
    nothing = torch.zeros(num_rows, 2)
    policy, reference = settings.get("logps", nothing), settings.get("ref_logps", nothing)
    trainer = bare(
        "RLOO" if rloo else "GRPO",
        environment_factories=None,
        environments=None,
        tools=None,
        log_multimodal=False,
        pad_to_multiple_of=None,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        mask_truncated_completions=False,
        num_generations=num_generations,
        num_iterations=1,
        use_vllm=False,
        beta=settings.get("beta", 0.0),
        ref_model="reference",
        reward_clip_range=None,
        normalize_advantages=settings.get("normalize_advantages", False),
        scale_rewards=settings.get("scale_rewards", "group"),
        multi_objective_aggregation=settings.get("aggregation", "sum_then_normalize"),
        reward_weights=torch.tensor(weights),
        reward_funcs=[None] * terms.shape[1],
        reward_func_names=[str(k) for k in range(terms.shape[1])],
        _pending_extra_logs={},
        _pending_metrics={},
        args=SimpleNamespace(
            per_device_train_batch_size=num_rows,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing_kwargs=None,
        ),
        _generate=lambda prompts: generated,
        _calculate_rewards=lambda *a: terms.clone(),
        _get_per_token_logps_and_entropies=lambda model, *a, **k: (
            (reference if model == "reference" else policy, None, None)
        ),
    )
    for name in ("prompt", "completion", "advantages"):
        trainer._logs[name] = deque()
    return trainer._generate_and_score_completions([{"prompt": "x"}] * num_rows)["advantages"]
