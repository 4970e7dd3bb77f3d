"""Is the reasoning true to the clip, and to what drove the answer? Tables over clips.

* hallucination: false claims / claims that can be checked, where the data set knows its cues;
* agreement: clips whose think block leans to the modality with the larger Shapley value for the
  answer that was given / clips where both take a side. ``agreement_chance`` is what two independent
  sides with the same frequencies would reach: a reasoning that always leans one way earns no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from omni_rlvr.functional.bootstrap import bootstrap_interval
from omni_rlvr.tasks.attribute.reasoning import Reasoning, agrees
from omni_rlvr.tasks.attribute.tables import CONFIDENCE


def faithfulness_table(
    clips: Sequence[str],
    texts: Sequence[str],
    reasonings: Sequence[Reasoning],
    phi: Sequence[tuple[float, float] | None],
) -> pd.DataFrame:
    """List what each completion says, one row a clip.

    Args:
        clips: N ids.
        texts: N completions, as written.
        reasonings: what was read of each.
        phi: Shapley values (audio, video) for the answer given; None where it is no label, or the
            clip lacks a modality.
    """
    rows = []
    for clip, text, said, values in zip(clips, texts, reasonings, phi, strict=True):
        audio, video = (None, None) if values is None else values
        lean = said.words.lean
        rows.append(
            {
                "clip": clip,
                "completion": text,
                "answer": said.answer,
                "visual_words": said.words.visual,
                "vocal_words": said.words.vocal,
                "lean": lean,
                "phi_audio_answer": audio,
                "phi_video_answer": video,
                "agrees": None if values is None else agrees(lean, values[1], values[0]),
                "visual_claims": sum(c.is_visual for c in said.claims),
                "vocal_claims": sum(not c.is_visual for c in said.claims),
                "false_visual_claims": sum(c.is_visual for c in said.false_claims),
                "false_vocal_claims": sum(not c.is_visual for c in said.false_claims),
            }
        )
    table = pd.DataFrame(rows)
    kinds = {"agrees": "boolean", "lean": float, "phi_audio_answer": float}
    return table.astype({**kinds, "phi_video_answer": float})


def faithfulness_summary(table: pd.DataFrame, *, num_resamples: int) -> dict[str, Any]:
    """Rates over all clips, as fractions with 95 % intervals; None where there is nothing to rate.

    Clips are resampled, not claims: those of one clip go together.
    """
    judged = table[table.agrees.notna()]
    claims = table.visual_claims + table.vocal_claims
    false = table.false_visual_claims + table.false_vocal_claims
    pairs = {
        "agreement": (judged.agrees.astype(float), judged.agrees.notna().astype(float)),
        "hallucination": (false, claims),
        "hallucination_visual": (table.false_visual_claims, table.visual_claims),
        "hallucination_vocal": (table.false_vocal_claims, table.vocal_claims),
    }
    out: dict[str, Any] = {
        "num_clips": len(table),
        "num_judged": len(judged),
        "num_claims": int(claims.sum()),
        "lean": _rate(table.lean.dropna(), table.lean.dropna() * 0 + 1, num_resamples),
        "agreement_chance": _chance(judged),
    }
    return out | {name: _rate(hits, of, num_resamples) for name, (hits, of) in pairs.items()}


def _rate(hits: pd.Series, of: pd.Series, num_resamples: int) -> dict[str, Any] | None:
    """``sum hits / sum of``, rows resampled together."""
    if of.sum() == 0:
        return None
    values = torch.tensor([hits.astype(float).tolist(), of.astype(float).tolist()]).T
    rate, low, high = bootstrap_interval(
        values,
        lambda sums: sums[:, :1] / sums[:, 1:],
        num_resamples=num_resamples,
        confidence=CONFIDENCE,
        seed=0,
    )
    return {"mean": rate.item(), "ci": [low.item(), high.item()]}


def _chance(judged: pd.DataFrame) -> float | None:
    if len(judged) == 0:
        return None
    words = (judged.lean > 0).mean()
    values = (judged.phi_video_answer > judged.phi_audio_answer).mean()
    return float(words * values + (1 - words) * (1 - values))
