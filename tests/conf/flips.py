"""What flipping each option is expected to change: tables for test_options.py."""

from __future__ import annotations

from omni_rlvr.config import tasks
from omni_rlvr.config.objective import ObjectiveConfig
from omni_rlvr.media.limits import Limits

SFT = ("stage=sft", "stage.max_steps=2", "stage.batch_size=2")
LONG = ("stage=sft", "stage.max_steps=4", "stage.batch_size=1")
EPOCHS = (*LONG, "stage.max_steps=-1", "stage.num_train_epochs=0.1")
GRPO = (
    "stage=grpo", "stage.max_steps=1", "stage.batch_size=2", "stage.num_generations=3",
    "stage.sampling.max_completion_length=8",
    "+reward.terms.spread._target_=case_signals.Spread", "+reward.weights.spread=1",
)  # fmt: skip
AGAIN = (*GRPO, "stage.num_iterations=3", "optimizer.lr=0.003")
LORA = (*SFT, "model/trainable=lora")
TOWERS = ("vision_tower", "audio_tower")
TRAINED = ("video_projector", "audio_projector", "language_model", "embeddings")
EVALUATE = ("task=evaluate", "task.max_completion_length=4", "task.num_resamples=10")
PREVIEW = ("task=preview", "task.split=test")  # five clips; train has twelve


