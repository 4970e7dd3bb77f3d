"""Tables of what each modality did: one row a clip, then means by class and over the data set.

The value of a subset S of the modalities is what the policy says of a label under S alone,

    v(S) = log p(label | S)   or   p(label | S),   p normalised over the label list

for the gold label and for the label predicted from the whole clip. Scores come from
``rollout/attribution``; only arithmetic here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from omni_rlvr.functional.bootstrap import bootstrap_interval
from omni_rlvr.functional.shapley import interaction, shapley_values

SUBSETS = ("none", "audio", "video", "both")
"""Names of the subsets, in the order of their numbers (bit 0 is audio, bit 1 video)."""
AUDIO, VIDEO, TEXT = 0, 1, 2
CONFIDENCE = 0.95
TINY = 1e-9


@dataclass(frozen=True)
class ClipScores:
    """What was scored on N clips."""

    ids: Sequence[str]
    labels: Sequence[str]
    """N gold labels."""
    has_video: Sequence[bool]
    has_audio: Sequence[bool]
    logps: Tensor
    """[N, 2**n, L] nats of each label as the answer; NaN where a clip had no donor."""


def some(scores: ClipScores, picks: Sequence[int]) -> ClipScores:
    """Takes some of the clips."""
    columns = {
        name: [vars(scores)[name][i] for i in picks]
        for name in ("ids", "labels", "has_video", "has_audio")
    }
    return ClipScores(**columns, logps=scores.logps[list(picks)])


def subset_names(num_players: int) -> list[str]:
    """Names every subset; with the prompt text as a player, ``no_text_...`` ones lack it."""
    return (
        list(SUBSETS) if num_players == 2 else [f"no_text_{name}" for name in SUBSETS] + [*SUBSETS]
    )


def unit_of(value: str) -> str:
    """Name the unit of values and Shapley values: of ``value``, "log_prob" or "prob"."""
    return "nats" if value.startswith("log_prob") else "probability"


def clip_table(scores: ClipScores, names: Sequence[str], *, value: str) -> pd.DataFrame:
    """Works out each clip's values, Shapley values, interaction and answers.

    Args:
        scores: of N clips.
        names: the label list; gold labels are of it.
        value: "log_prob" or "prob".

    Returns:
        N rows. ``v_<subset>``, ``phi_<player>`` and ``interaction`` are of the gold label; with
        ``_predicted`` behind them, of the label that is most probable given the whole clip, which
        is ``predicted``. ``predicted_<subset>`` is the most probable one under a subset.
    """
    p = scores.logps.double().log_softmax(dim=-1)
    values = p if value == "log_prob" else p.exp()
    subsets = subset_names(_num_players(scores.logps))
    gold = torch.tensor([list(names).index(label) for label in scores.labels], dtype=torch.long)
    answers = p.nan_to_num(-torch.inf).argmax(dim=-1)
    columns: dict[str, Any] = {"clip": scores.ids, "label": scores.labels}
    columns["predicted"] = [names[i] for i in answers[:, -1].tolist()]
    columns |= {"has_audio": scores.has_audio, "has_video": scores.has_video}
    columns |= _game(_of_label(values, gold), subsets, "")
    columns |= _game(_of_label(values, answers[:, -1]), subsets, "_predicted")
    for i, subset in enumerate(subsets):
        known = p[:, i].isfinite().all(dim=-1).tolist()
        picked = zip(answers[:, i].tolist(), known, strict=True)
        columns[f"predicted_{subset}"] = [names[k] if there else None for k, there in picked]
    return pd.DataFrame(columns)


def answer_values(
    scores: ClipScores, answers: Sequence[str | None], names: Sequence[str], *, value: str
) -> list[tuple[float, float] | None]:
    """Shapley values (audio, video) for the answer that each clip's completion gave.

    Returns:
        N pairs; None where the answer is no label, or the clip lacks a modality or a donor.
    """
    p = scores.logps.double().log_softmax(dim=-1)
    classes = torch.tensor([list(names).index(a) if a is not None else 0 for a in answers])
    phi = shapley_values(_of_label(p if value == "log_prob" else p.exp(), classes)).tolist()
    whole = [v and a for v, a in zip(scores.has_video, scores.has_audio, strict=True)]
    return [
        (row[AUDIO], row[VIDEO])
        if answer is not None and there and row[AUDIO] == row[AUDIO]
        else None
        for row, answer, there in zip(phi, answers, whole, strict=True)
    ]


def distribution_table(scores: ClipScores, names: Sequence[str]) -> pd.DataFrame:
    """Lists the label distribution under every subset: N * 2**n rows, a column a label.

    ``outside`` is what the policy would answer outside the list, before normalising.
    """
    logps = scores.logps.double()
    subsets = subset_names(_num_players(logps))
    table = pd.DataFrame(
        {
            "clip": [clip for clip in scores.ids for _ in subsets],
            "subset": subsets * len(scores.ids),
        }
    )
    table[list(names)] = logps.softmax(dim=-1).flatten(0, 1).numpy()
    table["outside"] = (1 - logps.exp().sum(dim=-1)).clamp(min=0).flatten().numpy()
    return table


def swap_table(
    scores: ClipScores, logps: Tensor, pairs: Sequence[tuple[int, int]], names: Sequence[str]
) -> pd.DataFrame:
    """Says for each picture with another clip's sound which of the two the answer follows.

    Args:
        scores: of the N clips that were paired.
        logps: [K, L] nats.
        pairs: K times (clip of the picture, clip of the sound), of different labels.
        names: the label list.
    """
    p = logps.double().softmax(dim=-1)
    rows = []
    for (picture, sound), row in zip(pairs, p, strict=True):
        seen, heard = scores.labels[picture], scores.labels[sound]
        predicted = names[int(row.argmax())]
        follows = {seen: "video", heard: "audio"}.get(predicted, "neither")
        rows.append(
            {
                "clip": scores.ids[picture],
                "sound_of": scores.ids[sound],
                "label_video": seen,
                "label_audio": heard,
                "predicted": predicted,
                "follows": follows,
                "p_label_video": row[list(names).index(seen)].item(),
                "p_label_audio": row[list(names).index(heard)].item(),
            }
        )
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, *, num_resamples: int) -> dict[str, Any]:
    """Averages over the clips that have both modalities and a value: means with 95 % intervals.

    ``share_<player>`` is the ratio of mean Shapley values ``phi_i / sum_j phi_j``, of what the
    policy gains by all modalities together; None where that is nothing.
    """
    whole = table[table.has_audio & table.has_video & table.phi_audio.notna()]
    out: dict[str, Any] = {"num_clips": len(table), "num_whole": len(whole)}
    if len(whole) == 0:
        return out
    players = [name for name in ("audio", "video", "text") if f"phi_{name}" in table]
    measured = _measures(whole, players)
    values = torch.tensor(list(measured.values()), dtype=torch.float64).T
    phis = [list(measured).index(f"phi_{name}") for name in players]

    def means_and_shares(sums: Tensor) -> Tensor:
        gains = sums[:, phis]
        return torch.cat([sums / len(whole), gains / gains.sum(dim=1, keepdim=True)], dim=1)

    shares = [f"share_{name}" for name in players]
    out |= _entries([*measured, *shares], values, means_and_shares, num_resamples)
    gain = sum(out[f"phi_{name}"]["mean"] for name in players)
    return out if abs(gain) > TINY else out | dict.fromkeys(shares)


def swap_summary(table: pd.DataFrame, *, num_resamples: int) -> dict[str, Any]:
    """Shares of swaps that follow video, audio, or neither: fractions with 95 % intervals."""
    out: dict[str, Any] = {"num_swaps": len(table)}
    if len(table) == 0:
        return out
    kinds = ("video", "audio", "neither")
    values = torch.tensor([[follows == kind for kind in kinds] for follows in table.follows])
    return out | _entries(kinds, values, lambda sums: sums / len(table), num_resamples)


def by_class(
    table: pd.DataFrame, names: Sequence[str], *, num_resamples: int
) -> dict[str, dict[str, Any]]:
    """``summary`` of each gold class that has clips."""
    parts = {name: table[table.label == name] for name in names}
    return {n: summary(t, num_resamples=num_resamples) for n, t in parts.items() if len(t)}


def _measures(whole: pd.DataFrame, players: Sequence[str]) -> Mapping[str, Sequence[float]]:
    """What is averaged: values and Shapley values of both labels, and accuracy per subset."""
    games = [c for c in whole.columns if c.startswith(("v_", "phi_", "interaction"))]
    measured = {name: whole[name].astype(float).tolist() for name in games}
    for column in whole.columns:
        if column.startswith("predicted_"):
            hits = (whole[column] == whole.label).astype(float)
            measured[column.replace("predicted_", "accuracy_", 1)] = hits.tolist()
    return measured


def _game(values: Tensor, subsets: Sequence[str], suffix: str) -> dict[str, Any]:
    """The columns of one label's game: [N, 2**n] values."""
    phi = shapley_values(values)
    columns = {f"v_{name}{suffix}": values[:, i].tolist() for i, name in enumerate(subsets)}
    for i, player in enumerate(("audio", "video", "text")[: phi.shape[1]]):
        columns[f"phi_{player}{suffix}"] = phi[:, i].tolist()
    columns[f"interaction{suffix}"] = interaction(values, AUDIO, VIDEO).tolist()
    return columns


def _of_label(values: Tensor, classes: Tensor) -> Tensor:
    """[N, S, L] and one class a clip -> [N, S]."""
    return values.gather(2, classes.view(-1, 1, 1).expand(-1, values.shape[1], 1)).squeeze(2)


def _num_players(logps: Tensor) -> int:
    return logps.shape[1].bit_length() - 1


def _entries(
    names: Sequence[str], rows: Tensor, statistic: Callable[[Tensor], Tensor], num_resamples: int
) -> dict[str, Any]:
    """Name -> what ``statistic`` gives in its column, with a 95 % interval over the rows."""
    found = bootstrap_interval(
        rows, statistic, num_resamples=num_resamples, confidence=CONFIDENCE, seed=0
    )
    ends = zip(names, torch.stack(found, dim=1).tolist(), strict=True)
    return {name: {"mean": value, "ci": [low, high]} for name, (value, low, high) in ends}
