"""The task ``predict``: answer for clips without labels, and give each label a probability.

If the model gave its answer in tags, the labels are scored after its own reasoning, else directly
after the prompt; every prediction says which. The task ``evaluate`` is for clips with labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from omni_rlvr.assembly.composed import Clips, Composed, Place
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.policies import feature_cache, load_policy
from omni_rlvr.config.dataset import DatasetConfig
from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.config.tasks import PredictTask
from omni_rlvr.data.features.cache import FeatureCache
from omni_rlvr.data.readers.files import FileReader
from omni_rlvr.media.files import in_words
from omni_rlvr.models.policy import Policy
from omni_rlvr.record import append_jsonl
from omni_rlvr.rollout.encode import encode, make_prompts
from omni_rlvr.rollout.engine import OnTokens, RolloutEngine, require_finite
from omni_rlvr.rollout.label_scoring import (
    BARE,
    TAGGED,
    AnswerSlot,
    completion_slot,
    label_logps,
    prompt_slot,
)
from omni_rlvr.tasks.clips import batches, keeper
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.tasks.predictions_text import TextStream, show_prediction, summary_line
from omni_rlvr.text.parse import nfc, normalise_label, parse
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.training.devices import device_of
from omni_rlvr.training.progress import progress_bar
from omni_rlvr.types import (
    Batch,
    ClipNote,
    Example,
    Features,
    Interrupted,
    Rollout,
    UserError,
    require,
)


@dataclass(frozen=True)
class PredictInputs:
    """The inputs of ``run``."""

    place: Place
    clips: Clips
    """One split, named "predict"."""
    task: PredictTask
    labels: Sequence[str]
    policy: Policy
    cache: FeatureCache | None
    engine: RolloutEngine
    left_out: Mapping[str, Sequence[str]]
    """Reason -> names of the files in the folder or glob that are left out for it."""

    @property
    def examples(self) -> Sequence[Example]:
        """The clips to predict."""
        return self.clips.examples["predict"]


def build(composed: Composed) -> PredictInputs:
    """Find the clips, load the policy and check the labels."""
    cfg, task = composed.cfg, composed.task
    files = FileReader(
        cfg.video, cfg.audio, EMOTION_QUESTION if task.question is None else task.question
    )
    clips = Clips(composed.dataset, composed.modality, {"predict": files.read()})
    policy = load_policy(composed, clips.examples)
    cache = feature_cache(composed.feature_cache, clips, policy)
    labels = probability_labels(task.labels, composed.dataset, policy)
    return PredictInputs(
        composed.place, clips, task, labels, policy, cache, make(cfg.rollout), files.left_out
    )


def probability_labels(own: Sequence[str], dataset: DatasetConfig, policy: Policy) -> list[str]:
    """Take the labels that get probabilities: those of the task, or else of the data set.

    Raises:
        UserError: There are none, two are the same, or one holds a special token of the policy.
    """
    key = "task.labels" if own else "dataset.labels"
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
    completion: str | None = None
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
    has_audio: bool | None = None
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
    batches: Iterable[Batch],
    labels: Sequence[str],
    *,
    answer_form: str,
    temperature: float,
    repetition_penalty: float,
    max_completion_length: int,
    generator: torch.Generator,
    on_features: Callable[[Batch, Features], None],
    on_tokens: OnTokens | None,
) -> Iterator[list[Prediction]]:
    """Answer batch by batch.

    Args:
        policy: The policy, in eval mode.
        engine: The engine that generates the answers.
        batches: The clips, on the policy's device.
        labels: The labels that get probabilities.
        answer_form: "tags", "bare" or "auto", see ``PredictTask``.
        temperature: The divisor of the logits; 0 decodes greedily.
        repetition_penalty: Values above 1 make tokens less likely that the answer already holds.
        max_completion_length: The most tokens that an answer may have.
        generator: The source of random numbers, on the CPU.
        on_features: Called with each batch and its features, to fill a feature cache.
        on_tokens: Called with each token as it is generated; see ``RolloutEngine``.

    Yields:
        The predictions of a batch; those of clips that could not be read come last.

    Raises:
        UserError: The device cannot sample, or the logits of a clip are not finite.
    """
    for batch in batches:
        read: list[Prediction] = []
        if len(batch) > 0:
            features = encode(policy, batch)
            on_features(batch, features)
            key = "task.max_completion_length"
            prompts = make_prompts(policy, batch, features, num_new=max_completion_length, key=key)
            if temperature > 0 and prompts.embeds.device.type == "mps":
                raise UserError(
                    f"task.temperature={temperature}: sampling needs float64, which mps does not "
                    "have; use task.temperature=0 or trainer.accelerator=cpu"
                )
            sampling = SamplingConfig(
                num_generations=1,
                max_completion_length=max_completion_length,
                temperature=temperature,
                repetition_penalty=repetition_penalty,
            )
            rollout = engine.sample(policy, prompts, sampling, generator, on_tokens)
            require_finite(rollout, batch.examples)
            slots = _slots(policy, batch, rollout, answer_form)
            logps = label_logps(policy, prompts, slots=slots, labels=labels)
            read = _predictions(batch, rollout, slots, logps.cpu(), labels)
        yield [*read, *(Prediction(clip.example.id, error=clip.reason) for clip in batch.skipped)]


def _slots(policy: Policy, batch: Batch, rollout: Rollout, answer_form: str) -> list[AnswerSlot]:
    processor = policy.processor
    if answer_form == "bare":
        return [BARE] * len(batch)
    return [
        completion_slot(processor, ids, mask)
        or (TAGGED if answer_form == "tags" else prompt_slot(processor, example.question))
        for example, ids, mask in zip(
            batch.examples, rollout.completion_ids, rollout.completion_mask, strict=True
        )
    ]


def _predictions(
    batch: Batch,
    rollout: Rollout,
    slots: Sequence[AnswerSlot],
    logps: Tensor,
    labels: Sequence[str],
) -> list[Prediction]:
    probs = logps.softmax(dim=-1).tolist()
    listed = logps.logsumexp(dim=-1).exp().clamp(max=1).tolist()  # only rounding exceeds 1
    known = {normalise_label(name): name for name in labels}
    out: list[Prediction] = []
    for i, (text, slot) in enumerate(zip(rollout.texts, slots, strict=True)):
        parsed = parse(text)
        answer = parsed.answer if parsed.bare is None else parsed.bare
        out.append(
            Prediction(
                id=batch.examples[i].id,
                completion=text,
                think=parsed.think,
                answer=answer,
                predicted=None if answer is None else known.get(normalise_label(answer)),
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
    device = device_of(inputs.place.config["trainer"]["accelerator"])
    inputs.policy.eval().to(device=device)
    file = inputs.place.run_dir / "predictions.jsonl"
    with recorded(inputs.place, device=str(device)) as record:
        try:
            rows = (_predict_one if len(inputs.examples) == 1 else _predict_many)(inputs, device)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; what was predicted by then is in {file}") from None
        record.add_skipped((row["id"], row["error"]) for row in rows if row["error"])
        record.add_notes((row["id"], ClipNote(**note)) for row in rows for note in row["notes"])
        if inputs.left_out:
            print(f"left out: {in_words(inputs.left_out)}")
            record.update(left_out=dict(inputs.left_out))
        record.finish("finished")
    move_latest(inputs.place)
    print(f"written: {file}")


def _predict_one(inputs: PredictInputs, device: torch.device) -> list[dict[str, Any]]:
    stream = TextStream(inputs.policy.processor.decode, partial(print, end="", flush=True))
    ((row,),) = _predicted(inputs, device, stream.on_tokens if inputs.task.stream else None)
    if row["error"]:
        raise UserError(row["error"])
    stream.end(row["completion"])
    show_prediction(row)
    return [row]


def _predict_many(inputs: PredictInputs, device: torch.device) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with progress_bar("predicting", len(inputs.examples)) as progress:
        for new in _predicted(inputs, device, None):
            rows += new
            progress.advance(progress.task_ids[0], len(new))
    if all(row["error"] for row in rows):
        raise UserError(
            f"nothing to predict: none of the {len(rows)} clips could be read; "
            f"the first: {rows[0]['error']}"
        )
    print(summary_line(rows))
    return rows


def _predicted(
    inputs: PredictInputs, device: torch.device, on_tokens: Callable[[Tensor, Tensor], None] | None
) -> Iterator[list[dict[str, Any]]]:
    """Predict batch by batch; each batch is in the file before the next one begins."""
    task = inputs.task
    for batch in predict(
        inputs.policy,
        inputs.engine,
        batches(
            inputs.clips,
            inputs.examples,
            inputs.policy.processor,
            inputs.cache,
            batch_size=task.batch_size,
            device=device,
        ),
        inputs.labels,
        answer_form=task.answer_form,
        temperature=task.temperature,
        repetition_penalty=task.repetition_penalty,
        max_completion_length=task.max_completion_length,
        generator=torch.Generator().manual_seed(inputs.place.config["seed"]),
        on_features=keeper(inputs.cache),
        on_tokens=on_tokens,
    ):
        rows = [vars(prediction) for prediction in batch]
        append_jsonl(inputs.place.run_dir / "predictions.jsonl", rows)
        yield rows
