"""Ask a model about an uploaded clip: stream the completion, then attribute the answer.

The answer and its probabilities are computed as in task=predict, the value of each modality as in
task=attribute. Both reuse the outputs of the towers, which were computed at the upload.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_rlvr.config.sampling import greedy
from omni_rlvr.data.collate import Collate
from omni_rlvr.data.loader import move
from omni_rlvr.functional.shapley import shapley_values
from omni_rlvr.rollout.encode import encode
from omni_rlvr.tasks.attribute.subset_scores import Method, SubsetScorer
from omni_rlvr.tasks.attribute.subsets import SUBSETS
from omni_rlvr.tasks.predict import Prediction, predict
from omni_rlvr.tasks.predictions_text import TextStream
from omni_rlvr.tasks.serve.inputs import ServedModel, ServeInputs
from omni_rlvr.tasks.serve.uploads import Upload
from omni_rlvr.types import Batch, ClipFeatures, Example, Features, Sample, UserError

ABSENT = ClipFeatures(None, None, None, None)
"""The features of a modality that the model does not get."""


class Stopped(Exception):
    """Raised in the worker once nobody waits for the answer any more."""


@dataclass(frozen=True)
class Clip:
    """The uploads of a visitor, or those that a model gets: a picture, a sound, or both."""

    video: Upload | None = None
    """The upload with the picture, if there is one."""
    audio: Upload | None = None
    """The upload with the sound, if that is a separate file or the only one used."""

    @property
    def uploads(self) -> list[Upload]:
        """The uploads, that of the picture first."""
        return [upload for upload in (self.video, self.audio) if upload is not None]


@dataclass(frozen=True)
class Game:
    """The contribution of each modality to one label."""

    label: str
    probabilities: Mapping[str, float]
    """Subset of the modalities (none, audio, video, both) -> the probability of the label."""
    phi: Mapping[str, float]
    """The Shapley values of "audio" and "video", in the unit of ``task.value``."""


@dataclass(frozen=True)
class Answer:
    """The result of asking one model about a clip."""

    prediction: Prediction
    game: Game


def ask(
    parts: ServeInputs, place: int, clip: Clip, question: str, stop: threading.Event
) -> Generator[str, None, Answer]:
    """Ask one model; ``yield from`` gives its answer.

    Args:
        parts: The models, and how they are asked.
        place: The index of the model.
        clip: The uploads that the model gets.
        question: The question.
        stop: An event that is set when the server ends.

    Yields:
        Pieces of the completion, as they are generated.

    Raises:
        UserError: The question contains a special token.
        Stopped: The server ends.
    """
    model = parts.models[place]
    model.policy.processor.check_text(question, "question")
    batch = _batch(model, clip, question, place)

    @torch.no_grad()
    def work(write: Callable[[str], None]) -> Answer:
        stream = TextStream(model.policy.processor.decode, write)

        def on_tokens(rows: Tensor, tokens: Tensor) -> None:
            write("")  # raises if nobody waits any more, even if the tokens give no text yet
            stream.on_tokens(rows, tokens)

        features = encode(model.policy, batch)
        (prediction,) = predict(
            model.policy,
            parts.engine,
            batch,
            features,
            parts.labels,
            answer_form="auto",
            sampling=greedy(max_completion_length=parts.task.max_completion_length),
            generator=torch.Generator(),
            on_tokens=on_tokens,
        )
        stream.end(prediction.completion or "")
        return Answer(prediction, _game(parts, model, batch, features, prediction))

    return (yield from spoken(work, stop))


def _batch(model: ServedModel, clip: Clip, question: str, place: int) -> Batch:
    """Make a batch of one prompt from tower outputs that are computed already."""
    picture = ABSENT if clip.video is None else clip.video.features[place]
    sound = ABSENT if clip.audio is None else clip.audio.features[place]
    features = ClipFeatures(picture.video, sound.audio, picture.video_shape, sound.audio_shape)
    if features.video is None and features.audio is None:
        raise UserError("there is neither picture nor sound to show")
    policy = model.policy
    collate = Collate(policy.processor, with_target=False, feature_dtype=policy.dtype)
    sample = Sample(Example("", question, "", "", None), None, features)
    return move(collate([sample]), next(policy.parameters()).device)


def _game(
    parts: ServeInputs, model: ServedModel, batch: Batch, features: Features, said: Prediction
) -> Game:
    """Score each subset of the modalities, for the label of the answer or the likeliest one."""
    task = parts.task
    method = Method(
        labels=parts.labels,
        absent=task.absent,
        lead=task.lead,
        max_completion_length=task.max_completion_length,
        num_prompts=len(SUBSETS),
    )
    scorer = SubsetScorer(model.policy, parts.engine, method)
    scores = scorer.score(batch, features, torch.Generator())
    logps = scores.logps[0].double().log_softmax(dim=-1)  # [4, L]
    label = said.predicted or parts.labels[int(logps[-1].argmax())]
    of_label = logps[:, list(parts.labels).index(label)].cpu()
    values = of_label if task.value == "log_prob" else of_label.exp()
    audio, video = shapley_values(values).tolist()
    shares = dict(zip(SUBSETS, of_label.exp().tolist(), strict=True))
    return Game(label, shares, {"audio": audio, "video": video})


def spoken(
    work: Callable[[Callable[[str], None]], Answer], stop: threading.Event
) -> Generator[str, None, Answer]:
    """Run ``work`` in a thread and yield what it writes; closing early stops it at a write."""
    pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    left = threading.Event()

    def write(piece: str) -> None:
        if left.is_set() or stop.is_set():
            raise Stopped
        if piece:
            pieces.put(piece)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work, write)
        done.add_done_callback(lambda _: pieces.put(None))
        try:
            said: list[str | None] = []
            while None not in said:
                said = [pieces.get()]
                said += [pieces.get() for _ in range(pieces.qsize())]  # pieces that came meanwhile
                if text := "".join(filter(None, said)):
                    yield text
        finally:
            left.set()
    return done.result()
