"""Progress bars that show all their text at any width, with elapsed and remaining time."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar as RichBar
from rich.text import Text

GAP = "  "
NARROWEST, WIDEST = 10, 30
"""Columns of the bar itself; where the line has no room for it, the numbers alone are shown."""
LOOKS_BACK = 50
"""Number of last advances that the remaining time is estimated from; early ones may be slower."""
BURST_S = 0.1
"""Advances within this time count as one: results of other processes come in bursts."""
LINE_EVERY_S = 30.0
"""Least number of seconds between two lines where the output is no terminal."""
NUM_LINES = 20
"""The most lines of one bar where the output is no terminal, besides the last one."""


class Bar:
    """A progress bar: redrawn in place on a terminal, printed as a few lines elsewhere.

    Rich's own columns cut text that does not fit. Here each text is shown in full, on further lines
    if needed.
    """

    def __init__(self, title: str, total: int, done: int = 0):
        """Show the bar.

        Args:
            title: Stands before the bar.
            total: The amount of work.
            done: The part of it that an earlier process has done.
        """
        self.title, self.total, self.done = title, total, done
        self.numbers: Sequence[str] = ()
        self.started = time.monotonic()
        self.advances: deque[tuple[float, int]] = deque(maxlen=LOOKS_BACK)
        """When each of the last advances ended, and what was done by then."""
        self.told, self.told_at = -1, self.started
        self.live: Live | None = None
        console = Console()
        if console.is_interactive:
            self.live = Live(self, console=console)
            self.live.start()

    def advance(self, done: int, numbers: Sequence[str] = ()) -> None:
        """Update the amount of work done and the texts beside the bar."""
        self.done, self.numbers = done, numbers
        now = time.monotonic()
        if self.advances and now - self.advances[-1][0] < BURST_S:
            self.advances[-1] = (self.advances[-1][0], done)
        else:
            self.advances.append((now, done))
        due = now - self.told_at >= LINE_EVERY_S
        if self.live is None and due and (done - max(0, self.told)) * NUM_LINES >= self.total:
            self._tell()

    def stop(self) -> None:
        """Stop drawing; the last state stays on the terminal."""
        if self.live is not None:
            self.live.stop()
            self.live = None
        elif self.told != self.done:
            self._tell()

    def _tell(self) -> None:
        self.told, self.told_at = self.done, time.monotonic()
        print(GAP.join([self.title, *self._state(), *self.numbers]), flush=True)

    def _state(self) -> list[str]:
        """Write the count, the elapsed and the remaining time."""
        texts = [f"{self.done}/{self.total}", f"elapsed {clock(time.monotonic() - self.started)}"]
        if self.done < self.total:
            left = self._remaining_s()
            texts.append(f"remaining {'?' if left is None else clock(left)}")
        return texts

    def _remaining_s(self) -> float | None:
        """Estimate the seconds that are left; None before two advances can be compared."""
        if len(self.advances) < 2:
            return None
        (since, before), (until, after) = self.advances[0], self.advances[-1]
        if after <= before:
            return None
        left = (self.total - after) * (until - since) / (after - before)
        return max(0.0, left - (time.monotonic() - until))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw in as few lines as the width allows."""
        width, numbers = options.max_width, list(self.numbers)
        first = [self.title, *self._state()]
        room = width - len(GAP.join([*first, *numbers, ""]))
        if room >= NARROWEST:
            first, numbers = [*first, *numbers], []
        else:
            room = width - len(GAP.join([*first, ""]))
        if room >= NARROWEST:
            yield Text(f"{self.title}{GAP}", end="")
            yield RichBar(max(1, self.total), self.done, width=min(room, WIDEST))
            yield Text(GAP + GAP.join(first[1:]))
            first = []
        for texts in (first, numbers):
            yield from map(Text, packed(texts, width))


def packed(texts: Sequence[str], width: int) -> list[str]:
    """Join texts into lines that are no longer than the width, unless a single text is."""
    lines: list[str] = []
    for text in texts:
        if lines and len(lines[-1]) + len(GAP) + len(text) <= width:
            lines[-1] += GAP + text
        else:
            lines.append(text)
    return lines


def clock(seconds: float) -> str:
    """Write a time as 3:40, or 1:03:40 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar for work other than training; yield a function that adds to what is done."""
    bar = Bar(title, total)
    try:
        yield lambda number: bar.advance(bar.done + number)
    finally:
        bar.stop()
