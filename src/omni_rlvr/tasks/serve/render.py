"""Write answers as HTML, with the macros of ``answer.html``, which escape every text.

So text from models and visitors can never become markup or code. Strings in, strings out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from omni_rlvr.tasks.predict import Prediction
from omni_rlvr.tasks.predictions_text import scoring_line
from omni_rlvr.tasks.serve.answers import Answer
from omni_rlvr.text.modality_words import Lexicon, Segment
from omni_rlvr.text.templates import macros
from omni_rlvr.text.terminal import printable
from omni_rlvr.types import LEADS

MACROS = Path(__file__).with_name("answer.html")
MAX_ANSWER = 60
"""Most characters that are shown of an answer that is not a label."""
TAGS = re.compile(r"(</?(?:think|answer)>)")
LEAST_NATS = 1.0
"""The smallest value, in nats, of a bar of full length."""
SUBSET_NAMES = {"none": "neither", "audio": "sound", "video": "picture", "both": "both"}
PLAYERS = {"video": "picture", "audio": "sound"}
ABSENT = {
    "drop": "what is absent is left out of the prompt",
    "silence_grey": "what is absent is silence or a grey picture",
}


def title(path: str) -> str:
    """Return the short name of a checkpoint: its run, without the folder "checkpoint"."""
    parts = [part for part in Path(path).parts if part not in ("/", "checkpoint")]
    return "/".join(parts[-2:]) or path


def panel(path: str, body: str, *, busy: bool = False) -> str:
    """Make one model's column.

    Args:
        path: The path of its checkpoint. Lines of the name break only after a separator.
        body: HTML that a function of this file made.
        busy: Whether the model is still generating.
    """
    parts = re.split(r"(?<=[/_-])", printable(title(path)))
    return str(macros(MACROS).panel(path, parts, Markup(body), str(busy)))


def waiting(text: str) -> str:
    """Make a placeholder for an answer."""
    return str(macros(MACROS).waiting(text))


def message(text: str, *, kind: str) -> str:
    """Make a message for the visitor; ``kind`` is "error" or "note"."""
    return str(macros(MACROS).message(printable(text), kind))


def reasoning(text: str, lexicon: Lexicon, *, busy: bool = False) -> str:
    """Show a completion so far, with words of sight and hearing marked and tags dimmed."""
    return str(macros(MACROS).reasoning(_parts(text, lexicon), busy))


def _parts(text: str, lexicon: Lexicon) -> list[str | Segment]:
    """Split a completion into its tags, as text, and the phrases between them."""
    parts: list[str | Segment] = []
    for part in TAGS.split(printable(text)):
        parts += [part] if TAGS.fullmatch(part) else lexicon.segments(part)
    return parts


def answer(said: Answer, lexicon: Lexicon, *, value: str, lead: str, absent: str) -> str:
    """Show an answer: reasoning, label probabilities, and the contribution of each modality."""
    prediction = said.prediction
    likely = sorted((prediction.probabilities or {}).items(), key=lambda item: -item[1])
    text = prediction.predicted or prediction.answer or "none given"
    short = text if len(text) <= MAX_ANSWER else f"{text[:MAX_ANSWER]}…"
    return str(
        macros(MACROS).answer(
            _parts(prediction.completion or "", lexicon),
            printable(short),
            "; ".join(_notes(prediction)),
            [_bar(label, p) for label, p in likely],
            scoring_line(vars(prediction)).capitalize(),
            _game(said, value=value, lead=lead, absent=absent),
        )
    )


def _notes(said: Prediction) -> list[str]:
    """List the modalities that were used, and anything unusual about the answer."""
    notes = [f"from {' and '.join(PLAYERS[player] for player in _there(said))}"]
    if said.answer is not None and said.predicted is None:
        notes.append("not one of the labels")
    if said.truncated:
        notes.append("cut short by task.max_completion_length")
    return notes


def _game(said: Answer, *, value: str, lead: str, absent: str) -> dict[str, Any]:
    """Return the Shapley bars, and the probabilities that they are computed from."""
    game, there = said.game, _there(said.prediction)
    subsets = [
        (name, p)
        for name, p in game.probabilities.items()
        if name in ("none", *there) or (name == "both" and len(there) == 2)
    ]
    widest = max(1.0 if value == "prob" else LEAST_NATS, *map(abs, game.phi.values()))
    missing = [PLAYERS[player] for player in PLAYERS if player not in there]
    without = f" No {missing[0]} was shown, so it did nothing." if missing else ""
    return {
        "label": printable(game.label),
        "which": ", the likeliest label" if said.prediction.predicted is None else "",
        "phis": [_signed_bar(PLAYERS[p], game.phi[p], widest, value) for p in there],
        "subsets": [_bar(SUBSET_NAMES[name], p) for name, p in subsets],
        "note": "Shapley values: the bars above add up to the step from “neither” to the last row. "
        f"Labels are scored {LEADS[lead]}; {ABSENT[absent]}.{without}",
    }


def _bar(name: str, share: float) -> dict[str, Any]:
    return {"name": printable(name), "share": share}


def _signed_bar(name: str, phi: float, widest: float, value: str) -> dict[str, Any]:
    """Return a bar to the right of the middle for a positive value, to the left for a negative."""
    return {
        "name": name,
        "phi": phi,
        "text": f"{100 * phi:+.1f} points" if value == "prob" else f"{phi:+.2f} nats",
        "side": "for" if phi >= 0 else "against",
        "kind": "visual" if name == PLAYERS["video"] else "vocal",
        "width": 50 * abs(phi) / widest,
    }


def _there(said: Prediction) -> list[str]:
    return [player for player in PLAYERS if vars(said)[f"has_{player}"]]
