"""Show predictions in the terminal: the completion as it is generated, bars of label probabilities,
and one line that sums up many clips.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from omni_rlvr.text.terminal import UNPRINTABLE, printable

BAR_WIDTH = 30


def show_prediction(row: Mapping[str, Any]) -> None:
    """Print the answer for one clip, the notes on it and the probabilities of the labels."""
    console = Console(highlight=False)
    notes = [f"note: {note['text']}" for note in row["notes"]]
    for line in ("", answer_line(row), *notes, ""):
        console.print(Text(line), soft_wrap=True)
    plain = console.options.ascii_only
    console.print(probability_table(row["probabilities"], plain=plain))
    for line in ("", scoring_line(row)):
        console.print(Text(line), soft_wrap=True)


def probability_table(probabilities: Mapping[str, float], *, plain: bool = False) -> Table:
    """Make a table of label probabilities with bars, the most probable label first.

    Args:
        probabilities: Label -> its probability.
        plain: Whether the terminal lacks block characters for the bars.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(width=BAR_WIDTH)
    for label, p in sorted(probabilities.items(), key=lambda item: -item[1]):
        bar = Text("#" * round(BAR_WIDTH * p)) if plain else Bar(1, 0, p)
        table.add_row(Text(f"  {printable(label)}"), f"{100 * p:.1f} %", bar)
    return table


def answer_line(row: Mapping[str, Any]) -> str:
    """Write the answer for one clip, the modalities used, and anything unusual about the answer."""
    modalities = [name for name in ("video", "audio") if row[f"has_{name}"]]
    notes = [f"from {' and '.join(modalities)}"]
    if row["truncated"]:
        notes.append("cut short by task.max_completion_length")
    if row["answer"] and row["predicted"] is None:
        notes.append("not one of the labels")
    answer = "none given" if row["answer"] is None else printable(row["answer"])
    return f"answer: {answer} ({'; '.join(notes)})"


def scoring_line(row: Mapping[str, Any]) -> str:
    """Say where in the reply the labels were scored, and how probable the list is there."""
    where = {
        ("completion", "tags"): "in <answer> tags, behind the reasoning above",
        ("prompt", "tags"): "in <answer> tags, directly behind the question",
        ("prompt", "bare"): "as a bare reply to the question",
    }[row["scored_after"], row["answer_form"]]
    share = 100 * row["list_probability"]
    return f"labels scored {where}; together they hold {share:.1f} % of the probability there"


def summary_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """Count the predicted labels of many clips, the most frequent label first."""
    read = [row for row in rows if row["error"] is None]
    counts = Counter(row["predicted"] for row in read if row["predicted"] is not None)
    noted = Counter(note["kind"] for row in read for note in row["notes"])
    said = [f"{printable(label)} {n}" for label, n in counts.most_common()]
    for name, n in (
        ("no label of the list", len(read) - counts.total()),
        ("cut short", sum(row["truncated"] for row in read)),
        ("could not be read", len(rows) - len(read)),
        *((f"with {kind}", n) for kind, n in sorted(noted.items())),
    ):
        said += [f"{name} {n}"] if n else []
    return f"{len(rows)} clips: {', '.join(said)}"


@dataclass
class TextStream:
    """Write one completion token by token.

    A token may end inside a character, so the text is written up to its last complete character.
    """

    decode: Callable[[Tensor, Tensor], list[str]]
    """``decode`` of a processor."""
    write: Callable[[str], None]
    """Writes text."""
    ids: list[int] = field(default_factory=list)
    num_written: int = 0

    def on_tokens(self, rows: Tensor, tokens: Tensor) -> None:
        """Take the tokens of a decoding step; row 0 is the completion that is written."""
        new = tokens[rows == 0].tolist()
        if new:
            self.ids += new
            ids = torch.tensor([self.ids])
            (text,) = self.decode(ids, torch.ones_like(ids))
            if not text.endswith(UNPRINTABLE):  # the next token may complete the character
                self._write(text)

    def end(self, completion: str) -> None:
        """Write the rest of the completion, and a new line."""
        self._write(completion)
        self.write("\n")

    def _write(self, text: str) -> None:
        if len(text) > self.num_written:
            self.write(printable(text[self.num_written :]))
            self.num_written = len(text)
