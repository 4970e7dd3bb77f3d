"""The parts of task=serve: one or two checkpoints, and clips to try."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.parts import Clips, Place, ServedModel, ServeParts
from omni_rlvr.assembly.policies import load
from omni_rlvr.assembly.probability_labels import probability_labels
from omni_rlvr.config.dataset import DatasetConfig, lacks_file
from omni_rlvr.types import Example, UserError


def serve_parts(cfg: DictConfig, place: Place, typed: Mapping[str, Any]) -> ServeParts:
    """Builds them.

    Raises:
        UserError: Gradio is not installed, or a checkpoint, the labels or the question are wrong.
    """
    try:
        importlib.import_module("gradio")
    except ImportError as error:
        raise UserError(
            f"task=serve: Gradio cannot be imported ({error}); pip install 'omni-rlvr[serve]'"
        ) from error
    task, dataset = typed["task"], typed["dataset"]
    examples = list(_different(_read(dataset, task.split, task.num_examples), task.num_examples))
    configs = [cfg.model]
    if task.compare is not None:
        configs.append(OmegaConf.merge(cfg.model, {"path": task.compare}))
    models = [ServedModel(str(config.path), load(config)) for config in configs]
    for model in models:
        labels = probability_labels(task.labels, dataset, model.policy)
        model.policy.processor.check_text(task.question or "", "task.question")
    clips = Clips(dataset, typed["modality"], {"examples": examples})
    return ServeParts(place, clips, task, labels, models, make(cfg.lexicon), make(cfg.rollout))


def _read(dataset: DatasetConfig, split: str, num_examples: int) -> Sequence[Example]:
    """Reads a split, where the data set has it; of one that makes its clips, only as many."""
    reader = dataset.splits.get(split)
    if reader is None or lacks_file(dataset, split) or num_examples == 0:
        return []
    few = {"num_clips": num_examples} if "num_clips" in reader else {}
    return make(reader, **few).read()


def _different(examples: Sequence[Example], count: int) -> Iterator[Example]:
    """Yields the first clip of each label, then the first of the rest, up to a count."""
    first: dict[str, int] = {}
    for i, example in enumerate(examples):
        first.setdefault(example.answer, i)
        if len(first) == count:
            break
    picks = [*first.values(), *(set(range(min(count, len(examples)))) - {*first.values()})]
    yield from (examples[i] for i in sorted(picks[:count]))
