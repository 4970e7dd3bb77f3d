"""Answers for clips without labels: what the model says, and how likely it finds each label.

The labels are scored behind the model's own reasoning where it gave an answer in tags, else
directly behind the prompt; every prediction says which. No gold labels here: see ``evaluate``.
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
    """All that answering for clips without labels needs."""

    place: Place
    clips: Clips
    """One split, named "predict"."""
    task: PredictTask
    labels: Sequence[str]
    policy: Policy
    cache: FeatureCache | None
    engine: RolloutEngine
    left_out: Mapping[str, Sequence[str]]
    """Why something in the folder or under the glob is not predicted -> the names of such."""

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
    """Take the labels that probabilities are over: the task's own, or else the data set's.

    Raises:
        UserError: there are none, two are the same, or one holds a special token of the policy.
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
    """What a model said about one clip; ``vars`` of it is a row of predictions.jsonl."""

    id: str
    completion: str | None = None
    think: str | None = None
    """The reasoning, where the completion holds one think block."""
    answer: str | None = None
    """What stands in the answer tag; the whole text of a completion without tags."""
    predicted: str | None = None
    """The label of the list that the answer is, or None."""
    probabilities: dict[str, float] | None = None
    """Label -> probability among the labels; they add up to 1."""
    list_probability: float | None = None
    """Probability of any label of the list; the rest is for other answers."""
    scored_after: str | None = None
    """What the labels were scored behind: "completion" (its reasoning) or "prompt"."""
    answer_form: str | None = None
    """"tags" or "bare"."""
    has_video: bool | None = None
    has_audio: bool | None = None
    truncated: bool | None = None
    """No end token within ``max_completion_length``."""
    notes: Sequence[dict[str, str]] = ()
    """Kind and text of each note on the clip."""
    error: str | None = None
    """Why the clip could not be read; all else is None then."""


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
    """Answers batch by batch.

    Args:
        policy: in eval mode.
        engine: decodes.
        batches: clips, on the policy's device.
        labels: what probabilities are over.
        answer_form: "tags", "bare" or "auto" (what the model said, then what the prompt asks for).
        temperature: 0 decodes greedily.
        repetition_penalty: above 1 makes tokens that an answer has less likely; 1 is off.
        max_completion_length: most tokens an answer may have.
        generator: of the random numbers, on the CPU.
        on_features: handed what the towers gave each batch (for a feature cache).
        on_tokens: told each token as it comes; see ``RolloutEngine``.

    Yields:
        A prediction for each clip of a batch; what could not be read comes last.

    Raises:
        UserError: the device cannot sample, or a clip's logits are no numbers.
    """
    for batch in batches:
        read: list[Prediction] = []
        if len(batch) > 0:
            features = encode(policy, batch)
            on_features(batch, features)
            prompts = make_prompts(
                policy,
                batch,
                features,
                num_new=max_completion_length,
                key="task.max_completion_length",
            )
            if temperature > 0 and prompts.embeds.device.type == "mps":
                raise UserError(
                    f"task.temperature={temperature}: sampling needs float64, which mps does not "
                    "have; use task.temperature=0 or trainer.accelerator=cpu"
                )
            rollout = engine.sample(
                policy,
                prompts,
                SamplingConfig(
                    num_generations=1,
                    max_completion_length=max_completion_length,
                    temperature=temperature,
                    repetition_penalty=repetition_penalty,
                ),
                generator,
                on_tokens,
            )
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
    listed = logps.logsumexp(dim=-1).exp().clamp(max=1).tolist()  # 1 is passed by rounding alone
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
                predicted=None if answer is None else _label(answer, labels),
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


def _label(answer: str, labels: Sequence[str]) -> str | None:
    known = {normalise_label(name): name for name in labels}
    return known.get(normalise_label(answer))


def run(parts: PredictInputs) -> None:
    """Answers for clips, into predictions.jsonl; a single one is shown while it is said."""
    device = device_of(parts.place.config["trainer"]["accelerator"])
    parts.policy.eval().to(device=device)
    file = parts.place.run_dir / "predictions.jsonl"
    with recorded(parts.place, device=str(device)) as record:
        try:
            rows = (_predict_one if len(parts.examples) == 1 else _predict_many)(parts, device)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; what was predicted by then is in {file}") from None
        record.add_skipped((row["id"], row["error"]) for row in rows if row["error"])
        record.add_notes((row["id"], ClipNote(**note)) for row in rows for note in row["notes"])
        if parts.left_out:
            print(f"left out: {in_words(parts.left_out)}")
            record.update(left_out=dict(parts.left_out))
        record.finish("finished")
    move_latest(parts.place)
    print(f"written: {file}")


def _predict_one(parts: PredictInputs, device: torch.device) -> list[dict[str, Any]]:
    stream = TextStream(parts.policy.processor.decode, partial(print, end="", flush=True))
    ((row,),) = _predicted(parts, device, stream.on_tokens if parts.task.stream else None)
    if row["error"]:
        raise UserError(row["error"])
    stream.end(row["completion"])
    show_prediction(row)
    return [row]


def _predict_many(parts: PredictInputs, device: torch.device) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with progress_bar("predicting", len(parts.examples)) as progress:
        for new in _predicted(parts, device, None):
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
    parts: PredictInputs, device: torch.device, on_tokens: Callable[[Tensor, Tensor], None] | None
) -> Iterator[list[dict[str, Any]]]:
    """Predicts batch by batch; a batch is in the file before the next one is begun."""
    task = parts.task
    for batch in predict(
        parts.policy,
        parts.engine,
        batches(
            parts.clips,
            parts.examples,
            parts.policy.processor,
            parts.cache,
            batch_size=task.batch_size,
            device=device,
        ),
        parts.labels,
        answer_form=task.answer_form,
        temperature=task.temperature,
        repetition_penalty=task.repetition_penalty,
        max_completion_length=task.max_completion_length,
        generator=torch.Generator().manual_seed(parts.place.config["seed"]),
        on_features=keeper(parts.cache),
        on_tokens=on_tokens,
    ):
        rows = [vars(prediction) for prediction in batch]
        append_jsonl(parts.place.run_dir / "predictions.jsonl", rows)
        yield rows
