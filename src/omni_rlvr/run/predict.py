"""task=predict: what a model says about clips; one clip on the terminal, many into a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from omni_rlvr.analysis.predictions import show_prediction, summary_line
from omni_rlvr.media.files import in_words
from omni_rlvr.parts import PredictParts
from omni_rlvr.record import append_jsonl
from omni_rlvr.run.clips import batches, keeper
from omni_rlvr.run.lifecycle import move_latest, recorded
from omni_rlvr.training.evaluate import device_of
from omni_rlvr.training.predict import predict
from omni_rlvr.training.progress import progress_bar
from omni_rlvr.training.stream import TextStream
from omni_rlvr.types import ClipNote, Interrupted, UserError


def predict_clips(parts: PredictParts) -> None:
    """Answers for clips, into predictions.jsonl; a single one is shown while it is said."""
    device = device_of(parts.place.config["trainer"]["accelerator"])
    parts.policy.eval().to(device=device)
    file = parts.place.run_dir / "predictions.jsonl"
    with recorded(parts.place, device=str(device)) as record:
        try:
            rows = (_predict_one if len(parts.examples) == 1 else _predict_many)(parts, device)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; what was predicted by then is in {file}") from None
        record.add_skipped((row["id"], row["error"]) for row in rows if row["error"])
        record.add_notes((row["id"], ClipNote(**note)) for row in rows for note in row["notes"])
        if parts.left_out:
            print(f"left out: {in_words(parts.left_out)}")
            record.update(left_out=dict(parts.left_out))
        record.finish("finished")
    move_latest(parts.place)
    print(f"written: {file}")


def _predict_one(parts: PredictParts, device: torch.device) -> list[dict[str, Any]]:
    stream = TextStream(parts.policy.processor.decode, partial(print, end="", flush=True))
    ((row,),) = _predictions(parts, device, stream.on_tokens if parts.task.stream else None)
    if row["error"]:
        raise UserError(row["error"])
    stream.end(row["completion"])
    show_prediction(row)
    return [row]


def _predict_many(parts: PredictParts, device: torch.device) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with progress_bar("predicting", len(parts.examples)) as progress:
        for new in _predictions(parts, device, None):
            rows += new
            progress.advance(progress.task_ids[0], len(new))
    if all(row["error"] for row in rows):
        raise UserError(
            f"nothing to predict: none of the {len(rows)} clips could be read; "
            f"the first: {rows[0]['error']}"
        )
    print(summary_line(rows))
    return rows


def _predictions(
    parts: PredictParts, device: torch.device, on_tokens: Callable[[Tensor, Tensor], None] | None
) -> Iterator[list[dict[str, Any]]]:
    """Predicts batch by batch; a batch is in the file before the next one is begun."""
    task = parts.task
    for batch in predict(
        parts.policy,
        parts.roll_out,
        batches(
            parts.clips,
            parts.examples,
            parts.policy.processor,
            parts.cache,
            batch_size=task.batch_size,
            device=device,
        ),
        parts.labels,
        answer_form=task.answer_form,
        temperature=task.temperature,
        repetition_penalty=task.repetition_penalty,
        max_completion_length=task.max_completion_length,
        generator=torch.Generator().manual_seed(parts.place.config["seed"]),
        on_features=keeper(parts.cache),
        on_tokens=on_tokens,
    ):
        rows = [vars(prediction) for prediction in batch]
        append_jsonl(parts.place.run_dir / "predictions.jsonl", rows)
        yield rows
