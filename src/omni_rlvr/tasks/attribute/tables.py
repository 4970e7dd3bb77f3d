"""Compute tables of what each modality did: one row a clip, then means by class and over all.

The value of a subset S of the modalities is the policy's score of a label given only S,

    v(S) = log p(label | S)   or   p(label | S),   p normalised over the label list

for the gold label and for the label predicted from the whole clip. ``subset_scores.py`` computes
the scores; this file holds only arithmetic on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from omni_rlvr.functional.bootstrap import bootstrap_interval
from omni_rlvr.functional.shapley import interaction, shapley_values
from omni_rlvr.tasks.attribute.subsets import AUDIO, PLAYERS, SUBSETS, VIDEO

CONFIDENCE = 0.95
TINY = 1e-9


@dataclass(frozen=True)
class ClipScores:
    """The scores of N clips."""

    ids: Sequence[str]
    labels: Sequence[str]
    """N gold labels."""
    has_video: Sequence[bool]
    has_audio: Sequence[bool]
    logps: Tensor
    """[N, 2**n, L] nats of each label as the answer; NaN where a clip had no donor."""


def subset_names(num_subsets: int) -> list[str]:
    """Name all 4 subsets, or all 8 with the prompt text as a player; ``no_text_...`` lack it."""
    return [f"no_text_{name}" for name in SUBSETS if num_subsets == 8] + [*SUBSETS]


def unit_of(value: str) -> str:
    """Name the unit of values and Shapley values: of ``value``, "log_prob" or "prob"."""
    return "nats" if value.startswith("log_prob") else "probability"


def clip_table(scores: ClipScores, names: Sequence[str], *, value: str) -> pd.DataFrame:
    """Compute each clip's values, Shapley values, interaction and answers.

    Args:
        scores: of N clips.
        names: the label list, which holds every gold label.
        value: "log_prob" or "prob".

    Returns:
        N rows. ``v_<subset>``, ``phi_<player>`` and ``interaction`` are of the gold label. Columns
        with the suffix ``_predicted`` are of the label that is most probable given the whole clip,
        which is ``predicted``. ``predicted_<subset>`` is the most probable label under a subset.
    """
    p = scores.logps.double().log_softmax(dim=-1)
    values = p if value == "log_prob" else p.exp()
    subsets = subset_names(scores.logps.shape[1])
    gold = torch.tensor([list(names).index(label) for label in scores.labels], dtype=torch.long)
    answers = p.nan_to_num(-torch.inf).argmax(dim=-1)
    known = p.isfinite().all(dim=-1)
    columns: dict[str, Any] = {"clip": scores.ids, "label": scores.labels}
    columns["predicted"] = [names[i] for i in answers[:, -1].tolist()]
    columns |= {"has_audio": scores.has_audio, "has_video": scores.has_video}
    for suffix, classes in (("", gold), ("_predicted", answers[:, -1])):
        game = values[torch.arange(len(gold)), :, classes]  # [N, 2**n]
        phi = shapley_values(game)
        columns |= {f"v_{name}{suffix}": game[:, i].tolist() for i, name in enumerate(subsets)}
        for i, player in enumerate(PLAYERS[: phi.shape[1]]):
            columns[f"phi_{player}{suffix}"] = phi[:, i].tolist()
        columns[f"interaction{suffix}"] = interaction(game, AUDIO, VIDEO).tolist()
    for i, subset in enumerate(subsets):
        picked = zip(answers[:, i].tolist(), known[:, i].tolist(), strict=True)
        columns[f"predicted_{subset}"] = [names[k] if there else None for k, there in picked]
    return pd.DataFrame(columns)


def answer_values(
    scores: ClipScores, answers: Sequence[str | None], names: Sequence[str], *, value: str
) -> list[tuple[float, float] | None]:
    """Compute Shapley values (audio, video) for the answer that each clip's completion gave.

    Returns:
        N pairs; None where the answer is no label, or the clip lacks a modality or a donor.
    """
    classes = torch.tensor([list(names).index(a) if a is not None else 0 for a in answers])
    p = scores.logps.double().log_softmax(dim=-1)[torch.arange(len(classes)), :, classes]
    phi = shapley_values(p if value == "log_prob" else p.exp())
    whole = torch.tensor(scores.has_video) & torch.tensor(scores.has_audio) & ~phi[:, 0].isnan()
    return [
        (row[AUDIO], row[VIDEO]) if answer is not None and there else None
        for row, answer, there in zip(phi.tolist(), answers, whole.tolist(), strict=True)
    ]


def distribution_table(scores: ClipScores, names: Sequence[str]) -> pd.DataFrame:
    """List the label distribution under every subset: N * 2**n rows, a column a label.

    ``outside`` is the probability, before normalising, of answers outside the list.
    """
    logps = scores.logps.double()
    subsets = subset_names(logps.shape[1])
    rows = [(clip, subset) for clip in scores.ids for subset in subsets]
    table = pd.DataFrame(rows, columns=["clip", "subset"])
    table[list(names)] = logps.softmax(dim=-1).flatten(0, 1).numpy()
    table["outside"] = (1 - logps.exp().sum(dim=-1)).clamp(min=0).flatten().numpy()
    return table


def swap_table(
    scores: ClipScores, logps: Tensor, pairs: Sequence[tuple[int, int]], names: Sequence[str]
) -> pd.DataFrame:
    """Find for each picture with another clip's sound which of the two the answer follows.

    Args:
        scores: of the N clips that were paired.
        logps: [K, L] nats.
        pairs: K times (clip of the picture, clip of the sound), of different labels.
        names: the label list.
    """
    rows = []
    for (picture, sound), p in zip(pairs, logps.double().softmax(dim=-1), strict=True):
        seen, heard = scores.labels[picture], scores.labels[sound]
        predicted = names[int(p.argmax())]
        rows.append(
            {
                "clip": scores.ids[picture],
                "sound_of": scores.ids[sound],
                "label_video": seen,
                "label_audio": heard,
                "predicted": predicted,
                "follows": {seen: "video", heard: "audio"}.get(predicted, "neither"),
                "p_label_video": p[list(names).index(seen)].item(),
                "p_label_audio": p[list(names).index(heard)].item(),
            }
        )
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, *, num_resamples: int) -> dict[str, Any]:
    """Average over the clips that have both modalities and a value: means with 95 % intervals.

    Values and Shapley values of both labels, and the accuracy under each subset, are averaged.
    ``share_<player>`` is the ratio of mean Shapley values ``phi_i / sum_j phi_j``: a player's part
    of what the policy gains by all modalities together; None where it gains nothing.
    """
    whole = table[table.has_audio & table.has_video & table.phi_audio.notna()]
    out: dict[str, Any] = {"num_clips": len(table), "num_whole": len(whole)}
    if len(whole) == 0:
        return out
    games = whole.filter(regex="^(v_|phi_|interaction)")
    hits = whole.filter(regex="^predicted_").eq(whole.label, axis=0)
    hits.columns = hits.columns.str.replace("predicted_", "accuracy_", n=1)
    measured = pd.concat([games, hits], axis=1).astype(float)
    players = [name for name in PLAYERS if f"phi_{name}" in measured]
    phis = [list(measured).index(f"phi_{name}") for name in players]

    def means_and_shares(sums: Tensor) -> Tensor:
        gains = sums[:, phis]
        return torch.cat([sums / len(whole), gains / gains.sum(dim=1, keepdim=True)], dim=1)

    shares = [f"share_{name}" for name in players]
    rows = torch.tensor(measured.to_numpy())
    out |= intervals([*measured.columns, *shares], rows, means_and_shares, num_resamples)
    gain = sum(out[f"phi_{name}"]["mean"] for name in players)
    return out if abs(gain) > TINY else out | dict.fromkeys(shares)


def swap_summary(table: pd.DataFrame, *, num_resamples: int) -> dict[str, Any]:
    """Compute the shares of swaps that follow video, audio, or neither, with 95 % intervals."""
    out: dict[str, Any] = {"num_swaps": len(table)}
    if len(table) == 0:
        return out
    kinds = ("video", "audio", "neither")
    values = torch.tensor([[follows == kind for kind in kinds] for follows in table.follows])
    return out | intervals(kinds, values, lambda sums: sums / len(table), num_resamples)


def by_class(
    table: pd.DataFrame, names: Sequence[str], *, num_resamples: int
) -> dict[str, dict[str, Any]]:
    """Make the ``summary`` of each gold class that has clips."""
    groups = dict(iter(table.groupby("label")))
    return {n: summary(groups[n], num_resamples=num_resamples) for n in names if n in groups}


def intervals(
    names: Sequence[str], rows: Tensor, statistic: Callable[[Tensor], Tensor], num_resamples: int
) -> dict[str, Any]:
    """Map each name to the column of ``statistic``, with a 95 % interval over the rows."""
    found = bootstrap_interval(
        rows, statistic, num_resamples=num_resamples, confidence=CONFIDENCE, seed=0
    )
    ends = zip(names, torch.stack(found, dim=1).tolist(), strict=True)
    return {name: {"mean": value, "ci": [low, high]} for name, (value, low, high) in ends}
