"""What a model said as HTML. Everything that comes from outside is escaped here: it is shown as
text, never run. Strings in, strings out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from omni_rlvr.analysis.predictions import answer_line, scoring_line
from omni_rlvr.app.answers import Answer, Game
from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.text.terminal import printable

TAGS = re.compile(r"(</?(?:think|answer)>)")
SUBSET_NAMES = {"none": "neither", "audio": "sound", "video": "picture", "both": "both"}
PLAYERS = {"video": "picture", "audio": "sound"}
LEADS = {
    "own_reasoning": "behind what the model says under each",
    "empty_think": "behind an empty think block",
    "direct": "without any reasoning",
}
ABSENT = {
    "drop": "what is absent is left out of the prompt",
    "silence_grey": "what is absent is silence or a grey picture",
}
LEGEND = (
    '<span class="legend">words of <mark class="visual">sight</mark> and of '
    '<mark class="vocal">hearing</mark></span>'
)


def title(path: str) -> str:
    """A checkpoint's short name: its run, not the folder "checkpoint"."""
    parts = [part for part in Path(path).parts if part not in ("/", "checkpoint")]
    return "/".join(parts[-2:]) or path


def panel(path: str, body: str, *, busy: bool = False) -> str:
    """One model's column.

    Args:
        path: of its checkpoint.
        body: HTML.
        busy: whether it is still speaking.
    """
    return (
        f'<section class="omni" aria-busy="{str(busy).lower()}">'
        f'<h3 title="{escape(path)}">{escape(printable(title(path)))}</h3>{body}</section>'
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
        for piece, kind in lexicon.pieces(part):
            inside = escape(piece)
            shown.append(f'<mark class="{kind}">{inside}</mark>' if kind else inside)
    caret = '<span class="caret" aria-hidden="true"></span>' if busy else ""
    return f'<h4>Reasoning {LEGEND}</h4><div class="reasoning">{"".join(shown)}{caret}</div>'


def answer(said: Answer, lexicon: Lexicon, *, value: str, lead: str, absent: str) -> str:
    """All of an answer: reasoning, label probabilities, and what each modality did."""
    row = vars(said.prediction)
    likely = sorted(said.prediction.probabilities.items(), key=lambda item: -item[1])
    bars = "".join(_bar(label, p, f"{100 * p:.1f} %") for label, p in likely)
    return (
        reasoning(said.prediction.completion or "", lexicon)
        + f'<p class="answer">{escape(_sentence(answer_line(row)))}</p>'
        + f'<h4>Label probabilities</h4><div class="bars labels">{bars}</div>'
        + f'<p class="quiet">{escape(_sentence(scoring_line(row)))}</p>'
        + _game(said.game, _there(row), value=value, lead=lead, absent=absent)
    )


def _game(game: Game, there: Sequence[str], *, value: str, lead: str, absent: str) -> str:
    """Shapley bars, and the probabilities that they come from."""
    label = escape(printable(game.label))
    subsets = [
        (name, p)
        for name, p in game.probabilities.items()
        if name in ("none", *there) or (name == "both" and len(there) == 2)
    ]
    rows = "".join(_bar(SUBSET_NAMES[name], p, f"{100 * p:.1f} %") for name, p in subsets)
    widest = max(1.0 if value == "prob" else 1e-9, *(abs(phi) for phi in game.phi.values()))
    phis = "".join(
        _signed_bar(PLAYERS[player], game.phi[player], widest, value) for player in there
    )
    missing = [PLAYERS[player] for player in PLAYERS if player not in there]
    without = f" No {missing[0]} was shown, so it did nothing." if missing else ""
    note = f"Shapley values; labels scored {LEADS[lead]}; {ABSENT[absent]}.{without}"
    return (
        f"<h4>What each modality did for “{label}”</h4>"
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


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."
