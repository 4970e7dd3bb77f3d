"""Bad steps: steps with a number that is NaN or infinite.

Such a step changes neither the weights nor the optimizer nor its schedule. Its batch is written to
a file for inspection, and the run ends when too many bad steps follow one another. All ranks come
to the same decision, since it depends only on values that are summed over ranks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from omni_rlvr.record import RunRecord, plain, write_json
from omni_rlvr.training.checkpoint import last_good
from omni_rlvr.types import Example, UserError

log = logging.getLogger(__name__)

FOLDER = "bad_steps"
"""Folder in the run's folder that gets one file for each bad step."""


def is_finite(update: Mapping[str, float]) -> bool:
    """Whether the loss and the gradient norm of an update, over all ranks, are finite."""
    return math.isfinite(update["loss"]) and math.isfinite(update["grad_norm"])


def what_is_wrong(
    not_finite: Sequence[Mapping[str, int]], updates: Sequence[Mapping[str, float]]
) -> str:
    """Name what is NaN or infinite in a step; an empty text if nothing is.

    Args:
        not_finite: each rank's ``Prepared.not_finite``.
        updates: loss and gradient norm of each update; empty if no update was tried.
    """
    names = dict.fromkeys(name for part in not_finite for name in part)
    counts = {name: sum(part.get(name, 0) for part in not_finite) for name in names}
    said = [f"{name} of {count} completions" for name, count in counts.items()]
    for name, words in (("loss", "loss"), ("grad_norm", "gradient norm")):
        wrong = [update[name] for update in updates if not math.isfinite(update[name])]
        said += [f"{words} {wrong[0]}"] if wrong else []
    return ", ".join(said)


class BadSteps:
    """Write, count and limit the bad steps of a run."""

    def __init__(self, record: RunRecord, max_in_a_row: int):
        """Hold the run's record and the number of bad steps that may follow one another."""
        self.record = record
        self.max_in_a_row = max_in_a_row
        self.in_a_row = 0

    def keep(
        self,
        step: int,
        why: str,
        *,
        seed: int,
        examples: Sequence[Example],
        completions: Sequence[Mapping[str, object]],
    ) -> None:
        """Write the batch of a bad step to a file, warn, and count the step.

        Args:
            step: number of the step, from 1, as in metrics.jsonl.
            why: the values that are not finite, see ``what_is_wrong``.
            seed: seed of the run.
            examples: examples of all ranks.
            completions: completions of all ranks with their token ids; empty for SFT.
        """
        self.in_a_row += 1
        file = self.record.folder / FOLDER / f"step_{step:06d}.json"
        rows = [{key: plain(value) for key, value in row.items()} for row in completions]
        made_of = {"step": step, "seed": seed, "not_finite": why}
        if self.record.writes:
            file.parent.mkdir(exist_ok=True)
            write_json(
                file, {**made_of, "examples": [_row(e) for e in examples], "completions": rows}
            )
        log.warning(
            "step %d is left out, since it has numbers that are NaN or infinite: %s; its batch is "
            "in %s (%d in a row, of at most stage.max_bad_steps=%d)",
            step,
            why,
            file,
            self.in_a_row,
            self.max_in_a_row,
        )

    def check(self, step: int, why: str, *, is_last: bool) -> None:
        """End the run if too many bad steps follow one another, or if its last step is bad.

        Raises:
            UserError: the run must end; the message names the last good checkpoint.
        """
        if self.in_a_row <= self.max_in_a_row and not is_last:
            return
        raise UserError(
            f"the last {self.in_a_row} steps, up to step {step}, have numbers that are NaN "
            f"or infinite ({why}); no weight was changed by them. A smaller optimizer.lr, float32 "
            "weights or a look at the rewards may help; the batches "
            f"are in {self.record.folder / FOLDER}; {last_good(self.record.folder)}"
        )


def _row(example: Example) -> dict[str, object]:
    return {
        key: None if value is None else str(value)
        for key, value in vars(example).items()
        if key in ("id", "source", "video", "audio", "question", "answer", "target")
    }
