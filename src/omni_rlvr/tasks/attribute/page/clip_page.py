"""Write the page on what each modality did: one HTML file that needs no other file and no network.

``page.html`` has the tables and charts. The clips are data, which ``page.js`` inserts as text, so
that a completion or a file name cannot inject HTML. The data of each clip's card is a separate
block, which is read when the card is opened. The page's Content-Security-Policy allows only this
script, and no loading.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from omni_rlvr.media.limits import Limits
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.tasks.attribute.page.attributions import Attribution, gather_attributions
from omni_rlvr.tasks.attribute.page.class_chart import NAMES, class_chart, value_of
from omni_rlvr.tasks.attribute.page.clip_data import clip_card, clip_row
from omni_rlvr.tasks.attribute.page.clip_media import SHOW
from omni_rlvr.tasks.attribute.selection import RULES
from omni_rlvr.tasks.attribute.tables import unit_of
from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.text.templates import templates

log = logging.getLogger(__name__)

PARTS = Path(__file__).with_name("page_parts")
"""Templates of the page and its chart, the style and the script."""
ABSENT = "–"

Table = tuple[list[str], list[list[str]]]
"""The header and the rows."""
MEASURES = {
    "clips": ("all", "num_clips", None),
    "clips with picture and sound": ("all", "num_whole", None),
    "accuracy, picture and sound": ("all", "accuracy_both", "percent"),
    "accuracy, picture alone": ("all", "accuracy_video", "percent"),
    "accuracy, sound alone": ("all", "accuracy_audio", "percent"),
    "accuracy, neither": ("all", "accuracy_none", "percent"),
    "Shapley value of the picture": ("all", "phi_video", "value"),
    "Shapley value of the sound": ("all", "phi_audio", "value"),
    "Shapley value of the question": ("all", "phi_text", "value"),
    "interaction (+ synergy, − redundancy)": ("all", "interaction", "value"),
    "swapped sound: follows the picture": ("swap", "video", "percent"),
    "swapped sound: follows the sound": ("swap", "audio", "percent"),
    "swapped sound: follows neither": ("swap", "neither", "percent"),
    "reasoning leans as the values do": ("faithfulness", "agreement", "percent"),
    "label list says what is generated": ("faithfulness", "same_answer", "share"),
    "claims that are false": ("faithfulness", "hallucination", "percent"),
}
"""Line of the summary -> (part of a report, key in it, format of the entry)."""


def write_clip_page(path: Path, places: Sequence[str]) -> None:
    """Write the page of runs of task=attribute.

    Args:
        path: the file.
        places: runs, folders of runs, or globs of either.

    Raises:
        UserError: a place holds no such run.
    """
    runs = gather_attributions(places)
    rows, cards = [], []
    for run in runs:
        words, data = run.config["lexicon"], run.config["dataset"]
        lexicon = Lexicon(words["visual"], words["vocal"])
        with ClipReader(
            data["decode_timeout_s"], data["max_clips_per_process"], SHOW, Limits.of(data)
        ) as reader:
            for selected in run.selection:
                card = clip_card(run, selected, lexicon, reader)
                if "error" in card["media"]:
                    log.warning("%s: shown without its file: %s", run.name, card["media"]["error"])
                rows.append(clip_row(run, selected, card["media"].pop("thumb", None)))
                cards.append(card)
    style, script = (
        Markup((PARTS / f"page.{kind}").read_text(encoding="utf-8")) for kind in ("css", "js")
    )
    blocks = {"rows": _json({"rows": rows, "rules": RULES})}
    page = (
        templates(PARTS)
        .get_template("page.html")
        .render(
            style=style,
            style_hash=_hash(style),
            script=script,
            script_hash=_hash(script),
            intro=_intro(runs),
            summary=_summary(runs),
            classes=[_classes(run) for run in runs],
            methods=[(run.name, {**run.report["method"], "code": run.commit}) for run in runs],
            data=blocks | {f"card-{i}": _json(card) for i, card in enumerate(cards)},
        )
    )
    path.write_text(page, encoding="utf-8")


def _intro(runs: Sequence[Attribution]) -> str:
    models = ", ".join(dict.fromkeys(str(run.report["method"]["model"]) for run in runs))
    data = ", ".join(dict.fromkeys(f"{r.report['dataset']} {r.report['split']}" for r in runs))
    shown = sum(len(run.selection) for run in runs)
    text = f"Model: {models}. Data: {data}. {shown} clips are shown below, chosen by rule."
    return text if shown else f"{text} None were chosen: task.num_chosen of task=attribute."


def _summary(runs: Sequence[Attribution]) -> Table:
    rows = []
    for name, (part, key, form) in MEASURES.items():
        entries = [(run.report[part] or {}).get(key) for run in runs]
        if any(entry is not None for entry in entries):
            rows.append([name, *(_said(entry, form) for entry in entries)])
    return ["", *(run.name for run in runs)], rows


def _classes(run: Attribution) -> dict[str, Any]:
    """Return the chart of a run by class, with its legend and the same in numbers."""
    groups = {"all clips": run.report["all"], **run.report["by_class"]}
    names = {k: v for k, v in NAMES.items() if value_of(run.report["all"], k) is not None}
    rows = [
        [name, str(group["num_whole"]), *(_said(value_of(group, key), "value") for key in names)]
        for name, group in groups.items()
    ]
    return {
        "run": run.name,
        "chart": class_chart(run.report, unit=unit_of(run.report["method"]["value"])),
        "legend": names,
        "numbers": (["class", "clips", *names.values()], rows),
    }


def _said(entry: Any, form: str | None) -> str:
    """Write a count, a share without an interval, or a mean with one: ``+0.33 [+0.28, +0.39]``."""
    if entry is None:
        return ABSENT
    if form is None:
        return str(entry)
    if form == "share":
        return f"{100 * entry:.1f}"
    scale, digits = (100.0, ".1f") if form == "percent" else (1.0, "+.2f")
    mean, low, high = (format(scale * v, digits) for v in (entry["mean"], *entry["ci"]))
    return f"{mean} [{low}, {high}]".replace("-", "−")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """Write data for the script. ``<`` is escaped, so that the data cannot end its block."""
    return Markup(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))
