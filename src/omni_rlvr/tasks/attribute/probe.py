"""Log during training what each modality does, by scoring the same few clips every few steps.

The clips are read and encoded once, before the first step. A probe scores the label list under no,
one and both modalities, and (if asked) reasons greedily. It changes neither a gradient nor a random
number of the run. Its results go into the next line of metrics.jsonl as ``modality/*``, together
with the seconds that it took.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from omni_rlvr import distributed
from omni_rlvr.data.loader import TrainData, move
from omni_rlvr.functional.shapley import interaction, shapley_values
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.sharding import gathered
from omni_rlvr.rollout.encode import encode, make_prompts
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.tasks.attribute.reasoning import agrees, read_reasoning
from omni_rlvr.tasks.attribute.subset_scores import Method, SubsetScorer, reasoned
from omni_rlvr.tasks.attribute.subsets import AUDIO, SUBSETS, VIDEO
from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.types import LEADS, Batch, Example, Features, Sample, require

TRIES = 8
"""Most clips that are read for each one that is probed, since some lack a modality."""

log = logging.getLogger(__name__)


class Reader(Protocol):
    """Anything that reads examples, such as a split of a data set."""

    def read(self) -> list[Example]:
        """Read the examples."""


@dataclass(frozen=True)
class Probed:
    """The scores and the reasoning of one clip."""

    example: Example
    logps: Tensor
    """[4, L] float64, the label list's log-probabilities under each subset."""
    text: str
    """The reasoning; empty if the probe reads none."""


class ModalityProbe(Callback):
    """Log ``modality/*`` every few steps."""

    def __init__(
        self,
        every_n_steps: int,
        num_clips: int,
        labels: Sequence[str],
        *,
        lead: str,
        reader: Reader | None,
        lexicon: Lexicon | None,
        max_completion_length: int,
    ):
        """Hold the clips to probe and how to score them.

        Args:
            every_n_steps: steps between probes; the first step is always probed.
            num_clips: how many clips with picture and sound, evenly spaced over the split.
            labels: the label list.
            lead: as ``task.lead`` of task=attribute; "own_reasoning" costs a generation a subset,
                and measures the reasoned answer.
            reader: of the split to probe on; None probes on training clips.
            lexicon: words by which the modality of a reasoning is read; the policy then also
                reasons about the clips. None: no reasoning.
            max_completion_length: most tokens of a reasoning.
        """
        require(every_n_steps >= 1, "callbacks.probe.every_n_steps", every_n_steps, "1 or more")
        require(num_clips >= 1, "callbacks.probe.num_clips", num_clips, "1 or more")
        require(lead in LEADS, "callbacks.probe.lead", lead, f"one of {', '.join(LEADS)}")
        self.every_n_steps = every_n_steps
        self.num_clips = num_clips
        self.reader = reader
        self.lexicon = lexicon
        self.method = Method(
            labels=list(labels),
            absent="drop",
            lead=lead,
            max_completion_length=max_completion_length,
            num_prompts=num_clips,
        )
        self.batch: Batch | None = None
        """This rank's clips: each of n ranks has every n-th."""
        self.features = Features([], [])
        self.is_on = False

    def on_train_start(self, trainer: Trainer, pl_module: RLVRModule) -> None:
        """Read the probe set and encode it once."""
        # Lightning sets the attribute as the fit begins, and does not declare it
        assert isinstance(trainer.datamodule, TrainData)  # type: ignore[attr-defined]
        batch = probe_set(trainer.datamodule, self)  # type: ignore[attr-defined]
        self.is_on = any(distributed.gather(batch is not None))
        if not self.is_on and distributed.is_first():
            log.warning(
                "modality probe: off, since no clip has picture, sound and an answer of "
                "dataset.labels; callbacks=default turns it off without this warning"
            )
        self.batch = batch and move(batch, pl_module.device)
        with torch.no_grad(), gathered(pl_module.policy):
            if self.batch is not None:
                self.features = encode(pl_module.policy, self.batch)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: RLVRModule, batch: Batch, batch_idx: int
    ) -> None:
        """Probe when it is time to, before the step changes the policy."""
        is_due = pl_module.step == 0 or (pl_module.step + 1) % self.every_n_steps == 0
        if self.is_on and is_due:
            pl_module.probed = self.probe(pl_module.policy, pl_module.engine)

    def probe(self, policy: Policy, engine: RolloutEngine) -> dict[str, float]:
        """Score the probe set, a part of it on each rank; return ``modality/*`` metrics."""
        started = time.perf_counter()
        with gathered(policy):
            own = [] if self.batch is None else self._scored(self.batch, policy, engine)
        rank, num_ranks = distributed.rank(), distributed.num_ranks()
        scored = distributed.in_order(own, [rank + i * num_ranks for i in range(len(own))])
        p = torch.stack([one.logps for one in scored])
        labels = list(self.method.labels)
        gold = torch.tensor([labels.index(one.example.answer) for one in scored])
        metrics = game_metrics(p, gold)
        if self.lexicon is not None:
            examples, texts = [one.example for one in scored], [one.text for one in scored]
            metrics |= self._faithfulness(p, texts, examples, self.lexicon)
        metrics["probe_s"] = time.perf_counter() - started
        return {f"modality/{name}": value for name, value in metrics.items()}

    @torch.no_grad()
    def _scored(self, batch: Batch, policy: Policy, engine: RolloutEngine) -> list[Probed]:
        """Score the clips of this rank."""
        policy.eval()
        length, generator = self.method.max_completion_length, torch.Generator()
        scores = SubsetScorer(policy, engine, self.method).score(batch, self.features, generator)
        texts = scores.texts
        if self.lexicon is not None and texts is None:
            key = "callbacks.probe.max_completion_length"
            prompts = make_prompts(policy, batch, self.features, num_new=length, key=key)
            texts = reasoned(policy, engine, prompts, length, generator).texts
        policy.train()
        logps = scores.logps.double().log_softmax(dim=-1).cpu()
        return [
            Probed(example, row, text)
            for example, row, text in zip(
                batch.examples, logps, texts or [""] * len(batch), strict=True
            )
        ]

    def _faithfulness(
        self, p: Tensor, texts: Sequence[str], examples: Sequence[Example], lexicon: Lexicon
    ) -> dict[str, float]:
        """Compute the share of reasonings that agree with the answer, and that of false claims."""
        labels = list(self.method.labels)
        rows = zip(texts, examples, strict=True)
        said = [read_reasoning(text, example, labels, lexicon) for text, example in rows]
        judged = []
        for one, row in zip(said, p, strict=True):
            if one.answer is not None:
                phi = shapley_values(row[:, labels.index(one.answer)]).tolist()
                judged.append(agrees(one.words.lean, phi[VIDEO], phi[AUDIO]))
        sides = [side for side in judged if side is not None]
        metrics = {"agreement": sum(sides) / len(sides)} if sides else {}
        claims = sum(len(one.claims) for one in said)
        false = sum(len(one.false_claims) for one in said)
        return metrics | ({"hallucination": false / claims} if claims else {})


