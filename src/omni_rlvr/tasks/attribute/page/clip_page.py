"""The page of what each modality did: one HTML file that needs nothing beside it and no network.

``page.html`` shows tables and charts; the clips are data, which ``page.js`` puts on the page as
text, so that nothing in a completion or a file name can be more than text. What a clip's card
shows lies in a block of its own and is read when the card is opened. The page's own rule
(Content-Security-Policy) lets it run this script and no other, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
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

Entry = dict[str, Any] | None
Table = tuple[list[str], list[list[str]]]
"""The header and the rows."""
MEASURES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "clips": lambda r: r["all"]["num_clips"],
    "clips with picture and sound": lambda r: r["all"]["num_whole"],
    "accuracy, picture and sound": lambda r: _percent(r["all"].get("accuracy_both")),
    "accuracy, picture alone": lambda r: _percent(r["all"].get("accuracy_video")),
    "accuracy, sound alone": lambda r: _percent(r["all"].get("accuracy_audio")),
    "accuracy, neither": lambda r: _percent(r["all"].get("accuracy_none")),
    "Shapley value of the picture": lambda r: _plain(r["all"].get("phi_video")),
    "Shapley value of the sound": lambda r: _plain(r["all"].get("phi_audio")),
    "Shapley value of the question": lambda r: _plain(r["all"].get("phi_text")),
    "interaction (+ synergy, − redundancy)": lambda r: _plain(r["all"].get("interaction")),
    "swapped sound: follows the picture": lambda r: _percent((r["swap"] or {}).get("video")),
    "swapped sound: follows the sound": lambda r: _percent((r["swap"] or {}).get("audio")),
    "swapped sound: follows neither": lambda r: _percent((r["swap"] or {}).get("neither")),
    "reasoning leans as the values do": lambda r: _percent(
        (r["faithfulness"] or {}).get("agreement")
    ),
    "label list says what is generated": lambda r: _share(
        (r["faithfulness"] or {}).get("same_answer")
    ),
    "claims that are false": lambda r: _percent((r["faithfulness"] or {}).get("hallucination")),
}
"""Line of the summary -> what stands there for one report."""


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
        new_rows, new_cards = _clips(run)
        rows += new_rows
        cards += new_cards
    style, script = (_asset(f"page.{kind}") for kind in ("css", "js"))
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


def _clips(run: Attribution) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and cards of the chosen clips of one run; the files are read here."""
    words, data = run.config["lexicon"], run.config["dataset"]
    lexicon = Lexicon(words["visual"], words["vocal"])
    rows, cards = [], []
    with ClipReader(
        data["decode_timeout_s"], data["max_clips_per_process"], SHOW, Limits.of(data)
    ) as reader:
        for chosen in run.chosen:
            card = clip_card(run, chosen, lexicon, reader)
            if "error" in card["media"]:
                log.warning("%s: shown without its file: %s", run.name, card["media"]["error"])
            rows.append(clip_row(run, chosen, card["media"].pop("thumb", None)))
            cards.append(card)
    return rows, cards


def _intro(runs: Sequence[Attribution]) -> str:
    models = ", ".join(dict.fromkeys(str(run.report["method"]["model"]) for run in runs))
    data = ", ".join(dict.fromkeys(f"{r.report['dataset']} {r.report['split']}" for r in runs))
    shown = sum(len(run.chosen) for run in runs)
    text = f"Model: {models}. Data: {data}. {shown} clips are shown below, chosen by rule."
    return text if shown else f"{text} None were chosen: task.num_chosen of task=attribute."


def _summary(runs: Sequence[Attribution]) -> Table:
    lines = {name: [measure(run.report) for run in runs] for name, measure in MEASURES.items()}
    kept = {name: cells for name, cells in lines.items() if any(c is not None for c in cells)}
    return (
        ["", *(run.name for run in runs)],
        [[name, *(ABSENT if c is None else str(c) for c in cells)] for name, cells in kept.items()],
    )


def _classes(run: Attribution) -> dict[str, Any]:
    """Return the chart of a run by class, with its legend and the same in numbers."""
    keys = [key for key in NAMES if value_of(run.report["all"], key) is not None]
    rows = [
        [name, str(g["num_whole"]), *(_plain(value_of(g, key)) or ABSENT for key in keys)]
        for name, g in {"all clips": run.report["all"], **run.report["by_class"]}.items()
    ]
    return {
        "run": run.name,
        "chart": class_chart(run.report, unit=unit_of(run.report["method"]["value"])),
        "legend": {key: NAMES[key] for key in keys},
        "numbers": (["class", "clips", *(NAMES[key] for key in keys)], rows),
    }


def _plain(entry: Entry) -> str | None:
    """A mean with its interval, e.g. ``+0.33 [+0.28, +0.39]``."""
    return _said(entry, 1.0, "+.2f")


def _percent(entry: Entry) -> str | None:
    return _said(entry, 100.0, ".1f")


def _share(value: float | None) -> str | None:
    """A rate that has no interval."""
    return None if value is None else f"{100 * value:.1f}"


def _said(entry: Entry, scale: float, form: str) -> str | None:
    if entry is None:
        return None
    mean, low, high = (format(scale * v, form) for v in (entry["mean"], *entry["ci"]))
    return f"{mean} [{low}, {high}]".replace("-", "−")


def _asset(name: str) -> Markup:
    return Markup((PARTS / name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """Write data for the script. No ``<`` is left in it, so nothing in it can end its block."""
    return Markup(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))
