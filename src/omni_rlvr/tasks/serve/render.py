"""What a model said as HTML. Everything that comes from outside is escaped here: it is shown as
text, never run. Strings in, strings out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

from omni_rlvr.tasks.predict import Prediction
from omni_rlvr.tasks.predictions_text import scoring_line
from omni_rlvr.tasks.serve.answers import Answer
from omni_rlvr.text.modality_words import Lexicon, Segment
from omni_rlvr.text.terminal import printable
from omni_rlvr.types import LEADS

MAX_ANSWER = 60
"""Characters of an answer that is no label."""
TAGS = re.compile(r"(</?(?:think|answer)>)")
LEAST_NATS = 1.0
"""What a bar of full length stands for at least."""
SUBSET_NAMES = {"none": "neither", "audio": "sound", "video": "picture", "both": "both"}
PLAYERS = {"video": "picture", "audio": "sound"}
ABSENT = {
    "drop": "what is absent is left out of the prompt",
    "silence_grey": "what is absent is silence or a grey picture",
}
LEGEND = (
    '<span class="legend"><mark class="visual counted">seen</mark> '
    '<mark class="vocal counted">heard</mark></span>'
)


def title(path: str) -> str:
    """A checkpoint's short name: its run, not the folder "checkpoint"."""
    parts = [part for part in Path(path).parts if part not in ("/", "checkpoint")]
    return "/".join(parts[-2:]) or path


def breakable(name: str) -> str:
    """Return a name as HTML that may break into lines behind a separator, and nowhere else."""
    return re.sub(r"([/_-])", r"\1<wbr>", escape(printable(name)))


def panel(path: str, body: str, *, busy: bool = False) -> str:
    """One model's column.

    Args:
        path: of its checkpoint.
        body: HTML.
        busy: whether it is still speaking.
    """
    return (
        f'<section class="omni" aria-busy="{str(busy).lower()}">'
        f'<h3 title="{escape(path)}">{breakable(title(path))}</h3>{body}</section>'
    )


def waiting(text: str) -> str:
    """Stands where an answer will be."""
    return f'<p class="quiet">{escape(text)}</p>'


def message(text: str, *, kind: str) -> str:
    """A sentence for the visitor; kind: "error" or "note"."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="omni-message {kind}" role="{role}">{escape(printable(text))}</p>'


def reasoning(text: str, lexicon: Lexicon, *, busy: bool = False) -> str:
    """A completion, or its beginning: words of sight and of hearing are marked, tags are dim."""
    shown = []
    for part in TAGS.split(printable(text)):
        if TAGS.fullmatch(part):
            shown.append(f'<span class="tag">{escape(part)}</span>')
            continue
        shown += [_segment(segment) for segment in lexicon.segments(part)]
    caret = '<span class="caret" aria-hidden="true"></span>' if busy else ""
    return f'<h4>Reasoning {LEGEND}</h4><div class="reasoning">{"".join(shown)}{caret}</div>'


def _segment(segment: Segment) -> str:
    """A piece of a phrase: coloured by its modality, and marked if it is a word of the lexicon."""
    text = escape(segment.text)
    if segment.modality is None:
        return text
    counted = " counted" if segment.is_counted else ""
    return f'<mark class="{segment.modality}{counted}">{text}</mark>'


def answer(said: Answer, lexicon: Lexicon, *, value: str, lead: str, absent: str) -> str:
    """All of an answer: reasoning, label probabilities, and what each modality did."""
    row = vars(said.prediction)
    likely = sorted((said.prediction.probabilities or {}).items(), key=lambda item: -item[1])
    bars = "".join(_bar(label, p, f"{100 * p:.1f} %") for label, p in likely)
    return (
        reasoning(said.prediction.completion or "", lexicon)
        + _conclusion(said.prediction)
        + f'<h4>Label probabilities</h4><div class="bars labels">{bars}</div>'
        + f'<p class="quiet">{escape(scoring_line(row).capitalize())}.</p>'
        + _game(said, value=value, lead=lead, absent=absent)
    )


def _conclusion(said: Prediction) -> str:
    """The answer in a line, and what it was read from."""
    there = [PLAYERS[player] for player in _there(vars(said))]
    notes = [f"from {' and '.join(there)}"]
    if said.answer is not None and said.predicted is None:
        notes.append("not one of the labels")
    if said.truncated:
        notes.append("cut short by task.max_completion_length")
    text = said.predicted or said.answer or "none given"
    short = text if len(text) <= MAX_ANSWER else f"{text[:MAX_ANSWER]}…"
    return (
        f'<p class="answer"><span>Answer:</span> <b>{escape(printable(short))}</b> '
        f'<span class="quiet">{escape("; ".join(notes))}</span></p>'
    )


def _game(said: Answer, *, value: str, lead: str, absent: str) -> str:
    """Shapley bars, and the probabilities that they come from."""
    game, there = said.game, _there(vars(said.prediction))
    label = escape(printable(game.label))
    which = ", the likeliest label" if said.prediction.predicted is None else ""
    subsets = [
        (name, p)
        for name, p in game.probabilities.items()
        if name in ("none", *there) or (name == "both" and len(there) == 2)
    ]
    rows = "".join(_bar(SUBSET_NAMES[name], p, f"{100 * p:.1f} %") for name, p in subsets)
    widest = max(1.0 if value == "prob" else LEAST_NATS, *map(abs, game.phi.values()))
    phis = "".join(
        _signed_bar(PLAYERS[player], game.phi[player], widest, value) for player in there
    )
    missing = [PLAYERS[player] for player in PLAYERS if player not in there]
    without = f" No {missing[0]} was shown, so it did nothing." if missing else ""
    note = (
        f"Shapley values: the bars above add up to the step from “neither” to the last row. Labels "
        f"are scored {LEADS[lead]}; {ABSENT[absent]}.{without}"
    )
    return (
        f"<h4>What each modality did for “{label}”{which}</h4>"
        f'<div class="bars shapley">{phis}</div>'
        f'<p class="caption">Probability of “{label}” when the model is shown</p>'
        f'<div class="bars subsets">{rows}</div><p class="quiet">{escape(note)}</p>'
    )


def _bar(name: str, share: float, text: str) -> str:
    return (
        f'<div class="row"><span class="name">{escape(printable(name))}</span>'
        f'<span class="track"><span class="fill" style="width:{100 * share:.2f}%"></span></span>'
        f'<span class="number">{escape(text)}</span></div>'
    )


def _signed_bar(name: str, phi: float, widest: float, value: str) -> str:
    """A bar to the right of the middle if it spoke for the label, to the left if against."""
    text = f"{100 * phi:+.1f} points" if value == "prob" else f"{phi:+.2f} nats"
    side, width = ("for" if phi >= 0 else "against"), 50 * abs(phi) / widest
    kind = "visual" if name == PLAYERS["video"] else "vocal"
    return (
        f'<div class="row" data-player="{name}" data-phi="{phi:.6f}">'
        f'<span class="name">{name}</span><span class="track signed">'
        f'<span class="fill {kind} {side}" style="width:{width:.2f}%"></span></span>'
        f'<span class="number">{text}</span></div>'
    )


def _there(row: Mapping[str, object]) -> list[str]:
    return [player for player in PLAYERS if row[f"has_{player}"]]
