"""Watches through training what each modality does: the same few clips, scored every few steps.

Clips are read and their features encoded once, before the first step. A probe scores the label list
under no, one and both modalities, and (if asked) reasons greedily; neither touches a gradient or a
random number of the run. What it finds goes into the next line of metrics.jsonl as ``modality/*``,
its seconds too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Protocol

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from omni_rlvr.config.sampling import greedy
from omni_rlvr.data.loader import TrainData, move
from omni_rlvr.functional.shapley import interaction, shapley_values
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.encode import encode, make_prompts
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.tasks.attribute.reasoning import agrees, read_reasoning
from omni_rlvr.tasks.attribute.subset_scores import Blanks, Method, score_batch
from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.types import LEADS, Batch, Example, Features, Sample, require

SUBSETS = ("none", "audio", "video", "both")
AUDIO, VIDEO = 0, 1
TRIES = 8
"""Clips read, at most, for each that is probed: some lack a modality."""

log = logging.getLogger(__name__)


class Reader(Protocol):
    """Anything with a ``read()`` that gives examples, as a data set's splits are."""

    def read(self) -> list[Example]:
        """Reads the examples."""


class ModalityProbe(Callback):
    """Logs ``modality/*`` every few steps."""

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
        """Holds what to probe.

        Args:
            every_n_steps: steps between probes; the first step is always probed.
            num_clips: how many clips with picture and sound, evenly spaced over the split.
            labels: the label list.
            lead: as ``task.lead`` of task=attribute; "own_reasoning" costs a generation a subset,
                and measures the reasoned answer.
            reader: of the split to probe on; None probes on training clips.
            lexicon: reasons about the clips too, and reads the reasoning with these words; None
                leaves that out.
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
            num_players=2,
            absent="drop",
            lead=lead,
            swap=False,
            max_completion_length=max_completion_length,
            num_prompts=num_clips,
        )
        self.batch: Batch | None = None
        self.features = Features([], [])

    def on_train_start(self, trainer: Trainer, pl_module: RLVRModule) -> None:
        """Reads the probe set and encodes it once."""
        # Lightning sets the attribute as the fit begins, and does not declare it
        assert isinstance(trainer.datamodule, TrainData)  # type: ignore[attr-defined]
        batch = probe_set(trainer.datamodule, self)  # type: ignore[attr-defined]
        if batch is None:
            log.warning(
                "modality probe: off, since no clip has picture, sound and an answer of "
                "dataset.labels; callbacks=default leaves it out without a word"
            )
            return
        self.batch = move(batch, pl_module.device)
        with torch.no_grad():
            self.features = encode(pl_module.policy, self.batch)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: RLVRModule, batch: Batch, batch_idx: int
    ) -> None:
        """Probes when due, before the step moves the policy."""
        due = pl_module.step == 0 or (pl_module.step + 1) % self.every_n_steps == 0
        if due and self.batch is not None:
            pl_module.probed = self.probe(pl_module.policy, pl_module.engine)

    @torch.no_grad()
    def probe(self, policy: Policy, engine: RolloutEngine) -> dict[str, float]:
        """Scores the probe set; returns ``modality/*`` metrics."""
        assert self.batch is not None
        started = time.perf_counter()
        policy.eval()
        scores = score_batch(
            policy,
            engine,
            self.batch,
            self.features,
            self.method,
            blanks=Blanks(policy),
            generator=torch.Generator(),
        )
        texts = scores.texts
        if self.lexicon is not None and texts is None:
            texts = self._reason(policy, engine, self.batch)
        policy.train()
        p = scores.logps.double().log_softmax(dim=-1).cpu()
        metrics = game_metrics(p, self._gold())
        if self.lexicon is not None and texts is not None:
            metrics |= self._faithfulness(p, texts, self.lexicon)
        metrics["probe_s"] = time.perf_counter() - started
        return {f"modality/{name}": value for name, value in metrics.items()}

    def _gold(self) -> Tensor:
        assert self.batch is not None
        return torch.tensor([list(self.method.labels).index(e.answer) for e in self.batch.examples])

    def _reason(self, policy: Policy, engine: RolloutEngine, batch: Batch) -> Sequence[str]:
        return engine.sample(
            policy,
            make_prompts(
                policy,
                batch,
                self.features,
                num_new=self.method.max_completion_length,
                key="callbacks.probe.max_completion_length",
            ),
            greedy(max_completion_length=self.method.max_completion_length),
            torch.Generator(),
            None,
        ).texts

    def _faithfulness(self, p: Tensor, texts: Sequence[str], lexicon: Lexicon) -> dict[str, float]:
        """Share of reasonings that lean to what drove the answer, and of false claims."""
        assert self.batch is not None
        labels = list(self.method.labels)
        sides, claims, false = [], 0, 0
        for text, example, row in zip(texts, self.batch.examples, p, strict=True):
            said = read_reasoning(text, example, labels, lexicon)
            claims, false = claims + len(said.claims), false + len(said.false_claims)
            if said.answer is not None:
                phi = shapley_values(row[:, labels.index(said.answer)]).tolist()
                sides.append(agrees(said.words.lean, phi[VIDEO], phi[AUDIO]))
        judged = [side for side in sides if side is not None]
        metrics = {"agreement": sum(judged) / len(judged)} if judged else {}
        return metrics | ({"hallucination": false / claims} if claims else {})


def game_metrics(p: Tensor, gold: Tensor) -> dict[str, float]:
    """Means over clips of the gold label's game, and accuracy under each subset.

    Args:
        p: [N, 4, L] log-probabilities over the label list.
        gold: [N] classes.
    """
    values = p.gather(2, gold.view(-1, 1, 1).expand(-1, p.shape[1], 1)).squeeze(2)
    phi = shapley_values(values).mean(dim=0)
    hits = (p.argmax(dim=-1) == gold.unsqueeze(1)).double().mean(dim=0)
    metrics = {
        "phi_audio": phi[AUDIO].item(),
        "phi_video": phi[VIDEO].item(),
        "interaction": interaction(values, AUDIO, VIDEO).mean().item(),
    }
    return metrics | {f"acc_{name}": hits[i].item() for i, name in enumerate(SUBSETS)}


def probe_set(data: TrainData, probe: ModalityProbe) -> Batch | None:
    """Reads the clips to probe, as training reads its own; None if none of those tried will do.

    A clip needs picture, sound and a gold answer of the label list.
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
    return data.collate(samples) if samples else None


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """All examples, those first that lie evenly over the list (which may be sorted by label)."""
    stride = max(1, len(examples) // count)
    return [e for start in range(stride) for e in examples[start::stride]]
