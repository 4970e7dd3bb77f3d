"""Compute how faithful the reasoning is to the clip and to the modality that decided the answer.

* hallucination: false claims / claims that can be checked, for data sets with annotated cues;
* agreement: among the clips in which both the think block and the Shapley values of the given
  answer favour one modality, the share in which it is the same one. ``agreement_chance`` is what
  two independent choices with the same frequencies would reach: a reasoning that always names one
  modality is no better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from omni_rlvr.tasks.attribute.reasoning import Reasoning, agrees
from omni_rlvr.tasks.attribute.tables import intervals


def faithfulness_table(
    clips: Sequence[str],
    texts: Sequence[str],
    reasonings: Sequence[Reasoning],
    phi: Sequence[tuple[float, float] | None],
) -> pd.DataFrame:
    """Make a table of the words and claims of each completion, one row a clip.

    Args:
        clips: N ids.
        texts: N completions, as written.
        reasonings: The result of ``read_reasoning`` for each.
        phi: Shapley values (audio, video) for the given answer; None if the answer is not a
            label, or the clip lacks a modality.
    """
    rows = []
    for clip, text, said, values in zip(clips, texts, reasonings, phi, strict=True):
        audio, video = values or (None, None)
        lean = said.words.lean
        visual, false = ([c.is_visual for c in of] for of in (said.claims, said.false_claims))
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
                "visual_claims": visual.count(True),
                "vocal_claims": visual.count(False),
                "false_visual_claims": false.count(True),
                "false_vocal_claims": false.count(False),
            }
        )
    floats = dict.fromkeys(("lean", "phi_audio_answer", "phi_video_answer"), float)
    return pd.DataFrame(rows).astype({"agrees": "boolean", **floats})


def faithfulness_summary(table: pd.DataFrame, *, num_resamples: int) -> dict[str, Any]:
    """Compute rates over all clips, as fractions with 95 % intervals; None without any data.

    The bootstrap resamples clips, not claims, as the claims of one clip are not independent.
    """
    judged = table[table.agrees.notna()]
    claims = table.visual_claims + table.vocal_claims
    false = table.false_visual_claims + table.false_vocal_claims
    leans = table.lean.dropna()
    pairs = {
        "lean": (leans, leans.notna()),
        "agreement": (judged.agrees, judged.agrees.notna()),
        "hallucination": (false, claims),
        "hallucination_visual": (table.false_visual_claims, table.visual_claims),
        "hallucination_vocal": (table.false_vocal_claims, table.vocal_claims),
    }
    out: dict[str, Any] = {"num_clips": len(table), "num_judged": len(judged)}
    out |= {"num_claims": int(claims.sum()), "lean": None, "agreement_chance": None}
    for name, (hits, of) in pairs.items():
        out[name] = None
        if of.sum() > 0:
            rows = torch.tensor(pd.concat([hits, of], axis=1).to_numpy(float))
            out |= intervals([name], rows, lambda sums: sums[:, :1] / sums[:, 1:], num_resamples)
    if len(judged):
        words = (judged.lean > 0).mean()
        values = (judged.phi_video_answer > judged.phi_audio_answer).mean()
        out["agreement_chance"] = float(words * values + (1 - words) * (1 - values))
    return out
