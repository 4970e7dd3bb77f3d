"""The task ``predict``: answer for clips without labels, and give each label a probability.

If the model gave its answer in tags, the labels are scored after its own reasoning, else directly
after the prompt; every prediction says which. The task ``evaluate`` is for clips with labels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from omni_rlvr.assembly.composed import Clips, Composed
from omni_rlvr.assembly.policies import load_policy
from omni_rlvr.config.dataset import DatasetConfig
from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.data.readers.files import FileReader
from omni_rlvr.media.files import in_words
from omni_rlvr.models.policy import Policy
from omni_rlvr.record import RunRecord
from omni_rlvr.rollout.encode import make_prompts
from omni_rlvr.rollout.engine import OnTokens, RolloutEngine, require_finite
from omni_rlvr.rollout.label_scoring import (
    BARE,
    TAGGED,
    AnswerSlot,
    label_logps,
    prompt_slot,
    reply_slots,
)
from omni_rlvr.rollout.next_token import Generators, seed_of
from omni_rlvr.tasks.clips import PolicyInputs, for_each_batch, policy_inputs
from omni_rlvr.tasks.launch import Launch, launch_of
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.tasks.predictions_text import TextStream, show_prediction, summary_line
from omni_rlvr.text.parse import label_named, nfc, normalise_label, parse
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.types import (
    Batch,
    Example,
    Features,
    Interrupted,
    Rollout,
    UserError,
    require,
)


@dataclass(frozen=True)
class PredictInputs(PolicyInputs):
    """The inputs of ``run``; ``clips`` has one split, named "predict"."""

    labels: Sequence[str]
    left_out: Mapping[str, Sequence[str]]
    """Reason -> names of the files in the folder or glob that are left out for it."""

    @property
    def examples(self) -> Sequence[Example]:
        """The clips to predict."""
        return self.clips.examples["predict"]


def build(composed: Composed) -> PredictInputs | Launch:
    """Find the clips, load the policy and check the labels.

    A single clip is answered in this process, which shows the answer as it comes.
    """
    cfg, task = composed.cfg, composed.task
    files = FileReader(cfg.video, cfg.audio)
    examples = files.read()
    if composed.launches:
        if len(examples) > 1:
            return launch_of(composed)
        print(f"one clip: of trainer.devices={cfg.trainer.devices} one is used")
    policy = composed.policy or load_policy(composed, {})
    question = question_of(task.question, policy)
    labels = probability_labels(task.labels, composed.dataset, policy)
    examples = [replace(example, question=question) for example in examples]
    clips = Clips(composed.dataset, composed.modality, {"predict": examples})
    inputs = policy_inputs(replace(composed, policy=policy), clips)
    return PredictInputs(**vars(inputs), labels=labels, left_out=files.left_out)


def question_of(own: str | None, policy: Policy) -> str:
    """Take the question about a clip: the task's, or the policy's, or else R1-Omni's.

    Raises:
        UserError: It holds a special token of the policy.
    """
    trained = None if policy.trained_on is None else policy.trained_on.question
    question = own or trained or EMOTION_QUESTION
    policy.processor.check_text(question, "task.question")
    return question


def probability_labels(own: Sequence[str], dataset: DatasetConfig, policy: Policy) -> list[str]:
    """Take the labels that get probabilities: the task's, or the policy's, or else the data set's.

    Labels of the policy that are not the data set's are named on stderr; stdout is for answers.

    Raises:
        UserError: There are none, two are the same, or one holds a special token of the policy.
    """
    trained = [] if policy.trained_on is None else policy.trained_on.labels
    key = "task.labels" if own else "dataset.labels"
    if not own and trained and [*trained] != [*dataset.labels]:
        own, key = trained, "trained_on.json: labels"
        told = f"labels: {', '.join(trained)} (the model's; task.labels=[...] sets others)"
        print(told, file=sys.stderr, flush=True)
    labels = [nfc(label) for label in own or dataset.labels]
    different = len({normalise_label(label) for label in labels} - {""}) == len(labels)
    require(bool(labels) and different, key, labels, "different labels, at least one")
    for label in labels:
        policy.processor.check_text(label, key)
    return labels


@dataclass(frozen=True)
class Prediction:
    """The answer of a model about one clip; its ``vars`` are a row of predictions.jsonl."""

    id: str
    """The clip: its path below the folder that was given."""
    completion: str | None = None
    """What the model wrote."""
    think: str | None = None
    """The reasoning, where the completion holds one think block."""
    answer: str | None = None
    """The text in the answer tag; for a completion without tags, all of it."""
    predicted: str | None = None
    """The label that the answer names; None if it names no label of the list."""
    probabilities: dict[str, float] | None = None
    """Label -> its probability among the labels; they add up to 1."""
    list_probability: float | None = None
    """The probability of all labels together; the rest belongs to other answers."""
    scored_after: str | None = None
    """The text after which labels were scored: "completion" (its reasoning) or "prompt"."""
    answer_form: str | None = None
    """"tags" or "bare"."""
    has_video: bool | None = None
    """Whether the model saw a picture."""
    has_audio: bool | None = None
    """Whether the model heard a sound."""
    truncated: bool | None = None
    """No end token within ``max_completion_length``."""
    notes: Sequence[dict[str, str]] = ()
    """Kind and text of each note on the clip."""
    error: str | None = None
    """Why the clip could not be read; all other fields are then empty."""


@torch.no_grad()
def predict(
    policy: Policy,
    engine: RolloutEngine,
    batch: Batch,
    features: Features,
    labels: Sequence[str],
    *,
    answer_form: str,
    sampling: SamplingConfig,
    generator: Generators,
    on_tokens: OnTokens | None,
) -> list[Prediction]:
    """Answer for the clips of a batch.

    Args:
        policy: The policy, in eval mode.
        engine: The engine that generates the answers.
        batch: The clips, on the policy's device.
        features: Theirs.
        labels: The labels that get probabilities.
        answer_form: "tags", "bare" or "auto", see ``PredictTask``.
        sampling: How the one answer for each clip is sampled.
        generator: The source of random numbers, or one a clip, on the CPU.
        on_tokens: Called with each token as it is generated; see ``RolloutEngine``.

    Returns:
        The predictions; those of clips that could not be read come last.

    Raises:
        UserError: The device cannot sample, or the logits of a clip are not finite.
    """
    unread = [Prediction(clip.example.id, error=clip.reason) for clip in batch.skipped]
    if len(batch) == 0:
        return unread
    length, key = sampling.max_completion_length, "task.max_completion_length"
    prompts = make_prompts(policy, batch, features, num_new=length, key=key)
    if sampling.temperature > 0 and prompts.embeds.device.type == "mps":
        raise UserError(
            f"task.temperature={sampling.temperature}: sampling needs float64, which mps does not "
            "have; use task.temperature=0 or trainer.accelerator=cpu"
        )
    rollout = engine.sample(policy, prompts, sampling, generator, on_tokens)
    require_finite(rollout, batch.examples)
    slots = _slots(policy, batch, rollout, answer_form)
    logps = label_logps(policy, prompts, slots=slots, labels=labels)
    return [*_predictions(batch, rollout, slots, logps.cpu(), labels), *unread]


def _slots(policy: Policy, batch: Batch, rollout: Rollout, answer_form: str) -> list[AnswerSlot]:
    if answer_form == "bare":
        return [BARE] * len(batch)
    slots = [TAGGED] * len(batch)
    if answer_form == "auto":
        slots = [prompt_slot(policy.processor, example.question) for example in batch.examples]
    ids, mask = rollout.completion_ids, rollout.completion_mask
    return reply_slots(policy.processor, ids, mask, otherwise=slots)


def _predictions(
    batch: Batch,
    rollout: Rollout,
    slots: Sequence[AnswerSlot],
    logps: Tensor,
    labels: Sequence[str],
) -> list[Prediction]:
    probs = logps.softmax(dim=-1).tolist()
    listed = logps.logsumexp(dim=-1).exp().clamp(max=1).tolist()  # only rounding exceeds 1
    out: list[Prediction] = []
    for i, (text, slot) in enumerate(zip(rollout.texts, slots, strict=True)):
        parsed = parse(text)
        out.append(
            Prediction(
                id=batch.examples[i].id,
                completion=text,
                think=parsed.think,
                answer=parsed.said,
                predicted=label_named(parsed.said, labels),
                probabilities=dict(zip(labels, probs[i], strict=True)),
                list_probability=listed[i],
                scored_after="completion" if slot.ids else "prompt",
                answer_form="tags" if slot.closing else "bare",
                has_video=batch.video_shapes[i] is not None,
                has_audio=batch.audio_shapes[i] is not None,
                truncated=bool(rollout.truncated[i]),
                notes=[vars(note) for note in batch.notes[i]] if batch.notes else [],
            )
        )
    return out


def run(inputs: PredictInputs) -> None:
    """Write answers to predictions.jsonl; a single answer is shown while it is generated."""
    file = inputs.place.run_dir / "predictions.jsonl"
    with recorded(inputs.place, device=str(inputs.device)) as record:
        try:
            (_predict_one if len(inputs.examples) == 1 else _predict_many)(inputs, record)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; what was predicted by then is in {file}") from None
        if inputs.left_out:
            print(f"left out: {in_words(inputs.left_out)}")
            record.update(left_out=dict(inputs.left_out))
    move_latest(inputs.place)
    print(f"written: {file}")


def _predict_one(inputs: PredictInputs, record: RunRecord) -> None:
    stream = TextStream(inputs.policy.processor.decode, partial(print, end="", flush=True))
    on_tokens = stream.on_tokens if inputs.task.stream else None
    (row,) = _predicted(inputs, record, title=None, on_tokens=on_tokens)
    if row["error"]:
        raise UserError(row["error"])
    stream.end(row["completion"])
    show_prediction(row)


def _predict_many(inputs: PredictInputs, record: RunRecord) -> None:
    rows = _predicted(inputs, record, title="predicting", on_tokens=None)
    if all(row["error"] for row in rows):
        raise UserError(
            f"nothing to predict: none of the {len(rows)} clips could be read; "
            f"the first: {rows[0]['error']}"
        )
    print(summary_line(rows))


def _predicted(
    inputs: PredictInputs, record: RunRecord, *, title: str | None, on_tokens: OnTokens | None
) -> list[dict[str, Any]]:
    """Predict batch by batch; each batch is in the file before the next one begins."""
    task, seed = inputs.task, inputs.place.config["seed"]
    sampling = SamplingConfig(
        num_generations=1,
        max_completion_length=task.max_completion_length,
        temperature=task.temperature,
        repetition_penalty=task.repetition_penalty,
    )
    rows: list[dict[str, Any]] = []

    def predicted(batch: Batch, features: Features) -> list[dict[str, Any]]:
        seeds = [seed_of(seed, example.id) for example in batch.examples]
        predictions = predict(
            inputs.policy,
            inputs.engine,
            batch,
            features,
            inputs.labels,
            answer_form=task.answer_form,
            sampling=sampling,
            generator=[torch.Generator().manual_seed(one) for one in seeds],
            on_tokens=on_tokens,
        )
        return [vars(prediction) for prediction in predictions]

    def keep(new: list[dict[str, Any]]) -> None:
        record.log("predictions.jsonl", new)
        rows.extend(new)

    for_each_batch(
        inputs,
        record,
        inputs.examples,
        predicted,
        keep,
        batch_size=task.batch_size,
        title=title,
    )
    return rows
