"""The inputs of task=serve: one or two checkpoints, and example clips."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from omni_rlvr.assembly.composed import Clips, Composed, Place
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.policies import check_modality, load, load_other
from omni_rlvr.config.dataset import DatasetConfig, lacks_file
from omni_rlvr.config.tasks import ServeTask
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.tasks.predict import probability_labels, question_of
from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.types import Example, UserError


@dataclass(frozen=True)
class ServedModel:
    """A model that the page runs."""

    path: str
    """The path of its checkpoint, from which its name on the page is made."""
    policy: Policy


@dataclass(frozen=True)
class ServeInputs:
    """The inputs of the page."""

    place: Place
    clips: Clips
    """How clips are read, and one split, "examples", with the example clips."""
    task: ServeTask
    labels: Sequence[str]
    """The labels whose probabilities are given."""
    question: str
    """The question that the page shows first."""
    models: Sequence[ServedModel]
    """One model, or two to compare."""
    lexicon: Lexicon
    engine: RolloutEngine

    @property
    def examples(self) -> Sequence[Example]:
        """The example clips."""
        return self.clips.examples["examples"]


def build(composed: Composed) -> ServeInputs:
    """Load one or two checkpoints, and choose the example clips.

    Raises:
        UserError: Gradio is not installed, or a checkpoint, the labels or the question are wrong.
    """
    try:
        importlib.import_module("gradio")
    except ImportError as error:
        raise UserError(
            f"task=serve: Gradio cannot be imported ({error}); pip install 'omni-rlvr[serve]'"
        ) from error
    cfg, task, dataset = composed.cfg, composed.task, composed.dataset
    examples = _different(_read(dataset, task.split, task.num_examples), task.num_examples)
    models = [ServedModel(str(cfg.model.path), load(cfg.model))]
    if task.compare is not None:
        models.append(ServedModel(task.compare, load_other(cfg.model, task.compare)))
    labels = probability_labels(task.labels, dataset, models[0].policy)
    question = question_of(task.question, models[0].policy)
    for model in models:
        check_modality(model.policy, composed.modality)
        probability_labels(labels, dataset, model.policy)  # the second model's tokens may differ
        question_of(question, model.policy)
    return ServeInputs(
        place=composed.place,
        clips=Clips(dataset, composed.modality, {"examples": examples}),
        task=task,
        labels=labels,
        question=question,
        models=models,
        lexicon=make(cfg.lexicon),
        engine=make(cfg.rollout),
    )


def _read(dataset: DatasetConfig, split: str, num_examples: int) -> Sequence[Example]:
    """Read a split if the data set has it; make no more synthetic clips than needed."""
    reader = dataset.splits.get(split)
    if reader is None or lacks_file(dataset, split) or num_examples == 0:
        return []
    few = {"num_clips": num_examples} if "num_clips" in reader else {}
    return make(reader, **few).read()


def _different(examples: Sequence[Example], count: int) -> list[Example]:
    """Choose the first clip of each label, then the first of the rest, up to a count."""
    first: dict[str, int] = {}
    for i, example in enumerate(examples):
        first.setdefault(example.answer, i)
        if len(first) == count:
            break
    picks = list(dict.fromkeys((*first.values(), *range(min(count, len(examples))))))
    return [examples[i] for i in sorted(picks[:count])]