def game_metrics(p: Tensor, gold: Tensor) -> dict[str, float]:
    """Average the gold label's game over clips, and the accuracy under each subset.

    Args:
        p: [N, 4, L] log-probabilities over the label list.
        gold: [N] classes.
    """
    values = p[torch.arange(len(gold)), :, gold]
    phi = shapley_values(values).mean(dim=0)
    hits = (p.argmax(dim=-1) == gold.unsqueeze(1)).double().mean(dim=0)
    metrics = {
        "phi_audio": phi[AUDIO].item(),
        "phi_video": phi[VIDEO].item(),
        "interaction": interaction(values, AUDIO, VIDEO).mean().item(),
    }
    return metrics | {f"acc_{name}": hits[i].item() for i, name in enumerate(SUBSETS)}


def probe_set(data: TrainData, probe: ModalityProbe) -> Batch | None:
    """Read the clips to probe, as training reads its own, and take this rank's of them.

    A clip needs picture, sound and a gold answer of the label list.

    Returns:
        Every n-th of the clips on n ranks; None if there is none of those that were tried.
    """
    dataset = data.dataset
    if not (dataset.request.want_video and dataset.request.want_audio):
        return None
    examples = dataset.examples if probe.reader is None else probe.reader.read()
    known = [e for e in examples if e.answer in probe.method.labels]
    tried = spread(known, probe.num_clips)[: TRIES * probe.num_clips]
    samples: list[Sample] = []
    for sample in dataset.samples_of(tried):
        if sample.has_video and sample.has_audio:
            samples.append(sample)
        if len(samples) == probe.num_clips:
            break
    own = samples[distributed.rank() :: distributed.num_ranks()]
    return data.collate(own) if own else None


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """Order examples so that the first ``count`` are evenly spaced over the list."""
    stride = max(1, len(examples) // count)
    return [e for start in range(stride) for e in examples[start::stride]]