FLIPS = {
    "seed": (GRPO, "1", "completions"),
    "name": (SFT, "other", "folder"),
    # stage, any
    "stage.num_train_epochs": (EPOCHS, "0.25", "steps"),
    "stage.max_steps": (SFT, "1", "steps"),
    "stage.batch_size": (SFT, "1", "num_tokens"),
    "stage.micro_batch_size": (SFT, "1", "backward passes"),
    "stage.max_tokens_per_micro_batch": (SFT, "1", "backward passes"),
    "stage.gradient_checkpointing": (SFT, "true", "layer passes"),
    "stage.max_grad_norm": (SFT, "0.01", "weights"),
    "stage.lr_scheduler_type": (LONG, "linear", "learning_rate"),
    "stage.warmup_ratio": (LONG, "0.7", "learning_rate"),
    "stage.save_steps": (LONG, "3", "saves"),
    "stage.save_total_limit": ((*LONG, "stage.save_steps=1"), "1", "checkpoints"),
    "stage.logging_steps": (LONG, "2", "steps"),
    # stage=grpo
    "stage.num_generations": (GRPO, "2", "completions"),
    "stage.beta": (GRPO, "0", "kl"),
    "stage.epsilon": (AGAIN, "0.0001", "clip_ratio/region_mean"),
    "stage.epsilon_high": (AGAIN, "0.0001", "clip_ratio/region_mean"),
    "stage.num_iterations": (GRPO, "2", "backward passes"),
    "stage.num_minibatches": (GRPO, "2", "backward passes"),
    "stage.reuse_rollout": (GRPO, "false", "activations used"),
    "stage.scale_rewards": (GRPO, "none", "advantages"),
    "stage.sampling.temperature": (GRPO, "0.2", "completions"),
    "stage.sampling.top_p": (GRPO, "0.2", "completions"),
    "stage.sampling.top_k": (GRPO, "2", "completions"),
    "stage.sampling.repetition_penalty": (GRPO, "9", "completions"),
    "stage.sampling.max_completion_length": (GRPO, "4", "completions"),
    "modality.video": (SFT, "false", "num_tokens"),
    "modality.audio": (SFT, "false", "num_tokens"),
    "optimizer.lr": (SFT, "0.01", "weights"),
    "optimizer.betas": (SFT, "[0.5,0.9]", "weights"),
    "optimizer.weight_decay": (SFT, "0.5", "weights"),
    "model.instruction": (SFT, "Answer.", "num_tokens"),
    **{f"model.trainable.{part}": (SFT, "true", "trainable") for part in TOWERS},
    **{f"model.trainable.{part}": (SFT, "false", "trainable") for part in TRAINED},
    "model.trainable.lora.enabled": (SFT, "true", "trainable"),
    "model.trainable.lora.r": (LORA, "2", "trainable"),
    "model.trainable.lora.targets": (LORA, "[q_proj]", "trainable"),
    "model.trainable.lora.parts": (LORA, "[language_model,audio_tower]", "trainable"),
    "model.trainable.lora.alpha": (LORA, "3", "adapters"),
    "model.trainable.lora.dropout": (LORA, "0.5", "adapters"),
    "model.trainable.lora.use_rslora": (LORA, "true", "adapters"),
    "dataset.max_train_examples": ((*SFT, "stage.batch_size=12"), "2", "weights"),
    "dataset.train_split": ((*SFT, "stage.batch_size=6"), "test", "weights"),
    # task=evaluate
    "task.batch_size": (EVALUATE, "2", "batches"),
    "task.max_completion_length": (EVALUATE, "2", "predictions"),
    "task.repetition_penalty": (EVALUATE, "9", "predictions"),
    "task.max_clips": (EVALUATE, "2", "predictions"),
    "task.num_resamples": (EVALUATE, "20", "resamples"),
    "task.splits": (EVALUATE, "[test,train]", "folders"),
    # task=preview
    "task.split": (PREVIEW, "train", "sheet"),
    "task.num_clips": (PREVIEW, "2", "sheet"),
    "task.max_reasoning_chars": (PREVIEW, "9", "sheet"),
}
"""Option -> what it is flipped on top of, its other value, and what then changes."""
ELSEWHERE = {
    "stage.max_bad_steps": "e2e/test_bad_numbers.py",
    "resume": "e2e/test_resume.py",
    "reward.timeout_s": "rewards/test_time_limit.py",
    **dict.fromkeys(
        ("feature_cache.enabled", "feature_cache.folder", "feature_cache.dtype"),
        "e2e/test_cached_runs.py",
    ),
    "feature_cache.max_gb": "e2e/test_cached_runs.py",
    **{
        f"task.{name}": "e2e/test_predict.py"
        for name in ("temperature", "stream", "question", "labels", "answer_form")
    },
    **dict.fromkeys(("video", "audio"), "e2e/test_predict.py"),
    "model.base": "e2e/test_lora_runs.py",
    **dict.fromkeys(
        ("dataset.published_scores", "dataset.published_scores_note"),
        "tasks/test_beside.py",
    ),
    "runs": "tasks/test_report.py",
    **dict.fromkeys(("html", "task.num_chosen", "task.num_generations"), "e2e/test_page.py"),
    "task.evaluate_after": "e2e/test_sweep.py",
    "task.start_from.overrides": "e2e/test_sweep.py",
    "task.start_from.num_examples": "e2e/test_sweep.py",
    "task.baseline": "tasks/test_report.py",
    "task.allow_different_labels": "tasks/test_report.py",
    "task.max_groups": "tasks/test_report.py",
    **dict.fromkeys(
        ("task.text", "task.absent", "task.value", "task.lead", "task.swap", "task.num_reasoned"),
        "e2e/test_attribute.py",
    ),
    **dict.fromkeys(
        ("task.host", "task.port", "task.compare", "task.max_upload_mb", "task.max_clip_s"),
        "e2e/test_serve.py",
    ),
    **dict.fromkeys(("task.allowed_hosts", "task.max_session_mb"), "tasks/test_guard.py"),
    "task.keep_upload_s": "e2e/test_serve_uploads.py",
    "task.num_examples": "e2e/test_serve_answers.py",
    **dict.fromkeys(("lexicon.visual", "lexicon.vocal"), "text/test_modality_words.py"),
    **{f"task.{name}": "e2e/test_lora_runs.py" for name in ("to", "layout")},
    **{f"model.trainable.{part}": "models/test_trainable.py" for part in ("gate", "bert")},
    **{
        f"stage.{name}": "stages/test_objective_options.py"
        for name in ObjectiveConfig.__dataclass_fields__
        if f"stage.{name}" not in FLIPS
    },
    **{f"task.{name}": "the quickstart" for name in tasks.PipelineTask.__dataclass_fields__},
    **{
        f"dataset.{name}": "data/test_listed.py and data/test_official.py"
        for name in ("fold", "words", "label_maps", "label_base", "question", "layout")
    },
    **{
        f"dataset.{name}": "tasks/test_check.py"
        for name in ("folds", "published", "published_source", "known_bad")
    },
    **{f"dataset.{name}": "media/test_limits.py" for name in Limits.__dataclass_fields__},
    "task.overwrite": "data/test_prepare.py",
    **dict.fromkeys(("task.max_listed", "task.decode"), "tasks/test_check.py"),
}
"""Options whose effect another test shows."""
BUILT = """
    dataset.name dataset.splits dataset.labels dataset.root dataset.annotations
    dataset.on_bad_media dataset.decode_timeout_s dataset.max_clips_per_process dataset.num_workers
    paths.output_root paths.data_root modality.name model.path model.dtype
    reward.terms.accuracy.synonyms reward.weights.accuracy reward.weights.format
    trainer.accelerator trainer.devices trainer.precision
    trainer.enable_checkpointing trainer.enable_model_summary trainer.enable_progress_bar
    trainer.log_every_n_steps
""".split()  # noqa: SIM905 (a word a line would take a page)
"""Options whose effect is seen on what is built, by test_options_built.py."""
