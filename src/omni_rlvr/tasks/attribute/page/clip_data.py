"""Collect what the page shows of each selected clip as plain values: a table row, and a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.tasks.attribute.page.attributions import Attribution
from omni_rlvr.tasks.attribute.page.clip_media import clip_media
from omni_rlvr.tasks.attribute.reasoning import agrees
from omni_rlvr.tasks.attribute.tables import subset_names
from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.text.parse import parse

PLAYERS = ("video", "audio", "text")
CUT = "rewards/"
"""Prefix of the terms of a reward in completions.jsonl."""


def clip_row(run: Attribution, selected: dict[str, Any], thumb: str | None) -> dict[str, Any]:
    """Make the row of a clip in the table of clips; ``thumb`` is a ``data:`` address."""
    clip = run.clips[selected["id"]]
    return {
        "run": run.name,
        "clip": clip["clip"],
        "label": clip["label"],
        "predicted": clip["predicted"],
        "right": clip["predicted"] == clip["label"],
        **{name: _number(selected[name]) for name in ("confidence", "conflict")},
        **{name: _number(clip[name]) for name in ("phi_video", "phi_audio", "interaction")},
        "rules": selected["rules"],
        "text": selected["completion"],
        "thumb": thumb,
    }


def clip_card(
    run: Attribution, selected: dict[str, Any], lexicon: Lexicon, reader: ClipReader
) -> dict[str, Any]:
    """Make the card of a clip: all that the page shows once the clip is opened."""
    clip, by_subset = run.clips[selected["id"]], run.distributions[selected["id"]]
    files = (selected[name] and Path(selected[name]) for name in ("video", "audio"))
    names = ("num_claims", "false_claims", "question", "answer")
    return {
        "file": selected["video"] or selected["audio"],
        "has_video": bool(clip["has_video"]),
        "has_audio": bool(clip["has_audio"]),
        **{name: selected[name] for name in names},
        "reasoning": segments(selected["completion"], lexicon),
        "lean": _lean(selected, clip, lexicon),
        "labels": run.report["labels"],
        "subsets": [
            {"name": name, "p": {k: _number(v, 4) for k, v in by_subset[name].items()}}
            for name in subset_names(len(by_subset))
        ],
        "games": _games(clip),
        "completions": [
            {
                "reward": row["reward"],
                "advantage": row["advantage"],
                "terms": {k.removeprefix(CUT): v for k, v in row.items() if k.startswith(CUT)},
                "said": segments(row["completion"], lexicon),
            }
            for row in run.completions[selected["id"]]
        ],
        "media": clip_media(reader, *files),
    }


def segments(completion: str, lexicon: Lexicon) -> list[list[Any]]:
    """Split a completion into [text, modality or None, whether counted]; marks only thinking."""
    think = parse(completion).think
    if not think:
        return [[completion, None, False]]
    start = completion.index(think)
    inside = [[s.text, s.modality, s.is_counted] for s in lexicon.segments(think)]
    around = ([completion[:start], None, False], [completion[start + len(think) :], None, False])
    return [part for part in (around[0], *inside, around[1]) if part[0]]


def _lean(selected: dict[str, Any], clip: dict[str, Any], lexicon: Lexicon) -> dict[str, Any]:
    """Count words of each modality; say if they lean as the answer's Shapley values do."""
    words = lexicon.count(parse(selected["completion"]).think or "")
    suffix = {clip["predicted"]: "_predicted", clip["label"]: ""}.get(selected["answer"])
    whole = suffix is not None and clip["has_audio"] and clip["has_video"]
    video, audio = (
        _number(clip[f"phi_{name}{suffix}"]) if whole else None for name in ("video", "audio")
    )
    judged = None if video is None or audio is None else agrees(words.lean, video, audio)
    return {"visual": words.visual, "vocal": words.vocal, "agrees": judged}


def _games(clip: dict[str, Any]) -> list[dict[str, Any]]:
    """Collect the values of the gold label, and of the most probable label if it is another."""
    out = []
    nothing = "no_text_none" if "phi_text" in clip else "none"
    players = [name for name in PLAYERS if f"phi_{name}" in clip]
    suffixes = {"label": "", "predicted": "_predicted"}
    if clip["predicted"] == clip["label"]:
        del suffixes["predicted"]
    for whose, suffix in suffixes.items():
        out.append(
            {
                "label": clip[whose],
                "gold": not suffix,
                "none": _number(clip[f"v_{nothing}{suffix}"]),
                "both": _number(clip[f"v_both{suffix}"]),
                "phi": {name: _number(clip[f"phi_{name}{suffix}"]) for name in players},
                "interaction": _number(clip[f"interaction{suffix}"]),
            }
        )
    return out


def _number(value: float | None, digits: int = 3) -> float | None:
    return None if value is None or value != value else round(float(value), digits)
